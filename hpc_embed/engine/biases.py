"""What is added to attention's scores for the distance of two tokens: ALiBi, or a table over clipped distances."""

# H = heads, n = tokens of a window, L = distances -reach … reach, B = buckets

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

TABLE_MARGIN = 16
"""Lanes of the widest vector, kernels/attention.c's TABLE_MARGIN."""
HIDDEN = -1e30
BiasKind = Literal["alibi", "table"]


class Bias:
    """A number for each head and each signed distance j - i of key and query."""

    kind: BiasKind

    def __init__(self, device: torch.device, num_heads: int) -> None:
        self._line_HL = torch.empty(num_heads, 0, device=device)

    def line(self, half: int) -> Tensor:
        """[H, 2 * half + 1] over the distances -half … half."""
        raise NotImplementedError

    def score(self, score: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """FlexAttention's scores with the bias."""
        raise NotImplementedError

    def reversed_bias(self, length: int, dtype: torch.dtype) -> Tensor:
        """Bias [H, n, n] for queries in reverse order, a view that takes no memory of its own.

        With the queries in reverse order the bias at (i', j) depends on i' + j alone, so that all rows are
        overlapping slices of one line of 2 n - 1 numbers.
        """
        half = length - 1
        if self._line_HL.shape[1] < 2 * length - 1 or self._line_HL.dtype != dtype:
            self._line_HL = self.line(half).to(dtype)
        width = self._line_HL.shape[1]
        return self._line_HL.as_strided((len(self._line_HL), length, length), (width, 1, 1), width // 2 - half)


class Alibi(Bias):
    """-slope * |j - i| (Press et al., ICLR 2022)."""

    kind = "alibi"

    def __init__(self, slopes_H: Tensor) -> None:
        super().__init__(slopes_H.device, len(slopes_H))
        self.slopes_H = slopes_H.float()

    def line(self, half: int) -> Tensor:
        distance_L = torch.arange(-half, half + 1, device=self.slopes_H.device).abs()
        return -self.slopes_H[:, None] * distance_L

    def score(self, score: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - self.slopes_H[h] * (i - j).abs()


class DistanceTable(Bias):
    """A number for each distance -reach … reach; further ones share the last (Raffel et al., JMLR 2020)."""

    kind = "table"

    def __init__(self, table_HL: Tensor) -> None:
        super().__init__(table_HL.device, len(table_HL))
        self.table_HL = table_HL.float().contiguous()
        self.reach = table_HL.shape[1] // 2

    @cached_property
    def kernel_table_HL(self) -> Tensor:
        """As the CPU's kernel reads it: over i - j, with TABLE_MARGIN more of the last number on either side, so
        that a vector of queries is one load wherever it lies."""
        edge = torch.arange(-self.reach - TABLE_MARGIN, self.reach + TABLE_MARGIN + 1, device=self.table_HL.device)
        return self.table_HL.flip(1)[:, edge.clamp(-self.reach, self.reach) + self.reach].contiguous()

    def line(self, half: int) -> Tensor:
        distance_L = torch.arange(-half, half + 1, device=self.table_HL.device)
        return self.table_HL[:, distance_L.clamp(-self.reach, self.reach) + self.reach]

    def score(self, score: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + self.table_HL[h, (j - i).clamp(-self.reach, self.reach) + self.reach]


def hiding_table(num_heads: int, *, is_causal: bool, reach: int | None) -> DistanceTable:
    """A bias that hides keys behind the query, and those `reach` or more tokens away, by so low a score that their
    weight is 0; infinity would make NaN of a block of hidden keys alone."""
    farthest = reach or 1
    distance_L = torch.arange(-farthest, farthest + 1)
    hidden_L = distance_L > 0 if is_causal else torch.zeros(len(distance_L), dtype=torch.bool)
    if reach is not None:
        hidden_L = hidden_L | (distance_L.abs() >= reach)
    return DistanceTable(torch.zeros(len(distance_L)).masked_fill(hidden_L, HIDDEN).expand(num_heads, -1))


def alibi_slopes(num_heads: int) -> list[float]:
    """Slope of each head (Press et al., ICLR 2022): a geometric series for a power of two; for other numbers
    the series of the next lower power, then every second slope of the next higher one.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    more = [2 ** (-8 * (head + 1) / (2 * power)) for head in range(2 * power)]
    return slopes + more[0::2][: num_heads - power]


def bucket_of_distances(num_buckets: int, max_distance: int) -> Tensor:
    """Bucket of each distance j - i from -max_distance to max_distance (Raffel et al., JMLR 2020).

    Half of the buckets are for keys behind the query; of each half, one half holds a single distance, the other
    logarithmically wider ranges. The logarithm is float32's, whose rounding decides at the edges.
    """
    distance_L = torch.arange(-max_distance, max_distance + 1)
    half, exact = num_buckets // 2, num_buckets // 4
    size_L = distance_L.abs()
    steps_L = (size_L.float() / exact).log() / math.log(max_distance / exact) * (half - exact)
    far_L = (exact + steps_L.clamp_min(0).long()).clamp_max(half - 1)
    return torch.where(size_L < exact, size_L, far_L) + half * (distance_L > 0)
