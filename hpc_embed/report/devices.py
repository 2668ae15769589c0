"""What each kind of device did: speed, padding, share of its peak, hours against the forecast, canaries."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hpc_embed.planning.forecast import DEVICES, seconds_on
from hpc_embed.report.facts import RunFacts, Work
from hpc_embed.run.canary import Canary, odd_ones

OF_ANOTHER_CLOCK = {"mig", "nvl", "max"}
PLUG_IN_CARDS_DIFFER = {"h100", "v100"}


class DeviceWork(NamedTuple):
    """All shards that one kind of device finished in one precision."""

    device: str
    precision: str
    num_shards: int
    num_tokens: int
    hours: float
    """Of the tries that finished the shards, added up over workers."""
    predicted_hours: float | None
    """By the plan's cost model for the same windows; None where the device is none of the forecast's."""
    tokens_per_second: float
    """Of one worker."""
    padding_efficiency: float
    share_of_peak: float | None
    peak_memory_bytes: int
    num_canaries: int
    num_different_canaries: int
    num_odd_canaries: int
    """Beyond the bound from the most, see run/canary.py."""


def forecast_device(name: str) -> str | None:
    """The forecast's word for a device as its driver names it; None for one that the forecast does not know."""
    words = re.findall("[a-z0-9]+", name.lower())
    if words[:1] == ["cpu"]:
        return "cpu"
    pairs = [first + second for first, second in pairwise(words)]
    known = next((word for word in [*words, *pairs] if word in DEVICES and word != "cpu"), None)
    is_other = bool(OF_ANOTHER_CLOCK & set(words)) or ("pcie" in words and known in PLUG_IN_CARDS_DIFFER)
    return None if is_other else known


def device_works(facts: RunFacts) -> list[DeviceWork]:
    """By device and precision."""
    groups: dict[tuple[str, str], list[Work]] = defaultdict(list)
    for work in facts.works:
        groups[work.facts.device, work.facts.precision].append(work)
    canaries = [Canary(work.facts.precision, work.facts.canary) for work in facts.works]
    odd = {facts.works[place].shard for place in odd_ones(canaries)}
    return [_device_work(facts, device, precision, works, odd) for (device, precision), works in sorted(groups.items())]


def _device_work(facts: RunFacts, device: str, precision: str, works: Sequence[Work], odd: set[int]) -> DeviceWork:
    seconds = max(sum(work.facts.seconds for work in works), 1e-9)
    num_tokens = sum(work.facts.num_tokens for work in works)
    computed = sum(work.facts.num_tokens / max(work.facts.padding_efficiency, 1e-9) for work in works)
    flops = sum(work.flops for work in works)
    known = forecast_device(device)
    planned_tokens = round(sum(work.num_tokens for work in works))
    predicted = seconds_on(known, facts.plan.cost, flops, planned_tokens) / 3600 if known else None
    vectors = [work.facts.canary for work in works if work.facts.canary]
    return DeviceWork(
        device=device,
        precision=precision,
        num_shards=len(works),
        num_tokens=num_tokens,
        hours=seconds / 3600,
        predicted_hours=predicted,
        tokens_per_second=num_tokens / seconds,
        padding_efficiency=num_tokens / max(computed, 1e-9),
        share_of_peak=_share_of_peak(known, precision, flops / seconds),
        peak_memory_bytes=max(work.facts.peak_memory_bytes for work in works),
        num_canaries=len(vectors),
        num_different_canaries=len(set(vectors)),
        num_odd_canaries=sum(work.shard in odd for work in works),
    )


def _share_of_peak(known: str | None, precision: str, flops_per_second: float) -> float | None:
    """Only where the data sheet's figure is that of the precision."""
    if known is None or known == "cpu" or precision != ("fp32" if known in ("v100", "t4") else "bf16"):
        return None
    return flops_per_second / (DEVICES[known].teraflops * 1e12)
