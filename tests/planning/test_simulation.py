"""Simulated runs: against closed forms, and against a slow oracle that steps through time."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_embed.planning.distribution import (
    LONGEST_USUAL_MINUTES,
    SHORTEST_USUAL_MINUTES,
    USUAL_SHARDS,
    usual_shard_minutes,
)
from hpc_embed.planning.simulation import OPERATIONS_OF_A_PIECE, OPERATIONS_OF_A_SHARD, Site, simulate

FAST_SERVER = {"server_operations": 1e12, "server_bytes": 1e15, "start_operations": 0}


def plain(num_devices: int, **more: object) -> Site:
    """Devices, and nothing that takes time beside the shards."""
    bare = {"start_seconds": 0.0, "shard_seconds": 0.0, "schedule_seconds": 0.0, **FAST_SERVER}
    return Site(num_devices, **{**bare, **more})  # type: ignore[arg-type]


def stepped(shards: list[int], num_devices: int, start: int, between: int) -> int:
    """The oracle: whole seconds, one after the other, every device looked at in each."""
    waiting, busy = list(shards), [0] * num_devices
    resting = [0] * num_devices
    now = end = 0
    while waiting or any(busy):
        for device in range(num_devices):
            if not busy[device] and resting[device] <= now and waiting:
                busy[device] = start + waiting.pop(0)
        now += 1
        for device in range(num_devices):
            if busy[device]:
                busy[device] -= 1
                if not busy[device]:
                    end, resting[device] = now, now + between
    return end


@settings(max_examples=100, deadline=None)
@given(
    shards=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    num_devices=st.integers(1, 6),
    start=st.integers(0, 4),
    between=st.integers(0, 3),
)
def test_the_makespan_is_that_of_the_oracle(shards: list[int], num_devices: int, start: int, between: int) -> None:
    site = plain(num_devices, start_seconds=float(start), schedule_seconds=float(between))
    found = simulate([float(seconds) for seconds in shards], 1, site)
    assert found.makespan_seconds == pytest.approx(stepped(shards, num_devices, start, between))
    assert found.device_seconds == pytest.approx(sum(shards) + start * len(shards))
    assert (found.num_starts, found.num_taken, found.lost_seconds) == (len(shards), 0, 0.0)


def test_equal_shards_run_in_rounds() -> None:
    found = simulate([100.0] * 25, 1, plain(8, start_seconds=20.0, shard_seconds=1.0))
    assert found.makespan_seconds == pytest.approx(4 * 121)
    assert found.starting_seconds == pytest.approx(25 * 20)


def test_shards_of_one_task_share_a_start() -> None:
    found = simulate([100.0] * 24, 3, plain(8, start_seconds=20.0))
    assert found.makespan_seconds == pytest.approx(320)
    assert found.num_starts == 8


def test_a_fast_device_takes_more_shards() -> None:
    found = simulate([60.0] * 30, 1, plain(2, speeds=(2.0, 1.0)))
    assert found.makespan_seconds == pytest.approx(600)
    assert found.device_seconds == pytest.approx(1200)


def test_the_file_server_answers_starts_one_after_the_other() -> None:
    site = plain(100, start_operations=1000, server_operations=1000.0, weight_bytes=2e9, server_bytes=1e9)
    found = simulate([10.0] * 100, 1, site)
    assert found.makespan_seconds == pytest.approx(100 * 3 + 10)
    assert found.longest_wait_seconds == pytest.approx(300)
    assert found.operations == 100 * (1000 + OPERATIONS_OF_A_SHARD)


@settings(max_examples=100, deadline=None)
@given(
    num_shards=st.integers(1, 40),
    num_devices=st.integers(1, 10),
    shards_per_task=st.integers(1, 4),
    taken_per_hour=st.floats(0.0, 30.0),
    seed=st.integers(0, 99),
)
def test_no_work_is_lost_or_done_twice_beyond_a_piece(
    num_shards: int, num_devices: int, shards_per_task: int, taken_per_hour: float, seed: int
) -> None:
    site = plain(num_devices, taken_per_hour=taken_per_hour, away_seconds=60.0, piece_seconds=15.0)
    found = simulate([100.0] * num_shards, shards_per_task, site, seed)
    assert found.device_seconds == pytest.approx(100.0 * num_shards + found.lost_seconds)
    assert found.lost_seconds <= 15.0 * found.num_taken
    assert found.num_starts == -(-num_shards // shards_per_task) + found.num_taken
    assert found.makespan_seconds >= found.device_seconds / num_devices - 1e-6
    assert found == simulate([100.0] * num_shards, shards_per_task, site, seed)


def test_a_device_that_is_taken_loses_what_is_in_no_piece_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, moments = [], iter([51.0, 5.0, 1e9])

    def draw(_: random.Random, rate: float) -> float:
        rates.append(rate)
        return next(moments)

    monkeypatch.setattr(random.Random, "expovariate", draw)
    site = plain(
        1, speeds=(2.0,), taken_per_hour=36.0, piece_seconds=15.0, away_seconds=60.0, schedule_seconds=7.0,
        start_seconds=10.0, shard_seconds=1.0,
    )  # fmt: skip
    found = simulate([200.0], 1, site)
    # 10 s of start, 1 of a shard's own, 40 of work, of which 30 are in two pieces; away for 60; taken in its next start
    # after 5; away for 60; 10 and 1 again, and of 200 - 30 * 2 the rest at speed 2, in four pieces
    assert rates == [0.01] * 3
    assert found.makespan_seconds == 51 + 60 + 5 + 60 + 10 + 1 + 70
    assert found.device_seconds == 51 + 5 + 81
    assert (found.starting_seconds, found.lost_seconds) == (10 + 5 + 10, 10)
    assert (found.num_starts, found.num_taken) == (3, 2)
    assert found.operations == (2 + 4) * OPERATIONS_OF_A_PIECE + OPERATIONS_OF_A_SHARD
    assert found.longest_wait_seconds == pytest.approx(0, abs=1e-9)


def test_pieces_are_operations_of_the_file_server() -> None:
    found = simulate([100.0], 1, plain(1, piece_seconds=15.0))
    assert found.operations == OPERATIONS_OF_A_SHARD + 6 * OPERATIONS_OF_A_PIECE


def regret(minutes_of: dict[str, object]) -> dict[str, float]:
    """Makespan over the best rule's, on the mean of small and large runs on few and many devices."""
    cases = [
        (hours, devices, taken)
        for hours, devices, taken in itertools.product((1, 8, 50, 500), (4, 16, 64, 256), (0.0, 0.2))
        if hours * 60 / devices >= 3 and hours / devices <= 50
    ]
    total = dict.fromkeys(minutes_of, 0.0)
    for hours, devices, taken in cases:
        site = Site(devices, weight_bytes=2.6e9, start_operations=50, taken_per_hour=taken)
        spans = {}
        for name, rule in minutes_of.items():
            number = math.ceil(hours * 60 / rule(hours * 60))  # type: ignore[operator]
            spans[name] = simulate([hours * 3600 / number] * number, 1, site).makespan_seconds
        for name, span in spans.items():
            total[name] += span / min(spans.values()) / len(cases)
    return total


@pytest.mark.long
def test_the_usual_length_of_a_shard_is_that_which_the_simulation_likes_best() -> None:
    rules: dict[str, object] = {
        str(minutes): lambda _, minutes=minutes: minutes for minutes in (2.0, 5.0, 10.0, 30.0, 60.0)
    }
    found = regret({**rules, "ours": usual_shard_minutes})
    assert min(found, key=lambda name: found[name]) == "ours", found
    assert found["ours"] < 1.12
    assert usual_shard_minutes(60) == SHORTEST_USUAL_MINUTES
    assert usual_shard_minutes(10 * USUAL_SHARDS) == 10
    assert usual_shard_minutes(1e6) == LONGEST_USUAL_MINUTES
