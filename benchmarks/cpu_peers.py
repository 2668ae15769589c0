"""How fast does one core embed real proteins, beside the usual ways of doing it?

    python -m benchmarks.cpu_peers proteins.fasta --model esm2_t6_8M --records 96 [--json]

Every way gets the same proteins, weights (random, true shape) and thread, in one process, one after the other;
the first way runs once more at the end, so that a drift of the machine shows. Tokens are real ones, `<cls>` and
`<eos>` included; padding is what each way computes beyond them. Accuracy is 1 - cos against transformers in FP32,
one protein at a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.device import describe
from hpc_embed.engine.embedding import embed_windows
from hpc_embed.engine.esm2 import Esm2, Esm2Shape, random_weights
from hpc_embed.engine.packing import pack
from hpc_embed.engine.tokens import PAD, esm2_tokens
from hpc_embed.registry import find_model
from hpc_embed.sequences.fasta import read_fasta
from hpc_embed.workers.esm2 import published_shape

CPU = torch.device("cpu")
LONGEST = 1022

Windows = Sequence[NDArray[np.uint8]]
Outcome = tuple[NDArray[np.float32], int]
"""Mean vectors in the order of the windows, and the tokens that were computed."""
Way = Callable[[Windows], Outcome]
FIELDS = {"tokens_per_second": "tokens/s", "padding_efficiency": "", "largest_cosine_distance": ""}


class Measured(NamedTuple):
    """One row of the table."""

    way: str
    tokens_per_second: float
    padding_efficiency: float
    largest_cosine_distance: float


def main() -> None:
    """Measure, and print a table or a JSON line per figure."""
    options = _options()
    torch.set_num_threads(1)
    windows = esm2_tokens(_proteins(options.fasta, options.records))
    shape = Esm2Shape(**published_shape(find_model(options.model)))
    ways = _ways(shape, random_weights(shape, seed=0))
    reference, _ = ways["transformers, one at a time"](windows)
    rows = [_measure(name, way, windows, reference) for name, way in ways.items()]
    first = next(iter(ways))
    rows.append(_measure(f"{first} (again)", ways[first], windows, reference))
    _print(rows, options, windows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta")
    parser.add_argument("--model", default="esm2_t6_8M")
    parser.add_argument("--records", type=int, default=96, help="proteins, evenly spaced through the file")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _proteins(fasta: str, num_records: int) -> list[bytes]:
    """Evenly spaced records in file order, those beyond the model's limit cut as the peers cut them."""
    records = [record.sequence.upper()[:LONGEST] for record in read_fasta(fasta)]
    places = np.linspace(0, len(records) - 1, num_records).astype(int)
    return [records[place] for place in places]


def _ways(shape: Esm2Shape, tensors: dict[str, Tensor]) -> dict[str, Way]:
    hub, authors = _transformers(shape, tensors), _fair_esm(shape, tensors)
    ours = {
        name: Esm2(shape, tensors, source="benchmark", device=CPU, precision=precision)
        for name, precision in (("hpc-embed, FP32", "fp32"), ("hpc-embed, BF16", "bf16"))
    }
    return {
        "transformers, batches of 8 in file order": lambda w: _padded(hub, w, _by_number(w, 8)),
        "transformers, batches of 32 in file order": lambda w: _padded(hub, w, _by_number(w, 32)),
        "transformers, one at a time": lambda w: _padded(hub, w, _by_number(w, 1)),
        "transformers, sorted, 1,024 tokens": lambda w: _padded(hub, w, list(pack([len(x) for x in w], 1024))),
        "fair-esm, sorted, 4,096 tokens": lambda w: _padded(authors, w, list(pack([len(x) for x in w], 4096))),
        **{name: _packed(encoder, shape.num_layers) for name, encoder in ours.items()},
    }


def _by_number(windows: Windows, number: int) -> list[list[int]]:
    return [list(range(start, min(start + number, len(windows)))) for start in range(0, len(windows), number)]


def _padded(model: Callable[[Tensor], Tensor], windows: Windows, batches: list[list[int]]) -> Outcome:
    """Mean over residues the usual way: right-padded batches."""
    vectors: dict[int, NDArray[np.float32]] = {}
    num_computed = 0
    for batch in batches:
        longest = max(len(windows[i]) for i in batch)
        tokens = np.full((len(batch), longest), PAD, dtype=np.int64)
        for row, i in enumerate(batch):
            tokens[row, : len(windows[i])] = windows[i]
        hidden = model(torch.from_numpy(tokens))
        for row, i in enumerate(batch):
            vectors[i] = hidden[row, 1 : len(windows[i]) - 1].mean(0).numpy()
        num_computed += tokens.size
    return np.stack([vectors[i] for i in range(len(windows))]), num_computed


def _packed(encoder: Esm2, layer: int) -> Way:
    def embed(windows: Windows) -> Outcome:
        vectors: dict[int, NDArray[np.float32]] = {}
        num_computed = 0
        for batch in pack([len(window) for window in windows], 4096):
            made = embed_windows(encoder, [windows[i] for i in batch], "mean", layer, CPU)
            vectors |= dict(zip(batch, made.vectors_BD.numpy(), strict=True))
            num_computed += made.num_computed_tokens
        return np.stack([vectors[i] for i in range(len(windows))]), num_computed

    return embed


def _transformers(shape: Esm2Shape, tensors: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    from transformers import EsmConfig, EsmModel

    config = EsmConfig(
        vocab_size=shape.vocabulary,
        mask_token_id=32,
        pad_token_id=PAD,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
        layer_norm_eps=1e-5,
    )
    model = EsmModel(config, add_pooling_layer=False).eval()
    model.load_state_dict({name.removeprefix("esm."): tensor for name, tensor in tensors.items()}, strict=False)

    def run(tokens: Tensor) -> Tensor:
        with torch.inference_mode():
            hidden: Tensor = model(tokens, attention_mask=tokens.ne(PAD)).last_hidden_state
        return hidden

    return run


def _fair_esm(shape: Esm2Shape, tensors: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """The authors' model; its weights stay its own, since only its speed is looked at."""
    from esm.model.esm2 import ESM2

    model = ESM2(shape.num_layers, shape.hidden, shape.num_heads, "ESM-1b").eval()

    def run(tokens: Tensor) -> Tensor:
        with torch.inference_mode():
            hidden: Tensor = model(tokens, repr_layers=[shape.num_layers])["representations"][shape.num_layers]
        return hidden

    return run


def _measure(name: str, way: Way, windows: Windows, reference: NDArray[np.float32]) -> Measured:
    way(windows[:4])  # warm-up
    started = time.perf_counter()
    vectors, num_computed = way(windows)
    seconds = time.perf_counter() - started
    num_tokens = sum(map(len, windows))
    distance = 1 - torch.cosine_similarity(torch.from_numpy(vectors).double(), torch.from_numpy(reference).double())
    largest = float("nan") if name.startswith("fair-esm") else float(distance.max())
    return Measured(name, num_tokens / seconds, num_tokens / num_computed, largest)


def _print(rows: list[Measured], options: argparse.Namespace, windows: Windows) -> None:
    if options.json:
        for row in rows:
            for field, unit in (
                ("tokens_per_second", "tokens/s"),
                ("padding_efficiency", ""),
                ("largest_cosine_distance", ""),
            ):
                name = f"{options.model}: {row.way}: {field}"
                print(json.dumps({"name": name, "value": getattr(row, field), "unit": unit}))
        return
    lengths = [len(window) - 2 for window in windows]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "fair-esm"))
    source = Path(options.fasta).name
    print(f"{options.model}, {len(windows)} proteins of {source}, median length {np.median(lengths):.0f}")
    print(f"{describe(CPU)}, Python {platform.python_version()}, {packages}\n")
    print("| way | tokens/s | ratio | padding efficiency | largest 1 - cos |\n|---|---|---|---|---|")
    for row in rows:
        ratio = row.tokens_per_second / rows[0].tokens_per_second
        print(
            f"| {row.way} | {row.tokens_per_second:,.0f} | {ratio:.2f} | {row.padding_efficiency:.1%} "
            f"| {row.largest_cosine_distance:.1e} |"
        )


if __name__ == "__main__":
    main()
