"""`make torture`: every operation with every fault, interleavings of twins, kills, disks; what it did, in numbers."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.torture import disks, enumeration, flips, forgetful, interleavings, kills


def main() -> int:
    """Exit code 1 where anything was lost, doubled or different."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--interleavings", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=500, help="of forked copies of a small run")
    parser.add_argument("--command-kills", type=int, default=50, help="of hpc-embed local and its workers")
    parser.add_argument("--flips", type=int, default=20, help="bits that turn over in each file")
    parser.add_argument("--only", help="one part alone: flips, kills, …")
    parser.add_argument("--every", type=int, default=1, help="take one scenario in so many")
    chosen = parser.parse_args()
    quiet = Path(os.devnull).open("w")  # noqa: SIM115 - progress lines of thousands of runs
    with quiet, contextlib.redirect_stderr(quiet), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = enumeration.undisturbed(folder / "truth")
        tell(f"{len(truth.operations)} operations and {truth.num_readings} readings in a run")
        parts: list[tuple[str, Callable[[], str]]] = [
            ("faults", lambda: _faults(truth, folder, chosen.every)),
            ("flips", lambda: _flips(truth, folder, chosen.flips)),
            ("interleavings", lambda: _interleavings(truth, folder, chosen.interleavings)),
            ("kills", lambda: str(kills.kill_forks(chosen.kills, 1, truth, folder / "forks"))),
            ("kills of the command", lambda: str(kills.kill_commands(chosen.command_kills, 2, folder / "commands"))),
            ("disks", lambda: _disks(truth, folder)),
            ("disks that forget", lambda: _forgetful(truth, folder, chosen.every)),
        ]
        for title, part in parts:
            if chosen.only not in (None, title):
                continue
            started = time.monotonic()
            tell(f"{title}: {part()}, in {time.monotonic() - started:.0f} s")
    tell("0 lost, 0 doubled, 0 different, none computed again beyond the bound")
    return 0


def tell(text: str) -> None:
    """At once."""
    print(text, flush=True)


def _faults(truth: enumeration.Undisturbed, folder: Path, every: int) -> str:
    chosen = list(enumeration.scenarios(truth))[::every]
    num_processes = len(os.sched_getaffinity(0))
    with multiprocessing.get_context("fork").Pool(num_processes) as pool:
        jobs = [
            pool.apply_async(_some_faults, (chosen[part::num_processes], truth, folder / f"faults-{part}"))
            for part in range(num_processes)
        ]
        total = sum(job.get() for job in jobs)
    return f"{total} injected"


def _some_faults(chosen: list[enumeration.Scenario], truth: enumeration.Undisturbed, folder: Path) -> int:
    for scenario in chosen:
        enumeration.check(scenario, truth, folder)
    return len(chosen)


def _flips(truth: enumeration.Undisturbed, folder: Path, per_file: int) -> str:
    num_flips, num_refused = flips.flip_all(truth, folder / "flips", per_file)
    return f"{num_flips} bits turned over, {num_refused} told and mended as told, 0 wrong vectors"


def _interleavings(truth: enumeration.Undisturbed, folder: Path, number: int) -> str:
    operations = sum(interleavings.check(seed, truth, folder / "twins") for seed in range(number))
    return f"{number} of two twins, {operations} operations"


def _disks(truth: enumeration.Undisturbed, folder: Path) -> str:
    if os.geteuid() != 0:
        return "left out, mounting needs root"
    num_full = disks.fill(truth, folder / "full")
    disks.turn_read_only(truth, folder / "read-only")
    return f"{num_full} times full, read-only once"


def _forgetful(truth: enumeration.Undisturbed, folder: Path, every: int) -> str:
    if reason := forgetful.why_not():
        return f"left out, {reason}"
    number = forgetful.num_changes(truth, folder / "undisturbed")
    places = range(0, number, every)
    for at in places:
        forgetful.check(at, truth, folder / "forgetful")
        shutil.rmtree(folder / "forgetful")
    return f"{len(places)} deaths at one of {number} changes"


if __name__ == "__main__":
    sys.exit(main())
