"""One at a time, whatever locks the storage has."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_embed.cluster.submission import submitting
from hpc_embed.config import PlanSettings
from hpc_embed.errors import RunConflict
from hpc_embed.planning.planner import make_plan
from hpc_embed.run import files
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.locks import held
from hpc_embed.run.storage import Storage
from hpc_embed.run.temporaries import temporary_sibling

NUMBERS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def without_locks(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.parametrize("number", [0, *NUMBERS])
def test_the_second_is_told_and_the_next_gets_it(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if number:
        without_locks(number, monkeypatch)
    with held(tmp_path / "lock") as first, held(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with held(tmp_path / "lock") as third:
        assert third
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("number", NUMBERS)
def test_plan_and_submit_go_on_without_locks_and_one_at_a_time(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(number, monkeypatch)
    (tmp_path / "x.fa").write_text(">a\nMKV\n")
    layout = RunLayout(tmp_path / "run")
    settings = PlanSettings(fasta=(str(tmp_path / "x.fa"),), model="aa_composition", force_kind=True)
    assert make_plan(settings, layout).is_new
    with submitting(layout), pytest.raises(RunConflict, match="another `hpc-embed submit`"), submitting(layout):
        pass
    with submitting(layout):
        pass


def test_where_flock_is_unknown_a_posix_lock_holds_against_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", unknown)
    other = "import fcntl,sys; fcntl.lockf(open(sys.argv[1],'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with held(tmp_path / "lock") as is_held:
        assert is_held
        done = subprocess.run([sys.executable, "-c", other, str(tmp_path / "lock")], capture_output=True, text=True)
        assert "BlockingIOError" in done.stderr


def test_what_a_crash_left_is_taken_on_its_own_machine_and_told_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_locks(errno.ENOSYS, monkeypatch)
    ours = temporary_sibling(tmp_path / "lock-held").name
    dead = ours.replace(f"{os.getpid():08x}", f"{2**31 - 1:08x}")
    (tmp_path / "lock-held").write_text(dead)
    with held(tmp_path / "lock") as is_held:
        assert is_held
    prefix, _, rest = dead.rpartition(".tmp-")
    (tmp_path / "lock-held").write_text(f"{prefix}.tmp-{'0' * 8}{rest[8:]}")
    with held(tmp_path / "lock") as is_held:
        assert not is_held
    assert "lock-held is there: remove it if no such command is at work" in capsys.readouterr().err


def test_another_fault_of_locking_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(errno.EIO, monkeypatch)
    with pytest.raises(OSError, match="Input/output"), held(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSPC])
def test_room_is_taken_by_writing_where_it_cannot_be_asked_for(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with (tmp_path / "room").open("xb") as file:
        if number == errno.ENOSPC:
            with pytest.raises(OSError, match="No space"):
                Storage().take_room(file, 3 << 20)
            return
        Storage().take_room(file, (3 << 20) + 5)
    assert (tmp_path / "room").read_bytes() == bytes((3 << 20) + 5)


def test_a_full_disk_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, files.new_file(tmp_path / "new"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "new")
