"""Where compiled kernels are kept: in a folder that nobody else can write to, and that libraries load from."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpc_embed.cluster.kernel_cache import VARIABLES, choose_kernel_cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's, not there yet; the variables unset."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path / f"hpc-embed-kernels-{os.getuid()}"


def chosen() -> list[str | None]:
    choose_kernel_cache()
    return [os.environ.get(name) for name in VARIABLES]


def test_it_is_on_the_node_and_ours_alone(folder: Path) -> None:
    assert chosen() == [str(folder / "triton"), str(folder / "inductor")]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert chosen() == [str(folder / "triton"), str(folder / "inductor")], "and the same for the next worker"


def test_what_somebody_chose_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/scratch/triton")
    assert chosen() == ["/scratch/triton", str(folder / "inductor")]


@pytest.mark.parametrize("how", ["a link", "a file", "open to others", "somebody else's"])
def test_a_folder_that_others_could_have_filled_is_not_taken(
    how: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "a link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    elif how == "a file":
        folder.touch()
    elif how == "open to others":
        folder.mkdir()
        folder.chmod(0o770)
    else:
        folder.mkdir(mode=0o700)
        facts = folder.lstat()
        theirs = SimpleNamespace(st_mode=facts.st_mode, st_uid=facts.st_uid + 1)
        monkeypatch.setattr(Path, "lstat", lambda path: theirs)
    assert chosen() == [None, None]


def test_a_disk_from_which_nothing_is_executed_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert chosen() == [None, None]
