"""How fast does one core embed with models of transformers packed, beside transformers itself?

    python -m benchmarks.any_encoder_cpu [--models antiberty ...] [--records 32] [--json]

Each model has its true dimensions but for the number of layers, which all do the same work, and random weights. Lengths
are those of evenly spaced proteins of mmseqs2-examples (protein_lengths.txt), cut to the model's positions.
transformers runs its own attention (SDPA) one window at a time, and padded: in batches of eight in file order, and
sorted under 1,024 tokens. All ways take turns, each in a process of one thread; the median counts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import measuring
from benchmarks.gpu_models import LENGTHS
from benchmarks.measuring import Answer, Figure, Measured, Table, Windows
from hpc_embed.engine.any_encoder import AnyEncoder

CPU = torch.device("cpu")
TOKEN_BUDGET = 4096
PADDING = 1


class Shape(NamedTuple):
    """A published model's: the prefix of its classes, and its config."""

    prefix: str
    longest: int
    config: dict[str, Any]


def _sizes(layers: int, hidden: int, heads: int, intermediate: int, vocabulary: int) -> dict[str, Any]:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "pad_token_id": PADDING}
    return {**sizes, "intermediate_size": intermediate, "vocab_size": vocabulary}


ESM1B = {"position_embedding_type": "absolute", "max_position_embeddings": 1026, "mask_token_id": 32}
SHAPES = {
    "antiberty": Shape("Bert", 512, _sizes(8, 512, 8, 2048, 25)),
    "prot_bert": Shape("Bert", 1024, {**_sizes(2, 1024, 16, 4096, 30), "max_position_embeddings": 40_000}),
    "esm1b": Shape("Esm", 1024, {**_sizes(2, 1280, 20, 5120, 33), **ESM1B, "emb_layer_norm_before": True}),
    "llama_500m": Shape("Llama", 1024, {**_sizes(2, 1024, 16, 4096, 4100), "num_key_value_heads": 4}),
}
"""AntiBERTy whole; ProtBERT, ESM-1b and a causal model with grouped keys in two layers."""
OURS, ONE = "hpc-embed, packed", "transformers, one at a time"
BATCH_8, SORTED = "transformers, batches of 8 in file order", "transformers, sorted, 1,024 tokens"
OURS_PADDED = "hpc-embed, padded"
THEIRS = {
    ONE: measuring.in_file_order(1),
    BATCH_8: measuring.in_file_order(8),
    SORTED: measuring.sorted_by_length(1024),
}
BARS = ((OURS, ONE, 1.15), (OURS, BATCH_8, 2.0))


def answer(models: tuple[str, ...], num_records: int, seconds: float, num_turns: int) -> Answer:
    """Measure every model every way."""
    tables, figures = [], []
    for name in models:
        windows = windows_of(name, num_records)
        ways = (OURS, *THEIRS, OURS_PADDED)
        told = (windows, seconds / num_turns)
        turns = [{way: measuring.in_fresh_process(run_way, name, way, *told) for way in ways} for _ in range(num_turns)]
        found = {way: measuring.median_of([turn[way] for turn in turns]) for way in ways}
        rows = [
            (way, f"{each.tokens_per_second:,.0f}", f"{each.padding_efficiency:.2f}") for way, each in found.items()
        ]
        lengths = [len(window) for window in windows]
        title = f"{name}, {layers_of(name)} layers: {len(windows)} windows of {min(lengths)} to {max(lengths)} tokens"
        gap = max(float(np.abs(each.vectors - found[ONE].vectors).max()) for each in found.values())
        note = f"Largest difference of any number from one at a time: {gap:.1e}."
        ratios, more = measuring.against_bars(name, found, BARS)
        tables += [Table(title, ("way", "tokens/s", "padding efficiency"), rows, note), ratios]
        figures += [Figure(f"{name}: {way}: tokens", each.tokens_per_second, "tokens/s") for way, each in found.items()]
        figures += [*more, Figure(f"{name}: largest difference", gap, "")]
    return Answer(tables, figures)


def layers_of(name: str) -> int:
    """In which a shape is run."""
    return int(SHAPES[name].config["num_hidden_layers"])


def windows_of(name: str, num_records: int) -> Windows:
    """Ordinary tokens, in file order."""
    every = np.array(LENGTHS.read_text().split(), dtype=int)
    lengths = every[np.linspace(0, len(every) - 1, num_records).astype(int)] + 2
    generator = np.random.default_rng(0)
    high = min(int(SHAPES[name].config["vocab_size"]), 32)
    return [generator.integers(4, high, length) for length in lengths.clip(max=SHAPES[name].longest)]


def model_of(name: str, num_layers: int | None = None) -> Any:
    """transformers' own, its weights random."""
    import transformers

    shape = SHAPES[name]
    config = shape.config if num_layers is None else {**shape.config, "num_hidden_layers": num_layers}
    torch.manual_seed(0)
    return getattr(transformers, f"{shape.prefix}Model")(
        getattr(transformers, f"{shape.prefix}Config")(**config)
    ).eval()


def encoder_of(
    name: str, device: torch.device, precision: str, *, may_pack: bool, num_layers: int | None = None
) -> AnyEncoder:
    """Ours, from a checkpoint of that model."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    layer = num_layers or layers_of(name)
    probes = [np.arange(length) % 16 + 4 + np.arange(length) % 3 for length in (22, 90, 3, 40, 41)]
    with tempfile.TemporaryDirectory() as folder:
        model_of(name, num_layers).save_pretrained(folder)
        return AnyEncoder(Path(folder), device, precision, probes, [layer], may_pack=may_pack)


def reference_of(name: str) -> Callable[[Tensor, int, int], Tensor]:
    """transformers' last hidden states of a padded batch, as its documentation has it."""
    model = model_of(name)

    @torch.inference_mode()
    def run(tokens_BN: Tensor, padding: int, layer: int) -> Tensor:
        out: Tensor = model(input_ids=tokens_BN, attention_mask=(tokens_BN != padding).long()).last_hidden_state
        return out

    return run


def run_way(name: str, way: str, windows: Windows, seconds: float) -> Measured:
    """One way, in this process."""
    if way in THEIRS:
        run = measuring.padded(reference_of(name), PADDING, layers_of(name), THEIRS[way], cut=0)
    else:
        encoder = encoder_of(name, CPU, "fp32", may_pack=way == OURS)
        run = measuring.packed(encoder, "mean_with_special", layers_of(name), TOKEN_BUDGET, CPU)
    return measuring.measure(run, windows, seconds)


def main() -> None:
    """Measure, and print a table or a JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=measuring.SECONDS)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--report", type=Path, help="Markdown, with JSON lines beside it")
    options = parser.parse_args()
    found = answer(tuple(options.models), options.records, options.seconds, options.turns)
    if options.report:
        measuring.write_report(options.report, "transformers' encoders packed, on one core", found)
    measuring.show(found, as_json=options.json)


if __name__ == "__main__":
    main()
