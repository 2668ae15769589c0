"""Pooling, and the mistakes that others made in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hpc_embed.engine import pooling
from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.pooling import POOLINGS, Reduction, pool
from hpc_embed.families.family import Special
from hpc_embed.model import PER_TOKEN
from hpc_embed.model import POOLINGS as NAMES
from tests.engine.references import CPU, random_tokens

LENGTHS = [3, 10, 3, 500, 4]


@pytest.mark.parametrize(
    ("name", "expected", "num_tokens"),
    [
        ("mean", [[2.0], [6.0]], [1, 2]),
        ("mean_with_special", [[2.0], [5.75]], [3, 4]),
        ("cls", [[1.0], [4.0]], [3, 4]),
        ("max", [[2.0], [7.0]], [1, 2]),
        ("per_token", [[2.0], [5.0], [7.0]], [1, 2]),
    ],
)
def test_pooling_by_hand(name: str, expected: list[list[float]], num_tokens: list[int]) -> None:
    batch = make_batch([np.array([0, 5, 2]), np.array([0, 6, 7, 2])], CPU)
    hidden_TD = torch.tensor([[1.0], [2], [3], [4], [5], [7], [7]])
    vectors, counts = pool(name, hidden_TD, batch)
    assert vectors.tolist() == expected
    assert counts.tolist() == num_tokens


def test_the_names_on_the_command_line_are_those_of_the_engine() -> None:
    assert tuple(POOLINGS) == NAMES


@pytest.mark.parametrize("name", list(POOLINGS))
def test_a_vector_does_not_depend_on_batch_mates(name: str) -> None:
    windows = random_tokens(LENGTHS)
    hidden_TD = torch.randn(sum(LENGTHS), 33, generator=torch.Generator().manual_seed(0))
    together, counts = pool(name, hidden_TD, make_batch(windows, CPU))
    rows = counts.tolist() if name == PER_TOKEN else [1] * len(LENGTHS)
    for window, hidden, expected in zip(
        windows, torch.split(hidden_TD, LENGTHS), torch.split(together, rows), strict=True
    ):
        assert torch.equal(pool(name, hidden, make_batch([window], CPU))[0], expected)


@pytest.mark.parametrize("reduction", ["sum", "max"])
@pytest.mark.parametrize("special", [Special(1, 1), Special(0, 1), Special(0, 0)])
def test_what_a_gpu_launches_for_all_windows_gives_what_a_cpu_makes_one_by_one(
    reduction: Reduction, special: Special
) -> None:
    lengths = [*LENGTHS, 2, 1]
    batch = make_batch(random_tokens(lengths), CPU, special)
    hidden_TD = torch.randn(sum(lengths), 300, generator=torch.Generator().manual_seed(0))
    given = reduction, hidden_TD, batch, torch.tensor(lengths), special
    ours, theirs = pooling._reduced(*given), pooling._segments(*given)
    assert torch.equal(ours.float(), theirs.float())
    assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("name", ["mean", "max"])
def test_a_vector_does_not_depend_on_the_number_of_threads(name: str, threads: Callable[[int], None]) -> None:
    batch = make_batch(random_tokens([3000]), CPU)
    hidden_TD = torch.randn(3000, 1283, generator=torch.Generator().manual_seed(0))
    expected, _ = pool(name, hidden_TD, batch)
    for number in (2, 3, 8):
        threads(number)
        assert torch.equal(pool(name, hidden_TD, batch)[0], expected), number


def test_bf16_states_are_summed_in_float32() -> None:
    batch = make_batch([np.arange(4002)], CPU)
    hidden_TD = torch.full((4002, 1), 1.0078125, dtype=torch.bfloat16)
    vectors, _ = pool("mean", hidden_TD, batch)
    assert vectors.dtype == torch.float32
    assert vectors.item() == pytest.approx(1.0078125, rel=1e-6)


@pytest.mark.parametrize("name", ["mean", "mean_with_special"])
def test_a_mean_loses_nothing_over_thousands_of_rows(name: str) -> None:
    """But the rounding of the result, in columns on either side of those that are summed at once."""
    hidden_TD = 1 + torch.rand(5000, 300, generator=torch.Generator().manual_seed(0))
    vectors, _ = pool(name, hidden_TD, make_batch([np.arange(5000)], CPU))
    rows = hidden_TD[1:-1] if name == "mean" else hidden_TD
    assert torch.equal(vectors[0], rows.double().mean(0).float())


def test_large_states_do_not_overflow() -> None:
    batch = make_batch([np.arange(102)], CPU)
    vectors, _ = pool("mean", torch.full((102, 2), 60_000.0, dtype=torch.float16), batch)
    assert torch.isfinite(vectors).all()


def test_a_window_without_residues_has_no_vector_per_token() -> None:
    batch = make_batch([np.array([0, 2]), np.array([0, 5, 2]), np.array([0])], CPU)
    vectors, counts = pool(PER_TOKEN, torch.arange(6.0)[:, None], batch)
    assert vectors.tolist() == [[3.0]]
    assert counts.tolist() == [0, 1, 0]


def test_a_window_without_residues_gives_zeros_and_not_nan() -> None:
    vectors, counts = pool("mean", torch.ones(2, 3), make_batch([np.array([0, 2])], CPU))
    assert vectors.tolist() == [[0.0, 0.0, 0.0]]
    assert counts.tolist() == [1]
