"""hpc-embed: FASTA to embeddings on Slurm clusters and workstations."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_embed.api import Absent, Embeddings, embed, gather, plan, status, submit
    from hpc_embed.reading.dataset import open_dataset

__version__ = "0.1.0"
__all__ = ["Absent", "Embeddings", "embed", "gather", "open_dataset", "plan", "status", "submit"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """The functions, once one is asked for: `import hpc_embed` alone loads nothing."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("hpc_embed.reading.dataset" if name == "open_dataset" else "hpc_embed.api"), name)
