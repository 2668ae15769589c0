"""A crew with workers that fail in ways that a healthy machine does not provoke at will."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from hpc_embed.cluster.crew import STOP_SIGNALS, Crew
from hpc_embed.cluster.places import Place
from hpc_embed.cluster.task import outlook
from hpc_embed.cluster.worker_process import Assignment
from hpc_embed.config import PlanSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault, Interrupted
from hpc_embed.planning.planner import make_plan
from hpc_embed.progress import Silent
from hpc_embed.registry import find_model
from hpc_embed.run.identity import pin_model
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import read_failure, record_failure
from hpc_embed.run.pieces import num_windows_in_pieces
from hpc_embed.run.shards import write_shard
from hpc_embed.workers.base import BaseEmbeddingWorker, LoadedModel
from hpc_embed.workers.composition import CompositionWorker
from tests.cluster.conftest import EMBEDDING

EXIT = os._exit


def exit_slowly(status: int) -> NoReturn:
    """As on a device that takes its time."""
    time.sleep(0.5)
    EXIT(status)


class WithoutWeights(CompositionWorker):
    """Cannot load, and takes its time to die after it said so."""

    def load(self, device_id: int | str) -> LoadedModel:
        os._exit = exit_slowly
        raise EnvironmentFault("the weights are not there.", remedy="Put them back.")


class Poisoned(CompositionWorker):
    """Its process dies in the middle of the shard of five windows, every time."""

    def load(self, device_id: int | str) -> LoadedModel:
        model = super().load(device_id)
        start = model.start

        def start_or_die(batch: object) -> object:
            if len(batch) == 5:  # type: ignore[arg-type]
                os.kill(os.getpid(), 9)
            return start(batch)  # type: ignore[arg-type]

        model.start = start_or_die  # type: ignore[method-assign,assignment]
        return model


class DiesAfterTheFirst(CompositionWorker):
    """Its process dies at the second shard, which is in its hands together with the third."""

    def load(self, device_id: int | str) -> LoadedModel:
        model = super().load(device_id)
        start = model.start

        def start_or_die(batch: object) -> object:
            if len(batch) == 2:  # type: ignore[arg-type]
                time.sleep(0.3)
                os.kill(os.getpid(), 9)
            return start(batch)  # type: ignore[arg-type]

        model.start = start_or_die  # type: ignore[method-assign,assignment]
        return model


class Slow(CompositionWorker):
    """A batch takes its time, so that there is something to publish when a signal comes."""

    def load(self, device_id: int | str) -> LoadedModel:
        model = super().load(device_id)
        start = model.start

        def start_slowly(batch: object) -> object:
            time.sleep(0.1)
            return start(batch)  # type: ignore[arg-type]

        model.start = start_slowly  # type: ignore[method-assign,assignment]
        return model


def assignment(worker: type[BaseEmbeddingWorker], folder: Path) -> Assignment:
    model = find_model("aa_composition")
    (folder / "outputs").mkdir()
    identity = pin_model(model.name, None, None)[1]
    return Assignment(worker(identity, EMBEDDING), folder / "outputs", folder / "work", "f", None, 15.0)


def shards(folder: Path, *sizes: int) -> list[Path]:
    paths = [folder / f"shard-{index:05d}.parquet" for index in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        write_shard(path, np.arange(size), [b"MKV"] * size)
    return paths


@pytest.mark.long
def test_the_last_words_of_a_worker_are_heard_also_when_its_death_comes_later(tmp_path: Path) -> None:
    crew = Crew(assignment(WithoutWeights, tmp_path), [Place("cpu")], max_tries=3)
    with pytest.raises(EnvironmentFault, match="the weights are not there"):
        crew.run(shards(tmp_path, 1), Silent())


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_shared_memory_that_cannot_be_written_is_told_with_its_path(number: int, tmp_path: Path) -> None:
    class Context:
        def Queue(self) -> None:
            raise OSError(number, os.strerror(number))

    crew = Crew(assignment(CompositionWorker, tmp_path), [Place("cpu")], max_tries=1)
    crew._context = Context()  # type: ignore[assignment]
    with pytest.raises(EnvironmentFault, match=rf"/dev/shm: {os.strerror(number)}; processes share their locks there"):
        crew.run(shards(tmp_path, 1), Silent())


def test_a_shard_that_kills_its_worker_is_given_up_and_the_others_finish(tmp_path: Path) -> None:
    crew = Crew(assignment(Poisoned, tmp_path), [Place("cpu")] * 2, max_tries=2)
    finished, failed = crew.run(shards(tmp_path, 3, 5, 2, 4), Silent())
    assert sorted(finished) == ["shard-00000", "shard-00002", "shard-00003"]
    assert failed == {"shard-00001": "killed by SIGKILL, perhaps for want of memory"}
    failure = read_failure(tmp_path / "outputs", "shard-00001")
    assert failure is not None
    assert failure.tries == 2


@pytest.mark.long
def test_a_death_is_blamed_on_the_shard_at_work_and_on_no_other(tmp_path: Path) -> None:
    crew = Crew(assignment(DiesAfterTheFirst, tmp_path), [Place("cpu")], max_tries=1)
    finished, failed = crew.run(shards(tmp_path, 3, 2, 4, 5), Silent())
    assert sorted(finished) == ["shard-00000", "shard-00002", "shard-00003"]
    assert list(failed) == ["shard-00001"]
    assert read_failure(tmp_path / "outputs", "shard-00002") is None


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.long
def test_on_a_signal_to_stop_workers_publish_what_they_have_before_they_end(number: int, tmp_path: Path) -> None:
    """No piece is there before the signal, since pieces are hours apart."""
    told = assignment(Slow, tmp_path)._replace(token_budget=1, piece_seconds=3600.0)
    paths = shards(tmp_path, 200)
    before: list[int] = []

    class Stopping(Silent):
        num_batches = 0

        def advance(self, amount: int, note: str = "") -> None:
            self.num_batches += amount > 0
            if self.num_batches == 3:
                before.append(num_windows_in_pieces(tmp_path / "work" / "shard-00000"))
                os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="finished work is kept"):
        Crew(told, [Place("cpu")], max_tries=1).run(paths, Stopping())
    assert before == [0]
    assert num_windows_in_pieces(tmp_path / "work" / "shard-00000") >= 3


def test_retry_failed_tries_again_what_was_left_aside(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nMKV\n>b\nWYVT\n")
    layout = RunLayout(tmp_path / "run")
    settings = PlanSettings(fasta=(str(tmp_path / "in.fa"),), model="aa_composition", num_shards=2, force_kind=True)
    plan = make_plan(settings, layout).plan
    for _ in range(3):
        record_failure(layout.outputs, "shard-00001", "out of luck")
    work = WorkSettings(max_tries=3)
    assert outlook(plan, layout, work).to_do == [0]
    assert outlook(plan, layout, replace(work, max_tries=4)).to_do == [0, 1]
    assert outlook(plan, layout, replace(work, retry_failed=True)).to_do == [0, 1]
