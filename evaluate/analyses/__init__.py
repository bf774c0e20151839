"""The papers' analyses, one a module: what it computes, and its section of the report."""
