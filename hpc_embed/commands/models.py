"""`hpc-embed models`: what --model takes."""

from __future__ import annotations

from dataclasses import asdict

from hpc_embed.commands.printing import print_json, print_line, print_table
from hpc_embed.config import ModelSettings, OutputSettings
from hpc_embed.registry import models
from hpc_embed.run.explanation import explain


def run(settings: ModelSettings, output: OutputSettings) -> int:
    """Print the registry, or what one checkpoint is taken for."""
    if settings.explain is not None:
        return _explain(settings.explain, output)
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
    print_line("hf:ORG/NAME runs any encoder that transformers knows.")
    print_line("NAME:untrained gives the true shape with random weights, for trying things out.")
    print_line("--json tells poolings, weights and papers, too.")
    print_line("--explain FOLDER or ORG/NAME says what a checkpoint is taken for, and why.")
    return 0


def _explain(name: str, output: OutputSettings) -> int:
    facts = explain(name)
    if output.json:
        print_json(facts)
    else:
        print_table((), [(heading, text) for heading, text in facts.items() if text])
    return 0
