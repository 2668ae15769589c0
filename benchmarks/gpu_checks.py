"""What `benchmarks.gpu` looks at beside times: parity, invariance, streams, hidden waits, memory, kernels."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import measuring
from benchmarks.gpu_models import encoder_of, random_windows, reference_of, shape_and_tensors, synchronise
from benchmarks.measuring import Figure, Table, Windows
from hpc_embed.engine.dense import FEWEST_ROWS, Dense
from hpc_embed.engine.device import free_bytes, has_fp8, is_out_of_memory
from hpc_embed.engine.embedding import Encoder, embed_windows
from hpc_embed.engine.fp8 import Fp8Dense
from hpc_embed.engine.transfers import to_host
from hpc_embed.errors import in_one_line
from hpc_embed.model import Model
from hpc_embed.registry import find_model
from hpc_embed.workers.loop import BATCHES_IN_FLIGHT
from hpc_embed.workers.verification import LARGEST_DISTANCE, precisions_of

PARITY_LENGTHS = [3, 4, 17, 64, 65, 128, 129, 300, 511, 700, 1024]
LARGEST_DISTANCE_OF_PROTEINS = 5e-5
"""In BF16."""
ROWS = (1, 3, 17, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Of a product, beside the same rows among MOST_ROWS."""
MOST_ROWS = 65_536
OFFSETS = range(1, 128)
"""Tokens in front of a window, so that it begins at every place of a tile."""
TOP_KERNELS = 8


def parity(names: Sequence[str], device: torch.device, longest: int) -> Table:
    """Each precision and back end beside the reference implementations in FP32; one that fails is told."""
    rows = []
    for name in names:
        model = find_model(name)
        windows = random_windows(model, [length for length in PARITY_LENGTHS if length <= longest])
        _, tensors = shape_and_tensors(model, device)
        reference, cut = reference_of(model, tensors, device), 1 if model.pooling == "mean" else 0
        expected = measuring.padded(reference, -1, model.num_layers, measuring.in_file_order(1), cut)
        vectors, _ = expected(windows)
        for precision in precisions_of(device):
            encoder = encoder_of(model, tensors, device, precision)
            is_narrow = precision == "bf16" and model.kind != "dna"
            bound = LARGEST_DISTANCE_OF_PROTEINS if is_narrow else LARGEST_DISTANCE[precision]
            for back_end in encoder.attention_back_ends:
                try:
                    found = _beside(encoder, back_end, model, windows, vectors, bound, device)
                except (RuntimeError, ImportError, OSError) as error:
                    found = ["", "", in_one_line(error)]
                rows.append([name, precision, back_end, *found])
    headings = ("model", "precision", "attention", "largest 1 - cos", "alone and packed", "")
    return Table("Parity with the reference implementations", headings, rows)


def _beside(
    encoder: Encoder,
    back_end: str,
    model: Model,
    windows: Windows,
    expected: NDArray[np.float32],
    bound: float,
    device: torch.device,
) -> list[str]:
    encoder.use_attention(back_end)
    ours, alone = (
        measuring.packed(encoder, model.pooling, model.num_layers, budget, device)(windows)[0]
        for budget in (1 << 20, 1)
    )
    distance, difference = measuring.largest_distance(ours, expected), _relative(alone, ours)
    return [f"{distance:.1e}", f"{difference:.1e}", "ok" if distance <= bound else "BEYOND"]


def products(names: Sequence[str], device: torch.device) -> Table:
    """From how many rows on a product gives each row the bits that it has among MOST_ROWS."""
    most = MOST_ROWS if device.type == "cuda" else 256
    rows = []
    for name in names:
        model = find_model(name)
        hidden, inner = model.hidden, model.feed_forward_weights // (2 * model.hidden)
        for columns_in, columns_out in ((hidden, 3 * hidden), (hidden, hidden), (hidden, inner), (inner, hidden)):
            weight = torch.randn(columns_out, columns_in, device=device) * columns_in**-0.5
            x = torch.randn(most, columns_in, device=device, dtype=torch.bfloat16)
            for make in (Dense, Fp8Dense) if has_fp8(device) else (Dense,):
                dense = make(weight, weight[:, 0], device=device, dtype=torch.bfloat16)
                whole = dense(x)
                looked_at = [at for at in ROWS if at < most and (make is Dense or at >= FEWEST_ROWS)]
                odd = [number for number in looked_at if not torch.equal(dense(x[:number]), whole[:number])]
                precision = "bf16" if make is Dense else "fp8"
                rows.append([name, precision, f"{columns_in} to {columns_out}", ", ".join(map(str, odd)) or "none"])
    note = (
        f"Looked at: {', '.join(map(str, ROWS))} rows, beside the same rows among {most:,}; in FP8 from "
        f"{FEWEST_ROWS} on, which is what batches are filled up to."
    )
    return Table("Rows at which a product's bits differ", ("model", "precision", "product", "rows"), rows, note)


def invariance(names: Sequence[str], device: torch.device, batch_tokens: int) -> Table:
    """One window at every place of a tile, alone, and among many tokens: its vector's distance from that alone."""
    rows = []
    for name in names:
        model = find_model(name)
        _, tensors = shape_and_tensors(model, device)
        (window,), others = random_windows(model, [300]), random_windows(model, [257] * (batch_tokens // 257))
        fronts = random_windows(model, list(OFFSETS if device.type == "cuda" else OFFSETS[::60]))
        for precision in precisions_of(device):
            encoder = encoder_of(model, tensors, device, precision)
            vector = partial(_last_vector, encoder, model, device)
            for back_end in encoder.attention_back_ends[:2]:
                encoder.use_attention(back_end)
                alone = vector([window])
                at_offsets = max(_relative(vector([front, window]), alone) for front in fronts)
                among = _relative(vector([*others, window]), alone)
                rows.append([name, precision, back_end, f"{at_offsets:.1e}", f"{among:.1e}"])
    headings = ("model", "precision", "attention", "at offsets 1 to 127", f"among {batch_tokens:,} tokens")
    return Table("A vector alone and beside others, relative to its largest number", headings, rows)


def _last_vector(encoder: Encoder, model: Model, device: torch.device, windows: Windows) -> NDArray[np.float32]:
    made: NDArray[np.float32] = (
        embed_windows(encoder, windows, model.pooling, model.num_layers, device).vectors_BD.cpu().numpy()
    )
    return made[-1:]


def _relative(ours: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    return float(np.abs(ours - others).max() / np.abs(others).max())


def streams(name: str, device: torch.device, num_batches: int) -> Table:
    """Random batches, two in flight, beside the same ones with the device waited for around each."""
    model = find_model(name)
    _, tensors = shape_and_tensors(model, device)
    encoder = encoder_of(model, tensors, device, "bf16" if device.type == "cuda" else "fp32")
    draw = random.Random(0)
    batches = [
        random_windows(model, [draw.randint(3, 200) for _ in range(draw.randint(1, 8))]) for _ in range(num_batches)
    ]

    def start(batch: Windows) -> Callable[[], NDArray[np.float32]]:
        return to_host(embed_windows(encoder, batch, model.pooling, model.num_layers, device).vectors_BD)

    in_flight: list[Callable[[], NDArray[np.float32]]] = []
    together: list[NDArray[np.float32]] = []
    for batch in batches:
        in_flight.append(start(batch))
        if len(in_flight) > BATCHES_IN_FLIGHT:
            together.append(in_flight.pop(0)())
    together += [wait() for wait in in_flight]
    num_odd = 0
    for batch, ours in zip(batches, together, strict=True):
        synchronise(device)
        expected = start(batch)()
        synchronise(device)
        num_odd += not np.array_equal(ours, expected)
    return Table("Streams", ("model", "random batches", "that differ"), [[name, f"{num_batches:,}", f"{num_odd}"]])


def waits(names: Sequence[str], device: torch.device) -> Table:
    """Places where queueing a batch waits for the device, as torch's debug mode tells."""
    rows = []
    for name in names:
        model = find_model(name)
        _, tensors = shape_and_tensors(model, device)
        encoder = encoder_of(model, tensors, device, "bf16" if device.type == "cuda" else "fp32")
        windows = random_windows(model, [300, 70, 3])
        embed_windows(encoder, windows, model.pooling, model.num_layers, device)
        synchronise(device)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                finish = to_host(embed_windows(encoder, windows, model.pooling, model.num_layers, device).vectors_BD)
            finally:
                if device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        finish()
        waiting = [each for each in told if "called a synchronizing" in str(each.message)]
        places = sorted({f"{each.filename.rpartition('/')[2]}:{each.lineno}" for each in waiting})
        rows.append([name, encoder.attention_name, ", ".join(places) or "none"])
    return Table("Where queueing a batch waits for the device", ("model", "attention", "places"), rows)


def memory(name: str, device: torch.device) -> Table:
    """Whether a full device is known as one, and small batches go on afterwards."""
    model = find_model(name)
    _, tensors = shape_and_tensors(model, device)
    encoder = encoder_of(model, tensors, device, "bf16")
    rows = []
    held = torch.empty(int(0.98 * free_bytes(device)) if device.type == "cuda" else 1, dtype=torch.uint8, device=device)
    questions: dict[str, Callable[[], object]] = {
        "more than there is": lambda: torch.empty(1 << 50, dtype=torch.uint8, device=device),
        "a batch beside a full memory": lambda: _last_vector(
            encoder, model, device, random_windows(model, [1000] * 3000)
        ),
    }
    for question, run in questions.items() if device.type == "cuda" else ():
        try:
            run()
            rows.append([question, "no error", ""])
        except Exception as error:  # its type is what is asked for
            rows.append([question, type(error).__name__, "known" if is_out_of_memory(error) else "NOT KNOWN"])
    del held
    if device.type == "cuda":
        torch.cuda.empty_cache()
    _last_vector(encoder, model, device, random_windows(model, [100]))
    rows.append(["a small batch afterwards", "no error", ""])
    return Table("Out of memory", ("asked for", "error", ""), rows)


def kernels(encoder: Encoder, model: Model, windows: Windows, device: torch.device) -> tuple[Table, list[Figure]]:
    """What a batch's time on the device goes to."""
    from torch.profiler import ProfilerActivity, profile

    def run() -> None:
        embed_windows(encoder, windows, model.pooling, model.num_layers, device).vectors_BD.cpu()

    run()
    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind], acc_events=True) as profiled:
        run()
    events = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    total = sum(event.self_device_time_total for event in events) or 1.0
    events.sort(key=lambda event: -event.self_device_time_total)
    rows = [
        [f"{event.self_device_time_total / total:.1%}", f"{event.count}", f"{event.key[:72]}"]
        for event in events[:TOP_KERNELS]
    ]
    num_tokens = sum(map(len, windows))
    title = f"{model.name}, {encoder.attention_name}: {num_tokens:,} tokens in {total / 1e3:.2f} ms on the device"
    return Table(title, ("time", "calls", "kernel"), rows), [
        Figure(f"{model.name}: {encoder.attention_name}: on the device alone", num_tokens / total * 1e6, "tokens/s")
    ]
