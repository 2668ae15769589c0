"""Workers: the contract, the one loop, and a file per model family."""
