"""Composition vectors: the usual baseline, without weights and without torch.

Proteins: frequencies of the 20 amino acids, then of the 400 dipeptides in the order AA, AC, … YY.
DNA: frequencies of the 136 tetranucleotides that differ from each other under reverse complement
(Teeling et al., BMC Bioinformatics 2004), in the order of their alphabetically first form.
K-mers with an unknown letter do not count.
"""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hpc_embed import __version__
from hpc_embed.errors import EnvironmentFault
from hpc_embed.model import AMINO_ACIDS, DNA_LETTERS
from hpc_embed.registry import find_model
from hpc_embed.run.plan import VECTOR_VERSION
from hpc_embed.workers.base import BaseEmbeddingWorker, EmbeddedBatch, LoadedModel, Tokens

TOKEN_BUDGET = 1 << 20
"""Residues in one batch: the counts of a window need no more memory than the window."""
TETRANUCLEOTIDE = 4


class CompositionWorker(BaseEmbeddingWorker):
    """Counts k-mers; runs on the CPU of any machine."""

    def load(self, device_id: int | str) -> LoadedModel:
        """Nothing to load; EnvironmentFault for a GPU, which it has no use for."""
        if device_id != "cpu":
            raise EnvironmentFault(f"{self.identity.name} runs on the CPU only.", remedy="Choose --devices cpu.")
        return _Composition(find_model(self.identity.registry_name).kind)


class _Composition:
    device = f"cpu ({platform.machine()})"
    precision = "fp32"
    notes: tuple[str, ...] = ()
    proof = ""

    def __init__(self, kind: str) -> None:
        self._letters = AMINO_ACIDS if kind == "protein" else DNA_LETTERS
        self._count = _protein_frequencies if kind == "protein" else _tetranucleotide_frequencies
        self.dimension = 420 if kind == "protein" else 136
        self.versions = {
            "hpc_embed": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "vectors": str(VECTOR_VERSION),
        }
        self._codes = np.full(256, len(self._letters), dtype=np.uint8)
        self._codes[np.frombuffer(self._letters.encode("ascii"), dtype=np.uint8)] = np.arange(len(self._letters))

    def tokenise(self, sequences: Sequence[bytes]) -> Sequence[Tokens]:
        """One code a residue; unknown letters share the code after the last."""
        return [self._codes[np.frombuffer(sequence, dtype=np.uint8)] for sequence in sequences]

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        """Count at once."""
        vectors_BD = np.stack([self._count(codes) for codes in batch]).astype(np.float32)
        num_tokens_B = np.array([len(codes) for codes in batch], dtype=np.int32)
        total = int(num_tokens_B.sum())
        embedded = EmbeddedBatch(vectors_BD, num_tokens_B, total, total)
        return lambda: embedded

    def measure_token_budget(self) -> int:
        """A constant: memory is no limit here."""
        return TOKEN_BUDGET

    def is_out_of_memory(self, error: Exception) -> bool:
        """Only Python's own."""
        return isinstance(error, MemoryError)

    def release_memory(self) -> None:
        """Nothing is cached."""

    def peak_memory_bytes(self) -> int:
        """Peak resident size of the process."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _protein_frequencies(codes: Tokens) -> NDArray[np.float64]:
    size = len(AMINO_ACIDS)
    singles = np.bincount(codes, minlength=size + 1)[:size]
    known = (codes[:-1] < size) & (codes[1:] < size)
    pairs = np.bincount(codes[:-1][known].astype(np.int64) * size + codes[1:][known], minlength=size * size)
    frequencies: NDArray[np.float64] = np.concatenate((singles / max(singles.sum(), 1), pairs / max(pairs.sum(), 1)))
    return frequencies


def _tetranucleotide_frequencies(codes: Tokens) -> NDArray[np.float64]:
    size = len(DNA_LETTERS)
    if len(codes) < TETRANUCLEOTIDE:
        return np.zeros(136)
    words = np.lib.stride_tricks.sliding_window_view(codes, TETRANUCLEOTIDE)
    words = words[(words < size).all(axis=1)].astype(np.int64)
    indices = words @ (size ** np.arange(TETRANUCLEOTIDE - 1, -1, -1))
    counts = np.bincount(_canonical_tetranucleotides()[indices], minlength=136)
    frequencies: NDArray[np.float64] = counts / max(counts.sum(), 1)
    return frequencies


@cache
def _canonical_tetranucleotides() -> NDArray[np.int64]:
    """Place in the vector of each of the 256 words."""
    words = ["".join(letters) for letters in product(DNA_LETTERS, repeat=TETRANUCLEOTIDE)]
    complement = str.maketrans("ACGT", "TGCA")
    canonical = [min(word, word.translate(complement)[::-1]) for word in words]
    place = {word: at for at, word in enumerate(sorted(set(canonical)))}
    return np.array([place[word] for word in canonical])
