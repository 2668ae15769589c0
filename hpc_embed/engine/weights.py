"""A family's tensors: drawn at random, or taken from a checkpoint by name."""

# D = hidden, F = feed-forward

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hpc_embed.checkpoints.tensors import plain_name
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import ROTARY_BASE, Family, Names, Shape
from hpc_embed.families.parts import form_of, parts

SPREAD = 0.7
"""Standard deviation of untrained weights, times the square root of the hidden size."""


def random_weights(
    family: Family, shape: Shape, seed: int, device: str = "cpu", names: Names | None = None
) -> dict[str, Tensor]:
    """Random tensors of the true shapes under the published names, for untrained models and tests.

    One seed gives one set of numbers on each kind of device.
    """
    names = names or family.names[0]
    generator = torch.Generator(device).manual_seed(seed)
    std = SPREAD * shape.hidden**-0.5
    tensors: dict[str, Tensor] = {}
    for part in parts(family, shape, names):
        numbers = torch.empty(part.size, device=device).normal_(0.0, std, generator=generator)
        tensors[names.written_prefix + part.name] = part.mean + part.scale * numbers
    if names.inverse_frequencies:
        for index in range(shape.num_layers):
            name = names.written_prefix + names.layer.format(index) + names.inverse_frequencies
            tensors[name] = inverse_frequencies(shape.head_dim, device)
    return tensors


def inverse_frequencies(head_dim: int, device: str | torch.device = "cpu") -> Tensor:
    """[K / 2] of rotary positions, as every family here has them."""
    frequencies: Tensor = 1.0 / ROTARY_BASE ** (torch.arange(0, head_dim, 2).float() / head_dim)
    return frequencies.to(device)


class Weights:
    """Tensors taken by plain name; `finish` tells all that was wrong in one error."""

    def __init__(self, family: Family, shape: Shape, tensors: Mapping[str, Tensor], source: str) -> None:
        self._tensors = {plain_name(name): tensor for name, tensor in tensors.items()}
        self.names = form_of(family, self._tensors)
        """Those of this form of checkpoint."""
        self._sizes = {part.name: part.size for part in parts(family, shape, self.names)}
        self._source = source
        self._faults: list[str] = []

    def take(self, name: str) -> Tensor:
        """A tensor in float32, of the size that the family gives it."""
        tensor, size = self._tensors.get(name), self._sizes[name]
        if tensor is None:
            self._faults.append(f"{name} is missing")
        elif tuple(tensor.shape) != size:
            self._faults.append(f"{name} has shape {tuple(tensor.shape)}, not {size}")
        else:
            return tensor.float()
        return torch.zeros(size)

    def stacked(self, names: list[str], part: str = "weight") -> Tensor | None:
        """Several matrices, or their biases, one below the other; None where the family has none."""
        if f"{names[0]}.{part}" not in self._sizes:
            return None
        tensors = [self.take(f"{name}.{part}") for name in names]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def optional(self, name: str) -> Tensor | None:
        """A tensor that may be there, of any size."""
        return self._tensors.get(name)

    def check(self, fault: str, is_well: bool) -> None:
        """Note a fault of another kind."""
        if not is_well:
            self._faults.append(fault)

    def finish(self) -> None:
        """Raise EnvironmentFault unless everything was there."""
        if self._faults:
            more = f" and {len(self._faults) - 3} more" if len(self._faults) > 3 else ""
            raise EnvironmentFault(
                f"{self._source}: not a checkpoint of this model ({'; '.join(self._faults[:3])}{more}).",
                remedy="Fetch the checkpoint again, or choose another --model.",
            )
