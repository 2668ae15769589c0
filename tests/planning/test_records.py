"""records.parquet: its rows in row groups of one size, whatever came at once, packed where that is worth it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.planning import records
from hpc_embed.planning.planner import make_plan
from hpc_embed.run.layout import RunLayout
from hpc_embed.sequences import sources


@pytest.mark.parametrize(("rows", "groups"), [(1, [1] * 9), (4, [4, 4, 1]), (3, [3, 3, 3]), (9, [9]), (10, [9])])
@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_row_groups_are_of_one_size_across_files_and_blocks(
    rows: int, groups: list[int], block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "ROW_GROUP_ROWS", rows)
    monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
    names = []
    for number, count in enumerate((4, 0, 5)):
        (tmp_path / f"{number}.fa").write_text(
            "".join(f">r{number}{at} of {count}\nMKV{'A' * at}\n\n" for at in range(count))
        )
        names += [f"r{number}{at}" for at in range(count)]
    layout = RunLayout(tmp_path / "run")
    inputs = tuple(str(tmp_path / f"{number}.fa") for number in (0, 2))
    make_plan(PlanSettings(fasta=inputs, model="aa_composition", num_shards=2, force_kind=True), layout)
    footer = pq.read_metadata(layout.records)
    assert [footer.row_group(at).num_rows for at in range(footer.num_row_groups)] == groups
    table = pq.read_table(layout.records)
    assert table["id"].to_pylist() == names
    assert table["ordinal"].to_pylist() == list(range(9))
    assert table["source"].to_pylist() == [0] * 4 + [1] * 5
    assert table["line"].to_pylist() == [1 + 3 * at for at in range(4)] + [1 + 3 * at for at in range(5)]
    assert table["description"].to_pylist() == [f"{name} of {4 if name < 'r2' else 5}" for name in names]


def test_columns_are_packed_and_the_statuses_alone_are_named_by_number(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text("".join(f">r{at} words\nMKV\n" for at in range(100)))
    layout = RunLayout(tmp_path / "run")
    make_plan(PlanSettings(fasta=(str(tmp_path / "in.fa"),), model="aa_composition", force_kind=True), layout)
    group = pq.read_metadata(layout.records).row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    assert {column.compression for column in columns} == {"SNAPPY"}
    assert [column.path_in_schema for column in columns if column.has_dictionary_page] == ["status", "reason"]
    assert [column.path_in_schema for column in columns if column.statistics] == ["ordinal"]
