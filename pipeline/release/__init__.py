"""Shards become something that others can use."""
