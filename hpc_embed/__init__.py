"""hpc-embed: FASTA to embeddings on Slurm clusters and workstations."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_embed.reading.dataset import open_dataset as open_dataset

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`open_dataset` once it is asked for: what plans or submits reads no dataset."""
    if name == "open_dataset":
        from hpc_embed.reading.dataset import open_dataset

        return open_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
