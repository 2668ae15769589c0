"""Files appear whole or not at all: temporary sibling, fsync, rename or link, fsync of the folder.

The one seam between a run and its file system: everything that a run writes, publishes, removes or trusts goes
through here, and from here through `storage`. See docs/run-folder.md for what that survives.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from hpc_embed.errors import RunConflict
from hpc_embed.run.faults import naming_full_disk, patiently
from hpc_embed.run.hashed import Hashed, named_by
from hpc_embed.run.layout import withdrawn_folder
from hpc_embed.run.storage import CANNOT_EXCHANGE, UNKNOWN, Storage
from hpc_embed.run.temporaries import temporary_sibling as temporary_sibling
from hpc_embed.run.temporaries import this_host as this_host
from hpc_embed.run.temporaries import this_process as this_process

storage = Storage()
"""Tests replace it."""
NO_HARD_LINKS = (*UNKNOWN, errno.EPERM, errno.EMLINK, errno.EXDEV)
CHUNK_BYTES = 1 << 20


class Draft(NamedTuple):
    """A finished and durable file that has not its name yet."""

    path: Path
    sha256: str
    """Of what was written."""


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file to write; on success its content is durable, though not yet its name."""
    file = storage.create(path)
    with naming_full_disk(path):
        try:
            yield file
            storage.sync(file)
        finally:
            storage.close(file)


@contextmanager
def whole_file(path: Path, *, by_digest: bool = False) -> Iterator[Hashed]:
    """Yield a temporary file to write; on success it becomes `path`, durably, and on any error it goes away.

    `by_digest` puts the digest of the content into its name: both appear in one step (`digest_in_name`).
    """
    temporary = temporary_sibling(path)
    try:
        with new_file(temporary) as file:
            yield (hashed := Hashed(file))
        _replace(temporary, named_by(hashed.sha256, path) if by_digest else path)
    except BaseException:
        discard(temporary)
        raise
    storage.sync_folder(path.parent)


def write_whole(path: Path, write: Callable[[BinaryIO], None], *, by_digest: bool = False) -> str:
    """As `whole_file`; the digest of what was written. After a passing fault all is written again under a new name,
    since a failed fsync may leave pages marked clean that never reached the disk.
    """

    def attempt() -> str:
        with whole_file(path, by_digest=by_digest) as file:
            write(cast(BinaryIO, file))
        return file.sha256

    return patiently(attempt, path)


def write_draft(path: Path, write: Callable[[BinaryIO], None]) -> Draft:
    """A finished and durable temporary sibling of `path`, for `publish_first`; written anew after passing faults."""

    def attempt() -> Draft:
        draft = temporary_sibling(path)
        try:
            with new_file(draft) as file:
                write(cast(BinaryIO, hashed := Hashed(file)))
        except BaseException:
            discard(draft)
            raise
        return Draft(draft, hashed.sha256)

    return patiently(attempt, path)


def publish_first(draft: Draft, path: Path) -> bool:
    """Make the finished `draft` appear as `path` unless something is there already.

    Of two live copies of a task exactly one gets True; the other's file is removed. Either way `path` is whole.
    """
    try:
        if not _link(draft.path, path):
            return False
    finally:
        discard(draft.path)
    storage.sync_folder(path.parent)
    return True


def _link(draft: Path, path: Path) -> bool:
    try:
        storage.link(draft, path)
    except OSError as error:
        if _is_one_file(draft, path):  # done, though a lost reply says otherwise (link(2), BUGS)
            return True
        if isinstance(error, FileExistsError):
            return False
        if error.errno not in NO_HARD_LINKS:
            raise
        if exists(path):  # a file system without hard links: the last writer wins, with a whole file
            return False
        _rename(draft, path)
    return True


def _rename(source: Path, target: Path) -> None:
    before = storage.status(source)
    try:
        storage.rename(source, target)
    except OSError:
        if not _is(target, before):  # done, though a lost reply says otherwise (rename(2), BUGS)
            raise


def _replace(source: Path, target: Path) -> None:
    """As `_rename`; a folder in the place of the file goes aside."""
    try:
        _rename(source, target)
    except IsADirectoryError:
        set_aside(target, withdrawn_folder(target.parent), storage.status(target))
        _rename(source, target)


def _is_one_file(one: Path, other: Path) -> bool:
    try:
        return _is(other, storage.status(one))
    except OSError:
        return False


def _is(path: Path, expected: os.stat_result) -> bool:
    try:
        return os.path.samestat(storage.status(path), expected)
    except OSError:
        return False


@contextmanager
def whole_folder(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary folder, to be filled with `new_file`; on success it becomes `path` in one step.

    One that is in the way is exchanged for it and then removed, or with `replace=False` kept. Raises RunConflict
    where the file system cannot exchange folders and the one in the way holds something else: readers always find
    the old one or the new one.
    """
    temporary = temporary_sibling(path)
    make_folders(temporary)
    try:
        yield temporary
        storage.sync_folder(temporary)
        _put_folder(temporary, path, replace)
    except BaseException:
        remove_tree(temporary)
        raise
    storage.sync_folder(path.parent)
    remove_tree(temporary)  # what was in the way


def _put_folder(temporary: Path, path: Path, replace: bool) -> None:
    try:
        _rename(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if replace:
            _exchange(temporary, path)


def _exchange(temporary: Path, path: Path) -> None:
    before = storage.status(temporary)
    try:
        storage.exchange(temporary, path)
    except OSError as error:
        if _is(path, before):
            return
        if error.errno not in CANNOT_EXCHANGE:
            raise
        if digests_of_folder(temporary) != digests_of_folder(path):
            raise RunConflict(
                f"{path} is there, and this file system cannot put another in its place in one step.",
                remedy="Move it away, then do this again.",
            ) from error


def make_folders(path: Path) -> None:
    """The folder and those above it, where they are not there yet."""
    if exists(path) and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    missing = []
    while not exists(path):
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        make_folder(folder)


def make_folder(path: Path) -> None:
    """This folder alone, where it is not there yet; FileNotFoundError where the one above it is gone."""
    if not exists(path):
        with suppress(FileExistsError):
            storage.make_folder(path)
        storage.sync_folder(path.parent)


def exists(path: Path) -> bool:
    """True for what is there; a passing fault is waited out, and never taken for absence."""

    def look() -> bool:
        try:
            storage.status(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    return patiently(look, path)


def set_aside(path: Path, folder: Path, judged: os.stat_result) -> None:
    """Move a thing that proved false into `folder`, under a name that nobody has.

    `judged` is what was found false. Where a twin has meanwhile put something else there, that is put back.
    """
    make_folders(folder)
    aside = folder / f"{path.name}.{temporary_sibling(path).name[-8:]}"
    try:
        _rename(path, aside)
    except FileNotFoundError:
        return  # a twin was faster
    if not _is(aside, judged):
        _link(aside, path)
    storage.sync_folder(path.parent)


def put(source: Path, target: Path) -> None:
    """A finished file in the place of what is under its name, durably."""
    make_folders(target.parent)
    _replace(source, target)
    storage.sync_folder(target.parent)


def discard(path: Path) -> None:
    """Remove a temporary file; one that stays is harmless."""
    with suppress(OSError):
        storage.unlink(path)


def remove(path: Path) -> None:
    """Remove a file that need not be there; a folder in its place goes aside."""
    with suppress(FileNotFoundError):
        try:
            storage.unlink(path)
        except IsADirectoryError:
            set_aside(path, withdrawn_folder(path.parent), storage.status(path))


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it, links as links; what cannot be removed stays, harmlessly."""
    try:
        is_link = stat.S_ISLNK(storage.status(path).st_mode)
        names = [] if is_link else storage.names(path)
    except OSError:
        return
    if is_link:  # what it leads to is somebody else's
        discard(path)
        return
    for name in names:
        try:
            storage.unlink(path / name)
        except (IsADirectoryError, PermissionError):
            remove_tree(path / name)
        except OSError:
            continue
    with suppress(OSError):
        storage.remove_folder(path)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Publish a JSON file, keys as given, so that equal content is equal bytes."""
    write_whole(path, lambda file: _write(file, content))


def draft_json(path: Path, content: Mapping[str, object]) -> Draft:
    """The same, not yet under its name."""
    return write_draft(path, lambda file: _write(file, content))


def _write(file: BinaryIO, content: Mapping[str, object]) -> None:
    file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def read_bytes(path: Path) -> bytes:
    """The whole of a small file."""
    with storage.open_to_read(path) as file:
        return file.read()


def sha256_of_file(path: Path) -> str:
    """Hexadecimal digest of the bytes, all of which were read; OSError where fewer came than there are."""
    digest, num_read, size = hashlib.sha256(), 0, path.stat().st_size
    with storage.open_to_read(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            num_read += len(chunk)
    if num_read < size:
        raise OSError(errno.EIO, "less was read than there is", str(path))
    return digest.hexdigest()


def digests_of_folder(folder: Path) -> dict[str, str]:
    """Digest by name."""
    return {name: sha256_of_file(folder / name) for name in storage.names(folder)}


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes, durably."""
    with storage.open_to_read(source) as file, new_file(target) as copy:
        while chunk := file.read(CHUNK_BYTES):
            copy.write(chunk)
