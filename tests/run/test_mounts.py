"""The kind of storage below a folder, as Linux lists its mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_embed.run.mounts import file_system_of

MOUNTS = """22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /data rw - nfs4 server:/ - data rw
31 30 0:41 / /data/lab rw,nosuid shared:7 master:2 - fuse.sshfs somebody@there:/lab rw
32 22 0:42 / /work rw - autofs systemd-1 rw
33 32 0:43 / /work rw - lustre mgs@tcp:/scratch rw
34 22 0:44 / /nfsdata rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/home/anna", "ext4"),
        ("/data", "nfs4"),
        ("/data/of/anna", "nfs4"),
        ("/database", "ext4"),
        ("/data/lab", "sshfs"),
        ("/data/lab/run", "sshfs"),
        ("/data/laboratory", "nfs4"),
        ("/work/run", "lustre"),
        ("/nfsdata/run", "xfs"),
    ],
)
def test_the_deepest_mount_counts_and_of_two_at_one_place_the_last(
    folder: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {Path("/proc/self/mountinfo"): MOUNTS}
    monkeypatch.setattr(Path, "read_text", lambda path: files[path])
    assert file_system_of(Path(folder)) == kind


def test_where_linux_does_not_tell_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", fail)
    assert file_system_of(Path("/data")) == "unknown"
