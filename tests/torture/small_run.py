"""A small run in this process, all of it through the seam, in the same order each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.planning import distribution
from hpc_embed.planning.planner import make_plan
from hpc_embed.results import threads
from hpc_embed.results.gather import gather
from hpc_embed.run import faults, files
from hpc_embed.run.canary import SEQUENCES as CANARIES
from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.leftovers import remove_leftovers
from hpc_embed.run.plan import Plan
from hpc_embed.workers import base, composition
from hpc_embed.workers import loop as loop_module
from hpc_embed.workers.base import EmbeddedBatch, Tokens
from hpc_embed.workers.registry import make_worker
from tests.torture.storage import FaultyStorage

SEQUENCES = [b"MKVLAAGIVG", b"MKV", b"GLLLAGCSWMKTAYIA", b"ACDEFGHIKL", b"WYVT", b"MKTAYIAKQRQISFVKSHFSRQ"]
FASTA = b"".join(b">r%d\n%s\n" % (number, sequence) for number, sequence in enumerate(SEQUENCES)) + b">empty\n"
NUM_SHARDS = 2
WINDOWS_AT_STAKE = 3
"""With a window a batch and a piece after each: two in flight, and one whose piece is not durable yet."""


class SmallRun:
    """Plan, embed, gather; each may be repeated. Counts the windows that are computed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.fasta = folder / "in.fa"
        self.fasta.write_bytes(FASTA)
        self.layout = RunLayout(folder / "run")
        self.num_computed = 0

    def all_of_it(self) -> None:
        """The commands one after the other, up to the first that fails."""
        self.embed()
        plan = make_plan(self._settings(), self.layout).plan
        gather(plan, self.layout, GatherSettings(wait_seconds=0))

    def embed(self) -> None:
        """Plan where that is still to be done, and embed every shard."""
        self.work(make_plan(self._settings(), self.layout).plan)

    def work(self, plan: Plan) -> None:
        """Embed every shard, as a task does."""
        for folder in (self.layout.outputs, self.layout.work):
            files.make_folders(folder)
            remove_leftovers(folder)
        shards: list[Path | None] = []
        for index in range(len(plan.shards)):
            shards += [self.layout.shard(index), None]
        worker = make_worker(plan.model, plan.embedding)
        outcome = worker.process_files_worker(
            shards, "cpu", 1, self.layout.outputs, fingerprint=plan.fingerprint, work_dir=self.layout.work,
            piece_seconds=0.0, digests={shard_name(at): shard.sha256 for at, shard in enumerate(plan.shards)},
        )  # fmt: skip
        assert not outcome.failed, outcome.failed

    def dataset(self) -> dict[str, bytes]:
        """The bytes of the dataset."""
        return {path.name: path.read_bytes() for path in sorted(self.layout.dataset.iterdir())}

    def _settings(self) -> PlanSettings:
        return PlanSettings(
            fasta=(str(self.fasta),), model="aa_composition", num_shards=NUM_SHARDS, force_kind=True, plan_threads=1
        )


class Inline:
    """An executor that does the work at once, so that operations come in one order."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def map(self, work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        return iter(list(map(work, *arguments)))

    def shutdown(self, **_: object) -> None: ...

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def on(storage: FaultyStorage, run: SmallRun) -> Iterator[None]:
    """The run on this storage: without threads, without pauses, its windows counted."""
    inline = [(place, "ThreadPoolExecutor", Inline) for place in (base, loop_module, threads, distribution)]
    try:
        with counting(run), _replaced((files, "storage", storage), *inline):
            yield
    finally:
        storage.close_all()


@contextmanager
def counting(run: SmallRun) -> Iterator[None]:
    """The run without pauses, its windows counted."""
    start = composition._Composition.start

    def count(model: composition._Composition, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        run.num_computed += sum(len(tokens) != len(CANARIES["protein"]) for tokens in batch)
        return start(model, batch)

    with _replaced((faults, "PAUSES_SECONDS", (0.0,) * 2), (composition._Composition, "start", count)):
        yield


@contextmanager
def _replaced(*replaced: tuple[Any, str, Any]) -> Iterator[None]:
    before = [getattr(place, name) for place, name, _ in replaced]
    try:
        for place, name, value in replaced:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(replaced, before, strict=True):
            setattr(place, name, value)
