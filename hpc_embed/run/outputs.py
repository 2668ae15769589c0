"""What one forward pass is to give: poolings by layers, and where each lies in a window's rows of a vector file.

One pooling and one layer are a row of D numbers for each window, or for each of its tokens. Several poolings of
windows lie side by side in one row. Beside vectors for each token, every pooling has a row of its own behind them:

    mean, max, layers 6 and 0     mean 6 | mean 0 | max 6 | max 0
    per_token, mean, both layers  token 1 6 | token 1 0
                                  token 2 6 | token 2 0
                                  mean 6    | mean 0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hpc_embed.model import PER_LETTER, PER_WINDOW, WITH_SPECIAL


class Output(NamedTuple):
    """A column of the dataset."""

    pooling: str
    layer: int
    name: str
    first_number: int
    """Where its numbers begin in a row, in units of D."""
    row: int | None
    """Which of a window's pooled rows, None for one of each token."""


class Outputs(NamedTuple):
    """All columns of a run, in order."""

    poolings: tuple[str, ...]
    layers: tuple[int, ...]
    is_per_window: bool = False
    """A row of the dataset for each window, and not one for each record."""

    @property
    def per_letter(self) -> str | None:
        """The pooling that gives a row for each token or base, where one does."""
        return next((pooling for pooling in self.poolings if pooling in PER_LETTER), None)

    @property
    def pooled(self) -> tuple[str, ...]:
        """Those that give a vector for each window."""
        return tuple(pooling for pooling in self.poolings if pooling not in PER_LETTER)

    @property
    def num_pooled_rows(self) -> int:
        """Rows of a window behind those of its tokens."""
        return len(self.pooled) if self.per_letter else 1

    @property
    def width(self) -> int:
        """Numbers of a row, in units of D."""
        return len(self.layers) * (1 if self.per_letter else len(self.pooled))

    @property
    def counts_special(self) -> bool:
        """Whether a window's number of tokens has its special ones: where every pooling covers them."""
        return all(pooling in WITH_SPECIAL for pooling in self.poolings)

    @property
    def columns(self) -> list[Output]:
        """Named `embedding` where there is one, else `embedding_mean_33` and so on."""
        is_one = len(self.poolings) * len(self.layers) == 1
        return [
            Output(
                pooling,
                layer,
                "embedding" if is_one else f"embedding_{pooling}_{layer}",
                place if self.per_letter else self.pooled.index(pooling) * len(self.layers) + place,
                None if pooling in PER_LETTER else self.pooled.index(pooling) if self.per_letter else 0,
            )
            for pooling in self.poolings
            for place, layer in enumerate(self.layers)
        ]


def outputs_of(pooling: str, layer: int | Sequence[int]) -> Outputs:
    """From the settings of a plan: poolings with commas between, per_window perhaps among them; a layer or several."""
    names = pooling.split(",")
    poolings = tuple(name for name in names if name != PER_WINDOW)
    return Outputs(poolings, (layer,) if isinstance(layer, int) else tuple(layer), PER_WINDOW in names)
