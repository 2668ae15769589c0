"""What a run will be, told before anything is paid for."""

from __future__ import annotations

from typing import NamedTuple

from hpc_embed.progress import format_seconds
from hpc_embed.run.plan import Cost, Plan

SHARE_OF_PEAK = 0.4
"""Share of the data sheet's dense matmul peak that bulk embedding is assumed to reach."""
SHARE_OF_BANDWIDTH = 0.6
BYTES_PER_TOKEN_LAYER_HIDDEN = 50
"""Memory traffic of one token, per layer and hidden unit, with element-wise chains fused."""


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
}


def seconds_on(device: str, cost: Cost, flops: float, num_tokens: int) -> float:
    """Estimated seconds on one such device: the larger of the time to compute and the time to move."""
    facts = DEVICES[device]
    compute = flops / (facts.teraflops * 1e12 * SHARE_OF_PEAK)
    layers_times_hidden = cost.quadratic_flops / 4
    num_bytes = num_tokens * layers_times_hidden * BYTES_PER_TOKEN_LAYER_HIDDEN
    return max(compute, num_bytes / (facts.terabytes_per_second * 1e12 * SHARE_OF_BANDWIDTH))


class Forecast(NamedTuple):
    """The figures of a plan that a user decides by."""

    run_dir: str
    model: str
    fingerprint: str
    pooling: str
    num_records: int
    num_embedded: int
    num_windowed: int
    num_truncated: int
    num_skipped: int
    num_duplicate_ids: int
    num_unknown_letters: int
    num_residues: int
    num_windows: int
    num_unique_windows: int
    num_tokens: int
    num_shards: int
    spread: float
    """Largest shard over the mean, by FLOPs."""
    total_flops: int
    device: str
    device_seconds: float
    """Estimated, all shards on one device, without start-up."""
    dataset_bytes: int


def forecast(plan: Plan, run_dir: str, device: str) -> Forecast:
    """Work out the figures."""
    totals = plan.totals
    flops = [shard.flops for shard in plan.shards]
    return Forecast(
        run_dir=run_dir,
        model=plan.model.name,
        fingerprint=plan.fingerprint,
        pooling=plan.embedding.pooling,
        num_records=totals.num_records,
        num_embedded=totals.num_embedded,
        num_windowed=totals.num_windowed,
        num_truncated=totals.num_truncated,
        num_skipped=totals.num_skipped,
        num_duplicate_ids=totals.num_duplicate_ids,
        num_unknown_letters=totals.num_unknown_letters,
        num_residues=totals.num_residues,
        num_windows=totals.num_windows,
        num_unique_windows=totals.num_unique_windows,
        num_tokens=totals.num_tokens,
        num_shards=len(flops),
        spread=max(flops) * len(flops) / sum(flops),
        total_flops=sum(flops),
        device=device,
        device_seconds=seconds_on(device, plan.cost, float(sum(flops)), totals.num_tokens),
        dataset_bytes=4 * plan.dimension * totals.num_records,
    )


def describe(figures: Forecast) -> str:
    """The figures as lines for a person."""
    f = figures
    kept = [
        f"{f.num_embedded:,} whole",
        *([f"{f.num_windowed:,} in windows"] if f.num_windowed else []),
        *([f"{f.num_truncated:,} truncated"] if f.num_truncated else []),
        *([f"{f.num_skipped:,} SKIPPED (reasons in records.parquet)"] if f.num_skipped else []),
    ]
    rows = [
        ("run folder", f.run_dir),
        ("model", f"{f.model}, pooling {f.pooling}"),
        ("records", f"{f.num_records:,}: {', '.join(kept)}"),
        ("residues", f"{f.num_residues:,}"),
        ("windows", f"{f.num_windows:,}, of which {f.num_unique_windows:,} different"),
        ("tokens", f"{f.num_tokens:,}"),
        ("shards", f"{f.num_shards:,}, largest over mean {f.spread:.4f}"),
        ("estimate", f"{format_seconds(f.device_seconds)} on one {f.device}, all shards, without start-up"),
        ("dataset", f"about {_size(f.dataset_bytes)}"),
    ]
    if f.num_duplicate_ids:
        rows.insert(3, ("repeated ids", f"{f.num_duplicate_ids:,} records (kept, told apart by ordinal)"))
    if f.num_unknown_letters:
        rows.insert(4, ("unknown letters", f"{f.num_unknown_letters:,}, embedded as unknown"))
    return "\n".join(f"{name:<16}{value}" for name, value in rows)


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
