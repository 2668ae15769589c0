"""report.html: the page around figures and tables. Jinja escapes all text, JSON cannot end its script element, and the
page's own policy forbids every script but ours and every request to a network.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bokeh.embed import json_item
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined

from hpc_embed import __version__
from hpc_embed.report import charts, tables
from hpc_embed.report.devices import device_works
from hpc_embed.report.facts import RunFacts, run_facts
from hpc_embed.report.landscape import Landscape, Method, for_clicks, landscape
from hpc_embed.report.metadata import Column
from hpc_embed.report.records import look_at_records
from hpc_embed.report.repeating import command_to_repeat
from hpc_embed.run.files import write_whole
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan

TEMPLATE, SCRIPT = "report.html", "report.js"


def make_report(plan: Plan, layout: RunLayout, method: Method, colour_by: Column | None) -> Path:
    """Write report.html for what is there of the run."""
    facts = run_facts(plan, layout)
    land = landscape(facts, method, colour_by) if facts.is_gathered else None
    content = _page(facts, land).encode("utf-8")
    write_whole(layout.report, lambda file: _write(file, content))
    return layout.report


def _write(file: Any, content: bytes) -> None:
    file.write(content)


def _page(facts: RunFacts, land: Landscape | None) -> str:
    loader = PackageLoader("hpc_embed.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh defines a model where it is named first
    environment.filters["format_number"] = "{:,}".format
    records, works = look_at_records(facts), device_works(facts)
    unit = "bases" if facts.plan.kind == "dna" else "residues"
    scripts = [*Resources(mode="inline", components=["bokeh"]).js_raw, environment.get_template(SCRIPT).render()]
    text = environment.get_template(TEMPLATE).render(
        facts=facts,
        plan=facts.plan,
        land=land,
        works=works,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        command=command_to_repeat(facts.plan, str(facts.layout.root)),
        records=records,
        tables=tables,
        unit=unit,
        charts=_charts(facts, land, records.lengths_N, unit),
        clicks=for_clicks(land) if land else None,
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
    )
    return str(text)


def _charts(facts: RunFacts, land: Landscape | None, lengths_N: Any, unit: str) -> dict[str, Any]:
    """By the id of their place on the page."""
    made = {"lengths": charts.length_chart(lengths_N, unit)}
    if facts.works:
        made |= {"balance": charts.balance_chart(facts), "timeline": charts.timeline_chart(facts.works)}
    if land:
        made["map"] = charts.map_chart(land, unit)
    return {name: json_item(chart, name) for name, chart in made.items()}


def _hash(script: str) -> str:
    """As a content security policy names a script."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
