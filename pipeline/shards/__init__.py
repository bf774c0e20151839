"""A recipe becomes shards."""
