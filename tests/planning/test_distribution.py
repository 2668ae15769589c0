"""Numbers that decide about shards, by hand: costs, how many there are, lengths counted, groups of shards."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.planning import distribution, routing
from hpc_embed.planning.cost import flops, millitokens, tokens_of_lengths
from hpc_embed.planning.distribution import Lengths, usual_shard_minutes
from hpc_embed.planning.planner import make_plan
from hpc_embed.registry import find_model
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Cost
from hpc_embed.run.shards import read_shard

COST = Cost(linear_flops=1000, quadratic_flops=20)


def test_a_window_costs_by_its_tokens_and_by_their_square() -> None:
    tokens_N = np.array([0, 1, 10, 3_000_000_000])
    assert flops(COST, tokens_N).tolist() == [0, 1020, 12_000, 3e9 * (1000 + 6e10)]
    assert millitokens(COST, tokens_N[:3]).tolist() == [0, 1020, 12_000]
    assert millitokens(Cost(linear_flops=3, quadratic_flops=1), np.array([1, 2])).tolist() == [1333, 3333]
    assert millitokens(COST, tokens_N[:3]).dtype == np.int64


@pytest.mark.parametrize(
    ("model", "expected"),
    [("esm2_t6_8M", [3, 12, 1024]), ("aa_composition", [1, 10, 1022]), ("nt_v2_50m", [2, 3, 172])],
)
def test_tokens_are_counted_or_taken_from_the_model_s_mean(model: str, expected: list[int]) -> None:
    found = tokens_of_lengths(find_model(model), np.array([1, 10, 1022]))
    assert (found.tolist(), found.dtype.name) == (expected, "int64")


LENGTHS = Lengths(np.array([1000, 10]), np.array([2_000_000, 50_000_000]))


def num_shards(usual: int | None, lengths: Lengths = LENGTHS, cost: Cost = COST, **settings: object) -> int:
    chosen = PlanSettings(device="a100", **settings)  # type: ignore[arg-type]
    return distribution._num_shards(cost, chosen, usual, lengths, lengths.lengths_L + 2)


def test_shards_are_as_many_as_asked_for_and_never_more_than_windows_or_names() -> None:
    assert num_shards(None, num_shards=7) == 7
    assert num_shards(3, num_shards=7) == 7
    few = Lengths(np.array([10]), np.array([5]))
    assert num_shards(None, few, num_shards=7) == 5
    assert num_shards(None, num_shards=200_000) == distribution.MAX_SHARDS
    assert num_shards(None, Lengths(np.array([], np.int64), np.array([], np.int64)), num_shards=7) == 1
    assert num_shards(None, Lengths(np.array([], np.int64), np.array([], np.int64))) == 1


def test_shards_are_as_long_as_asked_for_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def seconds_on(device: str, cost: Cost, num_flops: float, num_tokens: int) -> float:
        asked.append((device, cost, num_flops, num_tokens))
        return 60 * 601.0

    monkeypatch.setattr(distribution, "seconds_on", seconds_on)
    assert num_shards(None, shard_minutes=10) == 61
    assert num_shards(40, shard_minutes=20) == 31
    assert num_shards(None) == math.ceil(601 / 5)
    assert num_shards(40) == 40  # a model whose usual number is known
    num_flops = 2e6 * (1002 * (1000 + 1002 * 20)) + 5e7 * (12 * (1000 + 12 * 20))
    assert set(asked) == {("a100", COST, num_flops, 2_000_000 * 1002 + 50_000_000 * 12)}


def test_no_shard_has_more_residues_than_a_worker_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "seconds_on", lambda *_: 1.0)
    assert num_shards(1) == math.ceil((2_000_000 * 1000 + 50_000_000 * 10) / (1 << 28)) == 10
    monkeypatch.setattr(distribution, "MOST_SHARD_RESIDUES", 500_000_000)
    assert num_shards(1) == 5
    assert num_shards(6) == 6
    monkeypatch.setattr(distribution, "MOST_SHARD_RESIDUES", 1)
    assert num_shards(1) == distribution.MAX_SHARDS
    assert num_shards(1, Lengths(np.array([10]), np.array([3]))) == 3


@pytest.mark.parametrize(("minutes", "usual"), [(1, 5), (1280, 5), (2560, 10), (7680, 30), (10**6, 30)])
def test_a_usual_shard_is_a_256th_within_its_bounds(minutes: float, usual: float) -> None:
    assert usual_shard_minutes(minutes) == usual


def test_lengths_on_either_side_of_the_table_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "LONG", 7)
    found: list[Lengths] = []
    plain = distribution._count_lengths

    def noted(*arguments: object) -> Lengths:
        found.append(plain(*arguments))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(distribution, "_count_lengths", noted)
    sequences = ["MKVLAA", "MKVLAAG", "MKVLAAGL", "MKVLAAGV", "MK", "MV", "MK", "MKVLAAGVW" * 3]
    (tmp_path / "in.fa").write_text("".join(f">r{at}\n{text}\n" for at, text in enumerate(sequences)))
    layout = RunLayout(tmp_path / "run")
    settings = PlanSettings(fasta=(str(tmp_path / "in.fa"),), model="aa_composition", num_shards=3, force_kind=True)
    plan = make_plan(settings, layout).plan
    assert found[0].lengths_L.tolist() == [27, 8, 7, 6, 2]
    assert found[0].counts_L.tolist() == [1, 2, 1, 1, 2]
    shards = [read_shard(layout.shard(index)) for index in range(3)]
    assert sorted(len(each) for shard in shards for each in shard.sequences_N) == [2, 2, 6, 7, 8, 8, 27]
    for facts, shard in zip(plan.shards, shards, strict=True):
        assert (facts.num_windows, facts.num_residues) == (len(shard.windows_N), sum(map(len, shard.sequences_N)))
        assert (facts.num_tokens, facts.flops) == (facts.num_residues, 4 * facts.num_residues)


@pytest.mark.parametrize(
    ("num_bytes", "edges"),
    [
        ([8.0] * 8, list(range(9))),  # an eighth each
        ([4.0] * 16, list(range(0, 17, 2))),
        ([1.0, 7.0, 8.0, 3.0, 3.0, 3.0, 3.0, 4.0, 32.0], [0, 2, 3, 5, 7, 8, 9]),
        ([64.0, 0.0], [0, 1, 2]),
        ([100.0], [0, 1]),
    ],
)
def test_groups_of_shards_are_an_eighth_at_most(num_bytes: list[float], edges: list[int]) -> None:
    assert routing._group_edges(np.array(num_bytes)).tolist() == edges


def test_groups_of_shards_are_bounded_in_bytes_and_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "GROUP_BYTES", 2)
    assert routing._group_edges(np.ones(20)).tolist() == list(range(0, 21, 2))
    monkeypatch.setattr(routing, "GROUP_BYTES", 1 << 30)
    many = np.zeros((1 << 16) + 5)
    many[-1] = 80.0
    assert routing._group_edges(many).tolist() == [0, 1 << 16, (1 << 16) + 4, (1 << 16) + 5]
