"""A dataset in torch's two forms. Records without a vector are left out: every other comes exactly once an epoch."""

# R = vectors of a row group, D = dimension

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import IterableDataset, get_worker_info

from hpc_embed.errors import UsageError
from hpc_embed.reading.dataset import Dataset


class Example(NamedTuple):
    """What torch's own collation makes batches of, where a record has one vector."""

    ordinal: int
    id: str
    vector: Tensor
    """[D], or [R, D] where each token has a vector: these need a `collate_fn`, or batches of one."""


class VectorSet(MapDataset[Example]):
    """By number, for samplers of torch's."""

    def __init__(self, dataset: Dataset, column: str | None = None) -> None:
        self._dataset = dataset
        self._column = _chosen(dataset, column)

    def __len__(self) -> int:
        return self._dataset.num_vectors

    def __getitem__(self, number: int) -> Example:
        if not 0 <= number < len(self):
            raise IndexError(f"vector {number} of {len(self)}")
        record = self._dataset.row(self._dataset.row_of_vector(number))
        return Example(record.ordinal, record.id, torch.from_numpy(record.columns[self._column]))


class ShuffledVectors(IterableDataset[Example]):
    """In an order by seed and epoch: row groups shuffled, and in each its records; so each is read once, in one go.

    Workers of a DataLoader and ranks have equal shares, but for one record. The rank is that of torch.distributed
    when this is made, unless both are given.
    """

    def __init__(
        self, dataset: Dataset, column: str | None = None, *, seed: int = 0, rank: int | None = None, num_ranks: int = 1
    ) -> None:
        self._dataset = dataset
        self._column = _chosen(dataset, column)
        self._seed = seed
        # shared, for workers that live on from epoch to epoch
        self._epoch: Tensor = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        is_one_of_many = rank is None and torch.distributed.is_available() and torch.distributed.is_initialized()
        self._rank = torch.distributed.get_rank() if is_one_of_many else rank or 0
        self._num_ranks = torch.distributed.get_world_size() if is_one_of_many else num_ranks
        if not 0 <= self._rank < self._num_ranks or (rank is None and num_ranks > 1 and not is_one_of_many):
            raise UsageError(
                f"rank {rank} of {num_ranks}: there is no such one.",
                remedy="Give rank, from 0, and num_ranks, or neither.",
            )

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch, for another order."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Example]:
        epoch, groups = int(self._epoch), self._dataset.row_groups
        order_G = np.random.default_rng((self._seed, epoch)).permutation(len(groups))
        stops_G = np.cumsum([groups[group].num_vectors for group in order_G])
        share = self._share()
        for group, stop in zip(order_G.tolist(), stops_G.tolist(), strict=True):
            count = groups[group].num_vectors
            ours = slice(max(share.start - stop + count, 0), max(share.stop - stop + count, 0))
            if ours.start < min(ours.stop, count):
                order_R = np.random.default_rng((self._seed, epoch, group)).permutation(count)
                yield from self._examples(groups[group].rows, order_R[ours].tolist())

    def _share(self) -> range:
        """What this process reads of all vectors, as they come."""
        worker = get_worker_info()
        num_workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        reader, num_readers = self._rank * num_workers + number, self._num_ranks * num_workers
        return range(*(self._dataset.num_vectors * edge // num_readers for edge in (reader, reader + 1)))

    def _examples(self, rows: range, order_R: list[int]) -> Iterator[Example]:
        batch = self._dataset.batch(rows, [self._column])
        is_per_token = self._dataset.columns[self._column].is_per_token
        row_R = np.flatnonzero(batch.has_vector_N)
        stops_R = np.cumsum(batch.num_tokens_N[row_R]) if is_per_token else np.arange(1, len(row_R) + 1)
        for number in order_R:
            row, start = row_R[number], stops_R[number - 1] if number else 0
            vectors_RD = batch.columns[self._column][start : stops_R[number]].copy()  # none keeps all the others
            vector = torch.from_numpy(vectors_RD if is_per_token else vectors_RD[0])
            yield Example(int(batch.ordinals_N[row]), batch.ids_N[row], vector)


def _chosen(dataset: Dataset, column: str | None) -> str:
    if column is None and len(dataset.columns) == 1:
        return next(iter(dataset.columns))
    if column not in dataset.columns:
        raise UsageError(f"column {column}: there is none.", remedy=f"Say {', '.join(dataset.columns)}.")
    return column
