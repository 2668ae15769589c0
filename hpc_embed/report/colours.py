"""How the points of the map are coloured: by a number or by a group, with palettes that survive poor colour vision.

Groups differ by shape too (Okabe and Ito's colours), numbers run from dark to light (viridis).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

MOST_GROUPS = 7
NOTHING = ""
"""The group of what has none."""
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "star", "plus")
SIGNS = ("●", "■", "▲", "◆", "▼", "★", "✚")
OTHERS = ("#767676", "x", "✖")
VIRIDIS = ("#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26")
"""In ten steps; its last, a light yellow, is left out, since paper is white."""


class Entry(NamedTuple):
    """A line of the legend."""

    label: str
    colour: str
    sign: str
    num_points: int


class Colouring(NamedTuple):
    """A colour and a shape for each of N points, and what they mean."""

    title: str
    colours_N: list[str]
    markers_N: list[str]
    legend: list[Entry]


def by_group(title: str, groups_N: Sequence[str]) -> Colouring:
    """The largest groups by themselves, the others together."""
    counts = Counter(group for group in groups_N if group != NOTHING)
    large = [group for group, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_GROUPS]]
    styles = dict(zip(large, zip(OKABE_ITO, MARKERS, SIGNS, strict=True), strict=False))
    drawn_N = [styles.get(group, OTHERS) for group in groups_N]
    legend = [Entry(group, styles[group][0], styles[group][2], counts[group]) for group in large]
    if others := len(groups_N) - sum(entry.num_points for entry in legend):
        num_groups = len(counts) - len(large)
        label = f"{num_groups:,} other groups, or none" if num_groups else "none"
        legend.append(Entry(label, OTHERS[0], OTHERS[2], others))
    return Colouring(title, [colour for colour, _, _ in drawn_N], [marker for _, marker, _ in drawn_N], legend)


def by_number(title: str, numbers_N: Sequence[float | None], *, unit: str = "") -> Colouring:
    """Ten steps with equally many points each, as far as equal numbers allow; None for no number."""
    known = sorted(number for number in numbers_N if number is not None)
    bounds = sorted({known[len(known) * step // len(VIRIDIS)] for step in range(len(VIRIDIS))}) if known else []
    steps_N = [None if number is None else sum(number >= bound for bound in bounds) - 1 for number in numbers_N]
    colours = [VIRIDIS[at * len(VIRIDIS) // max(len(bounds), 1)] for at in range(len(bounds))]
    counts = Counter(steps_N)
    uppers = [*bounds[1:], *known[-1:]]
    legend = [
        Entry(f"{_number(low)} to {_number(high)}{unit}", colour, SIGNS[0], counts[at])
        for at, (low, high, colour) in enumerate(zip(bounds, uppers, colours, strict=True))
    ]
    if counts[None]:
        legend.append(Entry("none", OTHERS[0], OTHERS[2], counts[None]))
    return Colouring(
        title,
        [OTHERS[0] if step is None else colours[step] for step in steps_N],
        [OTHERS[1] if step is None else MARKERS[0] for step in steps_N],
        legend,
    )


def by_value(title: str, values_N: Sequence[str]) -> Colouring:
    """By number where every value is one and there are many, else by group."""
    numbers_N = [_parsed(value) for value in values_N]
    are_numbers = all(number is not None for number, value in zip(numbers_N, values_N, strict=True) if value != NOTHING)
    is_continuous = are_numbers and len(set(numbers_N) - {None}) > MOST_GROUPS
    return by_number(title, numbers_N) if is_continuous else by_group(title, values_N)


def _parsed(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _number(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:.4g}"
