"""What do our attention kernel and oneDNN's products gain over what torch does by itself, on one core?

    python -m benchmarks.kernels_cpu [--json]

Attention: 20 heads over windows of 100 to 1,024 tokens, GFLOP/s of the scores and their use. Products: 4,096 rows by
the weights of ESM-2's feed-forward part. This is the evidence that the kernel is worth its lines.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import linear

from benchmarks import measuring
from benchmarks.measuring import PRECISIONS, Answer, Figure, Table
from hpc_embed.engine.attention import available_back_ends, make_attention
from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.dense import Dense

CPU = torch.device("cpu")
LENGTHS = [1024, 700, 511, 350, 350, 300, 256, 180, 100]
NUM_HEADS = 20
HEAD_DIMS = {16: "ESM-2 8M", 24: "ESM-2 35M", 32: "ESM-2 150M", 64: "ESM-2 650M, DNABERT"}
ROWS = 4096
HIDDEN = {320: "ESM-2 8M", 480: "ESM-2 35M", 1280: "ESM-2 650M"}
REPEATS = 5


def answer() -> Answer:
    """Measure both."""
    rates = {
        (precision, head_dim): measuring.in_fresh_process(attention_rates, precision, head_dim)
        for precision in PRECISIONS
        for head_dim in HEAD_DIMS
    }
    products = {
        (precision, hidden): measuring.in_fresh_process(product_rates, precision, hidden)
        for precision in PRECISIONS
        for hidden in HIDDEN
    }
    tables, figures = [], []
    for title, found, names in (
        ("Attention: our kernel beside torch's", rates, HEAD_DIMS),
        ("Products: oneDNN's layout beside torch's linear", products, HIDDEN),
    ):
        rows = []
        for (precision, size), (ours, theirs) in found.items():
            rows.append([precision, f"{size}, {names[size]}", f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"])
            figures.append(Figure(f"{title}: {precision}, {size}", ours / theirs, "times"))
        tables.append(Table(title, ("precision", "size", "ours, GFLOP/s", "torch, GFLOP/s", "ratio"), rows))
    return Answer(tables, figures)


def attention_rates(precision: str, head_dim: int) -> tuple[float, float]:
    """GFLOP/s of our kernel (of SDPA where it is not here) and of SDPA."""
    qkv = torch.randn(sum(LENGTHS), 3, NUM_HEADS, head_dim).to(PRECISIONS[precision])
    batch = make_batch([np.zeros(length, dtype=np.uint8) for length in LENGTHS], CPU)
    num_flops = sum(4 * length**2 for length in LENGTHS) * NUM_HEADS * head_dim
    names = (available_back_ends(CPU, head_dim, qkv.dtype)[0], "sdpa")
    ours, theirs = (make_attention(name) for name in names)
    return _rates(num_flops, lambda: ours(qkv, None, batch), lambda: theirs(qkv, None, batch))


def product_rates(precision: str, hidden: int) -> tuple[float, float]:
    """GFLOP/s of a dense layer as the engine lays it out, and of torch's linear."""
    dtype = PRECISIONS[precision]
    x, weight, bias = torch.randn(ROWS, hidden).to(dtype), torch.randn(4 * hidden, hidden), torch.randn(4 * hidden)
    layer = Dense(weight, bias, device=CPU, dtype=dtype)
    weight, bias = weight.to(dtype), bias.to(dtype)
    return _rates(2 * ROWS * 4 * hidden**2, lambda: layer(x), lambda: linear(x, weight, bias))


@torch.inference_mode()
def _rates(num_flops: int, *functions: Callable[[], object]) -> tuple[float, float]:
    """GFLOP/s of each, the best of several turns taken in alternation."""
    best = [math.inf] * len(functions)
    for _ in range(REPEATS):
        for index, function in enumerate(functions):
            started = time.perf_counter()
            function()
            best[index] = min(best[index], time.perf_counter() - started)
    ours, theirs = (num_flops / seconds / 1e9 for seconds in best)
    return ours, theirs


def main() -> None:
    """Measure, and print tables or a JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    measuring.show(answer(), as_json=parser.parse_args().json)


if __name__ == "__main__":
    main()
