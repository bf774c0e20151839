"""Measured numbers on disk, and the page that shows them."""
