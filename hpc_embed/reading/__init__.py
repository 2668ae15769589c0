"""A dataset read back: by id, by ordinal, in batches, in training. Torch only where a torch data set is asked for."""
