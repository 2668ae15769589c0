"""The report's tables, cell by cell."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.planning.planner import make_plan
from hpc_embed.report import tables
from hpc_embed.report.devices import DeviceWork
from hpc_embed.report.facts import RunFacts, Work
from hpc_embed.report.projection import Neighbours
from hpc_embed.report.records import Example, Records
from hpc_embed.report.sample import Row
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import Failure, WorkFacts
from hpc_embed.run.plan import Plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "in.fa").write_text(">a\nMKVLAAGIVGWYVT\n>b\nMWYVTEEEE\n")
    settings = PlanSettings(fasta=(str(folder / "in.fa"),), num_shards=2, force_kind=True, max_residues=10)
    return make_plan(settings, RunLayout(folder / "run")).plan


def worked(shard: int, ended: float, seconds: float, process: str, device: str = "cpu", **facts: Any) -> Work:
    made = WorkFacts(
        device=device,
        precision="fp32",
        versions=facts.get("versions", {"numpy": "2.4"}),
        process=process,
        seconds=seconds,
        num_tokens=100,
        num_windows_computed=1,
        tokens_per_second=10.0,
        padding_efficiency=1.0,
        token_budget=facts.get("token_budget", 512),
        peak_memory_bytes=1 << 20,
        canary="",
    )
    return Work(shard, ended, 1e9, 100, made)


def facts_of(plan: Plan, **known: Any) -> RunFacts:
    made = RunFacts(plan, RunLayout(Path("run")), 0, 0, 0, [], [], Counter(), {}, False)
    return made._replace(**known)


def as_dict(rows: Sequence[Sequence[str]]) -> dict[str, str]:
    return {name: value for name, value in rows}  # noqa: C416


def test_records_by_status_with_their_shares(plan: Plan) -> None:
    statuses = {"skipped": 250, "embedded": 1750}
    table = tables.status_table(facts_of(plan, statuses=statuses, is_gathered=True))
    assert table.caption == "2,000 records as gathered"
    assert table.headings == ("status", "records", "share")
    assert table.rows == [("embedded", "1,750", "87.5%"), ("skipped", "250", "12.5%")]
    assert tables.status_table(facts_of(plan, statuses={})).caption == ("0 records as planned; nothing is gathered yet")
    assert tables.status_table(facts_of(plan, statuses={"failed": 0})).rows == [("failed", "0", "0.0%")]


RECORDS = Records(
    np.arange(1, 1002, dtype=np.int64) * 3,
    Counter({("skipped", "empty"): 1200, ("failed", "x" * 300): 7}),
    [Example("y" * 201, "skipped", "z" * 200)],
)


def test_reasons_come_most_frequent_first_and_are_cut(plan: Plan) -> None:
    table = tables.reason_table(RECORDS)
    assert table.caption == "Why records have no vector, of 1,001 looked at"
    assert table.headings == ("status", "reason", "records")
    assert table.rows == [("skipped", "empty", "1,200"), ("failed", "x" * 199 + "…", "7")]


def test_examples_are_named_and_cut() -> None:
    table = tables.example_table(RECORDS)
    assert (table.caption, table.headings) == ("The first 1 of them", ("id", "status", "reason"))
    assert table.rows == [("y" * 199 + "…", "skipped", "z" * 200)]


def test_what_failed_and_how_often(plan: Plan) -> None:
    failures = [Failure(shard="shard-00003", reason="r" * 400, tries=2)]
    windows = Counter({f"reason {number}": 1000 + number for number in range(30)})
    table = tables.failure_table(facts_of(plan, failures=failures, failed_windows=windows))
    assert (table.caption, table.headings) == ("What failed", ("what", "how often", "why"))
    assert table.rows[0] == ("shard-00003", "failed 2 times", "r" * 199 + "…")
    assert table.rows[1] == ("windows", "1,029 failed", "reason 29")
    assert len(table.rows) == 21


def test_lengths_by_share() -> None:
    table = tables.length_table(RECORDS, "bases")
    assert (table.caption, table.headings) == ("Lengths of 1,001 records", ("share of the records", "bases"))
    assert table.rows == [
        ("shortest", "3"),
        ("a quarter, up to", "753"),
        ("half, up to", "1,503"),
        ("nine tenths, up to", "2,703"),
        ("longest", "3,003"),
    ]


DEVICE = DeviceWork(
    device="NVIDIA H100",
    precision="bf16",
    num_shards=1200,
    num_tokens=3_000_000,
    hours=1.5,
    predicted_hours=None,
    tokens_per_second=12345.6,
    padding_efficiency=0.987,
    share_of_peak=0.4567,
    peak_memory_bytes=3 << 30,
    num_canaries=1100,
    num_different_canaries=1001,
    num_odd_canaries=0,
)


def test_each_kind_of_device_is_a_column() -> None:
    slow = DEVICE._replace(
        device="d" * 300, hours=0.05, predicted_hours=0.0001, share_of_peak=None, num_odd_canaries=1002
    )
    table = tables.device_table([DEVICE, slow])
    assert table.caption == "By device"
    assert [*table.headings] == ["measure", "NVIDIA H100, bf16", "d" * 199 + "…"]
    assert table.rows == [
        ("shards", "1,200", "1,200"),
        ("tokens", "3,000,000", "3,000,000"),
        ("tokens/s of one worker", "12,346", "12,346"),
        ("padding efficiency", "98.7%", "98.7%"),
        ("share of the device's peak", "45.7%", "not known"),
        ("device-hours, measured", "1.50 h", "3 min"),
        ("device-hours, by the plan's cost model", "not known", "0.36 s"),
        ("peak memory", "3.0 GiB", "3.0 GiB"),
        ("canaries", "1,100, of which 1,001 different", "1,100, of which 1,001 different"),
        ("canaries beyond the bound", "none", "1,002 ODD"),
    ]


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        (1234.5, "1,234.50 h"),
        (0.1, "0.10 h"),
        (0.0999, "6 min"),
        (10 / 3600, "10 s"),
        (9.9 / 3600, "9.9 s"),
        (89.99 / 3600, "90 s"),
    ],
)
def test_hours_are_told_in_the_unit_that_fits(hours: float, told: str) -> None:
    rows = as_dict(tables.device_table([DEVICE._replace(hours=hours)]).rows)
    assert rows["device-hours, measured"] == told


def test_each_worker_is_a_line_with_its_own_shards_times_and_device(plan: Plan) -> None:
    day = 1_700_000_000
    works = [
        worked(0, day + 100, 90, "node2:7", "NVIDIA H100"),
        worked(1, day + 400, 60, "node1:9"),
        worked(2, day + 250, 30, "node1:9", "other"),
        worked(3, day + 900, 700, "node2:7", "NVIDIA H100"),
    ]
    table = tables.worker_table(facts_of(plan, works=works))
    assert table.caption == "By worker"
    assert table.headings == ("host and process", "device", "shards", "at work", "began", "ended")
    assert table.rows == [
        ("node1:9", "cpu", "2", "2 min", "2023-11-14 22:17:00 UTC", "2023-11-14 22:20:00 UTC"),
        ("node2:7", "NVIDIA H100", "2", "13 min", "2023-11-14 22:13:30 UTC", "2023-11-14 22:28:20 UTC"),
    ]


def test_times_are_those_of_greenwich_wherever_the_report_is_made(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        ((*_, began, ended),) = tables.worker_table(facts_of(plan, works=[worked(0, 3600, 60, "n:1")])).rows
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (began, ended) == ("1970-01-01 00:59:00 UTC", "1970-01-01 01:00:00 UTC")


def test_the_nearest_of_a_row_are_named_with_their_cosines() -> None:
    rows = [Row(name, name, "", length, 0) for name, length in (("a", 1200), ("b" * 50, 5), ("c", 7))]
    near = Neighbours(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[0.99951, 0.5], [1, 0.25], [0.5, -0.25]]))
    table = tables.neighbour_table(rows, near)
    assert table.caption == "3 sampled and their nearest, with cosines"
    assert table.headings == ("id", "length", "nearest in the sample")
    short = "b" * 39 + "…"
    assert table.rows == [
        ("a", "1,200", f"{short} (1.000), c (0.500)"),
        (short, "5", "a (1.000), c (0.250)"),
        ("c", "7", f"a (0.500), {short} (-0.250)"),
    ]


def test_every_setting_of_the_plan_stands_under_its_name(plan: Plan) -> None:
    works = [
        worked(0, 10, 1, "n:1", token_budget=900, versions={"torch": "2.13", "numpy": "2.4"}),
        worked(1, 10, 1, "n:1", token_budget=512, versions={"numpy": "2.4"}),
    ]
    table = tables.setting_table(facts_of(plan, works=works))
    assert (table.caption, table.headings) == ("plan.json, and what the workers used", ("setting", "value"))
    cells = as_dict(table.rows)
    assert len(cells) == len(table.rows)
    assert cells["fingerprint"] == plan.fingerprint
    assert cells["model.name"] == "aa_composition"
    assert cells["embedding.max_residues"] == "10"
    assert cells["embedding.stride"] == "none"
    assert cells["inputs[0].path"] == plan.inputs[0].path
    assert cells["inputs[0].num_records"] == "2"
    assert cells["num_shards"] == "2"
    assert cells["versions of the workers"] == "numpy 2.4, torch 2.13"
    assert cells["token budgets"] == "512, 900"
    assert not [name for name in cells if name.startswith(("shards", "."))]


def test_a_plan_of_many_inputs_lists_fifty_and_says_how_many_more(plan: Plan) -> None:
    many = replace(plan, inputs=plan.inputs * 1051)
    rows = tables.setting_table(facts_of(many)).rows
    assert ("inputs", "and 1,001 more") in rows
    assert sum(name.endswith("].path") for name, _ in rows) == 50
    exactly = tables.setting_table(facts_of(replace(plan, inputs=plan.inputs * 50))).rows
    assert "inputs" not in as_dict(exactly)


def test_layers_and_other_lists_of_plain_values_are_one_cell(plan: Plan) -> None:
    several = replace(plan, embedding=replace(plan.embedding, layer=(6, 0)))
    assert as_dict(tables.setting_table(facts_of(several)).rows)["embedding.layer"] == "(6, 0)"


def test_a_cell_is_cut_where_it_is_too_long_and_not_before() -> None:
    assert tables.cell("x" * 200) == "x" * 200
    assert tables.cell("x" * 201) == "x" * 199 + "…"
    assert tables.cell("abcd", 3) == "ab…"
