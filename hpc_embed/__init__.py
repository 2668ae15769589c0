"""hpc-embed: FASTA to embeddings on Slurm clusters and workstations."""

__version__ = "0.1.0"
