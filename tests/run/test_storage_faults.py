"""Every operation of a small run fails or is the last before a crash; afterwards the same commands end as ever.

Here a part of what `make torture` does: each operation and each reading with a few of its faults.
"""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import pytest

from hpc_embed.config import GatherSettings
from hpc_embed.errors import EnvironmentFault, HpcEmbedError
from hpc_embed.results.gather import gather
from hpc_embed.run import pieces
from hpc_embed.run.plan import read_plan
from hpc_embed.run.storage import Storage
from hpc_embed.run.vectors import VectorFile
from tests.torture import disks, flips, forgetful, interleavings, kills
from tests.torture.enumeration import Loss, Scenario, Undisturbed, check, scenarios, undisturbed
from tests.torture.small_run import SmallRun, on
from tests.torture.storage import Crash, Fault, FaultyStorage

PARTS = 5
T = TypeVar("T")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(tmp_path_factory.mktemp("truth"))


def some(all_of_them: Sequence[T], part: int) -> list[T]:
    """About one in 180, others in each part; 181 is prime, so that every kind of fault has its turn."""
    return list(all_of_them[part * 37 :: 181])


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.long
def test_after_any_fault_the_same_commands_give_the_same_bytes_and_compute_little_again(
    part: int, truth: Undisturbed, tmp_path: Path
) -> None:
    for scenario in some(list(scenarios(truth)), part):
        check(scenario, truth, tmp_path / "run")


def test_a_bit_that_turns_over_in_any_file_makes_no_wrong_vector(truth: Undisturbed, tmp_path: Path) -> None:
    flipped = flips.flip_all(truth, tmp_path, per_file=1)
    assert flipped.num_flips >= 25
    assert flipped.num_refused >= 3


def test_flips_find_pieces_that_are_not_proven(
    truth: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_is_as_written", lambda *_: True)
    (state, *_) = flips.states(truth, tmp_path)
    (piece, *_) = sorted(state.glob("run/work/shard-*/piece-*"))

    class InAVector(random.Random):
        def randrange(self, *_: object) -> int:
            vector = VectorFile(piece).rows(0).vectors_ND.tobytes()
            return 8 * piece.read_bytes().index(vector) + 22

    with pytest.raises(AssertionError, match="piece-"):
        flips._flip(state, piece.relative_to(state), InAVector(), truth, tmp_path / "flipped", is_direct=False)


class Forgetful(FaultyStorage):
    """Says that it has synced files, and has not."""

    def sync(self, file: BinaryIO) -> None:
        self._do("sync", Path("nothing"), lambda: None)


def test_the_enumeration_finds_a_missing_sync(
    truth: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.torture.enumeration.FaultyStorage", Forgetful)
    at = next(number for number, operation in enumerate(truth.operations) if operation == "rename plan.json")
    with pytest.raises(Exception, match=r"plan\.json"):
        check(Scenario(Fault(at + 2, "crash before"), Loss(True, False)), truth, tmp_path / "run")


def test_every_file_is_synced_before_it_gets_its_name_and_its_folder_after_that(truth: Undisturbed) -> None:
    named = [(at, operation.split()) for at, operation in enumerate(truth.operations)]
    for at, (what, *rest) in named:
        if what in ("rename", "link") and rest[0].endswith((".parquet", ".json")):
            name = re.sub("-[0-9a-f]{64}", "", rest[0])  # a piece gets its digest into its name
            draft = [number for number, (_, *names) in named if number < at and names[0].startswith(f".{name}.tmp-")]
            last = [truth.operations[number].split()[0] for number in draft[-2:]]
            assert last == ["sync", "close"], rest
            following = [operation.split(" ")[0:2] for operation in truth.operations[at + 1 : at + 3]]
            assert ["sync", "folder"] in following, rest


def test_an_output_is_published_before_its_marker_and_pieces_go_after_it(truth: Undisturbed) -> None:
    operations = truth.operations
    for shard in ("shard-00000", "shard-00001"):
        output, marker = operations.index(f"link {shard}.parquet"), operations.index(f"rename {shard}.done.json")
        gone = operations.index(f"remove folder {shard}")
        assert output < marker < gone
        assert "sync folder outputs" in operations[output:marker]
        assert "sync folder outputs" in operations[marker:gone]


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_readers_find_the_old_dataset_or_the_new_one_wherever_a_gathering_ends(at: int, tmp_path: Path) -> None:
    run = SmallRun(tmp_path)
    (tmp_path / "graveyard").mkdir()
    with on(FaultyStorage(tmp_path / "graveyard"), run):
        run.all_of_it()
    old = run.dataset()
    plan = read_plan(run.layout.plan)
    halves = GatherSettings(dtype="float16", wait_seconds=0)
    storage = FaultyStorage(tmp_path / "graveyard", fault=Fault(at, "crash before"))
    with on(storage, run):
        try:
            gather(plan, run.layout, halves)
        except Crash:
            storage.lose(run.layout.root, contents=True, names=True)
    found = run.dataset()
    with on(FaultyStorage(tmp_path / "graveyard"), run):
        gather(plan, run.layout, halves)
    assert found in (old, run.dataset())
    assert run.dataset() != old


def test_after_a_fault_that_stays_nothing_is_withdrawn_and_the_fault_is_told(tmp_path: Path) -> None:
    run = SmallRun(tmp_path)
    (tmp_path / "graveyard").mkdir()
    with on(FaultyStorage(tmp_path / "graveyard"), run):
        run.embed()
    before = sorted(path.name for path in run.layout.outputs.iterdir())
    for number in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES, errno.ENOMEM):
        for at in range(4, 24):
            storage = FaultyStorage(tmp_path / "graveyard", fault=Fault(at, "stays", number, is_reading=True))
            with on(storage, run), pytest.raises((EnvironmentFault, OSError)):
                gather(read_plan(run.layout.plan), run.layout, GatherSettings(wait_seconds=0))
            assert sorted(path.name for path in run.layout.outputs.iterdir()) == before


@pytest.mark.parametrize("seed", range(12))
def test_twins_in_any_order_leave_one_output_and_compute_nothing_for_a_third(
    seed: int, truth: Undisturbed, tmp_path: Path
) -> None:
    assert interleavings.check(seed, truth, tmp_path / "twins") > 100


@pytest.mark.filterwarnings("ignore:This process")  # that newer Pythons say of forks beside threads
def test_killed_at_any_moment_a_run_goes_on_to_the_same_bytes(truth: Undisturbed, tmp_path: Path) -> None:
    assert kills.kill_forks(15, 7, truth, tmp_path / "forks").num_kills >= 15


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_disk_that_runs_full_or_turns_read_only_costs_nothing_but_time(truth: Undisturbed, tmp_path: Path) -> None:
    assert disks.fill(truth, tmp_path / "full", step_kibibytes=16) >= 3
    disks.turn_read_only(truth, tmp_path / "read-only")


@pytest.mark.skipif(bool(forgetful.why_not()), reason=forgetful.why_not())
def test_a_mounted_disk_that_dies_and_forgets_what_was_not_synced_loses_nothing_of_a_run(
    truth: Undisturbed, tmp_path: Path
) -> None:
    number = forgetful.num_changes(truth, tmp_path / "undisturbed")
    assert number > 100
    for at in range(7, number, number // 8):
        forgetful.check(at, truth, tmp_path / f"dies-at-{at}")


@pytest.mark.skipif(bool(forgetful.why_not()), reason=forgetful.why_not())
def test_a_mounted_disk_that_forgets_finds_a_missing_sync(
    truth: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "sync", lambda _, file: file.flush())
    number = forgetful.num_changes(truth, tmp_path / "undisturbed")
    with pytest.raises(HpcEmbedError, match=r"plan\.json: cannot be read"):
        forgetful.check(number - 1, truth, tmp_path / "dies")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.long
def test_a_full_server_does_not_make_a_file_that_is_read_damaged_or_absent(
    number: int, truth: Undisturbed, tmp_path: Path
) -> None:
    for at in range(truth.num_readings // 2, truth.num_readings, 3):
        check(Scenario(Fault(at, "fails", number, is_reading=True)), truth, tmp_path / "run")
