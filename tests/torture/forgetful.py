"""A real file system that forgets what was not synced: mounted by FUSE, dead at a chosen operation, mounted again.

    python -m tests.torture.forgetful MOUNT KEPT [DIES_AT]

A file's bytes go to the folder KEPT when the file is synced, and a folder's names when the folder is: whatever has
not been kept is gone with the process. So it is as strict as POSIX allows a disk to be, and asks nothing of our seam.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_embed.errors import HpcEmbedError
from hpc_embed.run.layout import RunLayout
from tests.torture.enumeration import Undisturbed
from tests.torture.small_run import SEQUENCES, WINDOWS_AT_STAKE, SmallRun, counting

ROOT = 1
LONGEST_MOUNT_SECONDS = 20.0


@dataclass
class Node:
    """A file, or a folder where it has names."""

    number: int
    mode: int
    content: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    modified: int = field(default_factory=time.time_ns)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Disk:
    """The operations, called by FUSE with paths; `dies_at` counts those that change something, from 0."""

    def __init__(self, kept: Path, dies_at: int | None) -> None:
        self._kept = kept
        self._dies_at = dies_at
        self._num_changes = 0
        self._counter = (kept / "changes").open("ab", buffering=0)
        self._nodes: dict[int, Node] = {}
        self._load(ROOT, stat.S_IFDIR | 0o755)
        self._next = max([*self._nodes, *(int(place.name) for place in kept.iterdir() if place.name.isdigit())]) + 1

    def _load(self, number: int, mode: int) -> None:
        node = self._nodes[number] = Node(number, mode)
        place = self._kept / str(number)
        if not node.is_folder:
            node.content = bytearray(place.read_bytes() if place.exists() else b"")
            return
        for name, (child, child_mode) in json.loads(place.read_text() if place.exists() else "{}").items():
            node.names[name] = child
            self._load(child, child_mode)

    def _changes(self) -> None:
        if self._num_changes == self._dies_at:
            os._exit(9)
        self._num_changes += 1
        self._counter.write(b".")

    def _find(self, path: str) -> Node:
        node = self._nodes[ROOT]
        for name in path.strip("/").split("/") if path != "/" else ():
            if name not in node.names:
                raise OSError(errno.ENOENT, path)
            node = self._nodes[node.names[name]]
        return node

    def _place(self, path: str) -> tuple[Node, str]:
        folder, _, name = path.rpartition("/")
        return self._find(folder or "/"), name

    def _add(self, path: str, mode: int) -> Node:
        folder, name = self._place(path)
        node = Node(self._next, mode)
        self._next += 1
        self._nodes[node.number] = node
        folder.names[name] = node.number
        return node

    # What FUSE calls.

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        node = self._nodes[fh] if fh else self._find(path)
        num_names = sum(list(other.names.values()).count(node.number) for other in self._nodes.values())
        return {
            "st_ino": node.number,
            "st_mode": node.mode,
            "st_size": len(node.content),
            "st_nlink": 2 if node.is_folder else num_names,
            "st_mtime": node.modified,
            "st_ctime": node.modified,
            "st_atime": node.modified,
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
        }

    def readdir(self, path: str, _handle: int) -> list[tuple[str, dict[str, int], int]]:
        names = self._find(path).names
        return [(name, {"st_ino": number, "st_mode": self._nodes[number].mode}, 0) for name, number in names.items()]

    def mkdir(self, path: str, mode: int) -> None:
        self._changes()
        self._add(path, stat.S_IFDIR | mode)

    def create(self, path: str, mode: int, _flags: int = 0) -> int:
        self._changes()
        return self._add(path, stat.S_IFREG | stat.S_IMODE(mode)).number

    def open(self, path: str, _flags: int) -> int:
        return self._find(path).number

    def read(self, _path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self._nodes[fh].content[offset : offset + size])

    def write(self, _path: str, data: bytes, offset: int, fh: int) -> int:
        self._changes()
        node = self._nodes[fh]
        node.content[offset : offset + len(data)] = data
        node.modified = time.time_ns()
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self._changes()
        node = self._nodes[fh] if fh else self._find(path)
        node.content[length:] = bytes(max(0, length - len(node.content)))

    def unlink(self, path: str) -> None:
        self._changes()
        folder, name = self._place(path)
        del folder.names[name]

    def rmdir(self, path: str) -> None:
        if self._find(path).names:
            raise OSError(errno.ENOTEMPTY, path)
        self.unlink(path)

    def link(self, target: str, source: str) -> None:
        self._changes()
        folder, name = self._place(target)
        folder.names[name] = self._find(source).number

    def rename(self, old: str, new: str, flags: int) -> None:
        if flags:
            raise OSError(errno.EINVAL, old)  # as on NFS
        self._changes()
        node, (folder, name), (old_folder, old_name) = self._find(old), self._place(new), self._place(old)
        if node.is_folder and name in folder.names and self._find(new).names:
            raise OSError(errno.ENOTEMPTY, new)
        del old_folder.names[old_name]
        folder.names[name] = node.number

    def fsync(self, _path: str, _only_data: int, fh: int) -> None:
        self._changes()
        (self._kept / str(fh)).write_bytes(self._nodes[fh].content)

    def fsyncdir(self, path: str, _only_data: int, _handle: int) -> None:
        self._changes()
        node = self._find(path)
        names = {name: [number, self._nodes[number].mode] for name, number in node.names.items()}
        (self._kept / str(node.number)).write_text(json.dumps(names))

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        self._find(path).modified = times[1] if times else time.time_ns()

    def chmod(self, path: str, mode: int) -> None:
        self._find(path).mode = mode


def serve(mount: Path, kept: Path, dies_at: int | None) -> None:
    """Be the disk, until unmounted or dead."""
    import mfusepy

    class Kernel(mfusepy.FUSE):  # type: ignore[misc]
        def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
            self.operations.rename(os.fsdecode(old), os.fsdecode(new), flags)
            return 0

    class Operations(mfusepy.Operations):  # type: ignore[misc]
        use_ns = True

    disk = Disk(kept, dies_at)
    for name in [name for name in vars(Disk) if not name.startswith("_")]:
        setattr(Operations, name, staticmethod(getattr(disk, name)))
    never = {"attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}
    Kernel(Operations(), str(mount), foreground=True, nothreads=True, hard_remove=True, use_ino=True, **never)


def why_not() -> str:
    """Why no such disk can be mounted here; empty where one can."""
    if os.geteuid() != 0:
        return "needs root, to mount"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
        import mfusepy  # noqa: F401
    except (OSError, ImportError) as error:
        return f"FUSE cannot be used here ({error})"
    return ""


@contextmanager
def mounted(folder: Path, dies_at: int | None = None) -> Iterator[Path]:
    """The disk that is kept in `folder`, mounted."""
    mount, kept = folder / "mount", folder / "kept"
    for place in (mount, kept):
        place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", __name__, str(mount), str(kept), *([] if dies_at is None else [str(dies_at)])]
    server = subprocess.Popen(command)
    started = time.monotonic()
    while not os.path.ismount(mount):
        assert server.poll() is None, "FUSE could not mount"
        assert time.monotonic() < started + LONGEST_MOUNT_SECONDS, "FUSE does not mount"
        time.sleep(0.02)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
        server.kill()
        server.wait()


def num_changes(truth: Undisturbed, folder: Path) -> int:
    """Of how many changes an undisturbed run consists."""
    run = SmallRun(folder)
    with mounted(folder) as mount:
        run.layout = RunLayout(mount / "run")
        run.all_of_it()
        assert run.dataset() == truth.dataset
    return (folder / "kept/changes").stat().st_size


def check(dies_at: int, truth: Undisturbed, folder: Path) -> None:
    """The disk dies at an operation, the same commands are given to what it has kept, and the dataset is the same."""
    run = SmallRun(folder)
    with counting(run):
        with mounted(folder, dies_at) as mount, suppress(OSError, HpcEmbedError):
            run.layout = RunLayout(mount / "run")
            run.all_of_it()
        with mounted(folder):
            run.all_of_it()
            assert run.dataset() == truth.dataset, dies_at
    assert run.num_computed <= len(SEQUENCES) + WINDOWS_AT_STAKE, (dies_at, run.num_computed)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
