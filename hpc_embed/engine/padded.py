"""Windows in padded batches, for models that packed rows do not suit."""

# B = windows, N = tokens of the longest one, T = tokens of all, D = hidden

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hpc_embed.engine.transfers import to_device
from hpc_embed.errors import EnvironmentFault


class Sized(Protocol):
    """A window, in whatever form."""

    def __len__(self) -> int: ...


Window = TypeVar("Window", bound=Sized)


class Grouping(NamedTuple):
    """Which windows may share a batch."""

    shortest_share: float
    """A window shorter than this share of its batch's longest one begins a batch of its own."""
    reason: str = ""
    """For people: why none but these."""

    def chunks(self, windows: Sequence[Window]) -> Iterator[list[Window]]:
        """Windows in their order, longest first, cut where one may not join."""
        chunk: list[Window] = []
        for window in windows:
            if chunk and not self.shortest_share * len(chunk[0]) <= len(window) <= len(chunk[0]):
                yield chunk
                chunk = []
            chunk.append(window)
        if chunk:
            yield chunk


SIMILAR = Grouping(0.8)
EQUAL = Grouping(1.0, "its vectors depend on padding: each batch holds windows of one length alone")
ALONE = Grouping(2.0, "its vectors depend on the other windows of a batch: each window runs alone")
GROUPINGS = (SIMILAR, EQUAL, ALONE)
"""The first that a model bears is taken."""


class Forward(Protocol):
    """A model's hidden states after some layers, [B, N, D] each."""

    def __call__(self, layers: Sequence[int], **inputs: object) -> dict[int, Tensor]: ...


def padded_states(
    forward: Forward, windows: Sequence[Tensor], layers: Sequence[int], padding: int
) -> dict[int, Tensor]:
    """Hidden states [T, D] of one padded batch, its padding left out."""
    lengths_B = np.array([len(window_N) for window_N in windows])
    is_real_BN = np.arange(lengths_B.max()) < lengths_B[:, None]
    tokens_BN = pad_sequence(list(windows), batch_first=True, padding_value=padding)
    mask_BN = to_device(is_real_BN.astype(np.int64), tokens_BN.device)
    rows_T = to_device(np.flatnonzero(is_real_BN), tokens_BN.device)
    states = forward(layers, input_ids=tokens_BN, attention_mask=mask_BN)
    for layer, x_BND in states.items():
        if x_BND.shape[1] != tokens_BN.shape[1]:
            raise EnvironmentFault(
                f"layer {layer} has {x_BND.shape[1]} rows for {tokens_BN.shape[1]} tokens: none of its own for each.",
                remedy="Plan with --layer -1, or choose another model.",
            )
    if len(windows) == 1:
        return {layer: x_1ND[0] for layer, x_1ND in states.items()}
    return {layer: x_BND.flatten(0, 1)[rows_T] for layer, x_BND in states.items()}


def num_computed_tokens(windows: Sequence[Sized], grouping: Grouping) -> int:
    """Padding included."""
    return sum(len(chunk) * max(map(len, chunk)) for chunk in grouping.chunks(windows))
