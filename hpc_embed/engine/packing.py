"""Windows packed into batches under a token budget. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def pack(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices of windows in batches of at most `token_budget` tokens, longest first, ties in order.

    A window longer than the budget gets a batch of its own.
    """
    batch: list[int] = []
    num_tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batch and num_tokens + lengths[index] > token_budget:
            yield batch
            batch, num_tokens = [], 0
        batch.append(index)
        num_tokens += lengths[index]
    if batch:
        yield batch
