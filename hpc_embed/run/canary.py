"""The canary: one fixed window that every worker embeds first. Its vector stands in each marker, so that gather finds
the device that computes wrongly: broken memory, another driver, weights that changed on their way.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_embed.model import Kind

SEQUENCES: dict[Kind, bytes] = {
    "protein": b"MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG",
    "dna": b"ATGCAGATCTTTGTGAAGACCCTCACTGGCAAAACCATCACCCTTGAGGTGGAGCCCAGTGACACCATTGAGAATGTC",
}
"""Ubiquitin, and the begin of its gene."""
BOUNDS = {"fp32": 3e-4, "bf16": 2e-2, "fp8": 2e-1}
"""Largest distance of two canaries, relative to their length: thirty times what kernels and devices that are well
differ by in FP32, and twice that in BF16 and FP8."""


class Canary(NamedTuple):
    """One marker's."""

    precision: str
    vector: str
    """As `encode` writes it; empty in markers of older versions."""


def encode(vector_D: NDArray[np.float32]) -> str:
    """Base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(vector_D, dtype="<f4").tobytes()).decode("ascii")


def decode(text: str) -> NDArray[np.float64] | None:
    """The vector; None for what is none, or is not finite."""
    try:
        vector_D = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float64)
    except (ValueError, binascii.Error):
        return None
    return vector_D if np.isfinite(vector_D).all() and len(vector_D) else None


def odd_ones(canaries: Sequence[Canary]) -> dict[int, float]:
    """Places of those that lie beyond the bound from the most, and how far; each precision by itself.

    Where two camps are equally large nobody can tell which one is right, and both are odd.
    """
    places: dict[Canary, list[int]] = defaultdict(list)
    for place, canary in enumerate(canaries):
        if canary.vector:
            places[canary].append(place)
    found: dict[int, float] = {}
    for precision in {canary.precision for canary in places}:
        counts = Counter({each: len(at) for each, at in places.items() if each.precision == precision})
        for canary, distance in _odd(counts, BOUNDS.get(precision, BOUNDS["fp32"])).items():
            found.update(dict.fromkeys(places[canary], distance))
    return found


def are_near(one: Canary, other: Canary) -> bool:
    """Within the bound of their precision."""
    return _distance(one, other) <= BOUNDS.get(one.precision, BOUNDS["fp32"])


def _odd(counts: Counter[Canary], bound: float) -> dict[Canary, float]:
    distances = {one: {other: _distance(one, other) for other in counts} for one in counts}
    votes = {one: sum(counts[other] for other in counts if near[other] <= bound) for one, near in distances.items()}
    most = max(votes.values())
    leaders = [one for one in counts if votes[one] == most]
    odd = {one: far[leaders[0]] for one, far in distances.items() if far[leaders[0]] > bound}
    if any(leader in odd for leader in leaders):
        odd[leaders[0]] = max(odd.values())
    return odd


def _distance(one: Canary, other: Canary) -> float:
    """Relative to the other's length; infinite for what is no vector, or one of another dimension."""
    if one.vector == other.vector and decode(one.vector) is not None:
        return 0.0
    a, b = decode(one.vector), decode(other.vector)
    if a is None or b is None or a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30)
