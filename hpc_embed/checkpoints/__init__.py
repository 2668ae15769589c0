"""What a checkpoint on disk is: its config, files, tensors and vocabulary, and what it is taken for. No torch."""
