"""From windows to records, and what a gathering says at its end."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hpc_embed.cli import main
from hpc_embed.config import GatherSettings
from hpc_embed.results import gather as gather_module
from hpc_embed.results.dataset import Arrangement, by_window, records_to_rows
from hpc_embed.results.gather import gather
from hpc_embed.results.windows import WindowVectors
from hpc_embed.run.files import write_json
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import judge, read_marker, withdraw
from hpc_embed.run.outputs import Outputs
from hpc_embed.run.plan import Plan
from hpc_embed.run.vectors import VectorFile
from tests.torture.small_run import SmallRun, on
from tests.torture.storage import FaultyStorage

WINDOWS = WindowVectors(
    keys_K=np.array([10, 11, 17]),
    vectors_RD=np.array([[1, 8], [5, 2], [3, 3]], np.float32),
    first_row_K=np.array([0, 1, 2]),
    num_tokens_K=np.array([3, 1, 2], np.int32),
    is_per_token=False,
)


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [2.0, 6.5]), ("mean_with_special", [2.0, 6.5]), ("max", [5.0, 8.0])]
)
def test_windows_become_a_record_by_its_pooling(pooling: str, expected: list[float]) -> None:
    how = Arrangement(Outputs((pooling,), (0,)), num_special_tokens=2, max_residues=None)
    rows = records_to_rows(pa.array([[10, 11], [17], []], pa.list_(pa.int64())), WINDOWS, how)
    assert rows.columns[0].vectors_RD.tolist() == [expected, [3.0, 3.0]]
    assert rows.num_tokens_N.tolist() == [4, 2, 0]
    assert rows.columns[0].num_rows_N.tolist() == [1, 1, 0]


@pytest.mark.long
def test_gather_exits_with_6_where_records_failed_and_with_0_where_none_did(done: tuple[Plan, RunLayout]) -> None:
    from tests.results.test_gather import rewrite

    _, layout = done
    assert main(["gather", "--run-dir", str(layout.root)]) == 0
    keys = sorted(int(key) for key in VectorFile(layout.output(0)).windows())
    rewrite(layout, 0, lambda rows: type(rows)(*(column[rows.windows_N != keys[0]] for column in rows)))
    marker = read_marker(layout.outputs, "shard-00000")
    assert marker is not None
    write_json(layout.marker(0), asdict(replace(marker, failed_windows={str(keys[0]): "out of memory"})))
    assert main(["gather", "--run-dir", str(layout.root)]) == 6


def test_records_that_do_not_add_up_are_never_published(
    done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    more = replace(plan, totals=replace(plan.totals, num_records=plan.totals.num_records + 1))
    with pytest.raises(AssertionError, match="records were lost"):
        gather(more, layout, GatherSettings(wait_seconds=0))
    other = replace(plan, totals=replace(plan.totals, num_skipped=0, num_embedded=plan.totals.num_embedded + 1))
    with pytest.raises(AssertionError, match="skipped records differ"):
        gather(other, layout, GatherSettings(wait_seconds=0))
    assert not layout.dataset.exists()
    assert gather_module._existing(layout, {}, 1) is None


def test_a_marker_is_withdrawn_before_its_output(done: tuple[Plan, RunLayout], tmp_path: Path) -> None:
    _, layout = done
    storage = FaultyStorage(tmp_path / "graveyard")
    with on(storage, SmallRun(tmp_path)):
        withdraw(layout.outputs, "shard-00000", judge(layout.outputs, "shard-00000"))
    moved = [operation.split()[1].rpartition(".")[0] for operation in storage.operations if "rename" in operation]
    assert moved == ["shard-00000.done.json", "shard-00000.parquet"]


@pytest.mark.parametrize(
    ("max_residues", "stride", "expected"),
    [
        (None, None, {"two": [(0, 12), (12, 25)], "none": [(None, None)], "one": [(0, 9)]}),
        (7, None, {"two": [(0, 12), (12, 25)], "none": [(None, None)], "one": [(0, 7)]}),
        (15, 10, {"two": [(0, 15), (10, 25)], "none": [(None, None)], "one": [(0, 9)]}),
    ],
    ids=["side by side", "truncated", "overlapping"],
)
def test_each_window_is_a_row_with_its_place_in_the_record(
    max_residues: int | None, stride: int | None, expected: dict[str, list[tuple[int | None, int | None]]]
) -> None:
    records = pa.table({"id": ["two", "none", "one"], "length": [25, 0, 9], "windows": [[4, 9], [], [2]]})
    rows = by_window(records.to_batches()[0], max_residues, stride)
    assert rows.schema.names == ["id", "length", "windows", "start", "stop", "num_windows"]
    assert rows["windows"].to_pylist() == [[4], [9], [], [2]]
    assert rows["num_windows"].to_pylist() == [2, 2, 0, 1]
    assert rows["num_windows"].type == pa.int32()
    found = [(row["id"], (row["start"], row["stop"])) for row in rows.to_pylist()]
    assert found == [(name, place) for name, places in expected.items() for place in places]
