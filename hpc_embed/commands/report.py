"""`hpc-embed report`: one HTML file that tells what a run did, while it runs too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpc_embed.commands.printing import print_json, print_line
from hpc_embed.config import OutputSettings, ReportSettings, RunSettings
from hpc_embed.errors import EnvironmentFault
from hpc_embed.progress import note
from hpc_embed.run.faults import reason
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan, read_plan

if TYPE_CHECKING:
    from hpc_embed.report.landscape import Method
    from hpc_embed.report.metadata import Column


def run(where: RunSettings, settings: ReportSettings, output: OutputSettings) -> int:
    """Make it, and tell where it is."""
    from hpc_embed.report.metadata import parse_column

    colour_by = parse_column(settings.colour_by) if settings.colour_by else None
    layout = RunLayout(Path(where.run_dir))
    report = _make(read_plan(layout.plan), layout, settings.map, colour_by)
    if output.json:
        print_json({"report": str(report)})
    else:
        print_line(f"report {report}")
    return 0


def try_report(plan: Plan, layout: RunLayout) -> Path | None:
    """The report beside a dataset; None, and a note, where it cannot be made.

    Whatever goes wrong here is caught: the dataset is whole and published, and nobody's job may fail for a picture.
    """
    try:
        return _make(plan, layout, "pca", None)
    except EnvironmentFault as error:
        note(f"no report: {error}")
    except Exception as error:
        note(f"no report ({type(error).__name__}: {reason(error)}); the dataset is whole.")
    return None


def _make(plan: Plan, layout: RunLayout, method: Method, colour_by: Column | None) -> Path:
    try:
        from hpc_embed.report.page import make_report
    except ImportError as error:
        raise EnvironmentFault("bokeh is not installed.", remedy="pip install 'bokeh>=3.4'") from error
    return make_report(plan, layout, method, colour_by)
