"""Bad input by the thousand: sound files mutated, and junk. A few dozen in the suite, HPC_EMBED_FUZZ_CASES for more."""
