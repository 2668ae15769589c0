"""Files that a scan leaves for the passes that follow: what is missing of one, or cannot be read, is never an end."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpc_embed.errors import EnvironmentFault
from hpc_embed.planning.parts import KINDS, PartFacts, PartWriter
from hpc_embed.planning.spill import Spill, read_rows
from tests.planning.test_planner import FASTA, contents, plan

UNREADABLE = Path("/proc/self/mem")
"""Can be opened; at its beginning a read fails with EIO."""


def after_each_part(damage: Callable[[Path], None], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something to a file of every part as soon as it is whole."""
    finish = PartWriter.finish

    def finish_and_damage(writer: PartWriter) -> PartFacts:
        facts = finish(writer)
        damage(writer._folder / f"{facts.name}.{kind}")
        return facts

    monkeypatch.setattr(PartWriter, "finish", finish_and_damage)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder to be, beside its input."""
    (tmp_path / "in.fasta").write_bytes(FASTA)
    return tmp_path / "run"


@pytest.fixture
def expected(run: Path) -> dict[str, str]:
    """What is in the folder of a run that nothing disturbed."""
    plan(run.parent / "in.fasta", run.parent / "undisturbed")
    return contents(run.parent / "undisturbed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [0.0, 0.5])
def test_a_file_that_lost_its_end_is_refused_and_made_anew(
    kind: str, left: float, run: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(int(left * path.stat().st_size))

    with monkeypatch.context() as patch:
        after_each_part(cut, kind, patch)
        with pytest.raises(EnvironmentFault, match=rf"000000-000000\.{kind}: is not as it was written"):
            plan(run.parent / "in.fasta", run)
    assert not (run / "plan.json").exists()
    plan(run.parent / "in.fasta", run)
    assert contents(run) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_read_now_is_read_by_the_next_try(
    kind: str, run: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []

    def hide(path: Path) -> None:
        kept.append((path, path.rename(path.with_suffix(".kept"))))
        path.symlink_to(UNREADABLE)

    with monkeypatch.context() as patch:
        after_each_part(hide, kind, patch)
        with pytest.raises(OSError, match="Input/output error") as raised:
            plan(run.parent / "in.fasta", run)
        assert raised.value.errno == errno.EIO
    assert not (run / "plan.json").exists()
    for path, real in kept:
        real.replace(path)
    plan(run.parent / "in.fasta", run)
    assert contents(run) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_though_it_shows_only_when_a_small_file_is_closed(
    kind: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = PartWriter.__init__

    def begin_on_a_full_disk(
        writer: PartWriter, folder: Path, source: int, number: int, *, keeps_letters: bool
    ) -> None:
        (folder / f"{source:06d}-{number:06d}.{kind}").symlink_to("/dev/full")
        begin(writer, folder, source, number, keeps_letters=keeps_letters)

    monkeypatch.setattr(PartWriter, "__init__", begin_on_a_full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        plan(run.parent / "in.fasta", run)
    assert not (run / "plan.json").exists()


def test_a_bucket_that_lost_its_end_or_meets_a_full_disk_is_told(tmp_path: Path) -> None:
    rows, path = np.arange(100)[::2], tmp_path / "rows-00000.spill"
    spill = Spill(tmp_path, "rows", np.dtype(np.int64), 1, memory_bytes=0)
    spill.add([(0, rows)])
    assert path.stat().st_size == rows.nbytes
    file = io.BytesIO(path.read_bytes()[:-1])
    file.name = str(path)
    with pytest.raises(EnvironmentFault, match=r"rows-00000\.spill: is not as it was written"):
        read_rows(file, rows.dtype, len(rows))
    assert spill.take(0).tolist() == rows.tolist()
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        spill.add([(0, rows)])
