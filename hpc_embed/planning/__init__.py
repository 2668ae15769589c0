"""What is to be done: records scanned, windows costed and dealt into shards. No torch."""
