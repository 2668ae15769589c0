"""A crew whose worker processes are played: who gets which shard, and what comes of a death at any moment."""

from __future__ import annotations

import errno
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hpc_embed.cluster import crew as crew_module
from hpc_embed.cluster import worker_process
from hpc_embed.cluster.crew import STOP_SIGNALS, Crew, CrewResult
from hpc_embed.cluster.places import Place
from hpc_embed.cluster.worker_process import Assignment
from hpc_embed.errors import EnvironmentFault, Interrupted
from hpc_embed.progress import (
    BatchDone,
    BudgetHalved,
    Event,
    ShardFailed,
    ShardFinished,
    ShardStarted,
    Silent,
    WorkerFailed,
    WorkerReady,
    WorkerStopped,
)
from hpc_embed.run.identity import pin_model
from hpc_embed.run.markers import read_failure
from hpc_embed.workers.composition import CompositionWorker
from tests.cluster.conftest import planned


class Pipe(queue.Queue[Any]):
    """A queue between processes, in one."""

    def cancel_join_thread(self) -> None:
        self.is_let_go = True

    def close(self) -> None:
        self.is_closed = True

    def join_thread(self) -> None:
        assert self.is_closed


class Process:
    """A worker process; each look at its exit code is a step of the part that it plays."""

    def __init__(self, part: Part, target: Callable[..., None], args: tuple[Any, ...], name: str) -> None:
        self.target, self.name = target, name
        self.assignment, place, self.todo, self.events = args
        self.device = place.device
        self._steps = part(self)
        self._code: int | None = None
        self.sentinel = multiprocessing.Pipe()[0]
        self.is_started = self.is_asked_to_stop = self.is_killed = self.is_joined = False

    def start(self) -> None:
        self.is_started = True

    def say(self, *events: Event) -> None:
        for event in events:
            self.events.put(event)

    def next_shard(self) -> Path | None:
        path: Path | None = self.todo.get_nowait()
        return path

    @property
    def exitcode(self) -> int | None:
        if self._code is None:
            try:
                next(self._steps)
            except StopIteration as end:
                self._code = end.value or 0
        return self._code

    def terminate(self) -> None:
        self.is_asked_to_stop = True

    def kill(self) -> None:
        self.is_killed = True
        self._code = -9

    def join(self) -> None:
        self.is_joined = True


Part = Callable[[Process], Iterator[None]]
READY = WorkerReady("cpu", "fp32", 4096, 420, "attention by kernel")


class Stage:
    """In the place of multiprocessing's context: hands out the parts, the last one again and again."""

    def __init__(self) -> None:
        self.parts: list[Part] = [healthy]
        self.processes: list[Process] = []

    def Queue(self) -> Pipe:
        return Pipe()

    def Process(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Process:
        part = self.parts.pop(0) if len(self.parts) > 1 else self.parts[0]
        self.processes.append(Process(part, target, args, name))
        return self.processes[-1]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: {"spawn": stage}[method])
    for module in (crew_module, worker_process):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    return stage


def healthy(process: Process) -> Iterator[None]:
    """Does what it is told, a step a shard."""
    process.say(READY)
    while True:
        yield
        if process.todo.empty():
            continue
        path = process.next_shard()
        if path is None:
            return
        process.say(ShardStarted(path.stem, 2, 5), BatchDone(path.stem, 2, 10, 12), ShardFinished(path.stem, 2, 0))


def dies(code: int, *events: Event, shards: int = 0) -> Part:
    """Finishes so many shards, says these events, and ends."""

    def part(process: Process) -> Iterator[None]:
        if events:
            process.say(READY)
        for _ in range(shards):
            path = process.next_shard()
            assert path is not None
            process.say(ShardStarted(path.stem, 1, 0), ShardFinished(path.stem, 1, 0))
        yield
        process.say(*events)
        return code  # type: ignore[return-value]

    return part


class Count(Silent):
    """What a crew tells of its progress."""

    def __init__(self) -> None:
        self.amounts: list[int] = []
        self.notes: list[str] = []

    def advance(self, amount: int, note: str = "") -> None:
        self.amounts.append(amount)
        self.notes.append(note)


def assignment(folder: Path, worker: type[CompositionWorker] = CompositionWorker) -> Assignment:
    (folder / "outputs").mkdir(exist_ok=True)
    made = worker(pin_model("aa_composition", None, None)[1], planned(1).embedding)
    return Assignment(made, folder / "outputs", folder / "work", "f", 512, 15.0)


def run(
    folder: Path,
    num_shards: int,
    devices: Iterable[int | str] = ("cpu",),
    max_tries: int = 2,
    count: Silent | None = None,
) -> CrewResult:
    shards = [folder / f"shard-{index:05d}.parquet" for index in range(num_shards)]
    return Crew(assignment(folder), list(map(Place, devices)), max_tries).run(shards, count or Silent())


def names(*indices: int) -> list[str]:
    return [f"shard-{index:05d}" for index in indices]


def num_tries(folder: Path, index: int) -> int:
    failure = read_failure(folder / "outputs", f"shard-{index:05d}")
    return failure.tries if failure else 0


# ---- who gets what


def test_every_shard_is_done_once(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = Count()
    finished, failed = run(tmp_path, 5, [0, 1], count=count)
    assert (sorted(finished), failed) == (names(0, 1, 2, 3, 4), {})
    assert [process.device for process in stage.processes] == [0, 1]
    assert all(process.is_started for process in stage.processes)
    assert not any(process.is_killed or process.is_asked_to_stop for process in stage.processes)
    assert sorted(count.amounts) == [5] * 5 + [10] * 5
    assert capsys.readouterr().err == "cpu: fp32, attention by kernel, batches of 4,096 tokens\n", (
        "said once for all of them"
    )


def test_no_worker_is_started_that_would_have_no_shard(stage: Stage, tmp_path: Path) -> None:
    run(tmp_path, 2, [0, 1, 2, 3])
    assert [process.device for process in stage.processes] == [0, 1]


@pytest.mark.parametrize(
    ("num_shards", "num_devices", "at_hand"),
    [(1, 1, [1]), (2, 1, [2]), (5, 1, [2]), (2, 2, [1, 1]), (3, 2, [2, 1]), (4, 2, [2, 1]), (5, 2, [2, 2])],
)
def test_a_worker_has_the_next_shard_at_hand_but_for_the_last_ones(
    num_shards: int, num_devices: int, at_hand: list[int], stage: Stage, tmp_path: Path
) -> None:
    seen: dict[int, int] = {}

    def part(process: Process) -> Iterator[None]:
        seen[process.device] = process.todo.qsize()
        yield from healthy(process)

    stage.parts = [part]
    run(tmp_path, num_shards, range(num_devices))
    assert [seen[device] for device in range(num_devices)] == at_hand


def test_it_works_outside_of_the_main_thread_too(stage: Stage, tmp_path: Path) -> None:
    results: list[CrewResult] = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, 2)))
    thread.start()
    thread.join()
    assert results == [CrewResult(names(0, 1), {})]


# ---- what is told


def test_what_went_wrong_short_of_a_failure_is_noted(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(process: Process) -> Iterator[None]:
        process.say(READY, BudgetHalved(2048), ShardFinished("shard-00000", 9, 3))
        yield
        yield

    stage.parts = [part]
    assert run(tmp_path, 1).finished == names(0)
    told = capsys.readouterr().err
    assert "out of memory on cpu: going on with 2,048 tokens a batch" in told
    assert "shard-00000: 3 windows could not be embedded" in told


def test_a_shard_that_fails_by_itself_is_recorded_and_the_worker_goes_on(stage: Stage, tmp_path: Path) -> None:
    def part(process: Process) -> Iterator[None]:
        process.say(READY, ShardFailed("shard-00000", "damaged"))
        process.next_shard()
        yield from healthy(process)

    stage.parts = [part]
    assert run(tmp_path, 3) == (names(1, 2), {"shard-00000": "damaged"})
    assert [num_tries(tmp_path, index) for index in range(3)] == [1, 0, 0]
    assert len(stage.processes) == 1


def test_the_rate_is_of_the_last_half_minute(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [100.0, 102.0, 130.0, 132.0, 200.0]
    batches = [BatchDone("shard-00000", 1, 1, number) for number in (100, 300, 2600, 98, 7)]

    def part(process: Process) -> Iterator[None]:
        process.say(READY, *batches, ShardFinished("shard-00000", 1, 0))
        yield
        yield

    stage.parts = [part]
    monkeypatch.setattr(time, "monotonic", lambda: times.pop(0))
    count = Count()
    run(tmp_path, 1, count=count)
    assert count.notes == ["", "200 tokens/s", "100 tokens/s", "100 tokens/s", ""]


# ---- deaths


def test_the_shard_at_work_is_blamed_and_tried_again_first(stage: Stage, tmp_path: Path) -> None:
    order: list[str] = []

    def part(process: Process) -> Iterator[None]:
        order.extend(path.stem for path in list(process.todo.queue) if path)
        yield from healthy(process)

    stage.parts = [dies(-11, ShardStarted("shard-00000", 1, 0)), part]
    assert run(tmp_path, 4) == (names(0, 1, 2, 3), {})
    assert [num_tries(tmp_path, index) for index in range(4)] == [1, 0, 0, 0]
    assert order == names(0, 1)
    assert len(stage.processes) == 2


def test_a_shard_that_ends_as_many_workers_as_it_may_is_given_up(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = dies(-9, ShardStarted("shard-00000", 1, 0))
    stage.parts = [killed, killed, healthy]
    assert run(tmp_path, 3, max_tries=2) == (
        names(1, 2),
        {"shard-00000": "killed by SIGKILL, perhaps for want of memory"},
    )
    assert [num_tries(tmp_path, index) for index in range(3)] == [2, 0, 0]
    assert len(stage.processes) == 3
    assert capsys.readouterr().err.count("worker on cpu ended: killed by SIGKILL") == 2


def test_the_last_shard_is_given_up_without_a_fresh_worker(stage: Stage, tmp_path: Path) -> None:
    stage.parts = [dies(-11, ShardStarted("shard-00000", 1, 0))]
    assert run(tmp_path, 1, max_tries=1).failed == {"shard-00000": "killed by SIGSEGV"}
    assert len(stage.processes) == 1


def test_a_death_between_two_shards_is_nobodys_fault(stage: Stage, tmp_path: Path) -> None:
    stage.parts = [dies(-11, BudgetHalved(1), shards=1), healthy]
    finished, failed = run(tmp_path, 4, max_tries=1)
    assert (sorted(finished), failed) == (names(0, 1, 2, 3), {})
    assert [num_tries(tmp_path, index) for index in range(4)] == [0, 0, 0, 0]


def test_a_worker_at_its_next_shard_already_is_not_taken_for_idle(stage: Stage, tmp_path: Path) -> None:
    events = (
        ShardStarted("shard-00000", 1, 0),
        ShardStarted("shard-00001", 1, 0),
        ShardFinished("shard-00000", 1, 0),
    )
    stage.parts = [dies(-11, *events), healthy]
    finished, failed = run(tmp_path, 4, max_tries=1)
    assert (sorted(finished), list(failed)) == (names(0, 2, 3), names(1))


def test_a_worker_that_ends_without_a_word_leaves_its_shards_to_another(stage: Stage, tmp_path: Path) -> None:
    stage.parts = [dies(0, BudgetHalved(1)), healthy]
    assert run(tmp_path, 3) == (names(0, 1, 2), {})
    assert len(stage.processes) == 2


def test_an_exit_code_is_told_where_no_signal_was(stage: Stage, tmp_path: Path) -> None:
    stage.parts = [dies(3, ShardStarted("shard-00000", 1, 0))]
    assert run(tmp_path, 1, max_tries=1).failed == {"shard-00000": "exit code 3"}


def test_the_last_words_of_a_worker_are_the_reason(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = WorkerFailed("RuntimeError: CUDA error", "Traceback …", 1)
    stage.parts = [dies(1, ShardStarted("shard-00000", 1, 0), words)]
    monkeypatch.delenv("HPC_EMBED_TRACEBACK", raising=False)
    assert run(tmp_path, 1, max_tries=1).failed == {"shard-00000": "RuntimeError: CUDA error"}
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("HPC_EMBED_TRACEBACK", "1")
    run(tmp_path, 1, max_tries=1)
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_the_machine_ends_the_crew(stage: Stage, tmp_path: Path) -> None:
    stage.parts = [dies(5, ShardStarted("shard-00000", 1, 0), WorkerFailed("no weights.", "", 5)), healthy]
    with pytest.raises(EnvironmentFault, match="no weights"):
        run(tmp_path, 3, [0, 1])
    assert num_tries(tmp_path, 0) == 0
    other = stage.processes[1]
    assert (other.is_killed, other.is_joined, other.todo.is_let_go) == (True, True, True)


@pytest.mark.parametrize(
    ("num_deaths", "max_tries", "goes_on"), [(1, 2, True), (2, 2, False), (2, 3, True), (1, 1, False)]
)
def test_workers_that_end_before_they_are_ready_are_bounded(
    num_deaths: int, max_tries: int, goes_on: bool, stage: Stage, tmp_path: Path
) -> None:
    stage.parts = [*[dies(1)] * num_deaths, healthy]
    if goes_on:
        assert run(tmp_path, 3, max_tries=max_tries) == (names(0, 1, 2), {})
    else:
        with pytest.raises(EnvironmentFault, match="before they are ready"):
            run(tmp_path, 3, max_tries=max_tries)
        assert len(stage.processes) == num_deaths
    assert [num_tries(tmp_path, index) for index in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(("num_deaths", "max_tries"), [(1, 2), (2, 3), (1, 1), (2, 2)])
def test_a_killed_resource_tracker_of_python_counts_as_a_false_start(
    num_deaths: int, max_tries: int, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks = iter([True] * num_deaths)

    def make_queue() -> Pipe:
        if next(breaks, False):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        return Pipe()

    monkeypatch.setattr(stage, "Queue", make_queue)
    if num_deaths < max_tries:
        assert run(tmp_path, 3, max_tries=max_tries) == (names(0, 1, 2), {})
    else:
        with pytest.raises(EnvironmentFault, match=r"before they are ready \(Python's resource tracker was killed"):
            run(tmp_path, 3, max_tries=max_tries)
        assert not stage.processes


# ---- signals


def stopping(process: Process) -> Iterator[None]:
    """Publishes what it has, when asked to."""
    process.say(READY, BatchDone("shard-00000", 1, 1, 1))
    while not process.is_asked_to_stop:
        yield
    process.say(WorkerStopped())
    yield


class Sends(Silent):
    """A signal, or several, at the first batch."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def advance(self, amount: int, note: str = "") -> None:
        while self.numbers:
            os.kill(os.getpid(), self.numbers.pop(0))


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_asks_every_worker_to_stop_and_waits_for_them(number: int, stage: Stage, tmp_path: Path) -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    stage.parts = [stopping]
    with pytest.raises(Interrupted, match="finished work is kept") as caught:
        run(tmp_path, 4, [0, 1], count=Sends(number))
    assert caught.value.signal_number == number
    assert [(each.is_asked_to_stop, each.is_killed) for each in stage.processes] == [(True, False)] * 2
    assert all(process.events.empty() for process in stage.processes), "a full pipe would keep them from ending"
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_of_several_signals_the_first_counts(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage.parts = [stopping]
    with pytest.raises(Interrupted) as caught:
        run(tmp_path, 2, count=Sends(signal.SIGUSR2, signal.SIGTERM))
    assert caught.value.signal_number == signal.SIGUSR2
    assert capsys.readouterr().err.count("stopping: ") == 1


def test_a_second_ctrl_c_waits_for_nobody(stage: Stage, tmp_path: Path) -> None:
    stage.parts = [stopping]
    with pytest.raises(Interrupted, match="stopped at once"):
        run(tmp_path, 2, count=Sends(signal.SIGINT, signal.SIGINT))
    assert not stage.processes[0].is_asked_to_stop
    assert stage.processes[0].is_killed


def test_a_worker_that_does_not_stop_is_not_waited_for_any_longer(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(process: Process) -> Iterator[None]:
        process.say(READY, BatchDone("shard-00000", 1, 1, 1))
        while True:
            yield

    stage.parts = [deaf]
    monkeypatch.setattr(crew_module, "SECONDS_TO_STOP", 0.1)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        run(tmp_path, 2, count=Sends(signal.SIGTERM))
    assert 0.1 <= time.monotonic() - started < 2
    assert (stage.processes[0].is_asked_to_stop, stage.processes[0].is_killed) == (True, True)


# ---- the worker's side, run in this process


class Exited(BaseException):
    """In the place of the end of the process."""


class Player(CompositionWorker):
    """Notes how it was called, and what shards it was given."""

    told: ClassVar[list[Any]] = []
    does: ClassVar[Callable[[], None]] = staticmethod(lambda: None)

    def process_files_worker(  # type: ignore[override]
        self, file_subset: Iterable[Path | None], *values: Any, **named: Any
    ) -> None:
        type(self).told = [values, named, [path for path in file_subset if path]]
        type(self).does()
        type(self).told.append(named["should_stop"]())


@pytest.fixture
def target(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[], None]], list[Any]]]:
    """Runs a worker process's function here; what it told in the end."""
    run(tmp_path, 1)
    process = stage.processes[0]
    parent, self_end = multiprocessing.Pipe()
    here = type("Parent", (), {"sentinel": self_end})
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: here)
    monkeypatch.setattr(worker_process, "SECONDS_TO_STOP", 0.0)
    codes: list[int] = []
    num_calls = 0

    def leave(code: int) -> None:
        codes.append(code)
        if threading.current_thread() is threading.main_thread():
            raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def call(does: Callable[[], None]) -> list[Any]:
        nonlocal num_calls
        num_calls += 1
        monkeypatch.setattr(Player, "does", staticmethod(does))
        todo, events = Pipe(), Pipe()
        for path in (tmp_path / "a.parquet", tmp_path / "b.parquet", None):
            todo.put(path)
        try:
            process.target(assignment(tmp_path, Player), Place("cpu"), todo, events)
        except Exited:
            events.put(codes.pop())
        return list(events.queue)

    yield call
    parent.close()
    deadline = time.monotonic() + 10
    while len(codes) < num_calls and time.monotonic() < deadline:
        time.sleep(0.001)
    assert codes == [1] * num_calls, "a worker ends with its parent"
    for number, handler in before.items():
        signal.signal(number, handler)


Target = Callable[[Callable[[], None]], list[Any]]


def test_a_worker_is_told_all_of_its_assignment(target: Target, tmp_path: Path) -> None:
    assert target(lambda: None) == []
    values, named, shards, is_stopped = Player.told
    assert values == ("cpu", 512, tmp_path / "outputs")
    del named["should_stop"], named["events"]
    assert named == {"fingerprint": "f", "work_dir": tmp_path / "work", "piece_seconds": 15.0, "digests": None}
    assert shards == [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    assert not is_stopped


@pytest.mark.parametrize(("number", "stops"), [(signal.SIGTERM, True), (signal.SIGINT, False), (signal.SIGUSR2, False)])
def test_a_worker_heeds_its_parent_alone(number: int, stops: bool, target: Target) -> None:
    target(lambda: os.kill(os.getpid(), number))
    assert Player.told[-1] is stops


def raising(error: BaseException) -> Callable[[], None]:
    def does() -> None:
        raise error

    return does


def test_how_a_worker_ends(target: Target, tmp_path: Path) -> None:
    assert target(raising(Interrupted("stopped."))) == [WorkerStopped()]
    fault = EnvironmentFault("no weights.", remedy="Put them back.")
    assert target(raising(fault)) == [WorkerFailed("no weights. Put them back.", "", 5), 5]
    words, code = target(raising(OSError(errno.ENOSPC, "No space left on device")))
    assert isinstance(words, WorkerFailed)
    assert (words.reason.startswith(f"{tmp_path}: no space left."), words.traceback, words.exit_code) == (True, "", 5)
    assert code == 5
    words, code = target(raising(ValueError("first\nsecond")))
    assert isinstance(words, WorkerFailed)
    assert (words.reason, words.exit_code, code) == ("ValueError: first", 1, 1)
    assert "Traceback" in words.traceback
