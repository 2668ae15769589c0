"""Which form of a chain runs: its twin in Triton, one pass over memory, or the chain itself, step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import ParamSpec, TypeVar

import torch

from hpc_embed.errors import in_one_line
from hpc_embed.run.markers import UNCOMPILED

P = ParamSpec("P")
R = TypeVar("R")


def fused(chain: Callable[P, R], device_type: str) -> Callable[P, R]:
    """Its twin in Triton, one pass over memory, where this machine's GPU runs those; else the chain itself."""
    if device_type != "cuda" or why_plain() is not None:
        return chain
    from hpc_embed.engine.gpu_chains import TWINS

    twin: Callable[P, R] = TWINS[chain.__name__]
    return twin


def form_of_chains() -> str:
    """In what a GPU's chains run, for markers and people."""
    reason = why_plain()
    return f"Triton {version('triton')}" if reason is None else UNCOMPILED


@cache
def why_plain() -> str | None:
    """Why chains run step by step on this machine's GPU; None where their twins do, tried on a few rows of each."""
    if not torch.cuda.is_available():
        return "no GPU"
    try:
        from hpc_embed.engine.gpu_chains import differing

        differs = differing()
    except Exception as error:  # no Triton, no C compiler, too old a GPU, a cache folder that nothing is executed from
        return in_one_line(error)
    return f"Triton's {differs} differs from the plain one" if differs else None
