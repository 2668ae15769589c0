"""What the report is made of: devices, colours, planes, samples."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpc_embed.errors import BadInput, UsageError
from hpc_embed.report.charts import plain
from hpc_embed.report.colours import OTHERS, by_group, by_number, by_value
from hpc_embed.report.devices import device_works, forecast_device
from hpc_embed.report.facts import RunFacts, Work
from hpc_embed.report.facts import _planned_statuses as planned_statuses
from hpc_embed.report.metadata import Column, parse_column, read_values
from hpc_embed.report.projection import nearest, pca, umap
from hpc_embed.report.records import describe_records
from hpc_embed.report.sample import draw_sample
from hpc_embed.results.index import publish_index
from hpc_embed.run.canary import encode
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import WorkFacts
from hpc_embed.run.plan import Cost, Plan


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A10", "a10"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla T4", "t4"),
        ("cpu (AMD EPYC 7763 64-Core Processor, 2 threads)", "cpu"),
        ("Intel Arc A770", None),
        ("Grace CPU", None),
    ],
)
def test_devices_by_their_drivers_names(name: str, known: str | None) -> None:
    assert forecast_device(name) == known


def test_small_groups_are_drawn_together() -> None:
    groups = [group for number, group in enumerate("abcdefghi") for _ in range(20 - number)]
    made = by_group("letter", [*groups, ""])
    assert [entry.label for entry in made.legend] == [*"abcdefg", "2 other groups, or none"]
    assert sum(entry.num_points for entry in made.legend) == len(groups) + 1
    assert made.colours_N[-1] == OTHERS[0]
    assert len(set(zip(made.colours_N, made.markers_N, strict=True))) == 8


def test_numbers_are_coloured_in_steps_of_equally_many() -> None:
    made = by_number("length", [*map(float, range(100)), None], unit=" residues")
    assert [entry.num_points for entry in made.legend] == [10] * 10 + [1]
    assert made.legend[0].label == "0 to 10 residues"
    assert by_number("length", [5.0, 5.0]).legend[0].label == "5 to 5"


def test_many_numbers_are_a_scale_and_few_are_groups() -> None:
    assert len(by_value("score", [str(number / 2) for number in range(20)]).legend) == 10
    assert [entry.label for entry in by_value("cluster", ["1", "2", "1", ""]).legend] == ["1", "2", "none"]
    assert [entry.label for entry in by_value("mixed", ["1", "x"]).legend] == ["1", "x"]
    assert by_value("mixed", ["1", "x"]).title == "mixed"
    assert by_value("score", [str(number / 2) for number in range(20)]).title == "score"


def test_the_principal_components_are_those_of_a_full_svd() -> None:
    vectors_ND = np.random.default_rng(1).standard_normal((60, 30)).astype(np.float32)
    vectors_ND *= np.geomspace(5, 0.1, 30, dtype=np.float32)
    centred_ND = vectors_ND.astype(np.float64) - vectors_ND.mean(axis=0, dtype=np.float64)
    left, sizes, _ = np.linalg.svd(centred_ND, full_matrices=False)
    plane = pca(vectors_ND)
    np.testing.assert_allclose(np.abs(plane.points_N2), np.abs(left[:, :2] * sizes[:2]), rtol=1e-3, atol=1e-3)
    assert plane.axes[0] == f"component 1 ({sizes[0] ** 2 / (sizes**2).sum():.0%} of the variance)"


def test_equal_vectors_make_one_point() -> None:
    assert pca(np.ones((4, 3), np.float32)).points_N2.tolist() == [[0, 0]] * 4


def test_neighbours_are_by_cosine_nearest_first() -> None:
    found = nearest(np.array([[1, 0], [2, 0.1], [0, 1], [0.5, 1]], np.float32))
    assert found.places_NK.tolist() == [[1, 3, 2], [0, 3, 2], [3, 1, 0], [2, 1, 0]]


def same(num_rows: int) -> dict[str, list[object]]:
    """What a dataset has besides."""
    return {"num_windows": [1] * num_rows, "status": ["embedded"] * num_rows, "reason": [""] * num_rows}


def publish(layout: RunLayout) -> None:
    layout.dataset_facts.write_text(json.dumps({"index": publish_index(layout)._asdict()}))


def test_a_sample_holds_vectors_of_its_own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_embed.report.sample.MOST_ROWS", 40)
    layout = RunLayout(tmp_path)
    layout.dataset.mkdir()
    for part in range(2):
        numbers = list(range(100 * part, 100 * part + 100))
        vectors = [None if number % 7 == 0 else [number, 1.0] for number in numbers]
        vectors[1] = [float("nan"), 1.0]
        columns = {"ordinal": numbers, "id": [f"r{number}" for number in numbers], "length": numbers}
        columns["num_tokens"] = [0 if vector is None else 1 for vector in vectors]
        table = pa.table({**columns, **same(100), "embedding": pa.array(vectors, pa.list_(pa.float16(), 2))})
        pq.write_table(table, layout.dataset / f"part-{part:05d}.parquet", row_group_size=30)
    publish(layout)
    texts = {"description": [f"r{number} of {number}" for number in range(200)], "source": [0] * 150 + [1] * 50}
    pq.write_table(pa.table(texts), layout.records, row_group_size=64)
    sample = draw_sample(layout)
    assert 30 <= len(sample.rows_N) <= 40
    assert [f"r{number:.0f}" for number in sample.vectors_ND[:, 0]] == [row.id for row in sample.rows_N]
    assert all(row.description == f"of {row.length}" for row in sample.rows_N)
    assert all(row.source == (row.length >= 150) for row in sample.rows_N)
    assert draw_sample(layout).rows_N == sample.rows_N


def test_vectors_of_tokens_are_averaged_where_nothing_is_pooled(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    layout.dataset.mkdir()
    kind = pa.large_list(pa.list_(pa.float32(), 2))
    vectors = pa.array([[[1, 0], [3, 2]], None, [[5, 5]]], kind)
    columns = {"ordinal": [0, 1, 2], "id": ["a", "b", "c"], "length": [2, 0, 1], "num_tokens": [2, 0, 1]}
    table = pa.table({**columns, **same(3), "embedding_per_token_6": vectors})
    pq.write_table(table, layout.dataset / "part-00000.parquet")
    publish(layout)
    pq.write_table(pa.table({"description": ["a", "b", "c"], "source": [0, 0, 0]}), layout.records)
    sample = draw_sample(layout)
    assert (sample.column, sample.is_mean_of_tokens) == ("embedding_per_token_6", True)
    assert [row.id for row in sample.rows_N] == ["a", "c"]
    assert sample.vectors_ND.tolist() == [[2, 1], [5, 5]]


def test_descriptions_come_in_the_order_asked_for(tmp_path: Path) -> None:
    texts = {"description": [str(number) for number in range(10)], "source": [0] * 10}
    pq.write_table(pa.table(texts), tmp_path / "records.parquet", row_group_size=3)
    found = describe_records(tmp_path / "records.parquet", [9, 0, 4, 4])
    assert [one.text for one in found] == ["9", "0", "4", "4"]


def test_ids_are_found_in_their_column_or_in_the_first(tmp_path: Path) -> None:
    path = tmp_path / "with:colon.csv"
    path.write_text('\ufeffclass,id\n"x, y",a\n')
    assert read_values(parse_column(f"{path}:class"), ["a", "b"]) == ["x, y", ""]
    path.write_text("name\tclass\na\n\nb\t 3 \n")
    assert read_values(parse_column(f"{path}:class"), ["a", "b"]) == ["", "3"]


@pytest.mark.parametrize("text", ["meta.tsv", "meta.tsv:", ":family", ":", ""])
def test_half_a_column_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=f"--colour-by {text}: not FILE:COLUMN"):
        parse_column(text)


def test_a_table_without_the_column_or_any_of_the_records_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("id\tfamily\nzz\tx\n")
    assert read_values(Column(path, "family"), ["zz"]) == ["x"]
    assert read_values(Column(path, "family"), []) == []
    with pytest.raises(BadInput, match="none of the records that the report shows is in its column id"):
        read_values(Column(path, "family"), ["a", "b"])
    with pytest.raises(UsageError, match=r"no column clan\. It has id, family\."):
        read_values(Column(path, "clan"), ["zz"])
    path.write_text("")
    with pytest.raises(UsageError, match="no column family"):
        read_values(Column(path, "family"), ["zz"])


def test_what_was_planned_is_told_by_status_without_those_that_no_record_has() -> None:
    totals = {"num_embedded": 5, "num_windowed": 4, "num_truncated": 3, "num_skipped": 2}
    plan = cast(Plan, SimpleNamespace(totals=SimpleNamespace(**totals)))
    assert planned_statuses(plan) == {"embedded": 5, "windowed": 4, "truncated": 3, "skipped": 2}
    plan = cast(Plan, SimpleNamespace(totals=SimpleNamespace(**{**totals, "num_windowed": 0})))
    assert [*planned_statuses(plan)] == ["embedded", "truncated", "skipped"]


def test_a_device_that_the_forecast_does_not_know_has_no_prediction_and_no_peak(tmp_path: Path) -> None:
    plan = cast(Plan, SimpleNamespace(cost=Cost(linear_flops=10**12, quadratic_flops=0)))
    quick = work("Intel Arc A770", "bf16", "")
    quick = quick._replace(facts=replace(quick.facts, seconds=0.25, padding_efficiency=0.0, peak_memory_bytes=7))
    (told,) = device_works(RunFacts(plan, RunLayout(tmp_path), 1, 0, 0, [quick], [], Counter(), {}, False))
    assert (told.predicted_hours, told.share_of_peak) == (None, None)
    assert (told.hours, told.tokens_per_second) == (0.25 / 3600, 3600)
    assert (told.num_canaries, told.num_different_canaries, told.peak_memory_bytes) == (0, 0, 7)
    assert told.padding_efficiency < 1e-8


@pytest.mark.parametrize(
    ("device", "precision", "share"),
    [
        ("Tesla T4", "fp32", 1e14 / 8.1e12),
        ("Tesla T4", "bf16", None),
        ("NVIDIA H100 80GB HBM3", "fp32", None),
        ("cpu (AMD)", "bf16", None),
        ("cpu (AMD)", "fp32", None),
    ],
)
def test_a_share_of_the_peak_is_told_where_the_data_sheet_is_for_the_precision(
    device: str, precision: str, share: float | None, tmp_path: Path
) -> None:
    plan = cast(Plan, SimpleNamespace(cost=Cost(linear_flops=10**12, quadratic_flops=0)))
    facts = RunFacts(plan, RunLayout(tmp_path), 1, 0, 0, [work(device, precision, "")], [], Counter(), {}, False)
    assert device_works(facts)[0].share_of_peak == (share and pytest.approx(share))


@pytest.mark.parametrize(("num_vectors", "num_neighbours"), [(2, 2), (10, 9), (16, 15), (40, 15)])
def test_umap_is_asked_for_cosines_and_the_same_points_each_time(
    num_vectors: int, num_neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    class Fake:
        def __init__(self, **how: object) -> None:
            asked.append(how)

        def fit_transform(self, vectors_ND: np.ndarray) -> list[list[float]]:
            return vectors_ND[:, :2].tolist()  # type: ignore[no-any-return]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Fake))
    vectors_ND = np.random.default_rng(0).standard_normal((num_vectors, 4)).astype(np.float32)
    plane = umap(vectors_ND)
    assert asked == [
        {"n_neighbors": num_neighbours, "metric": "cosine", "init": "random", "random_state": 0, "n_jobs": 1}
    ]
    assert np.array_equal(plane.points_N2, vectors_ND[:, :2])
    assert (plane.method, plane.points_N2.dtype.name) == ("UMAP", "float64")
    assert plane.axes == ("UMAP 1 (distances far apart mean little)", "UMAP 2")


def test_text_in_figures_is_short_and_no_tex() -> None:
    assert plain("$$x$$\ny") == "$ $x$ $ y"
    assert len(plain("x" * 100)) == 48


def work(device: str, precision: str, canary: str) -> Work:
    facts = WorkFacts(
        device=device,
        precision=precision,
        versions={},
        process="node:1",
        seconds=10.0,
        num_tokens=900,
        num_windows_computed=1,
        tokens_per_second=90.0,
        padding_efficiency=0.9,
        token_budget=1000,
        peak_memory_bytes=1 << 30,
        canary=canary,
    )
    return Work(shard=0, ended=100.0, flops=1e15, num_tokens=900, facts=facts)


def test_each_kind_of_device_is_told_of_by_itself(tmp_path: Path) -> None:
    plan = cast(Plan, SimpleNamespace(cost=Cost(linear_flops=10**12, quadratic_flops=0)))
    usual, odd = encode(np.ones(3, np.float32)), encode(np.array([1, 1, 2], np.float32))
    works = [work("NVIDIA H100 80GB HBM3", "bf16", usual)] * 2 + [work("Tesla T4", "bf16", odd)]
    works = [one._replace(shard=shard) for shard, one in enumerate(works)]
    facts = RunFacts(plan, RunLayout(tmp_path), 3, 0, 0, works, [], Counter(), {}, False)
    h100, t4 = device_works(facts)
    assert (h100.num_shards, h100.num_tokens, h100.tokens_per_second, h100.hours) == (2, 1800, 90.0, 20 / 3600)
    assert h100.padding_efficiency == pytest.approx(0.9)
    assert h100.share_of_peak == pytest.approx(1e14 / 989e12)
    assert h100.predicted_hours == pytest.approx(2e15 / (989e12 * 0.4) / 3600)
    assert t4.share_of_peak is None, "its data sheet's figure here is FP32's"
    assert (h100.device, h100.precision, t4.device) == ("NVIDIA H100 80GB HBM3", "bf16", "Tesla T4")
    assert (h100.num_canaries, h100.num_different_canaries, h100.peak_memory_bytes) == (2, 1, 1 << 30)
    assert (h100.num_odd_canaries, t4.num_odd_canaries) == (0, 1)
