"""How fast does one core embed contigs with DNABERT-S, beside the dense padded way?

    python -m benchmarks.dna_cpu [--fasta FILE] [--tokenizer FILE] [--records 16] [--json]

Contigs are pieces of phage lambda's genome, of log-normal lengths around 1,500 bases up to 10,000, at places drawn
with a fixed seed. The dense way is the textbook forward pass of hpc_embed.engine.references: DNABERT-S's published
code no longer loads. Weights are random, of the true shape; so is the tokenizer, unless the published one is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks import measuring
from benchmarks.measuring import Answer, Figure, Measured, Table, Way, Windows
from hpc_embed.engine.bytepairs import BpeTokenizer, untrained_bpe_json
from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.references import dnabert_reference
from hpc_embed.engine.weights import random_weights
from hpc_embed.families.dnabert import DNABERT, dnabert_shape
from hpc_embed.planning.cost import cost_of, flops
from hpc_embed.registry import find_model
from hpc_embed.sequences.fasta import read_fasta

CPU = torch.device("cpu")
FASTA = Path(__file__).parent.parent / "examples" / "lambda_phage.fasta"
SHORTEST, MEDIAN, LONGEST = 200, 1_500, 10_000
TOKEN_BUDGET = 4096
PAD = 3
OURS = {"hpc-embed, FP32": "fp32", "hpc-embed, BF16": "bf16"}
BATCH_8 = "dense, batches of 8 in file order"
ONE = "dense, one at a time"
DENSE = {
    BATCH_8: measuring.in_file_order(8),
    ONE: measuring.in_file_order(1),
    "dense, sorted, 1,024 tokens": measuring.sorted_by_length(1024),
}
RATIOS = (("hpc-embed, FP32", BATCH_8, 2.5), ("hpc-embed, FP32", ONE, 1.15))
"""One way over another, and what it should be at least."""


def contigs(fasta: Path, num_records: int) -> list[bytes]:
    """Pieces of the file's first record."""
    genome = next(iter(read_fasta(str(fasta)))).sequence.upper()
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(np.log(MEDIAN), 0.8, num_records), SHORTEST, LONGEST).astype(int)
    starts = generator.integers(0, len(genome) - lengths)
    return [genome[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]


def answer(fasta: Path, tokenizer: Path | None, num_records: int) -> Answer:
    """Measure every way."""
    bpe = BpeTokenizer(untrained_bpe_json() if tokenizer is None else tokenizer.read_text(encoding="utf-8"))
    windows = bpe(contigs(fasta, num_records))
    names = (*DENSE, *OURS, f"hpc-embed, FP32{measuring.AGAIN}")
    found: dict[str, Measured] = {name: measuring.in_fresh_process(run_way, name, windows) for name in names}
    lengths = [len(window) for window in windows]
    flops_per_token = flops(cost_of(find_model("dnabert_s")), np.array(lengths)).sum() / sum(lengths)
    peaks = {precision: measuring.in_fresh_process(measuring.matmul_peak, precision) for precision in OURS.values()}
    rows = [
        [
            name,
            f"{each.tokens_per_second:,.0f}",
            f"{each.tokens_per_second / found[BATCH_8].tokens_per_second:.2f}",
            f"{each.padding_efficiency:.0%}",
            f"{each.tokens_per_second * flops_per_token / peaks[precision]:.0%}"
            if (precision := OURS.get(name.removesuffix(measuring.AGAIN)))
            else "",
            f"{each.peak_bytes / 2**30:.1f} GiB",
            f"{measuring.largest_distance(each.vectors, found[ONE].vectors):.0e}",
        ]
        for name, each in found.items()
    ]
    ratios, ratio_figures = measuring.against_bars("dnabert_s", found, RATIOS)
    which = "untrained tokenizer" if tokenizer is None else "published tokenizer"
    title = f"dnabert_s: {len(windows)} contigs of lambda, {min(lengths)} to {max(lengths)} tokens ({which})"
    headings = ("way", "tokens/s", "ratio", "padding efficiency", "share of peak", "peak memory", "largest 1 - cos")
    note = (
        f"One core. Largest matrix product in this run: {peaks['fp32'] / 1e9:.0f} GFLOP/s in FP32, "
        f"{peaks['bf16'] / 1e9:.0f} in BF16; a token takes {flops_per_token / 1e6:.0f} MFLOP."
    )
    figures = [Figure(f"dnabert_s: {name}: tokens", each.tokens_per_second, "tokens/s") for name, each in found.items()]
    return Answer(
        [Table(title, headings, rows, note), ratios],
        figures + ratio_figures,
    )


def run_way(name: str, windows: Windows) -> Measured:
    """One way, in this process."""
    return measuring.measure(_way(name.removesuffix(measuring.AGAIN)), windows)


def _way(name: str) -> Way:
    shape = dnabert_shape()
    tensors = random_weights(DNABERT, shape, seed=0)
    if name in OURS:
        encoder = Encoder(DNABERT, shape, tensors, source="benchmark", device=CPU, precision=OURS[name])
        return measuring.packed(encoder, "mean_with_special", shape.num_layers, TOKEN_BUDGET, CPU)
    dense = dnabert_reference(shape, tensors, CPU)
    return measuring.padded(dense, PAD, shape.num_layers, DENSE[name], cut=0)


def main() -> None:
    """Measure, and print a table or a JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", type=Path, default=FASTA)
    parser.add_argument("--tokenizer", type=Path, help="the published tokenizer.json")
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measuring.show(answer(options.fasta, options.tokenizer, options.records), as_json=options.json)


if __name__ == "__main__":
    main()
