"""The families of encoders that run packed, a file each: facts only, no torch."""

from __future__ import annotations

from hpc_embed.families.dnabert import DNABERT
from hpc_embed.families.esm2 import ESM2
from hpc_embed.families.esmc import ESMC
from hpc_embed.families.family import Config, Family
from hpc_embed.families.nucleotide import NUCLEOTIDE_TRANSFORMER
from hpc_embed.families.t5 import ANKH, T5

FAMILIES: dict[str, Family] = {
    family.name: family for family in (ESM2, DNABERT, ESMC, T5, ANKH, NUCLEOTIDE_TRANSFORMER)
}


def family_of_config(config: Config) -> Family | None:
    """The family that a checkpoint's config.json speaks of, None for none of ours."""
    return next((family for family in FAMILIES.values() if family.is_this(config)), None)
