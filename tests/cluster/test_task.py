"""Which shards a task takes up, what it tells its crew, and when it stops."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from hpc_embed.cluster import array_task, task
from hpc_embed.cluster.array_task import run_shards
from hpc_embed.cluster.crew import CrewResult
from hpc_embed.cluster.places import Place
from hpc_embed.cluster.task import Outlook, embed_shards, outlook, own_outlook, parse_shards
from hpc_embed.cluster.worker_process import Assignment
from hpc_embed.config import WorkSettings
from hpc_embed.errors import Interrupted, RunConflict, UsageError
from hpc_embed.progress import Counting, Lines
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import read_failure
from hpc_embed.run.plan import Plan
from hpc_embed.run.temporaries import temporary_sibling
from tests.cluster.conftest import fail, finish, planned
from tests.cluster.test_status import piece

WORK = WorkSettings(devices="cpu")


@pytest.mark.parametrize(
    ("text", "shards"),
    [
        ("all", [0, 1, 2, 3]),
        ("0", [0]),
        ("3", [3]),
        ("1-2", [1, 2]),
        ("2,0-1,1", [0, 1, 2]),
        ("2-9", [2, 3]),
        ("9,3", [3]),
    ],
)
def test_shards_by_numbers_and_ranges(text: str, shards: list[int]) -> None:
    assert parse_shards(text, 4) == shards


@pytest.mark.parametrize("text", ["4", "4-9", "x", "1-", "-1", "", "1;2"])
def test_shards_that_a_plan_does_not_have(text: str) -> None:
    with pytest.raises(UsageError):
        parse_shards(text, 4)


def test_the_outlook_of_a_run_and_of_a_task(layout: RunLayout) -> None:
    plan = planned(1, 1, 1, 1, 1)
    finish(layout, 0)
    fail(layout, 1, 3)
    fail(layout, 2, 2)
    finish(layout, 4)
    fail(layout, 4, 5)
    failure = read_failure(layout.outputs, "shard-00001")
    assert failure is not None
    assert outlook(plan, layout, WORK) == Outlook([2, 3], {1: failure})
    assert own_outlook([0, 1, 2, 4], plan, layout, WORK) == Outlook([2], {1: failure})
    again = WorkSettings(retry_failed=True)
    assert outlook(plan, layout, again) == Outlook([1, 2, 3], {})
    assert own_outlook([3, 1, 0], plan, layout, again) == Outlook([3, 1], {})


def test_an_output_of_another_plan_or_size_is_not_done_for_a_task(layout: RunLayout) -> None:
    plan = planned(1, 1)
    finish(layout, 0)
    layout.output(0).write_bytes(b"longer than its marker says")
    assert own_outlook([0], plan, layout, WORK).to_do == [0]
    assert outlook(plan, layout, WORK).to_do == [1], "while submit goes by the names"


class Call(NamedTuple):
    """What a crew was made of and told."""

    assignment: Assignment
    places: Sequence[Place]
    max_tries: int
    shards: list[Path]
    counter: Counting


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Crews that finish all but the last of their shards."""
    made: list[Call] = []

    class NoCrew:
        def __init__(self, assignment: Assignment, places: Sequence[Place], max_tries: int) -> None:
            self.told = (assignment, places, max_tries)

        def run(self, shards: list[Path], count: Counting) -> CrewResult:
            made.append(Call(*self.told, shards, count))
            names = [path.stem for path in shards]
            return CrewResult(names[:-1], {names[-1]: "out of luck"})

    monkeypatch.setattr(task, "Crew", NoCrew)
    return made


def with_digests(plan: Plan) -> Plan:
    return replace(plan, shards=[replace(one, sha256=f"of shard {at}") for at, one in enumerate(plan.shards)])


def test_of_a_plan_without_checksums_of_its_shards_it_is_told(
    calls: list[Call], layout: RunLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    embed_shards(planned(1, 1), layout, [0, 1], WORK, ["cpu"])
    assert len(calls) == 1
    assert "the plan is of 1, which wrote no checksums of shards" in capsys.readouterr().err


def test_a_crew_gets_what_is_neither_done_nor_left_aside(
    calls: list[Call], layout: RunLayout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    finish(layout, 0)
    fail(layout, 1, 4)
    work = WorkSettings(
        token_budget=512, piece_seconds=2.5, max_tries=4, weights_copy="/node/disk", force_precision=True
    )
    plan = with_digests(planned(10, 10, 20, 30, 40))
    result = embed_shards(plan, layout, [0, 1, 2, 3], work, ["cpu", "cpu"])
    assert result.finished == ["shard-00002"]
    assert list(result.failed) == ["shard-00001", "shard-00003"]
    assert result.failed["shard-00001"].startswith("left aside after 4 tries")
    assert result.failed["shard-00003"] == "out of luck"
    (call,) = calls
    assert (call.shards, call.places, call.max_tries) == ([layout.shard(2), layout.shard(3)], [Place("cpu")] * 2, 4)
    told = call.assignment
    assert (told.outputs, told.work, told.fingerprint) == (layout.outputs, layout.work, "f" * 64)
    assert (told.token_budget, told.piece_seconds) == (512, 2.5)
    assert told.digests == {"shard-00002": "of shard 2", "shard-00003": "of shard 3"}
    assert isinstance(call.counter, Lines)
    assert (call.counter.label, call.counter.total, call.counter.unit) == ("embedding", 150, "residues")
    assert (told.worker.identity, told.worker.embedding) == (plan.model, plan.embedding)
    assert (told.worker.num_threads, told.worker.weights_copy, told.worker.force_precision) == (2, "/node/disk", True)
    assert "1 of 4 shards are done already" in capsys.readouterr().err


def test_where_all_is_done_no_crew_starts(
    calls: list[Call], layout: RunLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(layout, 0)
    assert embed_shards(planned(1, 1), layout, [0], WORK, ["cpu"]) == CrewResult([], {})
    assert "every shard is done" in capsys.readouterr().err
    fail(layout, 1, 3)
    result = embed_shards(planned(1, 1), layout, [0, 1], WORK, ["cpu"])
    assert (result.finished, list(result.failed)) == ([], ["shard-00001"])
    assert "every shard is done" not in capsys.readouterr().err
    assert calls == []


def test_folders_for_the_shards_are_there_and_clean_before_a_crew_starts(
    calls: list[Call], layout: RunLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    layout.outputs.mkdir()
    left = temporary_sibling(layout.output(3))
    left = left.with_name(left.name.replace(f"{os.getpid():08x}", f"{2**31 - 1:08x}"))
    left.touch()
    embed_shards(with_digests(planned(*[1] * 1001)), layout, [3, 1000], WORK, ["cpu"])
    assert (layout.outputs / "001").is_dir()
    assert (layout.work / "001").is_dir()
    assert not left.exists(), "a crash left it"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("model", "source", "warns"), [("aa_composition", "built-in", False), ("aa_composition", "untrained", True)]
)
def test_random_weights_are_warned_of(
    model: str, source: str, warns: bool, calls: list[Call], layout: RunLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    embed_shards(planned(1, model=model, source=source), layout, [0], WORK, ["cpu"])
    assert ("random weights" in capsys.readouterr().err) is warns


# ---- an array's task


class Work:
    """In the place of the embedding: what happens there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, what: object) -> None:
        self.what = what
        self.devices: list[int | str] = []
        monkeypatch.setattr(array_task, "embed_shards", self)

    def __call__(
        self, plan: object, layout: object, shards: object, settings: object, devices: list[int | str]
    ) -> CrewResult:
        self.devices = devices
        if isinstance(self.what, BaseException):
            raise self.what
        if callable(self.what):
            self.what()
        return CrewResult(["shard-00000"], {} if self.what != "fails" else {"shard-00001": "out of luck"})


@pytest.fixture
def word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch script's file for the last word, long before it is time to stop."""
    monkeypatch.setenv("HPC_EMBED_WORD", str(tmp_path / "7_3.word"))
    monkeypatch.setenv("HPC_EMBED_STOP_AT", str(int(time.time()) + 3600))
    return tmp_path / "7_3.word"


def stopped(number: int) -> Interrupted:
    error = Interrupted("stopped.")
    error.signal_number = number
    return error


@pytest.mark.parametrize(("what", "code"), [("well", 0), ("fails", 6)])
def test_the_exit_code_of_a_task(
    what: str, code: int, word: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(monkeypatch, what)
    exit_code, result = run_shards(planned(1, 1), layout, [0, 1], WorkSettings(workers=2))
    assert (exit_code, result.finished, bool(result.failed)) == (code, ["shard-00000"], what == "fails")
    assert work.devices == ["cpu", "cpu"]
    assert not word.exists()


@pytest.mark.parametrize("has_finished", [False, True])
def test_a_warning_of_slurm_is_answered_by_asking_for_another_start(
    has_finished: bool, word: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece(layout, 0, 0)

    def work() -> None:
        if has_finished:
            piece(layout, 0, 1)
        raise stopped(signal.SIGUSR2)

    Work(monkeypatch, work)
    assert run_shards(planned(4, 4), layout, [0, 1], WORK) == (85, CrewResult([], {}))
    assert word.read_text() == ("again" if has_finished else "idle")


def test_a_shard_that_was_finished_is_work_too(word: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(layout, 0)

    def work() -> None:
        finish(layout, 1)
        raise stopped(signal.SIGUSR2)

    Work(monkeypatch, work)
    assert run_shards(planned(4, 4), layout, [0, 1], WORK).exit_code == 85
    assert word.read_text() == "again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_other_signals_end_the_task_with_a_word(
    number: int, word: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    Work(monkeypatch, stopped(number))
    with pytest.raises(Interrupted):
        run_shards(planned(1), layout, [0], WORK)
    assert word.read_text() == "stopped"


def test_a_word_that_cannot_be_written_stops_nothing(
    word: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPC_EMBED_WORD", str(word.parent / "nowhere" / "7_3.word"))
    Work(monkeypatch, stopped(signal.SIGUSR2))
    assert run_shards(planned(1), layout, [0], WORK).exit_code == 85
    monkeypatch.delenv("HPC_EMBED_WORD")
    assert run_shards(planned(1), layout, [0], WORK).exit_code == 85


@pytest.mark.parametrize(
    ("seconds", "starts"), [(None, True), ("soon", True), (3600, True), (2, True), (0, False), (-5, False)]
)
def test_a_start_whose_time_is_over_does_nothing(
    seconds: object, starts: bool, word: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = int(time.time()) + seconds if isinstance(seconds, int) else seconds or ""
    monkeypatch.setenv("HPC_EMBED_STOP_AT", str(moment))
    work = Work(monkeypatch, "well")
    assert run_shards(planned(1), layout, [0], WORK).exit_code == (0 if starts else 85)
    assert bool(work.devices) is starts
    assert (word.read_text() if word.exists() else "") == ("" if starts else "idle")


def test_a_start_whose_time_is_over_this_very_second_does_nothing(
    word: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    monkeypatch.setenv("HPC_EMBED_STOP_AT", "1000")
    Work(monkeypatch, "well")
    assert run_shards(planned(1), layout, [0], WORK).exit_code == 85


@pytest.mark.long
def test_a_task_signals_itself_when_it_is_time_and_only_while_it_works(
    word: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    monkeypatch.setattr(time, "time", lambda: 1000.8)
    monkeypatch.setenv("HPC_EMBED_STOP_AT", "1001")
    try:
        Work(monkeypatch, lambda: time.sleep(0.4))
        run_shards(planned(1), layout, [0], WORK)
        assert heard == [signal.SIGUSR2]
        Work(monkeypatch, "well")
        run_shards(planned(1), layout, [0], WORK)
        time.sleep(0.4)
        assert heard == [signal.SIGUSR2], "nobody is told after the end"
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_run_folder_that_went_away_is_a_conflict_and_another_file_is_not(
    word: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    Work(monkeypatch, FileNotFoundError("gone"))
    with pytest.raises(RunConflict, match="is not there any more"):
        run_shards(planned(1), layout, [0], WORK)
    layout.plan.touch()
    with pytest.raises(FileNotFoundError):
        run_shards(planned(1), layout, [0], WORK)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "task -_-, start 1, CUDA_VISIBLE_DEVICES=, 2 shards"),
        (
            {
                "SLURM_ARRAY_JOB_ID": "7",
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_RESTART_COUNT": "2",
                "CUDA_VISIBLE_DEVICES": "1",
            },
            "task 7_3, start 3, CUDA_VISIBLE_DEVICES=1, 2 shards",
        ),
    ],
)
def test_the_first_line_of_a_tasks_log(
    environment: dict[str, str],
    told: str,
    word: Path,
    layout: RunLayout,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Work(monkeypatch, "well")
    run_shards(planned(1, 1), layout, [0, 1], WORK)
    assert told in capsys.readouterr().err
