"""A run on disk: its paths, its plan, its shards, outputs and markers. No torch."""
