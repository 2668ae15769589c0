"""`hpc-embed models`: what --model takes."""

from __future__ import annotations

from dataclasses import asdict

from hpc_embed.commands.printing import print_json, print_table
from hpc_embed.config import OutputSettings
from hpc_embed.registry import models


def run(output: OutputSettings) -> int:
    """Print the registry."""
    known = models().values()
    if output.json:
        print_json([asdict(model) for model in known])
        return 0
    print_table(
        ("name", "for", "dimension", "window", "pooling", "parameters", "weights", "licence", "source"),
        [
            (
                model.name,
                model.kind,
                model.dimension,
                model.max_residues or "any",
                model.pooling,
                f"{model.num_parameters / 1e6:,.0f} M" if model.num_parameters else "none",
                model.hub or "none needed",
                model.licence or "-",
                model.reference,
            )
            for model in known
        ],
    )
    print("\ncomposition (the default) stands for aa_composition or tetranucleotide, whichever fits the input.")
    print("hf:ORG/NAME runs any encoder that transformers knows natively, in padded batches: the slow path.")
    print("NAME:untrained gives a transformer of the true shape with random weights, for trying things out.")
    return 0
