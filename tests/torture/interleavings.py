"""Two live copies of one task, their operations in an order that a seed draws; and one of them may die anywhere."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hpc_embed.errors import HpcEmbedError
from hpc_embed.planning.planner import make_plan
from hpc_embed.run import files
from hpc_embed.run.markers import is_done
from hpc_embed.run.storage import Storage
from tests.torture.enumeration import Undisturbed
from tests.torture.small_run import SmallRun, on
from tests.torture.storage import Crash, FaultyStorage

NUM_TWINS = 2


class Turns:
    """Lets one thread at a time go on from one operation to the next."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._condition = threading.Condition()
        self._waiting: set[int] = set()
        self._alive: set[int] = set(range(NUM_TWINS))
        self._turn: int | None = None

    def wait(self, who: int) -> None:
        """Before an operation of `who`."""
        with self._condition:
            self._waiting.add(who)
            if self._turn == who:
                self._turn = None
            self._give()
            self._condition.wait_for(lambda: self._turn == who)
            self._waiting.discard(who)

    def end(self, who: int) -> None:
        """It has no more."""
        with self._condition:
            self._alive.discard(who)
            self._waiting.discard(who)
            if self._turn == who:
                self._turn = None
            self._give()

    def _give(self) -> None:
        """Once everybody who is alive waits, one of them goes on."""
        if self._turn is None and self._alive and self._waiting == self._alive:
            self._turn = self._draw.choice(sorted(self._alive))
            self._condition.notify_all()


class OnBehalf(Storage):
    """Gives each thread its own storage."""

    def __init__(self, storages: dict[int, FaultyStorage]) -> None:
        self.by_thread: dict[int, FaultyStorage] = {}
        self.storages = storages

    def __getattribute__(self, name: str) -> object:
        if name in ("by_thread", "storages"):
            return object.__getattribute__(self, name)
        return getattr(self.by_thread[threading.get_ident()], name)


def check(seed: int, truth: Undisturbed, folder: Path) -> int:
    """Both embed one plan, in the seed's order; a third of the time one dies somewhere. The number of operations."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "graveyard").mkdir(parents=True)
    draw, run = random.Random(seed), SmallRun(folder)
    plain = FaultyStorage(folder / "graveyard")
    with on(plain, run):
        plan = make_plan(run._settings(), run.layout).plan
        for path in (run.layout.outputs, run.layout.work):
            files.make_folders(path)
    turns = Turns(seed)
    dies_at = draw.randrange(40, 160) if seed % 3 == 0 else None
    storages = {who: FaultyStorage(folder / "graveyard", before_each=_turn(turns, who)) for who in range(NUM_TWINS)}
    behalf = OnBehalf(storages)
    faults: list[BaseException] = []

    def twin(who: int) -> None:
        behalf.by_thread[threading.get_ident()] = storages[who]
        storages[who].dies_at = dies_at if who == 0 else None
        try:
            with suppress(Crash, HpcEmbedError):
                run.work(plan)
        except BaseException as fault:
            faults.append(fault)
        finally:
            turns.end(who)

    with on(plain, run):
        files.storage = behalf
        threads = [threading.Thread(target=twin, args=(who,)) for who in range(NUM_TWINS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for storage in storages.values():
            storage.close_all()
        files.storage = plain
    assert not faults, (seed, faults)
    again = SmallRun(folder)
    with on(FaultyStorage(folder / "graveyard"), again):
        fingerprint = make_plan(again._settings(), again.layout).plan.fingerprint
        if dies_at is None:
            for shard in ("shard-00000", "shard-00001"):
                assert is_done(again.layout.outputs, shard, fingerprint), (seed, shard)
        again.all_of_it()
    assert dies_at is not None or again.num_computed == 0, seed
    assert again.dataset() == truth.dataset, seed
    withdrawn = again.layout.withdrawn
    assert not withdrawn.exists() or not list(withdrawn.iterdir()), seed
    shutil.rmtree(folder)
    return sum(len(storage.operations) for storage in storages.values())


def _turn(turns: Turns, who: int) -> Callable[[], None]:
    return lambda: turns.wait(who)
