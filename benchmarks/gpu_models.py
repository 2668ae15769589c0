"""Models, windows and references of the GPU's benchmark: random weights of the true shapes, real lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import Windows
from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.references import REFERENCES, Reference
from hpc_embed.engine.weights import random_weights
from hpc_embed.families import FAMILIES
from hpc_embed.families.family import Shape
from hpc_embed.model import Model

LENGTHS = Path(__file__).with_name("protein_lengths.txt")
MOST_TOKENS = 2000
"""Of a window."""


def lengths_of(model: Model) -> list[int]:
    """Tokens of each window."""
    if model.kind == "dna":
        drawn = np.random.default_rng(0).lognormal(np.log(300), 0.7, 2000)
        return [int(length) for length in np.clip(drawn, 20, MOST_TOKENS)]
    return [min(int(line), 1022) + 2 for line in LENGTHS.read_text().split()]


def random_windows(model: Model, lengths: list[int]) -> Windows:
    """Ordinary tokens."""
    generator = np.random.default_rng(0)
    high = 24 if model.kind == "protein" else 4096
    return [generator.integers(4, high, length).astype(np.uint16) for length in lengths]


def shape_and_tensors(model: Model, device: torch.device) -> tuple[Shape, dict[str, torch.Tensor]]:
    """Random weights, drawn on the device."""
    assert model.shape is not None
    return model.shape, random_weights(FAMILIES[model.family], model.shape, 0, device.type)


def encoder_of(model: Model, tensors: dict[str, torch.Tensor], device: torch.device, precision: str) -> Encoder:
    """Ours."""
    assert model.shape is not None
    family = FAMILIES[model.family]
    return Encoder(family, model.shape, tensors, source="benchmark", device=device, precision=precision)


def reference_of(model: Model, tensors: dict[str, torch.Tensor], device: torch.device) -> Reference:
    """The reference implementation, its tokens taken from the host and its states brought back."""
    assert model.shape is not None
    reference = REFERENCES[model.family](model.shape, tensors, device)
    return lambda tokens, padding, layer: reference(tokens.to(device), padding, layer).cpu()


def synchronise(device: torch.device) -> None:
    """Wait for all that is queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
