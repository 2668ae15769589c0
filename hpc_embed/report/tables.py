"""The report's words and tables, as text that the page shows as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from hpc_embed.report.devices import DeviceWork
from hpc_embed.report.facts import RunFacts
from hpc_embed.report.projection import Neighbours
from hpc_embed.report.records import Records
from hpc_embed.report.sample import Row
from hpc_embed.units import format_bytes, format_seconds

MOST_INPUTS = 50
MOST_CHARACTERS = 200
"""Of one cell: a header may be as long as a genome."""


class Table(NamedTuple):
    """Headings and rows; every cell is text."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def status_table(facts: RunFacts) -> Table:
    """Records by status."""
    total = sum(facts.statuses.values())
    rows = [(status, f"{count:,}", f"{count / max(total, 1):.1%}") for status, count in sorted(facts.statuses.items())]
    state = "as gathered" if facts.is_gathered else "as planned; nothing is gathered yet"
    return Table(f"{total:,} records {state}", ("status", "records", "share"), rows)


def reason_table(records: Records) -> Table:
    """Why records have no vector."""
    counts = records.reasons.most_common()
    rows = [(status, cell(reason), f"{count:,}") for (status, reason), count in counts]
    return Table(
        f"Why records have no vector, of {len(records.lengths_N):,} looked at", ("status", "reason", "records"), rows
    )


def example_table(records: Records) -> Table:
    """The first of them."""
    rows = [(cell(one.id), one.status, cell(one.reason)) for one in records.examples]
    return Table(f"The first {len(rows)} of them", ("id", "status", "reason"), rows)


def failure_table(facts: RunFacts) -> Table:
    """Shards that failed, and windows that failed in shards that are done."""
    rows = [(one.shard, f"failed {one.tries} times", cell(one.reason)) for one in facts.failures]
    rows += [("windows", f"{count:,} failed", cell(reason)) for reason, count in facts.failed_windows.most_common(20)]
    return Table("What failed", ("what", "how often", "why"), rows)


def length_table(records: Records, unit: str) -> Table:
    """Quantiles."""
    names = {"shortest": 0, "a quarter, up to": 25, "half, up to": 50, "nine tenths, up to": 90, "longest": 100}
    rows = [(name, f"{np.percentile(records.lengths_N, share):,.0f}") for name, share in names.items()]
    return Table(f"Lengths of {len(records.lengths_N):,} records", ("share of the records", unit), rows)


def device_table(works: Sequence[DeviceWork]) -> Table:
    """Speed, hours and canaries, a column for each kind of device."""
    measures: dict[str, Callable[[DeviceWork], str]] = {
        "shards": lambda one: f"{one.num_shards:,}",
        "tokens": lambda one: f"{one.num_tokens:,}",
        "tokens/s of one worker": lambda one: f"{one.tokens_per_second:,.0f}",
        "padding efficiency": lambda one: f"{one.padding_efficiency:.1%}",
        "share of the device's peak": lambda one: _known(one.share_of_peak, "{:.1%}".format),
        "device-hours, measured": lambda one: _hours(one.hours),
        "device-hours, by the plan's cost model": lambda one: _known(one.predicted_hours, _hours),
        "peak memory": lambda one: format_bytes(one.peak_memory_bytes),
        "canaries": lambda one: f"{one.num_canaries:,}, of which {one.num_different_canaries:,} different",
        "canaries beyond the bound": lambda one: f"{one.num_odd_canaries:,} ODD" if one.num_odd_canaries else "none",
    }
    headings = ["measure", *(cell(f"{one.device}, {one.precision}") for one in works)]
    return Table("By device", headings, [(name, *map(tell, works)) for name, tell in measures.items()])


def worker_table(facts: RunFacts) -> Table:
    """The timeline in words."""
    rows = []
    for process in sorted({work.facts.process for work in facts.works}):
        works = [work for work in facts.works if work.facts.process == process]
        seconds = format_seconds(sum(work.facts.seconds for work in works))
        started, ended = min(work.started for work in works), max(work.ended for work in works)
        rows.append(
            (cell(process), cell(works[0].facts.device), str(len(works)), seconds, _clock(started), _clock(ended))
        )
    return Table("By worker", ("host and process", "device", "shards", "at work", "began", "ended"), rows)


def neighbour_table(rows_N: Sequence[Row], neighbours: Neighbours) -> Table:
    """The nearest of every row of the sample."""
    rows = []
    for row, places, cosines in zip(rows_N, neighbours.places_NK, neighbours.cosines_NK, strict=True):
        near = (f"{cell(rows_N[at].name, 40)} ({cosine:.3f})" for at, cosine in zip(places, cosines, strict=True))
        rows.append((cell(row.name, 40), f"{row.length:,}", ", ".join(near)))
    return Table(
        f"{len(rows):,} sampled and their nearest, with cosines", ("id", "length", "nearest in the sample"), rows
    )


def setting_table(facts: RunFacts) -> Table:
    """Everything in plan.json."""
    plan = replace(facts.plan, shards=(), inputs=facts.plan.inputs[:MOST_INPUTS])
    content = {name: value for name, value in asdict(plan).items() if name != "shards"}
    rows = [*_flat("", content), ("num_shards", f"{len(facts.plan.shards)}")]
    if (num_more := len(facts.plan.inputs) - MOST_INPUTS) > 0:
        rows.append(("inputs", f"and {num_more:,} more"))
    versions = {f"{name} {version}" for work in facts.works for name, version in work.facts.versions.items()}
    rows.append(("versions of the workers", cell(", ".join(sorted(versions)))))
    rows.append(("token budgets", ", ".join(map(str, sorted({work.facts.token_budget for work in facts.works})))))
    return Table("plan.json, and what the workers used", ("setting", "value"), rows)


def cell(text: str, most: int = MOST_CHARACTERS) -> str:
    """Text of bounded length."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _flat(prefix: str, content: object) -> list[tuple[str, str]]:
    if isinstance(content, dict):
        return [row for name, value in content.items() for row in _flat(f"{prefix}.{name}".lstrip("."), value)]
    if isinstance(content, list | tuple) and any(isinstance(each, dict) for each in content):
        return [row for at, value in enumerate(content) for row in _flat(f"{prefix}[{at}]", value)]
    return [(prefix, cell("none" if content is None else str(content)))]


def _known(number: float | None, tell: Callable[[float], str]) -> str:
    return "not known" if number is None else tell(number)


def _hours(hours: float) -> str:
    seconds = hours * 3600
    return f"{hours:,.2f} h" if hours >= 0.1 else format_seconds(seconds) if seconds >= 10 else f"{seconds:.2g} s"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
