"""How fast does one core embed real proteins, beside the usual ways of doing it?

    python -m benchmarks.proteins_cpu [--fasta FILE] [--model esm2_t6_8M] [--records 64] [--json]

Every way gets the same proteins, weights (random, of the true shape) and a process of one thread to itself, one
after the other; ours runs once more at the end, so that a drift of the machine shows. Tokens are real ones,
`<cls>` and `<eos>` included; padding is what a way computes beyond them. Accuracy is 1 - cos against transformers
in FP32, one protein at a time.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import measuring
from benchmarks.measuring import Answer, Figure, Measured, Table, Way, Windows
from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.references import Reference, esm2_reference
from hpc_embed.engine.tokens import residue_table
from hpc_embed.engine.weights import random_weights
from hpc_embed.families.esm2 import ESM2, RESIDUES, VOCABULARY
from hpc_embed.families.family import Shape
from hpc_embed.planning.cost import cost_of, flops
from hpc_embed.registry import find_model
from hpc_embed.sequences.fasta import read_fasta

PAD = VOCABULARY.index("<pad>")
CPU = torch.device("cpu")
LONGEST = 1022
TOKEN_BUDGET = 4096
FASTA = Path("/usr/share/doc/mmseqs2/example-data/DB.fasta.gz")
"""20,000 proteins of UniProt, from Debian's package mmseqs2-examples."""
ESM_CPP_PYTHON = Path(".venv-esm-cpp/bin/python")
"""esm-cpp needs an older numpy, so it has an environment of its own: `make bench` makes it."""
OURS = {"hpc-embed, FP32": "fp32", "hpc-embed, BF16": "bf16"}
BATCH_8 = "transformers, batches of 8 in file order"
BATCH_32 = "transformers, batches of 32 in file order"
ONE = "transformers, one at a time"
FAIR = "fair-esm, sorted, 4,096 tokens"
WAYS = (
    BATCH_8,  # a typical script, and distllm's way
    BATCH_32,
    ONE,
    "transformers, sorted, 1,024 tokens",
    "transformers in BF16, sorted, 1,024 tokens",
    FAIR,
    *OURS,
)
RATIOS = (
    ("hpc-embed, FP32", BATCH_8, 3.3),
    ("hpc-embed, FP32", ONE, 1.3),
    ("hpc-embed, BF16", BATCH_8, 5.0),
    ("hpc-embed, BF16", BATCH_32, 10.0),
    ("hpc-embed, BF16", FAIR, 4.5),
    ("hpc-embed, BF16", "hpc-embed, FP32", 1.5),
)
"""One way over another, and what it should be at least."""


def proteins(fasta: Path, num_records: int) -> Windows:
    """Tokens of evenly spaced records in file order, those beyond the limit cut as most peers cut them."""
    records = [record.sequence.upper()[:LONGEST] for record in read_fasta(str(fasta))]
    places = np.linspace(0, len(records) - 1, num_records).astype(int)
    return residue_table(RESIDUES)([records[place] for place in places])


def answer(fasta: Path, model: str, num_records: int, seconds: float = measuring.SECONDS) -> Answer:
    """Measure every way."""
    windows = proteins(fasta, num_records)
    found = {
        name: measuring.in_fresh_process(run_way, name, model, windows, seconds)
        for name in (*WAYS, f"hpc-embed, FP32{measuring.AGAIN}")
    }
    if ESM_CPP_PYTHON.exists():
        found |= _esm_cpp(model, windows)
    peaks = {precision: measuring.in_fresh_process(measuring.matmul_peak, precision) for precision in OURS.values()}
    num_flops = flops(cost_of(find_model(model)), np.array([len(window) for window in windows])).sum()
    flops_per_token = num_flops / sum(map(len, windows))
    rows = [_row(name, each, found, peaks, flops_per_token) for name, each in found.items()]
    lengths = [len(window) - 2 for window in windows]
    title = (
        f"{model}: {len(windows)} proteins, {min(lengths)} to {max(lengths)} residues, median {np.median(lengths):.0f}"
    )
    headings = ("way", "tokens/s", "ratio", "padding efficiency", "share of peak", "peak memory", "largest 1 - cos")
    note = (
        f"One core. Largest matrix product in this run: {peaks['fp32'] / 1e9:.0f} GFLOP/s in FP32, "
        f"{peaks['bf16'] / 1e9:.0f} in BF16; a token takes {flops_per_token / 1e6:.1f} MFLOP. Ratio: to the first way."
    )
    ratios, ratio_figures = measuring.against_bars(model, found, RATIOS)
    figures = [Figure(f"{model}: {name}: tokens", each.tokens_per_second, "tokens/s") for name, each in found.items()]
    figures += [Figure(f"{model}: {name}: padding efficiency", found[name].padding_efficiency, "") for name in found]
    return Answer(
        [
            Table(title, headings, rows, note),
            ratios,
        ],
        figures + ratio_figures,
    )


def _row(
    name: str, each: Measured, found: dict[str, Measured], peaks: dict[str, float], flops_per_token: float
) -> list[str]:
    peak = peaks["bf16" if "BF16" in name else "fp32"]
    is_comparable = not name.startswith(("fair-esm", "esm-cpp"))  # their vectors: other weights, or logits only
    share = each.tokens_per_second / each.padding_efficiency * flops_per_token / peak
    return [
        name,
        f"{each.tokens_per_second:,.0f}",
        f"{each.tokens_per_second / found[BATCH_8].tokens_per_second:.2f}",
        f"{each.padding_efficiency:.0%}",
        "" if "padded" in name or each.padding_efficiency < 1 or "INT8" in name else f"{share:.0%}",
        f"{each.peak_bytes / 2**30:.1f} GiB" if each.peak_bytes else "",
        f"{measuring.largest_distance(each.vectors, found[ONE].vectors):.0e}" if is_comparable else "",
    ]


def run_way(name: str, model: str, windows: Windows, seconds: float = measuring.SECONDS) -> Measured:
    """One way, in this process."""
    shape = _shape(model)
    way = _way(name.removesuffix(measuring.AGAIN), shape, random_weights(ESM2, shape, seed=0))
    return measuring.measure(way, windows, seconds)


def _shape(model: str) -> Shape:
    shape = find_model(model).shape
    assert shape is not None
    return shape


def _way(name: str, shape: Shape, tensors: dict[str, Tensor]) -> Way:
    if name in OURS:
        encoder = Encoder(ESM2, shape, tensors, source="benchmark", device=CPU, precision=OURS[name])
        return measuring.packed(encoder, "mean", shape.num_layers, TOKEN_BUDGET, CPU)
    if name == FAIR:
        return measuring.padded(_fair_esm(shape), PAD, shape.num_layers, measuring.sorted_by_length(4096), cut=1)
    batches = {
        BATCH_8: measuring.in_file_order(8),
        BATCH_32: measuring.in_file_order(32),
        ONE: measuring.in_file_order(1),
    }.get(name, measuring.sorted_by_length(1024))
    dtype = torch.bfloat16 if "BF16" in name else torch.float32
    theirs = esm2_reference(shape, tensors, CPU, dtype)
    return measuring.padded(theirs, PAD, shape.num_layers, batches, cut=1)


def _fair_esm(shape: Shape) -> Reference:
    """The authors' model; its weights stay its own, since only its speed is looked at."""
    from esm.model.esm2 import ESM2

    model = ESM2(shape.num_layers, shape.hidden, shape.num_heads, "ESM-1b").train(False)

    @torch.inference_mode()
    def run(tokens: Tensor, padding: int, layer: int) -> Tensor:
        hidden: Tensor = model(tokens, repr_layers=[layer])["representations"][layer]
        return hidden

    return run


def _esm_cpp(model: str, windows: Windows) -> dict[str, Measured]:
    """esm-cpp in its own environment, on one core: packed, in FP32 and quantised; it gives logits."""
    shape = _shape(model)
    tensors = random_weights(ESM2, shape, seed=0)
    words, hidden = tensors["esm.embeddings.word_embeddings.weight"], shape.hidden
    tensors |= {
        "lm_head.dense.weight": torch.zeros(hidden, hidden),
        "lm_head.dense.bias": torch.zeros(hidden),
        "lm_head.layer_norm.weight": torch.ones(hidden),
        "lm_head.layer_norm.bias": torch.zeros(hidden),
        "lm_head.bias": torch.zeros(shape.vocabulary),
        "lm_head.decoder.weight": words.clone(),
    }
    with tempfile.TemporaryDirectory() as folder:
        weights, tokens = Path(folder, "model.safetensors"), Path(folder, "tokens.npz")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights)
        np.savez(tokens, *[window.astype(np.int32) for window in windows])
        script = Path(__file__).with_name("esm_cpp_peer.py")
        command = ["taskset", "--cpu-list", "0", str(ESM_CPP_PYTHON), str(script), str(weights), str(tokens)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    rates = [float(line) for line in done.stdout.split()]
    nothing = np.zeros((0, 0), dtype=np.float32)
    return {
        name: Measured(rate, 1.0, 0, nothing)
        for name, rate in zip(("esm-cpp, packed, FP32", "esm-cpp, packed, INT8"), rates, strict=True)
    }


def main() -> None:
    """Measure, and print a table or a JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", type=Path, default=FASTA)
    parser.add_argument("--model", default="esm2_t6_8M")
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=measuring.SECONDS, help="for each way, at least one run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measuring.show(answer(options.fasta, options.model, options.records, options.seconds), as_json=options.json)


if __name__ == "__main__":
    main()
