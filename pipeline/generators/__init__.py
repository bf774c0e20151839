"""Generators as the pipeline uses them, whatever their architecture: found, loaded, rendered, and their directions."""
