"""Gather withdraws on proof and on nothing else, and believes in absence only after a second look."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest

from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.errors import EnvironmentFault, Incomplete
from hpc_embed.planning.planner import make_plan
from hpc_embed.results import waiting
from hpc_embed.results.gather import gather
from hpc_embed.run import faults, files
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import is_done, record_failure
from hpc_embed.run.pieces import Pieces
from hpc_embed.run.plan import Plan
from hpc_embed.run.storage import Storage
from tests.fakes import Failing, system_error

AT_ONCE = GatherSettings(wait_seconds=0)


FAULTS = {
    **{errno.errorcode[n]: system_error(n) for n in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES)},
    "pyarrow out of memory": lambda path: pa.ArrowMemoryError("malloc of size 64 failed"),
}


@pytest.mark.parametrize("end", ["0.parquet", ".done.json"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_reading_that_stays_keeps_every_output_and_ends_with_5(
    fault: str, end: str, done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    before = sorted(path.name for path in layout.outputs.iterdir())
    monkeypatch.setattr(files, "storage", Failing(end, FAULTS[fault]))
    problem = "permission denied" if fault == "EACCES" else "cannot be read"
    with pytest.raises(EnvironmentFault, match=problem) as caught:
        gather(plan, layout, AT_ONCE)
    assert caught.value.exit_code == 5
    assert sorted(path.name for path in layout.outputs.iterdir()) == before


@pytest.mark.parametrize("end", [".parquet", ".done.json"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_reading_that_passes_is_waited_out(
    fault: str, end: str, done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    monkeypatch.setattr(files, "storage", Failing(end, FAULTS[fault], times=2))
    assert gather(plan, layout, AT_ONCE).num_records == 7


def test_pauses_grow_and_last_longer_than_a_server_takes_to_fail_over() -> None:
    assert list(faults.PAUSES_SECONDS) == sorted(faults.PAUSES_SECONDS)
    assert sum(faults.PAUSES_SECONDS) > 10


def test_what_is_proven_bad_is_kept_aside(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    content = bytearray(layout.output(1).read_bytes())
    content[len(content) // 2] ^= 1
    layout.output(1).write_bytes(content)
    with pytest.raises(Incomplete, match="is withdrawn"):
        gather(plan, layout, AT_ONCE)
    assert {path.name.rpartition(".")[0] for path in layout.withdrawn.iterdir()} == {
        "shard-00001.done.json",
        "shard-00001.parquet",
    }
    assert bytes(content) in [path.read_bytes() for path in layout.withdrawn.iterdir()]
    assert is_done(layout.outputs, "shard-00000", plan.fingerprint)


def test_an_output_that_is_published_anew_while_it_is_read_is_not_withdrawn(
    done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    good = layout.output(0).read_bytes()

    class Twin(Storage):
        def open_to_read(self, path: Path) -> BinaryIO:
            file = super().open_to_read(path)
            if path == layout.output(0):  # by the end of this reading a twin has replaced it
                (layout.root / "new").write_bytes(good)
                (layout.root / "new").replace(path)
            return file

    layout.output(0).write_bytes(good[:-1] + b"?")
    monkeypatch.setattr(files, "storage", Twin())
    with pytest.raises(Incomplete, match="published anew while it was gathered"):
        gather(plan, layout, AT_ONCE)
    monkeypatch.setattr(files, "storage", Storage())
    assert gather(plan, layout, AT_ONCE).num_records == 7


@pytest.mark.parametrize("num_shards", [5, 6])
def test_so_many_missing_shards_are_named_and_of_more_the_first(num_shards: int, tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_bytes(b"".join(b">r%d\nMKV%b\n" % (at, b"A" * at) for at in range(num_shards)))
    settings = PlanSettings(
        fasta=(str(tmp_path / "in.fa"),), model="aa_composition", num_shards=num_shards, force_kind=True
    )
    layout = RunLayout(tmp_path / "run")
    plan = make_plan(settings, layout).plan
    record_failure(layout.outputs, "shard-00001", "out of luck")
    named = [f"shard-0000{at} ({'failed 1 times: out of luck' if at == 1 else 'not done yet'})" for at in range(5)]
    with pytest.raises(Incomplete) as caught:
        gather(plan, layout, AT_ONCE)
    listed = ", ".join([*named, "…"] if num_shards == 6 else named)
    assert caught.value.message == f"{num_shards} of {num_shards} shards are missing: {listed}."


def test_a_missing_output_is_told_and_its_marker_is_left(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    layout.output(0).unlink()
    with pytest.raises(Incomplete, match=r"shard-00000 \(not done yet\)"):
        gather(plan, layout, AT_ONCE)
    assert layout.marker(0).exists()


def test_a_marker_of_another_fingerprint_is_not_gathered(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    text = layout.marker(0).read_text()
    layout.marker(0).write_text(text.replace(plan.fingerprint, "0" * 64))
    assert not is_done(layout.outputs, "shard-00000", plan.fingerprint)
    with pytest.raises(Incomplete, match=r"1 of 2 shards are missing: shard-00000"):
        gather(plan, layout, AT_ONCE)


@pytest.mark.long
def test_a_marker_that_appears_late_is_waited_for(
    done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, layout = done
    monkeypatch.setattr(waiting, "FIRST_PAUSE_SECONDS", 0.05)
    hidden = layout.root / "hidden"
    layout.marker(1).rename(hidden)
    threading.Timer(0.4, lambda: hidden.rename(layout.marker(1))).start()
    assert gather(plan, layout, GatherSettings(wait_seconds=30)).num_records == 7
    assert "1 shards are not there yet; looking again for up to 30 s" in capsys.readouterr().err


def test_a_shard_that_failed_is_not_waited_for_and_a_missing_one_as_long_as_stated(
    done: tuple[Plan, RunLayout],
) -> None:
    plan, layout = done
    layout.marker(1).unlink()
    for seconds, failed, longest in ((0.3, False, 3), (60, True, 3)):
        if failed:
            record_failure(layout.outputs, "shard-00001", "out of luck")
        started = time.monotonic()
        with pytest.raises(Incomplete):
            gather(plan, layout, GatherSettings(wait_seconds=seconds))
        assert time.monotonic() - started < longest
        assert failed or time.monotonic() - started >= seconds


@pytest.mark.parametrize(("kind", "in_a_job", "seconds"), [("ext4", False, 0), ("ext4", True, 90), ("nfs4", False, 90)])
def test_absence_is_doubted_for_90_seconds_in_a_job_and_on_shared_storage(
    kind: str, in_a_job: bool, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "file_system_of", lambda folder: kind)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if in_a_job:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert waiting.usual_wait_seconds(tmp_path) == seconds


@pytest.mark.parametrize("fault", FAULTS)
def test_pieces_that_cannot_be_read_for_now_stay(
    fault: str, tmp_path: Path, done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.workers.test_loop import rows_of

    (tmp_path / "work").mkdir()
    pieces = Pieces(tmp_path / "work" / "shard-00000", "f")
    pieces.publish(rows_of(1, 2))
    monkeypatch.setattr(files, "storage", Failing(".parquet", FAULTS[fault]))
    with pytest.raises(EnvironmentFault):
        pieces.finished(2)
    monkeypatch.setattr(files, "storage", Failing(".parquet", FAULTS[fault], times=2))
    assert pieces.finished(2) == {1, 2}


@pytest.mark.parametrize("damage", ["cut", "foreign", "of another dimension"])
def test_pieces_that_prove_false_are_set_aside_and_not_served(damage: str, tmp_path: Path) -> None:
    from tests.workers.test_loop import rows_of

    folder = tmp_path / "work" / "shard-00000"
    folder.parent.mkdir()
    Pieces(folder, "g" if damage == "foreign" else "f").publish(rows_of(1, 2))
    (piece,) = folder.iterdir()
    if damage == "cut":
        piece.write_bytes(piece.read_bytes()[:-9])
    pieces = Pieces(folder, "f")
    if damage == "foreign":
        assert list(pieces.files()) == []
    assert pieces.finished(3 if damage == "of another dimension" else 2) == set()
    assert list(folder.iterdir()) == []
    assert len(list((tmp_path / "work" / "withdrawn").iterdir())) == 1
