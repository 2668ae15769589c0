"""What comes in: FASTA records, their letters, and the windows that fit a model."""
