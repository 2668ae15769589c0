"""Every operation of a small run with every fault, and nothing lost, doubled or different after it."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hpc_embed.errors import HpcEmbedError
from tests.torture.small_run import SEQUENCES, WINDOWS_AT_STAKE, SmallRun, on
from tests.torture.storage import Crash, Fault, FaultyStorage

ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ENOMEM)


class Loss(NamedTuple):
    """What a crash takes of what was not synced."""

    contents: bool
    names: bool
    seed: int | None = None
    """Of how many names; all of them without one."""


LOSSES = (Loss(False, False), Loss(True, True), Loss(True, False), Loss(False, True), Loss(True, True, 1))


class Scenario(NamedTuple):
    """One fault, and what a crash takes with it."""

    fault: Fault
    loss: Loss = LOSSES[0]


class Undisturbed(NamedTuple):
    """The run without any fault."""

    dataset: dict[str, bytes]
    operations: list[str]
    num_readings: int


def undisturbed(folder: Path) -> Undisturbed:
    """Run it on a storage that only writes down."""
    storage, run = FaultyStorage(_graveyard(folder)), SmallRun(folder / "undisturbed")
    with on(storage, run):
        run.all_of_it()
    assert run.num_computed == len(SEQUENCES)
    return Undisturbed(run.dataset(), storage.operations, storage.num_readings)


def scenarios(truth: Undisturbed) -> Iterator[Scenario]:
    """Every operation with every fault, and every reading."""
    for at, operation in enumerate(truth.operations):
        for loss in LOSSES:
            yield Scenario(Fault(at, "crash before"), loss)
            yield Scenario(Fault(at, "crash after"), loss)
        for number in ERRORS:
            yield Scenario(Fault(at, "fails", number))
        yield Scenario(Fault(at, "stays", ERRORS[at % len(ERRORS)]))
        if operation.startswith(("link", "rename", "exchange")):
            yield from (Scenario(Fault(at, "fails though done", number)) for number in (errno.EIO, errno.EEXIST))
    for at in range(truth.num_readings):
        yield from (Scenario(Fault(at, "fails", number, is_reading=True)) for number in ERRORS)
        yield Scenario(Fault(at, "stays", ERRORS[at % len(ERRORS)], is_reading=True))


def check(scenario: Scenario, truth: Undisturbed, folder: Path) -> None:
    """Let it happen, repeat the same commands, and compare."""
    shutil.rmtree(folder, ignore_errors=True)
    run = SmallRun(folder)
    storage = FaultyStorage(_graveyard(folder), fault=scenario.fault)
    with on(storage, run), suppress(Crash, HpcEmbedError, OSError, MemoryError):
        run.all_of_it()
    if storage.has_crashed:
        loss = scenario.loss
        draw = None if loss.seed is None else random.Random(loss.seed * 1000 + scenario.fault.at)
        storage.lose(run.layout.root, contents=loss.contents, names=loss.names, draw=draw)
    with on(FaultyStorage(_graveyard(folder)), run):
        run.all_of_it()
    assert run.dataset() == truth.dataset, scenario
    assert run.num_computed <= len(SEQUENCES) + WINDOWS_AT_STAKE, (scenario, run.num_computed)
    shutil.rmtree(folder)


def _graveyard(folder: Path) -> Path:
    graveyard = folder / "graveyard"
    graveyard.mkdir(parents=True, exist_ok=True)
    return graveyard
