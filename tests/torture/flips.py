"""Storage that lies: a bit of any file of a half-finished run turns over between two starts, and no vector is wrong."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hpc_embed.config import GatherSettings
from hpc_embed.errors import HpcEmbedError, RunConflict
from hpc_embed.results.gather import gather
from hpc_embed.run.plan import read_plan
from tests.torture.enumeration import Undisturbed
from tests.torture.small_run import SmallRun, counting, on
from tests.torture.storage import Crash, Fault, FaultyStorage


class Flipped(NamedTuple):
    """What came of some flips."""

    num_flips: int
    num_refused: int
    """Times that a command said what is damaged, and that its remedy was followed."""


def states(truth: Undisturbed, folder: Path) -> Iterator[Path]:
    """Folders of a run that ended early: with pieces of the first shard, with one shard done, with both."""
    renames = [at for at, operation in enumerate(truth.operations) if operation.startswith("rename piece-")]
    links = [at for at, operation in enumerate(truth.operations) if operation.startswith("link shard-")]
    for number, at in enumerate((renames[2] + 1, links[0] + 1, links[-1] + 4)):
        place = folder / f"state-{number}"
        run, graveyard = SmallRun(place), folder / f"graveyard-{number}"
        graveyard.mkdir()
        try:
            with on(FaultyStorage(graveyard, fault=Fault(at, "crash before")), run):
                run.all_of_it()
        except Crash:
            yield place
        else:
            raise AssertionError("it did not end early")


def flip_all(truth: Undisturbed, folder: Path, per_file: int, seed: int = 3) -> Flipped:
    """In every file of each state, so many bits at drawn places, each by itself; then the run goes on."""
    draw, num_flips, num_refused = random.Random(seed), 0, 0
    for state in states(truth, folder):
        files = [path.relative_to(state) for path in sorted((state / "run").rglob("*")) if path.is_file()]
        for name in [name for name in files if (state / name).stat().st_size]:
            for _ in range(per_file):
                num_flips += 1
                num_refused += _flip(state, name, draw, truth, folder / "flipped", is_direct=draw.random() < 0.5)
    return Flipped(num_flips, num_refused)


def _flip(state: Path, name: Path, draw: random.Random, truth: Undisturbed, folder: Path, *, is_direct: bool) -> bool:
    """`is_direct`: the shards are embedded as a task does, without a look at the plan's files before."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(state, folder)
    run = SmallRun(folder)
    content = bytearray((folder / name).read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    (folder / name).write_bytes(content)
    is_refused = False
    with counting(run):
        if is_direct:
            try:
                run.work(read_plan(run.layout.plan))
            except (HpcEmbedError, AssertionError):
                is_refused = True
        for _ in range(3):
            try:
                run.all_of_it()
                break
            except RunConflict as refused:
                is_refused = True
                if "move it away" in refused.remedy:
                    run.layout.plan.rename(folder / "plan.json.damaged")
            except HpcEmbedError:
                is_refused = True
        plan = read_plan(run.layout.plan)
        assert not gather(plan, run.layout, GatherSettings(wait_seconds=0)).is_new
    assert run.dataset() == truth.dataset, (name, bit, is_direct)
    return is_refused
