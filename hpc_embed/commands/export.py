"""`hpc-embed export`: the dataset in the form that the next tool reads."""

from __future__ import annotations

from pathlib import Path

from hpc_embed.commands.printing import print_json, print_line
from hpc_embed.config import ExportSettings, OutputSettings
from hpc_embed.reading.export import export


def run(settings: ExportSettings, output: OutputSettings) -> int:
    """Write it, and tell what was written."""
    target = Path(settings.output or f"embeddings-{settings.to}")
    made = export(Path(settings.dataset), settings.to, target, settings.numbers, settings.column)
    if output.json:
        print_json(made._asdict())
        return 0
    print_line(
        f"{made.num_rows:,} vectors of dimension {made.dimension}, {made.dtype}, of {made.num_records:,} records"
    )
    if made.num_without_vector:
        print_line(f"{made.num_without_vector:,} records have none: see status in {made.folder}/ids.tsv")
    if made.largest_rounding:
        print_line(f"rounding to {made.dtype} took at most {made.largest_rounding:.1e} of a vector's length")
    print_line(f"written to {made.folder}")
    return 0
