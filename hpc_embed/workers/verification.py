"""Our encoders beside the reference implementation, on the same weights and this machine's devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_embed.engine import fp8
from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.device import describe, find_device, has_bf16, has_fp8
from hpc_embed.engine.embedding import embed_outputs
from hpc_embed.engine.pooling import pool
from hpc_embed.errors import UsageError, in_one_line
from hpc_embed.families.family import Special
from hpc_embed.registry import AMINO_ACIDS, Kind
from hpc_embed.workers.base import Tokens
from hpc_embed.workers.transformer import TransformerWorker

LARGEST_DISTANCE = {"fp32": 1e-6, "bf16": 1e-4, "fp8": 2e-2}
"""1 - cos beyond which a precision does not keep what docs/vectors.md promises."""
PROTEINS = (
    "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG",
    "MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDPVNFKLLSHCLL"
    "VTLAAHLPAEFTPAVHASLDKFLASVSTVLTSKYR",
    "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCSALLSSDITASVNCAKKIVSDGNGMNA"
    "WVAWRNRCKGTDVQAWIRGCRL",
    "MSKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTFSYGVQCFSRYPDHMKQHDFFKSAMPEGYVQERTIFFKDDGNYK"
    "TRAEVKFEGDTLVNRIELKGIDFKEDGNILGHKLEYNYNSHNVYIMADKQKNGIKVNFKIRHNIEDGSVQLADHYQQNTPIGDGPVLLPDNHYLSTQSALSKDPNEK"
    "RDHMVLLEFVTAAGITHGMDELYK",
    "M",
)
"""Ubiquitin, haemoglobin alpha, lysozyme, green fluorescent protein; the shortest there is."""
NO_PADDING = -1
"""No token's id."""
LONG_PROTEIN = 1022
"""Residues of one more protein, the others end to end."""
CODONS = "GCG TGC GAT GAA TTT GGC CAT ATT AAA CTG ATG AAC CCG CAG CGT AGC ACC GTG TGG TAT"
"""A codon for each of AMINO_ACIDS, to write the proteins as DNA."""


class Agreement(NamedTuple):
    """How far our vectors lie from the reference's, all windows packed together, at worst."""

    precision: str
    attention: str
    largest_difference: float
    """Of any two components."""
    largest_distance: float
    """1 - cos of any two vectors, in float64."""
    fault: str = ""
    """Of a back end that does not run here."""

    @property
    def is_well(self) -> bool:
        return self.largest_distance <= LARGEST_DISTANCE[self.precision]


def probe_sequences(kind: Kind) -> list[bytes]:
    """A few real proteins, one of them long, or as much coding DNA."""
    proteins = [*PROTEINS, ("".join(PROTEINS) * 2)[:LONG_PROTEIN]]
    if kind == "protein":
        return [protein.encode() for protein in proteins]
    codons = str.maketrans(dict(zip(AMINO_ACIDS, CODONS.split(), strict=True)))
    return [protein.translate(codons).encode() for protein in proteins]


def precisions_of(device: torch.device) -> list[str]:
    """Those that a device has in its hardware, and computes well."""
    has = {"fp32": True, "bf16": has_bf16(device), "fp8": has_fp8(device) and fp8.why_not(device) is None}
    return [precision for precision in has if has[precision]]


def verify(worker: TransformerWorker, wanted: str, kind: Kind) -> tuple[str, list[Agreement]]:
    """The device's name, and how well each precision and attention back end of it agrees with the reference.

    `wanted` is a GPU's number or `cpu`; `auto` is the first GPU, or the CPU where there is none. Raises UsageError
    for anything else, EnvironmentFault for missing weights or devices.
    """
    device = _device(wanted)
    tokeniser = worker.make_tokeniser()
    tokens = tokeniser(probe_sequences(kind))
    expected_BD = _reference_vectors(worker, tokens, tokeniser.special, device)
    found = []
    for precision in precisions_of(device):
        encoder = worker.make_encoder(device, precision)
        for name in encoder.attention_back_ends:
            encoder.use_attention(name)
            try:
                made = embed_outputs(encoder, tokens, worker.embedding.outputs, device, tokeniser.special)
                found.append(_agreement(precision, name, made.vectors_BD.cpu(), expected_BD))
            except (RuntimeError, ImportError, OSError) as error:  # a library's own; the others are still looked at
                found.append(Agreement(precision, name, math.inf, math.inf, in_one_line(error)))
    return describe(device), found


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return find_device(0 if torch.cuda.is_available() else "cpu")
    if wanted == "cpu" or wanted.isdecimal():
        return find_device(wanted)
    raise UsageError(f"--device {wanted}: neither auto, nor cpu, nor a GPU's number.")


def _reference_vectors(
    worker: TransformerWorker, windows: Sequence[Tokens], special: Special, device: torch.device
) -> Tensor:
    """The reference's vectors [B, D], each window alone and unpadded."""
    reference = worker.make_reference(device)
    vectors = []
    for window in windows:
        batch = make_batch([window], device, special)
        (output,) = worker.embedding.outputs.columns
        (hidden_ND,) = reference(batch.tokens_T[None], NO_PADDING, output.layer)
        vectors.append(pool(output.pooling, hidden_ND, batch)[0][0].cpu())
    return torch.stack(vectors)


def _agreement(precision: str, attention: str, ours_BD: Tensor, expected_BD: Tensor) -> Agreement:
    distance_B = 1 - torch.cosine_similarity(ours_BD.double(), expected_BD.double())
    return Agreement(precision, attention, float((ours_BD - expected_BD).abs().max()), float(distance_B.max()))
