"""What planning must know of a model: facts only, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpc_embed.families import FAMILIES
from hpc_embed.families.family import Shape

Kind = Literal["protein", "dna"]
KINDS: tuple[Kind, ...] = ("protein", "dna")


ESM2_LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
DNA_LETTERS = "ACGT"
PIECE_LETTERS = "ALGVSREDTIPKFQNYMHWCXBOUZ"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"

PER_TOKEN = "per_token"
"""No pooling: a vector for each token, special ones left out; for ESM-2 a token is a residue."""
PER_BASE = "per_base"
"""No pooling: each base has its token's vector."""
PER_LETTER = (PER_TOKEN, PER_BASE)
PER_WINDOW = "per_window"
"""No joining: a record's windows are rows of their own, pooled by what stands beside it."""
POOLINGS = ("mean", "mean_with_special", "cls", "max", PER_TOKEN)
"""The poolings that the transformer families share; see docs/vectors.md for what each covers."""

WITH_SPECIAL = ("mean_with_special", "cls")
"""Those that cover special tokens."""


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
    shape: Shape | None = None
    """Dimensions of the encoder, None for a model without one."""
    num_parameters: int = 0
    residues_per_token: float = 1.0
    num_special_tokens: int = 2
    """Of each window."""
    hub: str | None = None
    """The published checkpoint; None for a model without weights, or from elsewhere."""
    package: str = ""
    """The folder of the checkpoint in an installed Python package, as PACKAGE/FOLDER/…; empty for one on the hub."""
    licence: str = ""
    reference: str = ""

    @property
    def has_weights(self) -> bool:
        return self.hub is not None or bool(self.package)

    @property
    def num_layers(self) -> int:
        return 0 if self.shape is None else self.shape.num_layers

    @property
    def hidden(self) -> int:
        return 0 if self.shape is None else self.shape.hidden

    @property
    def feed_forward_weights(self) -> int:
        """Weights of one layer's feed-forward part."""
        if self.shape is None:
            return 0
        num_products = FAMILIES[self.family].feed_forward.num_products if self.family in FAMILIES else 2
        return num_products * self.shape.hidden * self.shape.intermediate
