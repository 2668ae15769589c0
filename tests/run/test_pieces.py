"""Pieces beside a twin of the same task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpc_embed.run import files
from hpc_embed.run.pieces import Pieces
from hpc_embed.run.vectors import Vectors

ROWS = Vectors(np.array([3]), np.array([7], dtype=np.int32), np.ones((1, 4), dtype=np.float32))


def clean_up_before(operation: str, times: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A twin removes the folder before each of the first so many operations."""
    done: list[str] = []
    plain = getattr(files.storage, operation)

    def cleaned_up(path: Path, *rest: object) -> object:
        if len(done) < times:
            done.append(path.name)
            files.remove_tree(folder)
        return plain(path, *rest)

    monkeypatch.setattr(files.storage, operation, cleaned_up)
    return done


@pytest.mark.parametrize("operation", ["create", "rename"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_piece_appears_although_a_twin_cleans_up(
    operation: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shard-00000"
    done = clean_up_before(operation, times, folder, monkeypatch)
    Pieces(folder, "print").publish(ROWS)
    assert len(done) == times
    assert Pieces(folder, "print").finished(4) == {3}


def test_where_the_run_folder_has_gone_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Pieces(tmp_path / "moved/work/shard-00000", "print").publish(ROWS)
