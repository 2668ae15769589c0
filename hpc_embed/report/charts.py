"""The figures, as Bokeh draws them. All text from outside goes into them as data or through `plain`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, PlainText, Range1d, TapTool
from bokeh.plotting import figure
from numpy.typing import NDArray

from hpc_embed.report.colours import OKABE_ITO
from hpc_embed.report.facts import RunFacts, Work
from hpc_embed.report.landscape import Landscape

Figure = Any
"""Bokeh's; it is no dependency of those who only check types."""
WIDTH = 700
MOST_BINS = 40
MOST_LANES = 40
INK = "#333333"


def plain(text: str, most: int = 48) -> str:
    """Short, on one line, and not TeX, which Bokeh would want to fetch a library for."""
    line = " ".join(text.replace("$$", "$ $").split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def length_chart(lengths_N: NDArray[np.int64], unit: str) -> Figure:
    """How many records are how long, in bins of equal ratio."""
    longest, shortest = max(int(lengths_N.max()), 2), max(int(lengths_N.min()), 1)
    edges = np.unique(np.geomspace(shortest, max(longest, shortest + 1) + 1, MOST_BINS + 1).round())
    counts = np.histogram(np.maximum(lengths_N, 1), edges)[0]
    chart = _figure("length in " + unit, "records", 220, x_axis_type="log")
    chart.quad(left=edges[:-1], right=edges[1:], top=counts, bottom=0, fill_color=OKABE_ITO[0], line_color="white")
    chart.y_range.start = 0
    return chart


def balance_chart(facts: RunFacts) -> Figure:
    """Work of each shard as it was planned, and its time as it was measured, against the mean."""
    chart = _figure("shard", "relative to the mean", 220)
    shards = [work.shard for work in facts.works]
    planned = np.array([facts.plan.shards[shard].flops for shard in shards], dtype=np.float64)
    measured = np.array([work.facts.seconds for work in facts.works])
    for values, colour, marker, label in (
        (measured, OKABE_ITO[5], "square", "seconds, measured"),
        (planned, OKABE_ITO[0], "circle", "FLOPs, planned"),
    ):
        chart.scatter(
            shards,
            values / max(values.mean(), 1e-12),
            marker=marker,
            size=7,
            fill_color=colour,
            line_color=INK,
            line_width=0.5,
            legend_label=label,
        )
    chart.y_range.start = 0
    chart.legend.orientation = "horizontal"
    chart.add_layout(chart.legend[0], "above")
    return chart


def timeline_chart(works: Sequence[Work]) -> Figure:
    """A lane for each worker, a bar for the try that finished a shard."""
    begin = min(work.started for work in works)
    longest = max(work.ended for work in works) - begin
    seconds, unit = (1, "seconds") if longest < 300 else (60, "minutes") if longest < 3 * 3600 else (3600, "hours")
    lanes = sorted({work.facts.process for work in works})[:MOST_LANES]
    devices = sorted({work.facts.device for work in works})
    shown = [work for work in works if work.facts.process in lanes]
    source = ColumnDataSource(
        {
            "lane": [lanes.index(work.facts.process) for work in shown],
            "start": [(work.started - begin) / seconds for work in shown],
            "stop": [(work.ended - begin) / seconds for work in shown],
            "shard": [work.shard for work in shown],
            "device": [plain(work.facts.device) for work in shown],
            "colour": [OKABE_ITO[devices.index(work.facts.device) % len(OKABE_ITO)] for work in shown],
        }
    )
    chart = _figure(f"{unit} since the first shard began", "", 60 + 22 * len(lanes))
    chart.hbar(y="lane", left="start", right="stop", height=0.7, fill_color="colour", line_color=INK, source=source)
    chart.y_range = Range1d(len(lanes) - 0.5, -0.5)
    chart.yaxis.ticker = list(range(len(lanes)))
    chart.yaxis.major_label_overrides = {at: plain(lane, 28) for at, lane in enumerate(lanes)}
    return chart


def map_chart(land: Landscape, unit: str) -> Figure:
    """A point for each row of the sample, in the columns `colour0`, `marker0` and so on for each colouring."""
    columns: dict[str, object] = {
        "x": land.plane.points_N2[:, 0].astype(np.float32),
        "y": land.plane.points_N2[:, 1].astype(np.float32),
        "name": [plain(row.name) for row in land.sample.rows_N],
        "length": [row.length for row in land.sample.rows_N],
    }
    for number, colouring in enumerate(land.colourings):
        columns |= {f"colour{number}": colouring.colours_N, f"marker{number}": colouring.markers_N}
    chart = _figure(*land.plane.axes, 520, tools="pan,wheel_zoom,box_zoom,reset,save")
    points = chart.scatter(
        "x",
        "y",
        source=ColumnDataSource(columns),
        marker="marker0",
        fill_color="colour0",
        line_color=INK,
        line_width=0.4,
        size=7,
        nonselection_alpha=0.2,
        nonselection_line_alpha=0.2,
        name="renderer",
    )
    chart.add_tools(
        TapTool(renderers=[points]), HoverTool(renderers=[points], tooltips=[("", "@name"), ("", f"@length {unit}")])
    )
    return chart


def _figure(across: str, upwards: str, height: int, *, tools: str = "", **options: object) -> Figure:
    chart = figure(width=WIDTH, height=height, tools=tools, toolbar_location="above" if tools else None, **options)
    chart.toolbar.logo = None
    chart.xaxis.axis_label, chart.yaxis.axis_label = PlainText(text=across), PlainText(text=upwards)
    chart.axis.axis_label_text_font_style = "normal"
    chart.axis.axis_label_text_color = chart.axis.major_label_text_color = INK
    chart.background_fill_color = chart.border_fill_color = "white"
    return chart
