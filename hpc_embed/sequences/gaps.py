"""The gaps of alignments: told, and taken out where that is asked for."""

# N = records of a block

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpc_embed.sequences.blocks import Block
from hpc_embed.sequences.kernel import Bytes

GAPS = b"-."


def is_alignment(block: Block, *, is_cut: bool) -> bool:
    """True for several records of one length with gaps in them; of a block that is cut the last one does not count."""
    lengths_N = block.lengths_N[:-1] if is_cut else block.lengths_N
    if len(lengths_N) < 2 or lengths_N.min() != lengths_N.max():
        return False
    return bool(_is_gap(block.letters[: int(lengths_N.sum())]).any())


def without_gaps(block: Block) -> Block:
    """The same records with letters only."""
    is_gap = _is_gap(block.letters)
    stops_N = np.cumsum(block.lengths_N)
    gaps_before_N = np.searchsorted(np.flatnonzero(is_gap), stops_N)
    return block._replace(letters=block.letters[~is_gap], lengths_N=block.lengths_N - np.diff(gaps_before_N, prepend=0))


def _is_gap(letters: Bytes) -> NDArray[np.bool_]:
    is_gap: NDArray[np.bool_] = (letters == GAPS[0]) | (letters == GAPS[1])
    return is_gap
