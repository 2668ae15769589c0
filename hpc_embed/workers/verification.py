"""Our vectors beside the reference implementation's, from letters on: the checkpoint's own tokenizer makes the tokens
that the reference is given, and the same weights compute them in float32, each window alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from hpc_embed.checkpoints.files import DAMAGED
from hpc_embed.checkpoints.vocabulary import has_tokenizer
from hpc_embed.engine import fp8
from hpc_embed.engine.any_encoder import AnyEncoder
from hpc_embed.engine.any_tokeniser import NativeTokeniser
from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.device import describe, find_device, has_bf16, has_fp8
from hpc_embed.engine.embedding import embed_outputs
from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.own_tokenizer import OwnTokenizer
from hpc_embed.engine.pooling import pool
from hpc_embed.engine.references import theirs
from hpc_embed.engine.ways import PLAIN, SPACED
from hpc_embed.errors import EnvironmentFault, UsageError, in_one_line
from hpc_embed.families.family import BytePairs, Family, Pieces, Special
from hpc_embed.model import AMINO_ACIDS, Kind
from hpc_embed.run.outputs import outputs_of
from hpc_embed.workers.base import Tokens
from hpc_embed.workers.native import PROBES, NativeWorker
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
COMPARED = "mean_with_special"
"""What is compared of a window: every token of it."""
NOTHING = Special(0, 0)
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


def proof_sequences(kind: Kind) -> list[bytes]:
    """Those of `probe_sequences` that take a CPU no minutes with a model of billions of weights."""
    return probe_sequences(kind)[: len(PROTEINS)]


def precisions_of(device: torch.device) -> list[str]:
    """Those that a device has in its hardware, and computes well."""
    has = {"fp32": True, "bf16": has_bf16(device), "fp8": has_fp8(device) and fp8.why_not(device) is None}
    return [precision for precision in has if has[precision]]


def verify(worker: TransformerWorker, wanted: str, kind: Kind) -> tuple[str, list[Agreement]]:
    """The device's name, and how well each precision and attention back end of it agrees with the reference.

    `wanted` is a GPU's number or `cpu`; `auto` is the first GPU, or the CPU where there is none. Raises UsageError
    for anything else, EnvironmentFault for missing weights or devices, and for tokens that are not those of the
    checkpoint's own tokenizer.
    """
    device = _device(wanted)
    sequences = probe_sequences(kind)
    tokeniser = worker.make_tokeniser()
    tokens = tokeniser(sequences)
    expected_BD = reference_vectors(worker, reference_tokens(worker, sequences, tokens), device)
    found = []
    for precision in precisions_of(device):
        encoder = worker.make_encoder(device, precision)
        for name in encoder.attention_back_ends:
            encoder.use_attention(name)
            try:
                found.append(agreement(encoder, precision, tokens, expected_BD, device, tokeniser.special))
            except (RuntimeError, ImportError, OSError) as error:  # a library's own; the others are still looked at
                found.append(Agreement(precision, name, math.inf, math.inf, in_one_line(error)))
    return describe(device), found


def verify_any(worker: NativeWorker, wanted: str) -> tuple[str, list[Agreement]]:
    """The same of a model that transformers runs: as we run it, packed or padded, beside one window at a time."""
    device, folder = _device(wanted), worker.folder()
    tokeniser = NativeTokeniser(folder, worker.kind)
    most = worker.embedding.max_residues
    sequences = sorted((sequence[:most] for sequence in probe_sequences(worker.kind)), key=len, reverse=True)
    windows, probes, layer = tokeniser.by_itself(sequences), tokeniser(PROBES), worker.embedding.outputs.layers[-1]
    if any(not np.array_equal(*pair) for pair in zip(tokeniser(sequences), windows, strict=True)):
        raise EnvironmentFault(f"{folder}: our table of tokens is not its tokenizer.", remedy="Report it.")
    outputs = outputs_of(COMPARED, layer)
    alone = AnyEncoder(folder, device, "fp32", probes, [layer], may_pack=False)
    expected_BD = torch.cat([alone.embed([window], outputs).vectors_BD.cpu() for window in windows])
    del alone
    found = []
    for precision in [each for each in precisions_of(device) if each != "fp8"]:
        encoder = AnyEncoder(folder, device, precision, probes, [layer])
        ours_BD = encoder.embed(windows, outputs).vectors_BD.cpu()
        found.append(_agreement(precision, encoder.attention_name, ours_BD, expected_BD))
    return describe(device), found


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return find_device(0 if torch.cuda.is_available() else "cpu")
    if wanted == "cpu" or wanted.isdecimal():
        return find_device(wanted)
    raise UsageError(f"--device {wanted}: neither auto, nor cpu, nor a GPU's number.")


def reference_tokens(worker: TransformerWorker, sequences: Sequence[bytes], ours: Sequence[Tokens]) -> Sequence[Tokens]:
    """Tokens by the checkpoint's own tokenizer; ours for an untrained model, which has none.

    Raises EnvironmentFault where ours are others.
    """
    if worker.identity.is_untrained:
        return ours
    found = list(_by_own_tokenizer(worker.family, worker.folder(), sequences))
    for tokens in found:
        if all(mine.tolist() == theirs for mine, theirs in zip(ours, tokens, strict=True)):
            return ours
    place = next(at for at, (mine, theirs) in enumerate(zip(ours, found[0], strict=True)) if mine.tolist() != theirs)
    raise EnvironmentFault(
        f"{worker.folder()}: its own tokenizer makes other tokens of {sequences[place][:10].decode()}… "
        f"({_first(found[0][place])}) than our table of {worker.family.name} ({_first(ours[place].tolist())}).",
        remedy=f"Say hf:{worker.folder()} to have it run with its own tokenizer, and report it.",
    )


def _by_own_tokenizer(family: Family, folder: Path, sequences: Sequence[bytes]) -> Iterator[list[list[int]]]:
    """Tokens of all sequences, for each way in which a family's authors write them down."""
    texts = [sequence.decode("ascii") for sequence in sequences]
    if not has_tokenizer(folder):  # ESM C's authors have it in their code, and so has transformers
        yield theirs("EsmcTokenizer")()(texts)["input_ids"]
        return
    make, names = _own_tokenizer(family, folder)
    if not isinstance(family.tokens, Pieces):
        yield make(texts)
        return
    prefix = f"{family.tokens.front} " if family.tokens.front in names else ""
    rewritten: dict[str, str | int | None] = {**family.tokens.rewritten}
    texts = [text.translate(str.maketrans(rewritten)) for text in texts]
    for write in (PLAIN, SPACED):
        yield make([prefix + write(text) for text in texts])


def _own_tokenizer(family: Family, folder: Path) -> tuple[Callable[[list[str]], list[list[int]]], Collection[str]]:
    """The tokenizer, and the names of its tokens. A tokenizer.json is one by itself, whatever class its settings name:
    ESM C's authors name one of their own, and of DNABERT's model_type transformers would make one of another kind."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        own = OwnTokenizer(folder)
        return lambda texts: [row.ids_N.tolist() for row in own(texts)], own.ids
    try:
        file = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for what it cannot parse
        raise EnvironmentFault(f"{path}: no tokenizer ({in_one_line(error)}).", remedy=DAMAGED) from error
    file.no_padding()
    file.no_truncation()
    ids: dict[str, int] = file.get_vocab()
    around: tuple[list[int], list[int]] = [], []
    if file.post_processor is None and isinstance(family.tokens, BytePairs):  # the authors' code puts them there
        around = [ids[family.tokens.front]], [ids[family.tokens.back]]
    return lambda texts: [[*around[0], *made.ids, *around[1]] for made in file.encode_batch(texts)], ids


def _first(tokens: Sequence[int]) -> str:
    return " ".join(map(str, tokens[:6])) + " …" * (len(tokens) > 6)


def reference_vectors(worker: TransformerWorker, windows: Sequence[Tokens], device: torch.device) -> Tensor:
    """The reference's means over all tokens [B, D] after the last layer, each window alone and unpadded."""
    reference, num_layers = worker.make_reference(device), worker.shape().num_layers
    vectors = []
    for window in windows:
        batch = make_batch([window], device, NOTHING)
        (hidden_ND,) = reference(batch.tokens_T[None], NO_PADDING, num_layers)
        vectors.append(pool(COMPARED, hidden_ND, batch)[0][0].cpu())
    return torch.stack(vectors)


def agreement(
    encoder: Encoder,
    precision: str,
    windows: Sequence[Tokens],
    expected_BD: Tensor,
    device: torch.device,
    special: Special,
) -> Agreement:
    """How near our encoder comes, all windows in one batch."""
    outputs = outputs_of(COMPARED, encoder.shape.num_layers)
    ours_BD = embed_outputs(encoder, windows, outputs, device, special).vectors_BD.cpu()
    return _agreement(precision, encoder.attention_name, ours_BD, expected_BD)


def _agreement(precision: str, attention: str, ours_BD: Tensor, expected_BD: Tensor) -> Agreement:
    distance_B = 1 - torch.cosine_similarity(ours_BD.double(), expected_BD.double())
    largest = float(distance_B.max()) if distance_B.isfinite().all() else math.inf
    return Agreement(precision, attention, float((ours_BD - expected_BD).abs().max()), largest)
