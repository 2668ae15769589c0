"""Files under faults: what a lying system call, a failed fsync and another machine's clock must not do."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from hpc_embed.errors import EnvironmentFault, RunConflict
from hpc_embed.run import faults, files, leftovers, temporaries
from hpc_embed.run.files import publish_first, set_aside, whole_file, whole_folder, write_draft, write_json, write_whole
from hpc_embed.run.leftovers import remove_leftovers
from hpc_embed.run.storage import Storage
from hpc_embed.run.temporaries import temporary_sibling


@dataclass
class Lying(Storage):
    """Answers one kind of operation with errors, after doing it or instead."""

    operation: str
    number: int
    times: int = 1
    is_done: bool = False
    asked: list[str] = field(default_factory=list)

    def _answer(self, operation: str, name: str, *paths: object) -> None:
        self.asked.append(f"{operation} {name}")
        fails = operation == self.operation and self.times > 0
        if not fails or self.is_done:
            getattr(Storage, operation)(self, *paths)
        if fails:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))

    def rename(self, source: Path, target: Path) -> None:
        self._answer("rename", target.name, source, target)

    def link(self, source: Path, target: Path) -> None:
        self._answer("link", target.name, source, target)

    def exchange(self, one: Path, other: Path) -> None:
        self._answer("exchange", other.name, one, other)

    def sync(self, file: BinaryIO) -> None:
        self._answer("sync", Path(file.name).name, file)


@contextmanager
def storage(replacement: Storage) -> Iterator[None]:
    before, pauses = files.storage, faults.PAUSES_SECONDS
    files.storage, faults.PAUSES_SECONDS = replacement, (0.0, 0.0, 0.0, 0.0)
    try:
        yield
    finally:
        files.storage, faults.PAUSES_SECONDS = before, pauses


def writes(content: bytes) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(content)

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.EEXIST, errno.ETIMEDOUT])
def test_a_rename_that_was_done_though_reported_as_failed_is_taken_as_done(number: int, tmp_path: Path) -> None:
    lying = Lying("rename", number, is_done=True)
    with storage(lying):
        write_json(tmp_path / "a.json", {"a": 1})
    assert lying.asked.count("rename a.json") == 1
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EEXIST, errno.EPERM])
def test_a_link_that_was_done_though_reported_as_failed_is_taken_as_done(number: int, tmp_path: Path) -> None:
    draft = write_draft(tmp_path / "a", writes(b"mine"))
    with storage(Lying("link", number, is_done=True)):
        assert publish_first(draft, tmp_path / "a") is True
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert names(tmp_path) == ["a"]


def test_an_exchange_that_was_done_though_reported_as_failed_is_taken_as_done(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").write_text("old")
    with storage(Lying("exchange", errno.EIO, is_done=True)), whole_folder(tmp_path / "d") as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path / "d") == ["new"]
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_a_rename_that_fails_leaves_what_was_there(number: int, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    before = (tmp_path / "a.json").read_bytes()
    with storage(Lying("rename", number, times=99)), pytest.raises((OSError, EnvironmentFault)):
        write_json(tmp_path / "a.json", {"a": 2})
    assert (tmp_path / "a.json").read_bytes() == before
    assert names(tmp_path) == ["a.json"]


def test_after_a_failed_fsync_all_is_written_anew_under_a_new_name(tmp_path: Path) -> None:
    lying = Lying("sync", errno.EIO, times=2)
    written: list[str] = []

    def write(file: BinaryIO) -> None:
        written.append(file.name)
        file.write(b"whole")

    with storage(lying):
        write_whole(tmp_path / "a", write)
    assert len(set(written)) == 3
    assert [asked for asked in lying.asked if asked.startswith("sync")] == [
        f"sync {Path(name).name}" for name in written
    ]
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_is_told_at_once(tmp_path: Path) -> None:
    lying = Lying("sync", errno.ENOSPC, times=99)
    with storage(lying), pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "a.json", {})
    assert len(lying.asked) == 1
    assert names(tmp_path) == []


def test_a_file_is_synced_through_the_descriptor_that_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), flags))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with whole_file(tmp_path / "a") as file:
        file.write(b"x")
    assert [flags for name, flags in synced if "a.tmp" in name] == [os.O_WRONLY]
    assert synced[-1] == (str(tmp_path), os.O_RDONLY)


def test_the_first_of_two_publishes_and_the_second_leaves_it(tmp_path: Path) -> None:
    drafts = [write_draft(tmp_path / "a", writes(text)) for text in (b"1", b"2")]
    assert [publish_first(draft, tmp_path / "a") for draft in drafts] == [True, False]
    assert (tmp_path / "a").read_bytes() == b"1"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("is_taken", [True, False])
def test_without_hard_links_what_is_there_stays(is_taken: bool, tmp_path: Path) -> None:
    if is_taken:
        (tmp_path / "a").write_bytes(b"1")
    draft = write_draft(tmp_path / "a", writes(b"2"))
    with storage(Lying("link", errno.EPERM)):
        assert publish_first(draft, tmp_path / "a") is not is_taken
    assert (tmp_path / "a").read_bytes() == (b"1" if is_taken else b"2")
    assert names(tmp_path) == ["a"]


def test_where_folders_cannot_be_exchanged_the_old_one_stays_and_an_equal_one_is_fine(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "part").write_text("old")
    with (
        storage(Lying("exchange", errno.EINVAL)),
        pytest.raises(RunConflict, match="cannot put another in its place in one step"),
        whole_folder(tmp_path / "d") as folder,
    ):
        (folder / "part").write_text("new")
    assert (tmp_path / "d" / "part").read_text() == "old"
    with storage(Lying("exchange", errno.EINVAL)), whole_folder(tmp_path / "d") as folder:
        (folder / "part").write_text("old")
    assert names(tmp_path) == ["d"]


def test_what_a_twin_has_put_in_the_place_of_the_judged_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("bad")
    judged = path.lstat()
    (tmp_path / "b").write_text("a twin's")
    (tmp_path / "b").replace(path)
    set_aside(path, tmp_path / "withdrawn", judged)
    assert path.read_text() == "a twin's"
    path.unlink()
    path.write_text("bad")
    set_aside(path, tmp_path / "withdrawn", path.lstat())
    assert not path.exists()
    assert "bad" in [kept.read_text() for kept in (tmp_path / "withdrawn").iterdir()]


def elsewhere(path: Path) -> Path:
    """A temporary of another machine."""
    temporary = temporary_sibling(path)
    start = temporary.name.index(".tmp-") + 5
    here = int(temporary.name[start : start + 8], 16)
    return temporary.with_name(f"{temporary.name[:start]}{here ^ 1:08x}{temporary.name[start + 8 :]}")


def aged(path: Path, hours: float) -> Path:
    path.write_text("half")
    os.utime(path, (time.time() - 3600 * hours,) * 2)
    return path


def test_a_twin_that_is_silent_for_hours_keeps_its_file_and_a_dead_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = aged(temporary_sibling(tmp_path / "a"), hours=50)
    there = aged(elsewhere(tmp_path / "b"), hours=20)
    aged(elsewhere(tmp_path / "c"), hours=25)
    dead = temporary_sibling(tmp_path / "d")
    aged(dead.with_name(dead.name.replace(f"{os.getpid():08x}", "7fffffff")), hours=0)
    (tmp_path / "shard-00000.parquet").write_text("whole")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([mine.name, there.name, "shard-00000.parquet"])


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_a_wrong_clock_of_this_node_removes_nothing(
    hours: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = aged(elsewhere(tmp_path / "b"), hours=2)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * hours)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [there.name]


def test_a_folder_in_the_making_lives_by_its_newest_file(tmp_path: Path) -> None:
    for name, hours in (("d", 2), ("e", 30)):
        folder = elsewhere(tmp_path / name)
        folder.mkdir()
        aged(folder / "part", hours)
        os.utime(folder, (time.time() - 3600 * 40,) * 2)
    remove_leftovers(tmp_path)
    assert [name[:3] for name in names(tmp_path)] == [".d."]


def test_a_folder_lives_by_itself_where_its_files_are_older(tmp_path: Path) -> None:
    folder = elsewhere(tmp_path / "d")
    folder.mkdir()
    aged(folder / "part", hours=30)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [folder.name]


def test_what_vanishes_while_it_is_looked_at_is_not_taken_for_silent(tmp_path: Path) -> None:
    assert leftovers._seconds_silent(tmp_path / "gone") == 0
    assert not files._is_one_file(tmp_path / "gone", tmp_path / "too")


@pytest.mark.parametrize(
    ("answer", "is_alive"), [(None, True), (ProcessLookupError(), False), (PermissionError(), True)]
)
def test_a_writer_is_asked_for_and_not_disturbed(
    answer: Exception | None, is_alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def kill(process: int, signal: int) -> None:
        asked.append((process, signal))
        if answer:
            raise answer

    monkeypatch.setattr(os, "kill", kill)
    assert temporaries.is_writer_alive(temporary_sibling(tmp_path / "a").name) is is_alive
    assert asked == [(os.getpid(), 0)]


def test_temporaries_of_two_calls_differ_and_are_known_as_such(tmp_path: Path) -> None:
    one, other = temporary_sibling(tmp_path / "a"), temporary_sibling(tmp_path / "a")
    assert one != other
    assert temporaries.TEMPORARY.match(one.name)
    assert temporaries.is_ours(one.name)
    assert temporaries.is_writer_alive(one.name)
