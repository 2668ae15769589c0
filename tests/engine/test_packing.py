"""Windows into batches under a token budget."""

from __future__ import annotations

import random

from hpc_embed.engine.packing import pack


def test_overlong_window_gets_a_batch_of_its_own() -> None:
    assert list(pack([5, 90, 5], token_budget=20)) == [[1], [0, 2]]


def test_no_windows_give_no_batches() -> None:
    assert list(pack([], token_budget=20)) == []


def test_a_batch_may_fill_the_budget_to_the_last_token() -> None:
    assert list(pack([10, 10, 1], token_budget=20)) == [[0, 1], [2]]


def test_every_window_is_in_one_batch_and_no_batch_exceeds_the_budget() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(1, 60) for _ in range(500)]
    batches = list(pack(lengths, token_budget=100))
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    assert max(sum(lengths[index] for index in batch) for batch in batches) <= 100
