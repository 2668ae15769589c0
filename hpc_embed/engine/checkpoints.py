"""Checkpoints to tensors by name: safetensors mapped into memory, or PyTorch files with weights_only=True."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from hpc_embed.errors import EnvironmentFault

PREFIXES = ("module.", "esm.", "bert.", "model.")
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}


def read_weights(files: list[Path]) -> dict[str, Tensor]:
    """All tensors of a checkpoint, on the CPU, by name.

    Raises EnvironmentFault for a file that is cut short or is none of either kind.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        if path.suffix == ".json":  # the index of a sharded checkpoint; every shard is listed already
            continue
        try:
            weights.update(_read_file(path))
        except (SafetensorError, OSError, ValueError, RuntimeError, EOFError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EnvironmentFault(
                f"{path}: cannot be read ({reason}).", remedy="Fetch the checkpoint again."
            ) from error
    return weights


def plain_name(name: str) -> str:
    """A tensor's name without `module.`, `esm.` or `bert.`, and with weight and bias for gamma and beta."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    for old, new in OLD_NAMES.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        tensors: dict[str, Tensor] = load_safetensors(path)
    else:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return tensors


class Weights:
    """Tensors taken by plain name and shape; `finish` tells all that was wrong in one error."""

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        self._tensors = {plain_name(name): tensor for name, tensor in tensors.items()}
        self._source = source
        self._faults: list[str] = []

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor in float32."""
        tensor = self._tensors.get(name)
        if tensor is None:
            self._faults.append(f"{name} is missing")
        elif tuple(tensor.shape) != shape:
            self._faults.append(f"{name} has shape {tuple(tensor.shape)}, not {shape}")
        else:
            return tensor.float()
        return torch.zeros(shape)

    def check(self, fault: str, is_well: bool) -> None:
        """Note a fault of another kind."""
        if not is_well:
            self._faults.append(fault)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def finish(self) -> None:
        """Raise EnvironmentFault unless everything was there."""
        if self._faults:
            more = f" and {len(self._faults) - 3} more" if len(self._faults) > 3 else ""
            raise EnvironmentFault(
                f"{self._source}: not a checkpoint of this model ({'; '.join(self._faults[:3])}{more}).",
                remedy="Fetch the checkpoint again, or choose another --model.",
            )
