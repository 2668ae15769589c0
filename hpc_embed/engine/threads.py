"""Pieces of one tensor's work side by side, each in a thread that is the only one of torch's libraries.

MKL splits sums among the threads that it was given, by their number and by the number of rows: with more than one, a
row has other bits in another batch. With one at a time it adds up in one order.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor


def side_by_side(work: Callable[..., Tensor], *operands: Tensor, dim: int) -> Tensor:
    """`work(*operands)`, of which each slice along `dim` comes of those of the operands alone.

    On a CPU in as many pieces as torch has threads; a GPU needs none.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or operands[0].is_cuda:
        return work(*operands)

    def run(piece: tuple[Tensor, ...]) -> Tensor:
        torch.set_num_threads(1)  # of this thread; it may be a new one
        return work(*piece)

    num_pieces = min(num_threads, operands[0].shape[dim])
    pieces = zip(*(operand.tensor_split(num_pieces, dim) for operand in operands), strict=True)
    return torch.cat(list(_threads(num_threads).map(run, pieces)), dim)


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, "engine")
