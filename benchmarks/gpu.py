"""How near to its limits does one GPU run each model, and does it compute what it should? Checks first, then times.

    python -m benchmarks.gpu [--models esm2_t33_650M ...] [--seconds 2] [--json] [--report FILE]

Needs torch, transformers, safetensors, tokenizers and pyarrow, and no network; under eight minutes for all models.
Weights are random, of the true shapes. Lengths are real: every tenth of the 20,000 proteins of mmseqs2-examples
(benchmarks/protein_lengths.txt), those beyond 1,022 residues cut; for DNABERT-S log-normal around 300 tokens.

Limits are measured in the same run: the matmul peak by large BF16 products, the memory's rate by large copies. A
model's memory bound counts what our layers must move at least: see `bytes_per_token`. Parity is 1 - cos to the
reference implementation in FP32; `alone and packed` the largest difference of a vector alone to the same in a batch,
relative to the largest component. What is looked at besides: benchmarks/gpu_checks.py.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import linear

from benchmarks import gpu_checks, measuring
from benchmarks.any_encoder_cpu import SHAPES
from benchmarks.any_encoder_cpu import encoder_of as any_encoder_of
from benchmarks.gpu_models import (
    MOST_TOKENS,
    encoder_of,
    lengths_of,
    random_windows,
    shape_and_tensors,
    synchronise,
)
from benchmarks.measuring import Answer, Figure, Table, Windows
from hpc_embed.engine.device import (
    MOST_TOKENS_CUDA,
    find_device,
    has_fp8,
    measure_token_budget,
    peak_bytes,
    reset_peak,
)
from hpc_embed.engine.embedding import Encoder, embed_windows
from hpc_embed.engine.fusion import why_plain
from hpc_embed.engine.packing import pack
from hpc_embed.engine.references import Reference, esm2_reference
from hpc_embed.engine.transfers import to_host
from hpc_embed.errors import in_one_line
from hpc_embed.families.family import Shape
from hpc_embed.model import Model
from hpc_embed.planning.cost import cost_of, flops
from hpc_embed.registry import find_model
from hpc_embed.workers.loop import BATCHES_IN_FLIGHT

MODELS = ("esm2_t6_8M", "esm2_t12_35M", "esm2_t30_150M", "esm2_t33_650M", "esm2_t36_3B", "dnabert_s")
ANY_ENCODERS = {"antiberty": 8, "prot_bert": 30, "esm1b": 33}
"""Models of transformers, and their layers."""
SMALL_MODELS = ("esm2_t6_8M", "esm2_t12_35M", "dnabert_s")
"""Those whose parity is looked at: both families, and every head dimension that back ends find odd."""
BARS = {"esm2_t33_650M": 0.60, "esm2_t36_3B": 0.65, "dnabert_s": 0.45}
"""Share of the matmul peak that is wanted."""
PROFILED_TOKENS = 65_536
FP8_HIDDEN = 960
"""Hidden size from which FP8 is looked at."""
MEMORY_BARS = {"esm2_t6_8M": 0.60, "esm2_t12_35M": 0.60}
"""Share of the memory bound that is wanted where memory binds."""


class Timed(NamedTuple):
    """One way over the windows for some seconds."""

    tokens_per_second: float
    host_share: float
    """Of the time, what the host took to queue the work; the device waits for it where that comes near 1."""
    peak_bytes: int


def answer(
    models: list[str],
    any_encoders: list[str],
    device: torch.device,
    num_windows: int,
    seconds: float,
    longest: int,
    num_batches: int,
) -> Iterator[Answer]:
    """What is known so far, after each question; windows beyond `longest` tokens are cut."""
    small = [name for name in SMALL_MODELS if name in models]
    started = time.perf_counter()
    tables: list[Table] = []
    figures: list[Figure] = []
    for ask in (
        lambda: gpu_checks.parity(small, device, longest),
        lambda: gpu_checks.products(models, device),
        lambda: gpu_checks.invariance(small, device, MOST_TOKENS_CUDA if device.type == "cuda" else 600),
        lambda: gpu_checks.streams(models[0], device, num_batches),
        lambda: gpu_checks.waits(small, device),
        lambda: gpu_checks.memory(models[0], device),
    ):
        tables.append(_asked(ask))
        print(f"{time.perf_counter() - started:.0f} s: {tables[-1].title}", flush=True)
        yield Answer(tables, figures)
    peak, rate = matmul_peak(device), memory_rate(device)
    figures += [Figure("matmul peak, bf16", peak / 1e12, "TFLOP/s"), Figure("memory", rate / 1e12, "TB/s")]
    note = (
        f"Measured in this run: matmul peak {peak / 1e12:.0f} TFLOP/s in BF16, memory {rate / 1e12:.2f} TB/s. "
        f"Chains of element-wise steps: {why_plain() or 'in Triton'}."
    )
    headings = ("model", "way", "tokens/s", "of matmul peak", "of memory bound", "wanted", "host", "peak memory")
    rows: list[list[str]] = []
    tables.append(Table("Times", headings, rows, note))
    for name in models:
        model = find_model(name)
        every = lengths_of(model)
        lengths = [min(every[place], longest) for place in np.linspace(0, len(every) - 1, num_windows).astype(int)]
        windows = random_windows(model, lengths)
        shape, tensors = shape_and_tensors(model, device)
        encoder = encoder_of(model, tensors, device, "bf16")
        for way, timed in chain(
            time_ours(encoder, model, windows, device, seconds),
            time_fp8(tensors, model, windows, device, seconds),
            time_theirs(model, shape, tensors, windows, device, seconds),
        ):
            row, more = _told(model, way, timed, lengths, peak, rate)
            rows.append(row)
            figures += more
            print(f"{time.perf_counter() - started:.0f} s: " + " | ".join(row), flush=True)
        encoder.use_attention(encoder.attention_back_ends[0])
        some = [windows[at] for at in next(pack(list(map(len, windows)), PROFILED_TOKENS))]
        table, more = gpu_checks.kernels(encoder, model, some, device)
        tables.append(table)
        figures += more
        del encoder, tensors
        _free(device)
        yield Answer(tables, figures)
    for name in any_encoders:
        for model, lengths, way, timed in times_of_any(name, device, num_windows, seconds, longest):
            row, more = _told(model, way, timed, lengths, peak, rate)
            rows.append(row)
            figures += more
            print(f"{time.perf_counter() - started:.0f} s: " + " | ".join(row), flush=True)
            yield Answer(tables, figures)


def times_of_any(
    name: str, device: torch.device, num_windows: int, seconds: float, longest: int
) -> Iterator[tuple[Model, list[int], str, Timed]]:
    """A model of transformers through ours, packed and padded."""
    config, num_layers = SHAPES[name].config, ANY_ENCODERS[name]
    shape = Shape(
        num_layers=num_layers,
        hidden=config["hidden_size"],
        num_heads=config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        eps=0.0,
    )
    model = replace(find_model("hf"), name=name, shape=shape)
    every, most = lengths_of(model), min(longest, SHAPES[name].longest)
    lengths = [min(every[place], most) for place in np.linspace(0, len(every) - 1, num_windows).astype(int)]
    windows = random_windows(model, lengths)
    for may_pack in (True, False):
        encoder = any_encoder_of(name, device, "bf16", may_pack=may_pack, num_layers=num_layers)
        for way, timed in time_ours(encoder, model, windows, device, seconds):
            yield model, lengths, f"{'packed' if may_pack else 'padded'}, {way}", timed
        del encoder
        _free(device)


def _asked(ask: Callable[[], Table]) -> Table:
    """The answer, or what was in its way: the others are still asked."""
    try:
        return ask()
    except Exception as error:
        traceback.print_exc()
        return Table("Not answered", ("why",), [[in_one_line(error)]])


def time_ours(
    encoder: Encoder, model: Model, windows: Windows, device: torch.device, seconds: float
) -> Iterator[tuple[str, Timed]]:
    """With the back end that would be taken, and with the next one."""
    for back_end in encoder.attention_back_ends[:2]:
        encoder.use_attention(back_end)
        budget = measure_token_budget(partial(_run_trial, encoder, model, device), device)
        yield f"hpc-embed, {back_end}, {budget:,} tokens", _time_ours(encoder, model, windows, budget, device, seconds)


def time_fp8(
    tensors: dict[str, torch.Tensor], model: Model, windows: Windows, device: torch.device, seconds: float
) -> Iterator[tuple[str, Timed]]:
    """Ours, its products in FP8, where the GPU has that and the model is large enough to be worth it."""
    if has_fp8(device) and model.hidden >= FP8_HIDDEN:
        encoder = encoder_of(model, tensors, device, "fp8")
        budget = measure_token_budget(partial(_run_trial, encoder, model, device), device)
        yield f"FP8, {budget:,} tokens", _time_ours(encoder, model, windows, budget, device, seconds)


def time_theirs(
    model: Model, shape: Shape, tensors: dict[str, torch.Tensor], windows: Windows, device: torch.device, seconds: float
) -> Iterator[tuple[str, Timed]]:
    """transformers' two usual ways, of the family that it has."""
    if model.family != "esm2":
        return
    theirs = esm2_reference(shape, tensors, device, torch.bfloat16)
    for way, batches in (
        ("transformers BF16, sorted, 16,384 tokens", measuring.sorted_by_length(16_384)),
        ("transformers BF16, batches of 32 in file order", measuring.in_file_order(32)),
    ):
        yield way, _time_theirs(theirs, model, windows, batches(windows), device, seconds)


def _run_trial(encoder: Encoder, model: Model, device: torch.device, num_tokens: int) -> None:
    windows = random_windows(model, [256] * (num_tokens // 256))
    embed_windows(encoder, windows, model.pooling, model.num_layers, device).vectors_BD.cpu()


def _time_ours(
    encoder: Encoder, model: Model, windows: Windows, budget: int, device: torch.device, seconds: float
) -> Timed:
    """As the workers' loop does it: two batches in flight, vectors copied to the host behind them."""
    batches: list[Windows] = [
        [windows[i] for i in batch] for batch in pack([len(window) for window in windows], budget)
    ]
    in_flight: deque[Callable[[], object]] = deque()

    def run(batch: Windows) -> None:
        made = embed_windows(encoder, batch, model.pooling, model.num_layers, device)
        in_flight.append(to_host(made.vectors_BD))

    def wait(at_most: int) -> None:
        while len(in_flight) > at_most:
            in_flight.popleft()()

    return _timed(batches, run, wait, device, seconds)


def _time_theirs(
    theirs: Reference, model: Model, windows: Windows, batches: list[list[int]], device: torch.device, seconds: float
) -> Timed:
    def run(batch: Windows) -> None:
        tokens = np.full((len(batch), max(map(len, batch))), 1, dtype=np.int64)
        for row, window in enumerate(batch):
            tokens[row, : len(window)] = window
        on_device = torch.from_numpy(tokens).to(device)
        mask = on_device.ne(1)[..., None]
        ((theirs(on_device, 1, model.num_layers).float() * mask).sum(1) / mask.sum(1)).cpu()

    chosen: list[Windows] = [[windows[i] for i in batch] for batch in batches]
    return _timed(chosen, run, lambda at_most: None, device, seconds)


def _timed(
    batches: list[Windows],
    run: Callable[[Windows], None],
    wait: Callable[[int], None],
    device: torch.device,
    seconds: float,
) -> Timed:
    """Run batches, the longest windows and the shortest in turn, until the time is spent."""
    order = [batches[i // 2] if i % 2 == 0 else batches[-1 - i // 2] for i in range(len(batches))]
    for batch in order[:3]:  # what is compiled or allocated once does not count
        run(batch)
    wait(0)
    synchronise(device)
    reset_peak(device)
    num_tokens, queueing, started = 0, 0.0, time.perf_counter()
    at = 0
    while not num_tokens or time.perf_counter() - started < seconds or at % len(order):
        queued = time.perf_counter()
        run(order[at % len(order)])
        queueing += time.perf_counter() - queued
        num_tokens += sum(map(len, order[at % len(order)]))
        wait(BATCHES_IN_FLIGHT - 1)
        at += 1
        if time.perf_counter() - started > 3 * seconds:
            break
    wait(0)
    synchronise(device)
    spent = time.perf_counter() - started
    return Timed(num_tokens / spent, queueing / spent, peak_bytes(device))


def _told(
    model: Model, way: str, timed: Timed, lengths: list[int], peak: float, rate: float
) -> tuple[list[str], list[Figure]]:
    flops_per_token = flops(cost_of(model), np.array(lengths)).sum() / sum(lengths)
    of_peak = timed.tokens_per_second * flops_per_token / peak
    of_memory = timed.tokens_per_second * bytes_per_token(model) / rate
    wanted = ""
    if way.startswith("hpc-embed"):
        wanted = f"{BARS[model.name]:.0%} of peak" if model.name in BARS else wanted
        wanted = f"{MEMORY_BARS[model.name]:.0%} of memory" if model.name in MEMORY_BARS else wanted
    row = [
        model.name,
        way,
        f"{timed.tokens_per_second:,.0f}",
        f"{of_peak:.1%}",
        f"{of_memory:.1%}",
        wanted,
        f"{timed.host_share:.0%}",
        f"{timed.peak_bytes / 2**30:.1f} GiB",
    ]
    name = f"{model.name}: {way}"
    figures = [
        Figure(f"{name}: tokens", timed.tokens_per_second, "tokens/s"),
        Figure(f"{name}: share of matmul peak", of_peak, ""),
        Figure(f"{name}: share of memory bound", of_memory, ""),
    ]
    return row, figures


def bytes_per_token(model: Model) -> float:
    """Bytes that one token's pass must move, nothing fused with a product: per layer, in BF16 (2 bytes) the products'
    inputs and results (D, 3 D; D, D; D, F; F, D), GELU in and out (F, F) and attention in and out (3 D, D), the keys'
    rotary positions in and out (D, D), and twice the sum and norm: residual in and out in FP32, the product's result
    in, the norm out.
    """
    hidden, inner = model.hidden, model.feed_forward_weights // (2 * model.hidden)
    products = 2 * (4 * hidden + 2 * hidden + (hidden + inner) * 2)
    steps = 2 * (2 * inner + 4 * hidden + 2 * hidden) + 2 * (8 + 4) * hidden
    return model.num_layers * (products + steps)


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of large BF16 products: the best of many."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / _best(lambda: linear(a, b, b[0]), device)


def memory_rate(device: torch.device) -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**24, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source), device)


def _best(function: Callable[[], object], device: torch.device) -> float:
    best = math.inf
    for _ in range(20):
        synchronise(device)
        started = time.perf_counter()
        function()
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return best


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Measure, print, and write a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--any", nargs="*", choices=ANY_ENCODERS, default=["prot_bert", "esm1b"], help="as hf: runs")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each model and way")
    parser.add_argument("--windows", type=int, default=2000, help="of the lengths, evenly spaced")
    parser.add_argument("--longest", type=int, default=MOST_TOKENS, help="tokens of a window; longer ones are cut")
    parser.add_argument("--batches", type=int, default=2000, help="random ones, beside the same with waiting")
    parser.add_argument("--device", default="cuda", help="cuda; cpu only shows that the script runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--report", type=Path, help="Markdown, with JSON lines beside it; written as answers come in")
    options = parser.parse_args()
    device = find_device("cpu" if options.device == "cpu" else 0)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU, which only shows that this runs"
    found = Answer([], [])
    for found in answer(
        options.models, options.any, device, options.windows, options.seconds, options.longest, options.batches
    ):
        if options.report:
            measuring.write_report(options.report, f"hpc-embed on {name}", found)
    measuring.show(found, as_json=options.json)


if __name__ == "__main__":
    main()
