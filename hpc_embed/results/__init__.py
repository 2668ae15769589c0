"""What comes out: every output checked, the dataset written. No torch, bounded memory."""
