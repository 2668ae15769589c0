"""How near to its limits does one GPU run each model and attention back end? Parity first, then times.

    python -m benchmarks.gpu [--models esm2_t33_650M ...] [--seconds 4] [--json] [--reports benchmarks/reports]

Needs torch, transformers, safetensors, tokenizers and pyarrow, and no network; under eight minutes for all models.
Weights are random, of the true shapes. Lengths are real: every tenth of the 20,000 proteins of mmseqs2-examples
(benchmarks/protein_lengths.txt), those beyond 1,022 residues cut; for DNABERT-S log-normal around 300 tokens.

Limits are measured in the same run: the matmul peak by large BF16 products, the memory's rate by large copies. A
model's memory bound counts what our layers must move at least: see `bytes_per_token`. Parity is 1 - cos to the
reference implementation in FP32; `alone and packed` the largest difference of a vector alone to the same in a batch,
relative to the largest component.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import measuring
from benchmarks.measuring import Answer, Figure, Table, Windows
from hpc_embed.engine.device import measure_token_budget, peak_bytes, reset_peak
from hpc_embed.engine.embedding import Encoder, embed_windows
from hpc_embed.engine.encoder import Encoder as PackedEncoder
from hpc_embed.engine.fusion import why_plain
from hpc_embed.engine.packing import pack
from hpc_embed.engine.references import REFERENCES, Reference, esm2_reference
from hpc_embed.engine.transfers import to_host
from hpc_embed.engine.weights import random_weights
from hpc_embed.families import FAMILIES
from hpc_embed.families.family import Shape
from hpc_embed.planning.cost import cost_of, flops
from hpc_embed.registry import Model, find_model

MODELS = ("esm2_t6_8M", "esm2_t12_35M", "esm2_t30_150M", "esm2_t33_650M", "esm2_t36_3B", "dnabert_s")
SMALL_MODELS = ("esm2_t6_8M", "esm2_t12_35M", "dnabert_s")
"""Those whose parity is looked at: both families, and every head dimension that back ends find odd."""
LENGTHS = Path(__file__).with_name("protein_lengths.txt")
PARITY_LENGTHS = [3, 4, 17, 64, 65, 128, 129, 300, 511, 700, 1024]
BARS = {"esm2_t33_650M": 0.60, "esm2_t36_3B": 0.65, "dnabert_s": 0.45}
"""Share of the matmul peak that is wanted."""
MEMORY_BARS = {"esm2_t6_8M": 0.60, "esm2_t12_35M": 0.60}
"""Share of the memory bound that is wanted where memory binds."""
LARGEST_DISTANCE = 5e-5
BATCHES_IN_FLIGHT = 2
MOST_TOKENS = 2000
"""Of a window."""


class Timed(NamedTuple):
    """One way over the windows for some seconds."""

    tokens_per_second: float
    host_share: float
    """Of the time, what the host took to queue the work; the device waits for it where that comes near 1."""
    peak_bytes: int


def answer(models: list[str], device: torch.device, num_windows: int, seconds: float, longest: int) -> Answer:
    """Parity, limits and times; windows beyond `longest` tokens are cut."""
    parity = _parity([name for name in SMALL_MODELS if name in models], device, longest)
    peak, rate = matmul_peak(device), memory_rate(device)
    rows, figures = [], [Figure("matmul peak, bf16", peak / 1e12, "TFLOP/s"), Figure("memory", rate / 1e12, "TB/s")]
    for name in models:
        model = find_model(name)
        every = lengths_of(model)
        lengths = [min(every[place], longest) for place in np.linspace(0, len(every) - 1, num_windows).astype(int)]
        for way, timed in time_model(model, random_windows(model, lengths), device, seconds):
            row, more = _told(model, way, timed, lengths, peak, rate)
            rows.append(row)
            figures += more
            print(" | ".join(row), flush=True)
    note = (
        f"Measured in this run: matmul peak {peak / 1e12:.0f} TFLOP/s in BF16, memory {rate / 1e12:.2f} TB/s. "
        f"Chains of element-wise steps: {why_plain() or 'in Triton'}."
    )
    headings = ("model", "way", "tokens/s", "of matmul peak", "of memory bound", "wanted", "host", "peak memory")
    return Answer([parity, Table("Times", headings, rows, note)], figures)


def _parity(names: list[str], device: torch.device, longest: int) -> Table:
    """Each precision and back end beside the references."""
    rows = []
    for name in names:
        model = find_model(name)
        windows = random_windows(model, [length for length in PARITY_LENGTHS if length <= longest])
        _, tensors = shape_and_tensors(model, device)
        reference, cut = reference_of(model, tensors, device), 1 if model.pooling == "mean" else 0
        expected = measuring.padded(reference, -1, model.num_layers, measuring.in_file_order(1), cut)
        vectors, _ = expected(windows)
        for precision in ("fp32", "bf16"):
            encoder = encoder_of(model, tensors, device, precision)
            for back_end in encoder.attention_back_ends:
                encoder.use_attention(back_end)
                ours, _ = measuring.packed(encoder, model.pooling, model.num_layers, 1 << 20, device)(windows)
                alone, _ = measuring.packed(encoder, model.pooling, model.num_layers, 1, device)(windows)
                distance = measuring.largest_distance(ours, vectors)
                difference = np.abs(ours - alone).max() / np.abs(ours).max()
                is_well = distance <= (
                    1e-6 if precision == "fp32" else 1e-4 if model.kind == "dna" else LARGEST_DISTANCE
                )
                verdict = "ok" if is_well else "BEYOND"
                rows.append([name, precision, back_end, f"{distance:.1e}", f"{difference:.1e}", verdict])
    headings = ("model", "precision", "attention", "largest 1 - cos", "alone and packed", "")
    return Table("Parity with the reference implementations", headings, rows)


def time_model(model: Model, windows: Windows, device: torch.device, seconds: float) -> Iterator[tuple[str, Timed]]:
    """Ours with every back end, then transformers' two usual ways."""
    shape, tensors = shape_and_tensors(model, device)
    encoder = encoder_of(model, tensors, device, "bf16")
    for back_end in encoder.attention_back_ends:
        encoder.use_attention(back_end)
        budget = measure_token_budget(partial(_run_trial, encoder, model, device), device)
        yield f"hpc-embed, {back_end}, {budget:,} tokens", _time_ours(encoder, model, windows, budget, device, seconds)
    del encoder
    _free(device)
    if model.family == "esm2":
        theirs = esm2_reference(shape, tensors, device, torch.bfloat16)
        del tensors
        for way, batches in (
            ("transformers BF16, sorted, 16,384 tokens", measuring.sorted_by_length(16_384)),
            ("transformers BF16, batches of 32 in file order", measuring.in_file_order(32)),
        ):
            yield way, _time_theirs(theirs, model, windows, batches(windows), device, seconds)
        del theirs
    _free(device)


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
    _synchronize(device)
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
    _synchronize(device)
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
    inputs and results (D, 3 D; D, D; D, F; F, D), GELU in and out (F, F) and attention in and out (3 D, D), rotary in
    and out (2 D, 2 D), and twice the sum and norm: residual in and out in FP32, the product's result in, the norm out.
    """
    hidden, inner = model.hidden, model.feed_forward_weights // (2 * model.hidden)
    products = 2 * (4 * hidden + 2 * hidden + (hidden + inner) * 2)
    steps = 2 * (2 * inner + 4 * hidden + 4 * hidden) + 2 * (8 + 4) * hidden
    return model.num_layers * (products + steps)


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of large BF16 products: the best of many."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / _best(lambda: a @ b, device)


def memory_rate(device: torch.device) -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**24, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source), device)


def _best(function: Callable[[], object], device: torch.device) -> float:
    best = math.inf
    for _ in range(20):
        _synchronize(device)
        started = time.perf_counter()
        function()
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def lengths_of(model: Model) -> list[int]:
    """Tokens of each window."""
    if model.kind == "dna":
        drawn = np.random.default_rng(0).lognormal(np.log(300), 0.7, 2000)
        return [int(length) for length in np.clip(drawn, 20, MOST_TOKENS)]
    return [min(int(line), 1022) + 2 for line in LENGTHS.read_text().split()]


def random_windows(model: Model, lengths: list[int]) -> Windows:
    """Ordinary tokens."""
    generator = np.random.default_rng(0)
    high = 24 if model.kind == "protein" else 4096
    return [generator.integers(4, high, length).astype(np.uint16) for length in lengths]


def shape_and_tensors(model: Model, device: torch.device) -> tuple[Shape, dict[str, torch.Tensor]]:
    """Random weights, drawn on the device."""
    assert model.shape is not None
    return model.shape, random_weights(FAMILIES[model.family], model.shape, 0, device.type)


def encoder_of(model: Model, tensors: dict[str, torch.Tensor], device: torch.device, precision: str) -> Encoder:
    """Ours."""
    assert model.shape is not None
    family = FAMILIES[model.family]
    return PackedEncoder(family, model.shape, tensors, source="benchmark", device=device, precision=precision)


def reference_of(model: Model, tensors: dict[str, torch.Tensor], device: torch.device) -> Reference:
    """The reference implementation, its tokens taken from the host and its states brought back."""
    assert model.shape is not None
    reference = REFERENCES[model.family](model.shape, tensors, device)
    return lambda tokens, padding, layer: reference(tokens.to(device), padding, layer).cpu()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Measure, print, and write a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=4.0, help="for each model and way")
    parser.add_argument("--windows", type=int, default=2000, help="of the lengths, evenly spaced")
    parser.add_argument("--longest", type=int, default=MOST_TOKENS, help="tokens of a window; longer ones are cut")
    parser.add_argument("--device", default="cuda", help="cuda; cpu only shows that the script runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reports", type=Path, default=Path(__file__).parent / "reports")
    options = parser.parse_args()
    device = torch.device(options.device)
    found = answer(options.models, device, options.windows, options.seconds, options.longest)
    measuring.show(found, as_json=options.json)
    if device.type == "cuda":
        path = options.reports / f"{datetime.now(UTC).date()}-gpu.md"
        measuring.write_report(path, f"hpc-embed on {torch.cuda.get_device_name(device)}", found)


if __name__ == "__main__":
    main()
