"""Checkpoints to tensors by name: safetensors mapped into memory, or PyTorch files with weights_only=True."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from hpc_embed.errors import EnvironmentFault, in_one_line

PREFIXES = ("module.", "esm.", "esmc.", "bert.", "model.")
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
            raise EnvironmentFault(
                f"{path}: cannot be read ({in_one_line(error)}).", remedy="Fetch the checkpoint again."
            ) from error
    return weights


def plain_name(name: str) -> str:
    """A tensor's name without PREFIXES, and with weight and bias for gamma and beta."""
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
