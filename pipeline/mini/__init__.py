"""The embedded world, and the networks fitted on it."""
