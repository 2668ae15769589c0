"""Pieces beside a twin of the same task."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hpc_embed.run import files
from hpc_embed.run.pieces import Pieces, in_key_order, num_windows_in_pieces, seconds_of_pieces
from hpc_embed.run.rows import RowReader
from hpc_embed.run.vectors import VectorFile, Vectors, VectorWriter

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


@pytest.mark.parametrize("damage", ["two bytes", "emptied", "cut", "a folder"])
def test_a_piece_that_is_not_as_it_was_written_is_set_aside_and_its_windows_are_none_that_are_finished(
    damage: str, tmp_path: Path
) -> None:
    folder = tmp_path / "work" / "shard-00000"
    folder.parent.mkdir()
    for key in (3, 4):
        Pieces(folder, "print").publish(ROWS._replace(windows_N=np.array([key])))
    bad, good = sorted(folder.iterdir())
    (key,) = VectorFile(good).windows().tolist()
    content = bytearray(bad.read_bytes())
    half = bytes(content[: len(content) // 2])
    at = content.index(ROWS.vectors_ND.tobytes())
    content[at] ^= 1
    content[at + 5] ^= 8
    if damage == "a folder":
        bad.unlink()
        bad.mkdir()
    else:
        bad.write_bytes({"two bytes": bytes(content), "emptied": b"", "cut": half}[damage])
    pieces = Pieces(folder, "print")
    assert [file.windows().tolist() for file in pieces.files()] == [[key]]  # found where vectors are taken
    assert pieces.finished(4) == {key}
    (aside,) = (tmp_path / "work" / "withdrawn").iterdir()
    assert aside.name.startswith(bad.name)
    assert aside.is_dir() or aside.stat().st_size in (0, len(content), len(content) // 2)


def test_a_piece_of_a_version_that_had_no_digest_in_its_name_is_taken_where_it_can_be_decoded(tmp_path: Path) -> None:
    folder = tmp_path / "work" / "shard-00000"
    folder.parent.mkdir()
    Pieces(folder, "print").publish(ROWS)
    (piece,) = folder.iterdir()
    old = piece.rename(folder / "piece-00001-0123456789abcdef0123456789abcdef.parquet")
    assert Pieces(folder, "print").finished(4) == {3}
    old.write_bytes(old.read_bytes()[:-1])
    assert Pieces(folder, "print").finished(4) == set()


def test_where_the_run_folder_has_gone_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Pieces(tmp_path / "moved/work/shard-00000", "print").publish(ROWS)


def test_what_a_shard_has_in_pieces_is_counted_though_some_vanish_or_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shard-00000"
    assert (num_windows_in_pieces(folder), seconds_of_pieces(folder)) == (0, 0.0)
    for key in (1, 2, 3, 4):
        Pieces(folder, "print").publish(ROWS._replace(windows_N=np.array([key])))
    paths = sorted(folder.iterdir())
    for seconds, path in enumerate(paths):
        os.utime(path, (1000 + 10 * seconds,) * 2)
    assert (num_windows_in_pieces(folder), seconds_of_pieces(folder)) == (4, 30.0)
    paths[0].write_bytes(b"not Parquet")
    assert num_windows_in_pieces(folder) == 3
    plain = files.storage.names
    monkeypatch.setattr(files.storage, "names", lambda folder: [*plain(folder), paths[1].name.replace("0", "9")])
    assert num_windows_in_pieces(folder) == 3
    assert seconds_of_pieces(folder) > 0


def drawn(keys: list[int], rows_per_window: int, mark: float) -> Vectors:
    """Rows that tell their window, their place in it, and who made them."""
    rows = [(key, place) for key in keys for place in range(rows_per_window)]
    numbers = np.array([(key, place, mark) for key, place in rows], dtype=np.float32).reshape(-1, 3)
    return Vectors(
        np.array([key for key, _ in rows], dtype=np.int64), np.full(len(rows), rows_per_window, np.int32), numbers
    )


@pytest.mark.parametrize("rows_per_window", [1, 3])
@pytest.mark.parametrize("block_rows", [4, 8192])
def test_pieces_and_what_is_in_memory_come_in_the_order_of_their_keys_and_once(
    rows_per_window: int, block_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_embed.run.pieces.ROW_GROUP_ROWS", block_rows)
    pieces = Pieces(tmp_path / "shard-00000", "print")
    pieces.publish(drawn([9, 4, 7], rows_per_window, 1))
    pieces.publish(drawn([4, 30, 0], rows_per_window, 2))
    waiting = [drawn([8, 30], rows_per_window, 3), drawn([1], rows_per_window, 4)]
    blocks = list(in_key_order([*pieces.files(), *waiting]))
    keys, vectors = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("windows_N", "vectors_ND"))
    first = {0: 2, 1: 4, 4: 1, 7: 1, 8: 3, 9: 1, 30: 2}
    assert keys.tolist() == [key for key in first for _ in range(rows_per_window)]
    assert vectors.tolist() == [[key, place, mark] for key, mark in first.items() for place in range(rows_per_window)]
    assert all((block.num_tokens_N == rows_per_window).all() for block in blocks)
    assert (len(blocks) > 1) == (block_rows == 4)
    assert list(in_key_order([])) == []


@pytest.mark.parametrize("page_bytes", [64, 1 << 30])
@pytest.mark.long
def test_rows_are_read_in_any_order_of_one_page_or_of_many(
    page_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version wrote many pages; their places cannot be told, so the row group is decoded."""
    monkeypatch.setattr("hpc_embed.run.vectors.PAGE_BYTES", page_bytes)
    monkeypatch.setattr("hpc_embed.run.vectors.ROW_GROUP_ROWS", 1500)
    rows = drawn(list(range(4000)), 1, 1)
    with (tmp_path / "file").open("wb") as file, VectorWriter(file, 3, {}) as writer:
        writer.write(rows)
    places = VectorFile(tmp_path / "file").places()
    assert places.first_row_G == (0, 1500, 3000, 4000)
    assert (np.array(places.first_byte_G) < 0).all() == (page_bytes == 64)
    wanted = np.random.default_rng(0).permutation(4000)
    wanted[:100] = range(1450, 1550)
    found = np.empty((4000, 3), dtype=np.float32)
    RowReader().fill(found, places, wanted)
    assert (found == rows.vectors_ND[wanted]).all()
