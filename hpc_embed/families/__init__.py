"""The families of encoders that run packed, a file each: facts only, no torch."""

from __future__ import annotations

from hpc_embed.families.dnabert import DNABERT
from hpc_embed.families.esm2 import ESM2
from hpc_embed.families.esmc import ESMC
from hpc_embed.families.family import Family
from hpc_embed.families.nucleotide import NUCLEOTIDE_TRANSFORMER
from hpc_embed.families.t5 import ANKH, T5

FAMILIES: dict[str, Family] = {
    family.name: family for family in (ESM2, DNABERT, ESMC, T5, ANKH, NUCLEOTIDE_TRANSFORMER)
}
