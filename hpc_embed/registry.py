"""The models by name: facts only, so that planning and help never import torch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points

from hpc_embed.errors import UsageError, did_you_mean
from hpc_embed.families.dnabert import dnabert_shape
from hpc_embed.families.esm2 import esm2_shape
from hpc_embed.families.esmc import esmc_shape
from hpc_embed.families.family import Shape
from hpc_embed.families.nucleotide import nucleotide_shape
from hpc_embed.families.t5 import t5_shape
from hpc_embed.model import (
    AMINO_ACIDS,
    DNA_LETTERS,
    ESM2_LETTERS,
    PER_BASE,
    PIECE_LETTERS,
    POOLINGS,
    Kind,
    Model,
)
from hpc_embed.progress import note

ENTRY_POINT_GROUP = "hpc_embed.models"
"""Another package adds a model by an entry point of this group that names a `Model`."""

NON_COMMERCIAL = "CC-BY-NC-SA-4.0"
TRANSFORMER = "hpc_embed.workers.transformer:TransformerWorker"
BY_TRANSFORMERS = "hpc_embed.workers.native:NativeWorker"


def _esm2(size: str, layers: int, hidden: int, parameters: int, heads: int = 20) -> Model:
    return Model(
        name=f"esm2_t{layers}_{size}",
        family="esm2",
        kind="protein",
        worker=TRANSFORMER,
        dimension=hidden,
        max_residues=1022,
        pooling="mean",
        poolings=POOLINGS,
        known_letters=ESM2_LETTERS,
        shape=esm2_shape(layers, hidden, heads),
        num_parameters=parameters,
        hub=f"facebook/esm2_t{layers}_{size}_UR50D",
        licence="MIT",
        reference="Lin et al., Science 2023",
    )


def _dplm(size: str, layers: int, hidden: int, parameters: int, heads: int = 20) -> Model:
    """ESM-2 with weights of another training."""
    name, reference = f"dplm_{size.lower()}", "Wang et al., ICML 2024"
    model = _esm2(size, layers, hidden, parameters, heads)
    return replace(model, name=name, hub=f"airkingbd/{name}", licence="Apache-2.0", reference=reference)


def _dnabert(name: str, hub: str, reference: str) -> Model:
    return Model(
        name=name,
        family="dnabert",
        kind="dna",
        worker=TRANSFORMER,
        dimension=768,
        max_residues=10_000,
        pooling="mean_with_special",
        poolings=(*POOLINGS, PER_BASE),
        known_letters=DNA_LETTERS,
        shape=dnabert_shape(),
        num_parameters=117_068_544,
        residues_per_token=4.9,
        hub=hub,
        licence="Apache-2.0",
        reference=reference,
    )


def _esmc(size: str, shape: Shape, parameters: int) -> Model:
    return Model(
        name=f"esmc_{size.lower()}",
        family="esmc",
        kind="protein",
        worker=TRANSFORMER,
        dimension=shape.hidden,
        max_residues=2046,
        pooling="mean",
        poolings=POOLINGS,
        known_letters=ESM2_LETTERS,
        shape=shape,
        num_parameters=parameters,
        hub=f"biohub/ESMC-{size}",
        licence="MIT",
        reference="EvolutionaryScale, 2024",
    )


def _t5(
    name: str,
    shape: Shape,
    parameters: int,
    hub: str,
    licence: str,
    reference: str,
    family: str = "t5",
    special: int = 1,
) -> Model:
    return Model(
        name=name,
        family=family,
        kind="protein",
        worker=TRANSFORMER,
        dimension=shape.hidden,
        max_residues=None,
        pooling="mean",
        poolings=tuple(pooling for pooling in POOLINGS if pooling != "cls"),
        known_letters=PIECE_LETTERS,
        shape=shape,
        num_parameters=parameters,
        num_special_tokens=special,
        hub=hub,
        licence=licence,
        reference=reference,
    )


def _nucleotide(size: str, layers: int, hidden: int, parameters: int) -> Model:
    return Model(
        name=f"nt_v2_{size}",
        family="nucleotide_transformer",
        kind="dna",
        worker=TRANSFORMER,
        dimension=hidden,
        max_residues=12_000,
        pooling="mean",
        poolings=(*POOLINGS, PER_BASE),
        known_letters=DNA_LETTERS + "N",
        shape=nucleotide_shape(layers, hidden),
        num_parameters=parameters,
        residues_per_token=6.0,
        num_special_tokens=1,
        hub=f"InstaDeepAI/nucleotide-transformer-v2-{size}-multi-species",
        licence=NON_COMMERCIAL,
        reference="Dalla-Torre et al., 2025",
    )


def _by_transformers(
    name: str,
    hub: str | None,
    shape: Shape,
    parameters: int,
    max_residues: int,
    licence: str,
    reference: str,
    package: str = "",
) -> Model:
    return Model(
        name=name,
        family="transformers",
        kind="protein",
        worker=BY_TRANSFORMERS,
        dimension=shape.hidden,
        max_residues=max_residues,
        pooling="mean",
        poolings=POOLINGS,
        known_letters=AMINO_ACIDS,
        shape=shape,
        num_parameters=parameters,
        hub=hub,
        package=package,
        licence=licence,
        reference=reference,
    )


def _esm1(name: str, hub: str, reference: str) -> Model:
    shape = Shape(num_layers=33, hidden=1280, num_heads=20, intermediate=5120, vocabulary=33, eps=1e-5)
    return _by_transformers(name, f"facebook/{hub}", shape, 652_000_000, 1022, "MIT", reference)


def _prot_bert(name: str) -> Model:
    shape = Shape(num_layers=30, hidden=1024, num_heads=16, intermediate=4096, vocabulary=30, eps=1e-12)
    return _by_transformers(name, f"Rostlab/{name}", shape, 420_000_000, 39_998, "", "Elnaggar et al., 2022")


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
    _esm2("3B", 36, 2560, 2_839_000_000, heads=40),
    _esm2("15B", 48, 5120, 15_127_000_000, heads=40),
    _dplm("150M", 30, 640, 148_100_000),
    _dplm("650M", 33, 1280, 651_000_000),
    _dplm("3B", 36, 2560, 2_839_000_000, heads=40),
    _esmc("300M", esmc_shape(30, 960, 15, 2560), 333_000_000),
    _esmc("600M", esmc_shape(36, 1152, 18, 3072), 575_000_000),
    _esmc("6B", esmc_shape(80, 2560, 40, 6912), 6_360_000_000),
    _t5(
        "prot_t5_xl",
        t5_shape(24, 1024, 32, 16384, 128),
        1_208_000_000,
        "Rostlab/prot_t5_xl_half_uniref50-enc",
        "AFL-3.0",
        "Elnaggar et al., 2022",
    ),
    _t5(
        "prostt5",
        t5_shape(24, 1024, 32, 16384, 128, vocabulary=150),
        1_208_000_000,
        "Rostlab/ProstT5",
        "MIT",
        "Heinzinger et al., 2024",
        special=2,
    ),
    _t5(
        "ankh_base",
        t5_shape(48, 768, 12, 3072, 64, vocabulary=144, num_buckets=64),
        453_000_000,
        "ElnaggarLab/ankh-base",
        NON_COMMERCIAL,
        "Elnaggar et al., 2023",
        family="ankh",
    ),
    _t5(
        "ankh_large",
        t5_shape(48, 1536, 16, 3840, 64, vocabulary=144, num_buckets=64),
        1_151_000_000,
        "ElnaggarLab/ankh-large",
        NON_COMMERCIAL,
        "Elnaggar et al., 2023",
        family="ankh",
    ),
    _dnabert("dnabert_s", "zhihan1996/DNABERT-S", "Zhou et al., 2024"),
    _dnabert("dnabert_2", "zhihan1996/DNABERT-2-117M", "Zhou et al., ICLR 2024"),
    _esm1("esm1b", "esm1b_t33_650M_UR50S", "Rives et al., PNAS 2021"),
    *(_esm1(f"esm1v_{at}", f"esm1v_t33_650M_UR90S_{at}", "Meier et al., NeurIPS 2021") for at in range(1, 6)),
    _prot_bert("prot_bert"),
    _prot_bert("prot_bert_bfd"),
    _by_transformers(
        "antiberty",
        None,
        Shape(num_layers=8, hidden=512, num_heads=8, intermediate=2048, vocabulary=25, eps=1e-12),
        26_000_000,
        510,
        "MIT",
        "Ruffolo et al., 2021",
        package="antiberty/trained_models/AntiBERTy_md_smooth",
    ),
    _nucleotide("50m", 12, 512, 52_500_000),
    _nucleotide("100m", 22, 512, 94_500_000),
    _nucleotide("250m", 24, 768, 229_800_000),
    _nucleotide("500m", 29, 1024, 491_000_000),
)

_BY_NAME = {model.name: model for model in _BUILT_IN}

ANY_ENCODER = Model(
    name="hf",
    family="transformers",
    kind="protein",
    worker=BY_TRANSFORMERS,
    dimension=0,
    max_residues=None,
    pooling="mean",
    poolings=POOLINGS,
    known_letters="ABCDEFGHIJKLMNOPQRSTUVWXYZ*-.",
    num_parameters=350_000_000,
    hub="ORG/REPOSITORY",
    reference="transformers",
)
"""Any encoder that transformers knows natively, as `hf:ORG/NAME`, or a folder of none of our families."""
ANY_PREFIX = f"{ANY_ENCODER.name}:"
COMPOSITION = "composition"
"""The default: the composition model of whichever kind the input is."""


@cache
def models() -> dict[str, Model]:
    """Every model by name, the built-in ones and those of installed packages, but for what cannot be loaded."""
    found = dict(_BY_NAME)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            model = point.load()
            if not isinstance(model, Model):
                raise TypeError("not a Model")
        except Exception as error:  # whatever a package may do when it is imported
            note(f"warning: the model {point.name} ({point.value}) is left out: {type(error).__name__}: {error}.")
        else:
            found.setdefault(model.name, model)
    return found


def find_model(name: str) -> Model:
    """The model of that name; a UsageError lists the valid ones."""
    if name == ANY_ENCODER.name:
        return ANY_ENCODER
    if name in _BY_NAME:  # no package of others is looked at
        return _BY_NAME[name]
    known = models()
    if name in known:
        return known[name]
    raise UsageError(
        f"--model {name}: there is no such model, and no folder of that name holds a checkpoint.",
        remedy=f"{did_you_mean(name, known)}Known: {', '.join([COMPOSITION, *known])}; or a folder, ORG/REPOSITORY, "
        "or hf:ORG/REPOSITORY.",
    )


def composition_model(kind: Kind) -> Model:
    """The composition model for that kind of sequence."""
    return find_model("aa_composition" if kind == "protein" else "tetranucleotide")
