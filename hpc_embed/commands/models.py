"""`hpc-embed models`: what --model takes."""

from __future__ import annotations

from dataclasses import asdict

from hpc_embed.commands.printing import print_json, print_line, print_table
from hpc_embed.config import OutputSettings
from hpc_embed.registry import models


def run(output: OutputSettings) -> int:
    """Print the registry."""
    known = models().values()
    if output.json:
        print_json([asdict(model) for model in known])
        return 0
    print_table(
        ("name", "for", "dimension", "window", "parameters", "licence"),
        [
            (
                model.name,
                model.kind,
                model.dimension,
                model.max_residues or "any",
                f"{model.num_parameters / 1e6:,.0f} M" if model.num_parameters else "none",
                model.licence or "-",
            )
            for model in known
        ],
    )
    print()
    print_line("composition, the default, is aa_composition or tetranucleotide, as the input is.")
    print_line("hf:ORG/NAME runs any encoder that transformers knows, in padded batches: slow.")
    print_line("NAME:untrained gives the true shape with random weights, for trying things out.")
    print_line("--json tells poolings, weights and papers, too.")
    return 0
