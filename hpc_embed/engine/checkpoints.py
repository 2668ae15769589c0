"""Checkpoints to tensors by name: safetensors mapped into memory, or PyTorch files with weights_only=True."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from hpc_embed.checkpoints.tensors import is_zip, tensors_of
from hpc_embed.errors import EnvironmentFault, in_one_line
from hpc_embed.families.family import Names


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


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        tensors: dict[str, Tensor] = load_safetensors(path)
    else:
        tensors_of(path)  # refuses what is no table of tensors, before torch looks at it
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    return tensors


GLOBAL_PARTS = ("embedding", "token_types", "embedding_norm", "final_norm", "bias_table")
LAYER_PARTS = (
    *("attention_norm", "query_key_value", "query_key_norms", "attention_out"),
    *("feed_forward_norm", "feed_forward_in", "feed_forward_out"),
)


def in_other_form(tensors: Mapping[str, Tensor], num_layers: int, source: Names, target: Names) -> dict[str, Tensor]:
    """A checkpoint's tensors, by plain name, under the names of another of its family's forms; matrices that one of
    them stacks are stacked or taken apart."""
    found: dict[str, Tensor] = {}
    for part in GLOBAL_PARTS:
        found |= _moved(tensors, _as_tuple(getattr(source, part)), _as_tuple(getattr(target, part)))
    for index in range(num_layers):
        at, to = source.layer.format(index), target.layer.format(index)
        for part in LAYER_PARTS:
            ours, theirs = _as_tuple(getattr(source, part)), _as_tuple(getattr(target, part))
            found |= _moved(tensors, [at + name for name in ours], [to + name for name in theirs])
    return found


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,)


def _moved(tensors: Mapping[str, Tensor], source: Sequence[str], target: Sequence[str]) -> dict[str, Tensor]:
    moved: dict[str, Tensor] = {}
    for end in ("weight", "bias"):
        if source and f"{source[0]}.{end}" in tensors:
            stacked = torch.cat([tensors[f"{name}.{end}"] for name in source])
            moved |= {f"{name}.{end}": part for name, part in zip(target, stacked.chunk(len(target)), strict=True)}
    return moved
