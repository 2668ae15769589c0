"""Files appear whole or not at all: temporary sibling, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = re.compile(r"^\..+\.tmp-[0-9a-f]{32}$")
"""Leftovers of a crash match this; they are never read."""


def temporary_sibling(path: Path) -> Path:
    """A name beside `path` that nobody else takes, on this node or another."""
    return path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `path`, durably, and on any error it goes away."""
    temporary = temporary_sibling(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """As `whole_file`, for a folder; one that is in the way is replaced."""
    temporary, retired = temporary_sibling(path), temporary_sibling(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if path.exists():
            path.rename(retired)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)
    shutil.rmtree(retired, ignore_errors=True)


def publish_first(temporary: Path, path: Path) -> bool:
    """Make the finished `temporary` appear as `path` unless something is there already.

    Of two live copies of a task exactly one gets True; the other's file is removed. Either way `path` is whole.
    """
    sync(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():  # a file system without hard links: the last writer wins, with a whole file
            return False
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return True


def sync(path: Path) -> None:
    """Force a file or a folder to storage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Publish a JSON file, keys as given, so that equal content is equal bytes."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256_of_file(path: Path) -> str:
    """Hexadecimal digest of the bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path, older_than_seconds: float = 3600.0) -> None:
    """Remove the temporary files that crashes left in a folder; a live twin's are younger and stay."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if TEMPORARY.match(path.name) and time.time() - path.stat().st_mtime > older_than_seconds:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def this_host() -> str:
    """The name of this machine."""
    return socket.gethostname()


def this_process() -> str:
    """Host and process id, for markers and messages."""
    return f"{this_host()}:{os.getpid()}"
