"""What a run will be, told before anything is paid for."""

from __future__ import annotations

from typing import NamedTuple

from hpc_embed.model import PER_BASE, PER_TOKEN
from hpc_embed.planning.simulation import Site, simulate
from hpc_embed.run.plan import Cost, Embedding, Plan, Totals
from hpc_embed.units import format_bytes, format_seconds

SHARE_OF_PEAK = 0.4
"""Share of the data sheet's dense matmul peak that bulk embedding is assumed to reach."""
SHARE_OF_BANDWIDTH = 0.6
BYTES_PER_TOKEN_LAYER_HIDDEN = 50
"""Memory traffic of one token, per layer and hidden unit, with element-wise chains fused."""


NUMBERS_OF_DEVICES = (8, 64)
"""That a run is simulated on."""
MOST_SIMULATED = 50_000
"""Shards: a second."""
START_SECONDS = 20.0
INDEX_BYTES_PER_ROW = 96
"""Of dataset-index.npz, 68 and an id of 20 letters, and of the parts' other columns."""
LOADED_BYTES_PER_SECOND = 1e9
"""Of weights, onto the device."""


class DeviceFacts(NamedTuple):
    """Data-sheet figures: dense 16-bit (FP32 where the worker would use it) and memory bandwidth."""

    teraflops: float
    terabytes_per_second: float


DEVICES = {
    "b200": DeviceFacts(2250, 8.0),
    "h200": DeviceFacts(989, 4.8),
    "h100": DeviceFacts(989, 3.35),
    "a100": DeviceFacts(312, 2.0),
    "l40s": DeviceFacts(362, 0.86),
    "a40": DeviceFacts(150, 0.70),
    "a10": DeviceFacts(125, 0.60),
    "l4": DeviceFacts(121, 0.30),
    "rtx4090": DeviceFacts(165, 1.0),
    "v100": DeviceFacts(15.7, 0.90),  # no BF16, so FP32
    "t4": DeviceFacts(8.1, 0.32),  # no BF16, so FP32
    "cpu": DeviceFacts(0.25, 0.01),  # one core in FP32, between what an older and a new one measured
}


def seconds_on(device: str, cost: Cost, flops: float, num_tokens: int) -> float:
    """Estimated seconds on one such device: the larger of the time to compute and the time to move."""
    return max(_seconds_to_compute(device, flops), _seconds_to_move(device, cost, num_tokens))


def _seconds_to_compute(device: str, flops: float) -> float:
    return flops / (DEVICES[device].teraflops * 1e12 * SHARE_OF_PEAK)


def _seconds_to_move(device: str, cost: Cost, num_tokens: int) -> float:
    layers_times_hidden = cost.quadratic_flops / 4
    num_bytes = num_tokens * layers_times_hidden * BYTES_PER_TOKEN_LAYER_HIDDEN
    return num_bytes / (DEVICES[device].terabytes_per_second * 1e12 * SHARE_OF_BANDWIDTH)


class Expected(NamedTuple):
    """A run on so many devices, simulated."""

    num_devices: int
    makespan_seconds: float
    """From the first start to the last vector; no queue, no preemption."""
    device_seconds: float
    """Held, start-up and waiting for shared storage included."""


class Forecast(NamedTuple):
    """The figures of a plan that a user decides by."""

    run_dir: str
    model: str
    licence: str
    fingerprint: str
    pooling: str
    totals: Totals
    num_shards: int
    spread: float
    """Largest shard over the mean, by FLOPs."""
    total_flops: int
    device: str
    num_devices: int
    device_seconds: float
    """Estimated, all shards on these devices, without start-up."""
    assumes: str
    """Where the estimate comes from, and what it leaves out."""
    dataset_bytes: int
    dataset_rows: int
    runs: list[Expected]
    """On a few numbers of devices; none for a run of one shard, or on devices that are at hand."""


def forecast(plan: Plan, run_dir: str, device: str, num_devices: int = 1) -> Forecast:
    """Work out the figures."""
    totals = plan.totals
    flops = [shard.flops for shard in plan.shards]
    num_vectors = _num_rows(plan)
    return Forecast(
        run_dir=run_dir,
        model=plan.model.name,
        licence=plan.model.licence,
        fingerprint=plan.fingerprint,
        pooling=_pooling(plan.embedding),
        totals=totals,
        num_shards=len(flops),
        spread=max(flops) * len(flops) / sum(flops),
        total_flops=sum(flops),
        device=device,
        num_devices=num_devices,
        device_seconds=seconds_on(device, plan.cost, float(sum(flops)), totals.num_tokens) / num_devices,
        assumes=_assumptions(plan, device),
        dataset_bytes=4 * plan.dimension * num_vectors + INDEX_BYTES_PER_ROW * _num_records_apart(plan),
        dataset_rows=_num_records_apart(plan),
        runs=_expected_runs(plan, device) if num_devices == 1 and 1 < len(flops) <= MOST_SIMULATED else [],
    )


def _expected_runs(plan: Plan, device: str) -> list[Expected]:
    """As tasks of one shard each, as `submit` makes them."""
    weight_bytes = 2.0 * plan.cost.linear_flops  # of two FLOPs a weight, and four bytes
    site = Site(1, weight_bytes=weight_bytes, start_seconds=START_SECONDS + weight_bytes / LOADED_BYTES_PER_SECOND)
    seconds = [seconds_on(device, plan.cost, float(shard.flops), shard.num_tokens) for shard in plan.shards]
    found = []
    for num_devices in sorted({min(number, len(seconds)) for number in NUMBERS_OF_DEVICES}):
        run = simulate(seconds, 1, site._replace(num_devices=num_devices))
        found.append(Expected(num_devices, run.makespan_seconds, run.device_seconds))
    return found


def _assumptions(plan: Plan, device: str) -> str:
    flops = float(sum(shard.flops for shard in plan.shards))
    moves_longer = _seconds_to_move(device, plan.cost, plan.totals.num_tokens) > _seconds_to_compute(device, flops)
    if device == "cpu":
        rate = "a rate measured on a few CPUs"
    elif moves_longer:
        rate = f"{SHARE_OF_BANDWIDTH:.0%} of data-sheet bandwidth"
    else:
        rate = f"{SHARE_OF_PEAK:.0%} of data-sheet peak"
    return f"{rate}; no padding, start-up or queue"


def _num_records_apart(plan: Plan) -> int:
    """Rows of the dataset: records, or their windows where these stay apart."""
    totals = plan.totals
    return totals.num_windows + totals.num_skipped if plan.embedding.outputs.is_per_window else totals.num_records


def _num_rows(plan: Plan) -> int:
    """Rows of numbers in the dataset."""
    outputs, totals = plan.embedding.outputs, plan.totals
    letters = {PER_TOKEN: totals.num_tokens, PER_BASE: totals.num_residues}.get(outputs.per_letter or "", 0)
    return letters + outputs.num_pooled_rows * _num_records_apart(plan)


def _pooling(embedding: Embedding) -> str:
    """Poolings, and layers where there are several."""
    layers = embedding.outputs.layers
    return embedding.pooling + (f", layers {', '.join(map(str, layers))}" if len(layers) > 1 else "")


def describe(figures: Forecast) -> list[tuple[str, str]]:
    """The figures for a person, each with its name."""
    f, t = figures, figures.totals
    kept = [
        f"{t.num_embedded:,} whole",
        *([f"{t.num_windowed:,} in windows"] if t.num_windowed else []),
        *([f"{t.num_truncated:,} truncated"] if t.num_truncated else []),
        *([f"{t.num_skipped:,} SKIPPED (reasons in records.parquet)"] if t.num_skipped else []),
    ]
    unit = "cpu core" if f.device == "cpu" else f.device
    devices = f"one {unit}" if f.num_devices == 1 else f"{f.num_devices} {unit}s"
    runs = [
        (
            f"on {run.num_devices}",
            f"{format_seconds(run.makespan_seconds)}, start-up included; {format_seconds(run.device_seconds)} held",
        )
        for run in f.runs
    ]
    rows = [
        ("run folder", f.run_dir),
        ("model", f"{f.model}, pooling {f.pooling}"),
        ("records", f"{t.num_records:,}: {', '.join(kept)}"),
        ("residues", f"{t.num_residues:,}"),
        ("windows", f"{t.num_windows:,}, of which {t.num_unique_windows:,} different"),
        ("tokens", f"{t.num_tokens:,}"),
        ("shards", f"{f.num_shards:,}, largest over mean {f.spread:.4f}"),
        ("estimate", f"{format_seconds(f.device_seconds)} on {devices}, all shards"),
        ("", f"assumes {f.assumes}"),
        *runs,
        ("dataset", f"{f.dataset_rows:,} rows, about {format_bytes(f.dataset_bytes)}"),
    ]
    if t.num_duplicate_ids:
        rows.insert(3, ("repeated ids", f"{t.num_duplicate_ids:,} records (kept, told apart by ordinal)"))
    if t.num_unknown_letters:
        rows.insert(4, ("unknown letters", f"{t.num_unknown_letters:,}, embedded as unknown"))
    if f.licence:
        rows.insert(2, ("licence", f.licence))
    return rows
