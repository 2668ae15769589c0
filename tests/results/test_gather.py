"""Gather: what it proves, what it refuses, what it writes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.errors import Incomplete
from hpc_embed.planning.forecast import forecast
from hpc_embed.planning.planner import make_plan
from hpc_embed.results.gather import gather
from hpc_embed.results.parts import PartsWriter
from hpc_embed.results.windows import room_for_places
from hpc_embed.run.files import sha256_of_file, write_json
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import read_marker
from hpc_embed.run.plan import Plan
from hpc_embed.run.vectors import VectorFile, Vectors, VectorWriter
from tests.results.embedding import embed
from tests.results.test_spelled import spelled_run

FASTA = b">a\nMKVLAAGIVG\n>b\nMKVLAAGIVG\n>empty\n>a\nMKV\n>long\n" + b"MKVLAAGIVGLLLAGCSWMKTAYIAKQRQ" + b"\n"


@pytest.fixture
def done(tmp_path: Path, done_once: tuple[Plan, Path]) -> tuple[Plan, RunLayout]:
    """A run of three shards, embedded and not gathered; the long record is two windows."""
    shutil.copytree(done_once[1], tmp_path, dirs_exist_ok=True)
    return done_once[0], RunLayout(tmp_path / "run")


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    tmp_path = tmp_path_factory.mktemp("done")
    (tmp_path / "in.fa").write_bytes(FASTA)
    layout = RunLayout(tmp_path / "run")
    settings = PlanSettings(
        fasta=(str(tmp_path / "in.fa"),), model="aa_composition", num_shards=3, max_residues=20, force_kind=True
    )
    plan = make_plan(settings, layout).plan
    embed(plan, layout)
    return plan, tmp_path


def rewrite(layout: RunLayout, index: int, change: Callable[[Vectors], Vectors]) -> None:
    """Change the rows of an output and give it a marker that fits, as a broken worker would."""
    path, marker = layout.output(index), read_marker(layout.outputs, f"shard-{index:05d}")
    assert marker is not None
    file = VectorFile(path)
    rows = change(next(iter(file)))
    with (
        path.with_suffix(".new").open("wb") as new,
        VectorWriter(new, rows.vectors_ND.shape[1], file.metadata) as writer,
    ):
        writer.write(rows)
    path.with_suffix(".new").replace(path)
    proved = replace(marker, sha256=sha256_of_file(path), num_bytes=path.stat().st_size, rows=len(rows.windows_N))
    write_json(layout.marker(index), asdict(proved))


def test_the_dataset_is_in_input_order_and_holds_every_record(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    gathered = gather(plan, layout, GatherSettings())
    table = pq.read_table(layout.dataset)
    assert table["id"].to_pylist() == ["a", "b", "empty", "a", "long"]
    assert table["status"].to_pylist() == ["embedded", "embedded", "skipped", "embedded", "windowed"]
    assert table["reason"].to_pylist()[2] == "empty"
    assert table["length"].to_pylist() == [10, 10, 0, 3, 29]
    assert table["num_windows"].to_pylist() == [1, 1, 0, 1, 2]
    assert table["num_tokens"].to_pylist() == [10, 10, 0, 3, 29]
    assert table["embedding"].null_count == 1
    assert gathered.statuses == {"embedded": 3, "skipped": 1, "windowed": 1}
    assert json.loads(layout.dataset_facts.read_text())["fingerprint"] == plan.fingerprint


def test_windows_are_averaged_by_their_tokens(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    gather(plan, layout, GatherSettings())
    vector = np.array(pq.read_table(layout.dataset)["embedding"][4].as_py())
    sequence = FASTA.split(b">long\n")[1].strip()
    single = [sequence.count(letter.encode()) / len(sequence) for letter in "ACDEFGHIKLMNPQRSTVWY"]
    assert vector[:20] == pytest.approx(single, abs=1e-7)


def test_metadata_travel_with_every_part(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    gather(plan, layout, GatherSettings())
    metadata = json.loads(pq.read_schema(layout.dataset / "part-00000.parquet").metadata[b"hpc_embed"])
    assert metadata["model"] == "aa_composition"
    assert metadata["untrained"] is False
    assert metadata["fingerprint"] == plan.fingerprint
    assert metadata["precision"] == "fp32"
    assert any(version.startswith("numpy ") for version in metadata["versions"])


def test_gathering_again_writes_nothing_and_another_dtype_writes_anew(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    assert gather(plan, layout, GatherSettings()).is_new
    assert not gather(plan, layout, GatherSettings()).is_new
    assert gather(plan, layout, GatherSettings(dtype="float16")).is_new
    assert str(pq.read_schema(layout.dataset / "part-00000.parquet").field("embedding").type.value_type) == "halffloat"


def test_the_bytes_depend_on_neither_memory_nor_threads(
    done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    gather(plan, layout, GatherSettings())
    before = (layout.dataset / "part-00000.parquet").read_bytes()
    layout.dataset_facts.unlink()
    monkeypatch.setattr("hpc_embed.results.gather.MEBIBYTE", 1)  # so that places of windows are in a scratch file
    gather(plan, layout, GatherSettings(memory_mebibytes=1, gather_threads=3))
    assert (layout.dataset / "part-00000.parquet").read_bytes() == before
    assert not [path for path in layout.root.iterdir() if "gathering" in path.name]


@pytest.mark.parametrize(("place", "number"), [("os.posix_fallocate", errno.ENOSPC), ("numpy.memmap.flush", errno.EIO)])
def test_places_that_storage_does_not_hold_are_told(
    place: str, number: int, done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fakes of a full disk, and of one that could not write a page of the scratch file."""
    plan, layout = done
    gather(plan, layout, GatherSettings())
    before = (layout.dataset / "part-00000.parquet").read_bytes()
    layout.dataset_facts.unlink()
    monkeypatch.setattr("hpc_embed.results.gather.MEBIBYTE", 1)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            gather(plan, layout, GatherSettings(memory_mebibytes=1))
    assert not [path for path in layout.root.iterdir() if "gathering" in path.name]
    gather(plan, layout, GatherSettings(memory_mebibytes=1))
    assert (layout.dataset / "part-00000.parquet").read_bytes() == before


def test_room_for_places_is_taken_before_it_is_used(tmp_path: Path) -> None:
    with room_for_places(tmp_path, 100_000, 0) as places_U:
        (scratch,) = tmp_path.iterdir()
        assert scratch.stat().st_blocks * 512 >= scratch.stat().st_size == places_U.nbytes
        assert not places_U["num_tokens"].any()
    assert not list(tmp_path.iterdir())


def backwards(rows: Vectors) -> Vectors:
    return Vectors(rows.windows_N[::-1], rows.num_tokens_N[::-1], rows.vectors_ND[::-1])


def test_outputs_in_any_order_give_the_same_bytes(done: tuple[Plan, RunLayout]) -> None:
    """As an older version left them; workers write them by ascending key."""
    plan, layout = done
    gather(plan, layout, GatherSettings())
    before = (layout.dataset / "part-00000.parquet").read_bytes()
    layout.dataset_facts.unlink()
    for index in range(3):
        keys = VectorFile(layout.output(index)).windows()
        assert (np.diff(keys) > 0).all()
        rewrite(
            layout, index, lambda rows: Vectors(rows.windows_N[::-1], rows.num_tokens_N[::-1], rows.vectors_ND[::-1])
        )
    gather(plan, layout, GatherSettings())
    assert (layout.dataset / "part-00000.parquet").read_bytes() == before


@pytest.mark.long
def test_a_part_that_fails_leaves_nothing_and_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_records = 40_000
    (tmp_path / "in.fa").write_bytes(b"".join(b">r%d\nMKV\n" % index for index in range(num_records)))
    layout = RunLayout(tmp_path / "run")
    plan = make_plan(PlanSettings(fasta=(str(tmp_path / "in.fa"),)), layout).plan
    embed(plan, layout)
    plain = PartsWriter._blocks

    def failing(writer: PartsWriter, records: range) -> Iterator[pa.RecordBatch]:
        if records.start >= 2 * 8192:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(writer, records)

    monkeypatch.setattr(PartsWriter, "_blocks", failing)
    with pytest.raises(OSError, match="No space left"):
        gather(plan, layout, GatherSettings(part_mebibytes=1, gather_threads=3))
    assert not layout.dataset.exists()
    assert not [path for path in layout.root.iterdir() if path.name.startswith(".")]
    monkeypatch.undo()
    assert gather(plan, layout, GatherSettings(part_mebibytes=1, gather_threads=3)).num_records == num_records


def test_a_missing_shard_is_named_and_nothing_is_published(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    layout.marker(1).unlink()
    with pytest.raises(Incomplete, match=r"1 of 3 shards are missing: shard-00001 \(not done yet\)"):
        gather(plan, layout, GatherSettings())
    assert not layout.dataset.exists()


@pytest.mark.long
def test_a_flipped_byte_is_found_and_the_shard_withdrawn(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    content = bytearray(layout.output(0).read_bytes())
    content[len(content) // 3] ^= 1
    layout.output(0).write_bytes(content)
    with pytest.raises(Incomplete, match=r"shard-00000 \(output was damaged and is withdrawn \(the checksum"):
        gather(plan, layout, GatherSettings())
    assert not layout.marker(0).exists()
    embed(plan, layout)
    assert gather(plan, layout, GatherSettings()).num_records == 5


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda rows: rows._replace(vectors_ND=np.full_like(rows.vectors_ND, np.nan)), "NaN or infinity"),
        (lambda rows: rows._replace(windows_N=rows.windows_N + 100), "a window that the plan does not have"),
        (
            lambda rows: Vectors(*(np.concatenate((column, column)) for column in rows)),
            "a window that occurs twice, or in part",
        ),
        (lambda rows: rows._replace(vectors_ND=rows.vectors_ND[:, :5]), "of dimension 5"),
        (lambda rows: rows._replace(num_tokens_N=rows.num_tokens_N * 0), "a vector of no tokens"),
        (lambda rows: Vectors(*(column[:0] for column in rows)), "0 windows with vectors of 1"),
    ],
)
def test_a_false_output_with_a_true_checksum_is_found(
    done: tuple[Plan, RunLayout], change: Callable[[Vectors], Vectors], complaint: str
) -> None:
    plan, layout = done
    rewrite(layout, 0, change)
    with pytest.raises(Incomplete, match=complaint):
        gather(plan, layout, GatherSettings())


def test_a_window_in_two_outputs_is_found(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    other = next(iter(VectorFile(layout.output(1)))).windows_N[:1]
    rewrite(layout, 2, lambda rows: rows._replace(windows_N=np.resize(other, len(rows.windows_N))))
    with pytest.raises(Incomplete, match="a window that occurs twice"):
        gather(plan, layout, GatherSettings())


def test_a_failed_window_fails_its_records_and_no_others(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    for index in range(3):
        rows = next(iter(VectorFile(layout.output(index))))
        if 0 in rows.windows_N:
            rewrite(layout, index, lambda rows: Vectors(*(column[rows.windows_N != 0] for column in rows)))
            marker = read_marker(layout.outputs, f"shard-{index:05d}")
            assert marker is not None
            write_json(layout.marker(index), asdict(replace(marker, failed_windows={"0": "out of memory"})))
    gathered = gather(plan, layout, GatherSettings())
    assert gathered.statuses == {"embedded": 1, "failed": 2, "skipped": 1, "windowed": 1}
    table = pq.read_table(layout.dataset)
    assert table["status"].to_pylist() == ["failed", "failed", "skipped", "embedded", "windowed"]
    assert table["reason"].to_pylist()[:2] == ["out of memory"] * 2
    assert table["embedding"].null_count == 3


@pytest.fixture
def per_token(tmp_path: Path) -> tuple[Plan, RunLayout]:
    """Records with a vector for each residue."""
    return spelled_run(tmp_path, "per_token")


@pytest.mark.parametrize("change", ["cut", "doubled", "mixed"])
def test_per_token_a_window_in_part_is_found(per_token: tuple[Plan, RunLayout], change: str) -> None:
    plan, layout = per_token
    index = max(range(3), key=lambda index: len(np.unique(VectorFile(layout.output(index)).windows())))

    def changed(rows: Vectors) -> Vectors:
        numbers = np.arange(len(rows.windows_N))
        if change == "mixed":
            return rows._replace(windows_N=np.roll(rows.windows_N, 1))
        places = numbers[1:] if change == "cut" else np.concatenate((numbers, numbers))
        return Vectors(rows.windows_N[places], rows.num_tokens_N[places], rows.vectors_ND[places])

    rewrite(layout, index, changed)
    with pytest.raises(Incomplete, match="a window that occurs twice, or in part"):
        gather(plan, layout, GatherSettings())


def test_per_token_small_row_groups_and_parts_change_nothing(
    per_token: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = per_token
    gather(plan, layout, GatherSettings())
    whole = pq.read_table(layout.dataset)
    layout.dataset_facts.unlink()
    monkeypatch.setattr("hpc_embed.results.parts.MEBIBYTE", 1)
    monkeypatch.setattr("hpc_embed.results.parts.ROW_GROUP_ROWS", 16)
    gather(plan, layout, GatherSettings(memory_mebibytes=1, part_mebibytes=1))
    assert len(list(layout.dataset.iterdir())) > 1
    assert pq.read_table(layout.dataset).equals(whole)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_per_token_the_dataset_opens_everywhere(per_token: tuple[Plan, RunLayout], tmp_path: Path) -> None:
    import datasets
    import duckdb
    import pandas as pd
    import polars as pl

    plan, layout = per_token
    gather(plan, layout, GatherSettings(dtype="float16"))
    gather(plan, layout, GatherSettings())
    glob = str(layout.dataset / "*.parquet")
    assert np.stack(pd.read_parquet(layout.dataset).embedding[0]).shape == (10, 320)
    assert pl.read_parquet(layout.dataset).schema["embedding"] == pl.List(pl.List(pl.Float32))
    assert duckdb.sql(f"select max(len(embedding)) from '{glob}'").fetchall() == [(29,)]
    loaded = datasets.Dataset.from_parquet(glob, cache_dir=str(tmp_path / "cache"))
    assert np.array(loaded[4]["embedding"]).shape == (29, 320)


def test_parts_are_cut_by_size_and_keep_the_order(tmp_path: Path) -> None:
    num_records = 20_000
    (tmp_path / "in.fa").write_bytes(b"".join(b">r%d\nMKV\n" % index for index in range(num_records)))
    layout = RunLayout(tmp_path / "run")
    plan = make_plan(PlanSettings(fasta=(str(tmp_path / "in.fa"),)), layout).plan
    embed(plan, layout)
    gather(plan, layout, GatherSettings(part_mebibytes=1))
    parts = sorted(layout.dataset.iterdir())
    assert len(parts) == 3
    assert [pq.read_metadata(part).num_rows for part in parts] == [8192, 8192, 3616]
    assert pq.read_table(layout.dataset)["ordinal"].to_pylist() == list(range(num_records))
    num_bytes = sum(path.stat().st_size for path in (*parts, layout.dataset_index))
    assert forecast(plan, "r", "cpu").dataset_bytes == pytest.approx(num_bytes, rel=0.02)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_dataset_opens_in_pandas_polars_duckdb_and_datasets(done: tuple[Plan, RunLayout], tmp_path: Path) -> None:
    import datasets
    import duckdb
    import pandas as pd
    import polars as pl

    plan, layout = done
    gather(plan, layout, GatherSettings())
    glob = str(layout.dataset / "*.parquet")
    assert pd.read_parquet(layout.dataset).embedding[0].shape == (420,)
    assert pl.read_parquet(layout.dataset).schema["embedding"] == pl.List(pl.Float32)
    assert duckdb.sql(f"select count(*), max(len(embedding)) from '{glob}'").fetchall() == [(5, 420)]
    loaded = datasets.Dataset.from_parquet(glob, cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 5
