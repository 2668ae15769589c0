"""The map of a sample of the vectors: points, colourings and nearest neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from hpc_embed.errors import EnvironmentFault
from hpc_embed.report.colours import Colouring, by_group, by_number, by_value
from hpc_embed.report.facts import RunFacts
from hpc_embed.report.metadata import Column, read_values
from hpc_embed.report.projection import Neighbours, Plane, nearest, pca, umap
from hpc_embed.report.sample import Sample, draw_sample

Method = Literal["auto", "pca", "umap"]
FEWEST = 3
"""Points that make a map."""
FEWEST_FOR_UMAP = 10
MOST_CHARACTERS = 60


class Landscape(NamedTuple):
    """What is drawn."""

    sample: Sample
    plane: Plane
    neighbours: Neighbours
    colourings: list[Colouring]
    """The first is shown first."""


def landscape(facts: RunFacts, method: Method, colour_by: Column | None) -> Landscape | None:
    """None where the dataset has too few vectors; EnvironmentFault where UMAP is asked for and not installed."""
    sample = draw_sample(facts.layout)
    if len(sample.rows_N) < FEWEST:
        return None
    colourings = _colourings(facts, sample, colour_by)
    return Landscape(sample, _plane(sample, method), nearest(sample.vectors_ND), colourings)


def _plane(sample: Sample, method: Method) -> Plane:
    if method == "pca" or len(sample.rows_N) < FEWEST_FOR_UMAP:
        return pca(sample.vectors_ND)
    try:
        return umap(sample.vectors_ND)
    except ImportError as error:
        if method == "umap":
            raise EnvironmentFault("umap is not installed.", remedy="pip install umap-learn") from error
        return pca(sample.vectors_ND)


def _colourings(facts: RunFacts, sample: Sample, colour_by: Column | None) -> list[Colouring]:
    unit = "bases" if facts.plan.kind == "dna" else "residues"
    colourings = [by_number("length", [float(row.length) for row in sample.rows_N], unit=f" {unit}")]
    if len(facts.plan.inputs) > 1:
        names = [Path(file.path).name for file in facts.plan.inputs]
        colourings.append(by_group("source file", [names[row.source] for row in sample.rows_N]))
    if colour_by:
        values = read_values(colour_by, [row.id for row in sample.rows_N])
        colourings.insert(0, by_value(colour_by.name, values))
    return colourings


def for_clicks(land: Landscape) -> dict[str, object]:
    """What the page looks up for the point that was chosen, by its place."""
    rows_N = land.sample.rows_N
    return {
        "names": [row.name[:MOST_CHARACTERS] for row in rows_N],
        "descriptions": [row.description[:MOST_CHARACTERS] for row in rows_N],
        "lengths": [row.length for row in rows_N],
        "places": land.neighbours.places_NK.tolist(),
        "cosines": np.round(land.neighbours.cosines_NK.astype(np.float64), 3).tolist(),
    }
