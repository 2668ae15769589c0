"""Torch's loaders get every record that has a vector, once, whatever the workers and the ranks."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import hpc_embed
from hpc_embed.errors import UsageError
from hpc_embed.reading.dataset import Batch
from hpc_embed.reading.torch_sets import Example, ShuffledVectors, VectorSet
from hpc_embed.run.layout import RunLayout
from tests.reading.datasets import DIMENSION, as_pandas, write_dataset


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    return write_dataset(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def expected(layout: RunLayout) -> dict[int, list[float]]:
    """Vector by ordinal."""
    rows = as_pandas(layout).dropna(subset="embedding")
    return {ordinal: vector.tolist() for ordinal, vector in zip(rows["ordinal"], rows["embedding"], strict=True)}


def loaded(loader: DataLoader[Example]) -> tuple[list[int], dict[int, list[float]]]:
    """Ordinals as they came, and the vector of each."""
    batches = [*loader]
    ordinals = [ordinal for batch in batches for ordinal in batch.ordinal.tolist()]
    return ordinals, dict(zip(ordinals, torch.cat([batch.vector for batch in batches]).tolist(), strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.long
def test_spawned_workers_or_none_give_every_record_once(
    num_workers: int, layout: RunLayout, expected: dict[int, list[float]]
) -> None:
    def load(examples: Dataset[Example]) -> DataLoader[Example]:
        how = "spawn" if num_workers else None
        lasts = num_workers > 0
        return DataLoader(examples, 16, num_workers=num_workers, multiprocessing_context=how, persistent_workers=lasts)

    dataset = hpc_embed.open_dataset(layout.root)
    ordinals, vectors = loaded(load(VectorSet(dataset)))
    assert ordinals == [*expected]
    assert vectors == expected
    stream = ShuffledVectors(dataset, seed=1)
    loader = load(stream)
    ordinals, vectors = loaded(loader)
    assert sorted(ordinals) == [*expected] != ordinals
    assert vectors == expected
    assert loaded(loader)[0] == ordinals
    stream.set_epoch(1)
    assert loaded(loader)[0] != ordinals


def test_workers_that_were_forked_and_live_on_see_the_epoch_that_is_set_later(
    layout: RunLayout, expected: dict[int, list[float]]
) -> None:
    stream = ShuffledVectors(hpc_embed.open_dataset(layout.root), seed=1)
    loader = DataLoader(stream, 64, num_workers=1, multiprocessing_context="fork", persistent_workers=True)
    first, same = (loaded(loader) for _ in range(2))
    assert same == first
    stream.set_epoch(1)
    ordinals, vectors = loaded(loader)
    assert ordinals != first[0]
    assert vectors == first[1] == expected
    stream.set_epoch(0)
    assert loaded(loader)[0] == first[0]


def order(stream: ShuffledVectors) -> list[int]:
    return [example.ordinal for example in stream]


def test_the_order_is_the_seeds_and_mixes_row_groups_and_rows(layout: RunLayout) -> None:
    dataset = hpc_embed.open_dataset(layout.root)
    first = order(ShuffledVectors(dataset, seed=5))
    assert order(ShuffledVectors(dataset, seed=5)) == first
    assert order(ShuffledVectors(dataset, seed=6)) != first
    groups = [ordinal // 50 for ordinal in first]
    changes = [one for one, other in zip(groups, [-1, *groups], strict=False) if one != other]
    assert sorted(changes) == [*range(8)], "a row group is read in one go"
    assert changes != [*range(8)]
    of_one = [ordinal for ordinal in first if ordinal // 50 == 3]
    assert of_one != sorted(of_one)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7, 500])
def test_ranks_share_the_records_evenly(num_ranks: int, layout: RunLayout, expected: dict[int, list[float]]) -> None:
    dataset = hpc_embed.open_dataset(layout.root)
    shares = [order(ShuffledVectors(dataset, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)]
    assert sorted(ordinal for share in shares for ordinal in share) == [*expected]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def pretend_to_be(rank: int, num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind init_process_group."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: num_ranks)


def test_ranks_find_their_share_by_themselves_and_one_that_is_given_goes_first(
    layout: RunLayout, expected: dict[int, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = hpc_embed.open_dataset(layout.root)
    shares = []
    for rank in range(3):
        pretend_to_be(rank, 3, monkeypatch)
        shares.append(order(ShuffledVectors(dataset)))
        assert shares[-1] == order(ShuffledVectors(dataset, rank=rank, num_ranks=3))
    assert sorted(ordinal for share in shares for ordinal in share) == [*expected]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sorted(order(ShuffledVectors(dataset, rank=0))) == [*expected], "rank 0 of 1 has all"


def test_a_process_group_that_is_not_there_is_not_asked(
    layout: RunLayout, expected: dict[int, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_to_be(1, 2, monkeypatch)
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    assert sorted(order(ShuffledVectors(hpc_embed.open_dataset(layout.root)))) == [*expected]


@pytest.mark.parametrize("given", [{"rank": 1}, {"rank": 2, "num_ranks": 2}, {"rank": -1}, {"num_ranks": 2}])
def test_a_rank_that_would_read_nothing_or_a_share_unasked_is_refused(given: dict[str, int], layout: RunLayout) -> None:
    with pytest.raises(UsageError, match=r"rank .* of .*: there is no such one\. Give rank"):
        ShuffledVectors(hpc_embed.open_dataset(layout.root), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["embedding_per_token_6", "embedding_mean_6"])
def test_an_example_keeps_nothing_of_the_row_group_that_it_was_read_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = hpc_embed.open_dataset(write_dataset(tmp_path, "per token and pooled").root)
    read: list[weakref.ref[np.ndarray]] = []
    plain = type(dataset).batch

    def batch(*given: Any) -> Batch:
        made = plain(*given)
        vectors_RD: Any = made.columns[name]
        read.append(weakref.ref(vectors_RD if vectors_RD.base is None else vectors_RD.base))
        return made

    monkeypatch.setattr(type(dataset), "batch", batch)
    examples = [*ShuffledVectors(dataset, name)]
    gc.collect()
    assert len(examples) == dataset.num_vectors
    assert len(read) == len(dataset.row_groups)
    assert {ref() is None for ref in read} == {True}


def test_vectors_of_tokens_come_record_by_record(tmp_path: Path) -> None:
    layout = write_dataset(tmp_path, "per token and pooled")
    dataset, oracle = hpc_embed.open_dataset(layout.root), as_pandas(layout)
    name = "embedding_per_token_0"
    by_number = VectorSet(dataset, name)
    for examples in (ShuffledVectors(dataset, name), [by_number[at] for at in range(len(by_number))]):
        found = {example.ordinal: example for example in examples}
        rows = oracle.dropna(subset=name)
        assert sorted(found) == rows["ordinal"].tolist()
        for _, row in rows.iterrows():
            example = found[row["ordinal"]]
            assert example.id == row["id"]
            assert example.vector.shape[1] == DIMENSION
            assert np.array_equal(example.vector.numpy(), np.stack([*row[name]]))
    with pytest.raises(UsageError, match=r"column None: there is none\. Say embedding_per_token_6, "):
        VectorSet(dataset)
    with pytest.raises(IndexError):
        VectorSet(dataset, name)[len(VectorSet(dataset, name))]
