"""A crew with workers that fail in ways that a healthy machine does not provoke at will."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from hpc_embed.cluster.crew import Assignment, Crew
from hpc_embed.errors import EnvironmentFault
from hpc_embed.progress import Silent
from hpc_embed.registry import find_model
from hpc_embed.run.identity import pin_model
from hpc_embed.run.markers import read_failure
from hpc_embed.run.plan import Embedding
from hpc_embed.run.shards import write_shard
from hpc_embed.workers.base import BaseEmbeddingWorker, LoadedModel
from hpc_embed.workers.composition import CompositionWorker

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


def assignment(worker: type[BaseEmbeddingWorker], folder: Path) -> Assignment:
    model = find_model("aa_composition")
    embedding = Embedding(
        pooling="frequency",
        layer=0,
        precision="auto",
        on_long="window",
        max_residues=None,
        on_invalid="unknown",
        case="upper",
    )
    (folder / "outputs").mkdir()
    identity = pin_model(model.name, None, None)[1]
    return Assignment(worker(identity, embedding), folder / "outputs", folder / "work", "f", None, 15.0)


def shards(folder: Path, *sizes: int) -> list[Path]:
    paths = [folder / f"shard-{index:05d}.parquet" for index in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        write_shard(path, np.arange(size), [b"MKV"] * size)
    return paths


def test_the_last_words_of_a_worker_are_heard_also_when_its_death_comes_later(tmp_path: Path) -> None:
    crew = Crew(assignment(WithoutWeights, tmp_path), ["cpu"], max_tries=3)
    with pytest.raises(EnvironmentFault, match="the weights are not there"):
        crew.run(shards(tmp_path, 1), Silent())


def test_a_shard_that_kills_its_worker_is_given_up_and_the_others_finish(tmp_path: Path) -> None:
    crew = Crew(assignment(Poisoned, tmp_path), ["cpu", "cpu"], max_tries=2)
    finished, failed = crew.run(shards(tmp_path, 3, 5, 2, 4), Silent())
    assert sorted(finished) == ["shard-00000", "shard-00002", "shard-00003"]
    assert failed == {"shard-00001": "killed by SIGKILL, perhaps for want of memory"}
    failure = read_failure(tmp_path / "outputs", "shard-00001")
    assert failure is not None
    assert failure.tries == 2
