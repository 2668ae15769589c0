"""What kind of storage a folder is on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

NODE_OWN = frozenset(("tmpfs", "ramfs", "overlay"))
"""Of one machine and gone with it."""
LOCAL = NODE_OWN | {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs"}
"""Of one machine, unless that machine shares it with others under another kind."""
CACHING = frozenset(("nfs", "nfs4"))
"""Shared, and a name that was absent stays absent for a while."""
SHARED = CACHING | {"lustre", "gpfs", "beegfs", "ceph", "wekafs", "panfs", "pvfs2", "glusterfs", "cifs", "afs"}


def file_system_of(folder: Path) -> str:
    """The kind of the mount that holds the folder: `ext4`, `nfs4`; what FUSE carries by its own name."""
    path, found = str(folder.resolve()), ("", "unknown")
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            mount = before.split()[4]
            if (path + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(found[0]):
                found = (mount, after.split()[0])
    return found[1].removeprefix("fuse.")
