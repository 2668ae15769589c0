"""Shard files: what is read is what was written, and what cannot be read says why."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpc_embed.errors import EnvironmentFault, RunConflict
from hpc_embed.run import faults, files
from hpc_embed.run.shards import SCHEMA, read_shard, write_shard
from tests.fakes import Failing, system_error

WINDOWS, SEQUENCES = np.array([3, 8, 11]), [b"MKV", b"", b"WYVT"]


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tries more, at once."""
    monkeypatch.setattr(faults, "PAUSES_SECONDS", (0.0, 0.0))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    write_shard(tmp_path / "shard", WINDOWS, SEQUENCES)
    return tmp_path / "shard"


def test_keys_and_sequences_come_back_and_lie_there_packed(shard: Path) -> None:
    found = read_shard(shard)
    assert found.windows_N.tolist() == WINDOWS.tolist()
    assert found.sequences_N == SEQUENCES
    group = pq.read_metadata(shard).row_group(0)
    columns = [group.column(at) for at in range(2)]
    assert {(column.compression, column.has_dictionary_page, column.statistics) for column in columns} == {
        ("SNAPPY", False, None)
    }


def test_a_column_more_is_left_unread_and_text_is_taken_for_bytes(shard: Path) -> None:
    pq.write_table(pa.table({"more": [1, 2], "sequence": ["MK", "V"], "window": pa.array([5, 6], pa.int32())}), shard)
    found = read_shard(shard)
    assert (found.windows_N.tolist(), found.windows_N.dtype.name, found.sequences_N) == ([5, 6], "int64", [b"MK", b"V"])


@pytest.mark.parametrize(("windows", "sequences"), [([1, None], [b"A", b"C"]), ([1, 2], [b"A", None])])
def test_a_window_without_key_or_sequence_is_damage(
    windows: list[int | None], sequences: list[bytes | None], shard: Path
) -> None:
    pq.write_table(pa.table([windows, sequences], schema=SCHEMA), shard)
    with pytest.raises(RunConflict, match=r"damaged .*a window without key or sequence"):
        read_shard(shard)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all"])
def test_what_is_no_parquet_is_damage(content: bytes, shard: Path) -> None:
    shard.write_bytes(content)
    with pytest.raises(RunConflict, match=r"shard: damaged \(.*hpc-embed plan. .* makes it anew"):
        read_shard(shard)


def test_one_letter_changed_is_damage_where_the_digest_is_known(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    digest = write_shard(path, WINDOWS, SEQUENCES)
    assert read_shard(path, digest).sequences_N == SEQUENCES
    content = path.read_bytes()
    assert content.count(b"MKV") == 1
    path.write_bytes(content.replace(b"MKV", b"MKL"))
    with pytest.raises(RunConflict, match=r"shard: damaged \(its checksum is not the plan's\)"):
        read_shard(path, digest)
    assert read_shard(path).sequences_N[0] == b"MKL"


def test_a_file_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(RunConflict, match="no such shard file"):
        read_shard(tmp_path / "shard")


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), pa.ArrowMemoryError("malloc")])
def test_a_fault_that_passes_is_waited_out_and_one_that_stays_is_told_as_the_storage_s(
    error: BaseException, shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "storage", Failing("shard", lambda path: error, 2))
    assert read_shard(shard).sequences_N == SEQUENCES
    monkeypatch.setattr(files, "storage", Failing("shard", lambda path: error, 3))
    with pytest.raises(EnvironmentFault, match="shard: cannot be read or written"):
        read_shard(shard)


def test_another_fault_of_the_system_says_nothing_about_the_content(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "storage", Failing("shard", system_error(errno.ELOOP), 1))
    with pytest.raises(OSError, match="symbolic links") as caught:
        read_shard(shard)
    assert caught.value.errno == errno.ELOOP
