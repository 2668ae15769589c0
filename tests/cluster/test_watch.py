"""How often `status --watch` asks Slurm."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from hpc_embed.cluster.status import run_status
from hpc_embed.commands import status
from hpc_embed.config import OutputSettings, RunSettings, StatusSettings
from hpc_embed.run.layout import RunLayout
from tests.cluster.conftest import Fakes, finish, planned
from tests.cluster.test_status import array, ended, in_queue


class Clock:
    """One that goes on where the command waits, and is stopped in the end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, until: float) -> None:
        self.seconds, self.until = 0.0, until
        self.pauses: list[float] = []
        monkeypatch.setattr(status, "time", SimpleNamespace(sleep=self.wait))

    def wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds
        if self.seconds > self.until:
            raise KeyboardInterrupt


def watch(layout: RunLayout, seconds: float = 5.0) -> int:
    settings = StatusSettings(watch=True, watch_seconds=seconds)
    return status.run(RunSettings(run_dir=str(layout.root)), settings, OutputSettings(json=True))


def test_an_hour_of_watching_costs_a_question_a_minute(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(10, 10, 10).write(layout.plan)
    in_queue(fakes, layout, array(layout, "7", [0], [1]), "RUNNING", where="node1")
    finish(layout, 2)
    ended(fakes, "7", "FAILED")
    fakes.says("sacct", "7_1|FAILED|1:0|hpc-embed|here|2099-01-01T00:00:00\n")
    clock = Clock(monkeypatch, 3600)
    with pytest.raises(KeyboardInterrupt):
        watch(layout)
    assert clock.pauses[:4] == [5.0, 7.5, 11.25, 16.875]
    assert set(clock.pauses[7:]) == {60.0}
    assert len(fakes.calls("squeue")) == len(clock.pauses) <= 66
    assert len(fakes.calls("sacct")) == 1, "of one element that has ended, once"


def test_longer_pauses_than_a_minute_are_let_be_and_the_end_is_looked_at_twice_soon(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(10).write(layout.plan)
    in_queue(fakes, layout, array(layout, "7", [0]), "RUNNING", where="node1")
    clock = Clock(monkeypatch, 3600)
    with pytest.raises(KeyboardInterrupt):
        watch(layout, 90.0)
    assert set(clock.pauses) == {90.0}
    fakes.says("squeue", "")
    clock.pauses.clear()
    clock.seconds = 0.0
    assert watch(layout, 2.0) == 6
    assert clock.pauses == [2.0]


def test_a_look_at_any_number_of_arrays_is_one_question_and_one_a_user_for_those_without_an_answer(
    fakes: Fakes, layout: RunLayout
) -> None:
    for number in range(5):
        array(layout, str(7 + number), [number])
        array(layout, "", [10 + number], token=f"20260102-000000-{number:08d}")
    run_status(planned(*[1] * 15), layout)
    calls = [call.split("--states=all ")[1].split()[0] for call in fakes.calls("squeue")]
    assert calls == [f"--user={os.getuid()}", "--jobs=7,8,9,10,11"]
    assert len(fakes.calls("sacct")) == 1
