"""The page and its figures, made in this process: what each figure holds, and what the page says of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.errors import EnvironmentFault
from hpc_embed.planning.planner import make_plan
from hpc_embed.report import charts, landscape
from hpc_embed.report.colours import MARKERS, OKABE_ITO, OTHERS, SIGNS, VIRIDIS, by_group, by_number, by_value
from hpc_embed.report.facts import RunFacts, run_facts
from hpc_embed.report.landscape import for_clicks
from hpc_embed.report.metadata import Column
from hpc_embed.report.page import make_report
from hpc_embed.report.projection import Plane
from hpc_embed.report.records import look_at_records
from hpc_embed.results.gather import gather
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import record_failure
from hpc_embed.run.plan import Plan, read_plan
from tests.report.test_tables import facts_of, plan, worked
from tests.results.embedding import embed

__all__ = ["plan"]
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
NAMES = ("one", "two", "three", "four", "five")


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    for at, (file, names) in enumerate((("x.fa", NAMES[:3]), ("y.fa", NAMES[3:]))):
        records = (f">{name} about {name}\n{LETTERS[at + n] * (5 * n + 7)}{LETTERS}\n" for n, name in enumerate(names))
        (folder / file).write_text("".join(records) + f">none{at}\n")
    files = (str(folder / "x.fa"), str(folder / "y.fa"))
    layout = RunLayout(folder / "run")
    plan = make_plan(PlanSettings(fasta=files, model="aa_composition", num_shards=2), layout).plan
    embed(plan, layout)
    gather(plan, layout, GatherSettings())
    return folder


@pytest.fixture
def done(done_once: Path, tmp_path: Path) -> RunLayout:
    return RunLayout(shutil.copytree(done_once / "run", tmp_path / "run"))


def page_of(layout: RunLayout, **how: Any) -> str:
    path = make_report(read_plan(layout.plan), layout, how.get("method", "pca"), how.get("colour_by"))
    assert path == layout.report
    return path.read_text(encoding="utf-8")


def test_the_page_has_every_figure_and_its_own_scripts_alone(done: RunLayout) -> None:
    text = page_of(done)
    data = dict(re.findall(r'<script[^>]*id="data-([a-z]+)"[^>]*>(.*?)</script>', text, flags=re.S))
    assert {*data} == {"lengths", "balance", "timeline", "map"}
    for name, content in data.items():
        item = json.loads(content)
        assert (item["target_id"], bool(item["doc"])) == (name, True)
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    hashes = {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts}
    assert len(hashes) >= 2
    assert {*re.findall(r"'sha256-([^']+)'", text)} == hashes
    assert f"--run-dir {done.root}-again" in text
    assert "7 records as gathered" in text
    assert "residues" in text


def test_a_report_of_dna_speaks_of_bases(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\n" + "ACGTTGCAAC" * 20 + "\n")
    layout = RunLayout(tmp_path / "run")
    make_plan(PlanSettings(fasta=(str(tmp_path / "in.fa"),)), layout)
    text = page_of(layout)
    assert "length in bases" in text
    assert "length in residues" not in text
    assert {*re.findall(r'id="data-([a-z]+)"', text)} == {"lengths"}


def test_facts_of_a_run_that_is_not_gathered_are_those_of_its_plan(done: RunLayout) -> None:
    shutil.rmtree(done.dataset)
    done.marker(1).unlink()
    done.output(1).unlink()
    record_failure(done.outputs, "shard-00001", "out of luck")
    facts = run_facts(read_plan(done.plan), done)
    assert (facts.num_done, facts.num_failed, facts.num_begun, facts.is_gathered) == (1, 1, 0, False)
    assert facts.statuses == {"embedded": 5, "skipped": 2}
    assert [(one.shard, one.tries, one.reason) for one in facts.failures] == [("shard-00001", 1, "out of luck")]
    (work,) = facts.works
    assert (work.shard, work.ended) == (0, done.marker(0).stat().st_mtime)
    assert work.started == work.ended - work.facts.seconds
    assert (work.flops, work.num_tokens) == (facts.plan.shards[0].flops, facts.plan.shards[0].num_tokens)


def test_a_shard_that_was_resumed_counts_what_its_last_try_computed(done: RunLayout) -> None:
    marker = json.loads(done.marker(0).read_text())
    marker["facts"]["num_windows_computed"] = 1
    marker["failed_windows"] = {"7": "odd", "8": "odd"}
    done.marker(0).write_text(json.dumps(marker))
    facts = run_facts(read_plan(done.plan), done)
    planned = facts.plan.shards[0]
    assert facts.works[0].flops == pytest.approx(planned.flops / planned.num_windows)
    assert facts.works[0].num_tokens == pytest.approx(planned.num_tokens / planned.num_windows)
    assert facts.failed_windows == Counter({"odd": 2})


@pytest.mark.parametrize("name", ["seconds", "num_tokens", "padding_efficiency", "token_budget", "peak_memory_bytes"])
@pytest.mark.parametrize("odd", [-1, 1 << 62, "9", True])
def test_a_marker_with_an_odd_number_is_not_told_of(name: str, odd: object, done: RunLayout) -> None:
    marker = json.loads(done.marker(0).read_text())
    marker["facts"][name] = odd
    done.marker(0).write_text(json.dumps(marker))
    assert [work.shard for work in run_facts(read_plan(done.plan), done).works] == [1]


def test_a_marker_of_another_plan_is_not_told_of(done: RunLayout) -> None:
    marker = json.loads(done.marker(1).read_text())
    done.marker(1).write_text(json.dumps({**marker, "fingerprint": "0" * 64}))
    assert [work.shard for work in run_facts(read_plan(done.plan), done).works] == [0]


def test_records_are_looked_at_with_their_reasons(done: RunLayout) -> None:
    records = look_at_records(run_facts(read_plan(done.plan), done))
    assert records.lengths_N.tolist() == [27, 32, 37, 0, 27, 32, 0]
    assert records.reasons == Counter({("skipped", "empty"): 2})
    assert [(one.id, one.status, one.reason) for one in records.examples] == [
        ("none0", "skipped", "empty"),
        ("none1", "skipped", "empty"),
    ]


def source(chart: Any) -> dict[str, list[Any]]:
    """The columns of a figure's only source."""
    (renderer,) = chart.renderers
    return {name: [*values] for name, values in renderer.data_source.data.items()}


def test_lengths_are_counted_in_bins_that_cover_all_of_them() -> None:
    lengths_N = np.array([0, 1, 5, 5, 100, 1000])
    chart = charts.length_chart(lengths_N, "bases")
    bins = source(chart)
    assert sum(bins["top"]) == 6
    assert (bins["left"][0], bins["right"][-1]) == (1, 1001)
    assert bins["left"][1:] == bins["right"][:-1]
    held = [top for low, high, top in zip(bins["left"], bins["right"], bins["top"], strict=True) if low <= 5 < high]
    assert held == [2]
    assert (chart.xaxis[0].axis_label.text, chart.yaxis[0].axis_label.text) == ("length in bases", "records")
    assert chart.y_range.start == 0
    assert sum(source(charts.length_chart(np.zeros(3, np.int64), "bases"))["top"]) == 3


def test_planned_work_and_measured_time_stand_beside_each_other(plan: Plan) -> None:
    works = [worked(0, 10, 3, "n:1"), worked(1, 20, 1, "n:1")]
    chart = charts.balance_chart(facts_of(plan, works=works))
    measured, planned = ({k: [*v] for k, v in each.data_source.data.items()} for each in chart.renderers)
    assert [each.glyph.marker for each in chart.renderers] == ["square", "circle"]
    assert (measured["x"], measured["y"]) == ([0, 1], [1.5, 0.5])
    flops = [plan.shards[0].flops, plan.shards[1].flops]
    assert planned["y"] == pytest.approx([2 * each / sum(flops) for each in flops])
    assert [item.label.value for item in chart.legend[0].items] == ["seconds, measured", "FLOPs, planned"]
    assert (chart.xaxis[0].axis_label.text, chart.yaxis[0].axis_label.text) == ("shard", "relative to the mean")


@pytest.mark.parametrize(
    ("longest", "unit", "length"), [(299, "seconds", 299), (300, "minutes", 5), (3 * 3600, "hours", 3)]
)
def test_the_timeline_has_a_lane_for_each_worker(longest: float, unit: str, length: float) -> None:
    works = [
        worked(3, 1000 + longest, longest, "node2:1", "b"),
        worked(4, 1000 + longest / 2, longest / 4, "node1:1", "a"),
        worked(5, 1000 + longest, longest / 4, "node1:1", "a"),
    ]
    chart = charts.timeline_chart(works)
    bars = source(chart)
    assert bars["lane"] == [1, 0, 0]
    assert bars["shard"] == [3, 4, 5]
    assert bars["start"] == pytest.approx([0, length / 4, length * 3 / 4])
    assert bars["stop"] == pytest.approx([length, length / 2, length])
    assert bars["device"] == ["b", "a", "a"]
    assert bars["colour"] == [OKABE_ITO[1], OKABE_ITO[0], OKABE_ITO[0]]
    assert chart.xaxis[0].axis_label.text == f"{unit} since the first shard began"
    assert chart.yaxis[0].major_label_overrides == {0: "node1:1", 1: "node2:1"}
    assert (chart.y_range.start, chart.y_range.end) == (1.5, -0.5)


def test_the_timeline_shows_forty_lanes_at_most() -> None:
    works = [worked(at, 100 + at, 5, f"n{at:03d}:1") for at in range(50)]
    assert sorted(source(charts.timeline_chart(works))["lane"]) == [*range(40)]


def test_the_map_has_a_point_for_each_row_in_each_colouring(done: RunLayout, tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("id,family\none,x\ntwo,y\n")
    facts = run_facts(read_plan(done.plan), done)
    land = landscape.landscape(facts, "pca", Column(tmp_path / "meta.csv", "family"))
    assert land is not None
    assert [colouring.title for colouring in land.colourings] == ["family", "length", "source file"]
    assert land.colourings[1].legend[0].label == "27 to 32 residues"
    assert [(entry.label, entry.num_points) for entry in land.colourings[2].legend] == [("x.fa", 3), ("y.fa", 2)]
    points = source(charts.map_chart(land, "residues"))
    assert points["name"] == [*NAMES]
    assert points["length"] == [27, 32, 37, 27, 32]
    assert np.array_equal(np.array([points["x"], points["y"]]).T, land.plane.points_N2.astype(np.float32))
    for number, colouring in enumerate(land.colourings):
        assert points[f"colour{number}"] == colouring.colours_N
        assert points[f"marker{number}"] == colouring.markers_N
    clicks = for_clicks(land)
    assert clicks["names"] == [*NAMES]
    assert clicks["descriptions"] == [f"about {name}" for name in NAMES]
    assert clicks["lengths"] == [27, 32, 37, 27, 32]
    assert clicks["places"] == land.neighbours.places_NK.tolist()
    cosines: Any = clicks["cosines"]
    np.testing.assert_allclose(cosines, land.neighbours.cosines_NK, atol=6e-4)
    assert all(len(repr(one)) <= 6 for row in cosines for one in row)


def test_fewer_than_three_vectors_make_no_map(done: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = run_facts(read_plan(done.plan), done)
    monkeypatch.setattr(landscape, "FEWEST", 6)
    assert landscape.landscape(facts, "pca", None) is None
    monkeypatch.setattr(landscape, "FEWEST", 5)
    assert landscape.landscape(facts, "pca", None) is not None


def test_umap_is_taken_where_it_is_there_and_the_points_are_enough(
    done: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts: RunFacts = run_facts(read_plan(done.plan), done)

    def method(asked: str) -> str:
        made = landscape.landscape(facts, asked, None)  # type: ignore[arg-type]
        assert made is not None
        return made.plane.method

    monkeypatch.setattr(landscape, "umap", lambda vectors_ND: Plane(vectors_ND[:, :2], "UMAP", ("1", "2")))
    assert [method(asked) for asked in ("auto", "pca", "umap")] == ["PCA", "PCA", "PCA"], "five points are few"
    monkeypatch.setattr(landscape, "FEWEST_FOR_UMAP", 5)
    assert [method(asked) for asked in ("auto", "pca", "umap")] == ["UMAP", "PCA", "UMAP"]

    def missing(_: object) -> Plane:
        raise ImportError("no umap")

    monkeypatch.setattr(landscape, "umap", missing)
    assert [method(asked) for asked in ("auto", "pca")] == ["PCA", "PCA"]
    with pytest.raises(EnvironmentFault, match="umap is not installed"):
        method("umap")


def test_groups_have_colours_shapes_and_signs_of_their_own() -> None:
    made = by_group("t", ["b", "a", "b", ""])
    assert made.title == "t"
    assert made.colours_N == [OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[0], OTHERS[0]]
    assert made.markers_N == [MARKERS[0], MARKERS[1], MARKERS[0], OTHERS[1]]
    large = [("b", OKABE_ITO[0], SIGNS[0], 2), ("a", OKABE_ITO[1], SIGNS[1], 1)]
    assert made.legend == [*large, ("none", OTHERS[0], OTHERS[2], 1)]


def test_equally_large_groups_come_by_name_and_seven_are_shown() -> None:
    made = by_group("t", [*"hgfedcba"])
    assert [entry.label for entry in made.legend] == [*"abcdefg", "1 other groups, or none"]


def test_numbers_run_from_dark_to_light() -> None:
    made = by_number("t", [1.0, 2.0, None, 1234.5], unit=" m")
    assert made.colours_N == [VIRIDIS[0], VIRIDIS[3], OTHERS[0], VIRIDIS[6]]
    assert made.markers_N == [MARKERS[0], MARKERS[0], OTHERS[1], MARKERS[0]]
    assert made.legend == [
        ("1 to 2 m", VIRIDIS[0], SIGNS[0], 1),
        ("2 to 1234 m", VIRIDIS[3], SIGNS[0], 1),
        ("1234 to 1234 m", VIRIDIS[6], SIGNS[0], 1),
        ("none", OTHERS[0], OTHERS[2], 1),
    ]
    assert by_number("t", [None, None]).legend == [("none", OTHERS[0], OTHERS[2], 2)]


def test_infinities_and_words_are_no_numbers() -> None:
    values = [*map(str, range(8)), "inf"]
    assert len(by_value("t", values).legend) == 8, "groups"
    assert by_value("t", [*map(str, range(8)), ""]).legend[-1].label == "none"
    assert by_value("t", [*map(str, range(8))]).legend[0].label == "0 to 1"
    assert by_value("t", [*map(str, range(7))]).legend[0].label == "0"
