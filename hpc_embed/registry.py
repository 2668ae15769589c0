"""The models by name: facts only, so that planning and help never import torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Literal

from hpc_embed.errors import UsageError

Kind = Literal["protein", "dna"]

ENTRY_POINT_GROUP = "hpc_embed.models"
"""Another package adds a model by an entry point of this group that names a `Model`."""

PER_TOKEN = "per_token"
"""No pooling: a vector for each token, special ones left out; for ESM-2 a token is a residue."""
POOLINGS = ("mean", "mean_with_special", "cls", "max", PER_TOKEN)
"""The poolings that the transformer families share; see docs/vectors.md for what each covers."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What planning must know of a model, and which worker runs it."""

    name: str
    family: str
    kind: Kind
    worker: str
    """Where the worker class is, as `module:class`."""
    dimension: int
    """Length of the vector."""
    max_residues: int | None
    """Longest window in residues or bases, None for no limit."""
    pooling: str
    """The authors' own pooling, the default."""
    poolings: tuple[str, ...]
    known_letters: str
    """The upper-case letters that the model tells apart."""
    num_layers: int = 0
    hidden: int = 0
    feed_forward_weights: int = 0
    """Weights of one layer's feed-forward part."""
    num_parameters: int = 0
    residues_per_token: float = 1.0
    hub: str | None = None
    """The published checkpoint; None for a model without weights."""
    licence: str = ""
    reference: str = ""

    @property
    def has_weights(self) -> bool:
        return self.hub is not None


ESM2_LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
DNA_LETTERS = "ACGT"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def _esm2(size: str, layers: int, hidden: int, parameters: int) -> Model:
    return Model(
        name=f"esm2_t{layers}_{size}",
        family="esm2",
        kind="protein",
        worker="hpc_embed.workers.esm2:Esm2Worker",
        dimension=hidden,
        max_residues=1022,
        pooling="mean",
        poolings=POOLINGS,
        known_letters=ESM2_LETTERS,
        num_layers=layers,
        hidden=hidden,
        feed_forward_weights=2 * hidden * 4 * hidden,
        num_parameters=parameters,
        hub=f"facebook/esm2_t{layers}_{size}_UR50D",
        licence="MIT",
        reference="Lin et al., Science 2023",
    )


def _dnabert(name: str, hub: str, reference: str) -> Model:
    return Model(
        name=name,
        family="dnabert",
        kind="dna",
        worker="hpc_embed.workers.dnabert:DnaBertWorker",
        dimension=768,
        max_residues=10_000,
        pooling="mean_with_special",
        poolings=POOLINGS,
        known_letters=DNA_LETTERS,
        num_layers=12,
        hidden=768,
        feed_forward_weights=768 * 6144 + 3072 * 768,
        num_parameters=117_068_544,
        residues_per_token=4.9,
        hub=hub,
        licence="Apache-2.0",
        reference=reference,
    )


def _composition(name: str, kind: Kind, dimension: int, letters: str, reference: str) -> Model:
    return Model(
        name=name,
        family="composition",
        kind=kind,
        worker="hpc_embed.workers.composition:CompositionWorker",
        dimension=dimension,
        max_residues=None,
        pooling="frequency",
        poolings=("frequency",),
        known_letters=letters,
        reference=reference,
    )


_BUILT_IN = (
    _composition("aa_composition", "protein", 420, AMINO_ACIDS, "amino-acid and dipeptide frequencies"),
    _composition("tetranucleotide", "dna", 136, DNA_LETTERS, "canonical tetranucleotide frequencies"),
    _esm2("8M", 6, 320, 7_400_000),
    _esm2("35M", 12, 480, 33_500_000),
    _esm2("150M", 30, 640, 148_100_000),
    _esm2("650M", 33, 1280, 651_000_000),
    _esm2("3B", 36, 2560, 2_839_000_000),
    _esm2("15B", 48, 5120, 15_127_000_000),
    _dnabert("dnabert_s", "zhihan1996/DNABERT-S", "Zhou et al., 2024"),
    _dnabert("dnabert_2", "zhihan1996/DNABERT-2-117M", "Zhou et al., ICLR 2024"),
)

COMPOSITION = "composition"
"""The default: the composition model of whichever kind the input is."""


def models() -> dict[str, Model]:
    """Every model by name, the built-in ones and those of installed packages."""
    found = {model.name: model for model in _BUILT_IN}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        model = point.load()
        found.setdefault(model.name, replace(model))
    return found


def find_model(name: str) -> Model:
    """The model of that name; a UsageError lists the valid ones."""
    known = models()
    if name in known:
        return known[name]
    close = get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise UsageError(
        f"--model {name}: there is no such model, and no folder of that name holds a checkpoint.",
        remedy=f"{hint}Known: {', '.join([COMPOSITION, *known])}; or a folder, or a hub name ORG/REPOSITORY.",
    )


def composition_model(kind: Kind) -> Model:
    """The composition model for that kind of sequence."""
    return find_model("aa_composition" if kind == "protein" else "tetranucleotide")
