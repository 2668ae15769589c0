"""What this machine lacks for a model, told before anything is planned or started. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from hpc_embed.cluster.devices import CPU
from hpc_embed.config import PlanSettings, WorkSettings
from hpc_embed.engine import processor
from hpc_embed.errors import EnvironmentFault
from hpc_embed.registry import COMPOSITION, models

PACKAGES = ("torch", "safetensors")
BPE_PACKAGES = (*PACKAGES, "tokenizers")


def refuse_missing_packages(name: str) -> None:
    """EnvironmentFault, with the line that installs them, where packages are missing that the model `name` needs."""
    base = name.partition(":")[0]
    model = models().get(base)
    if base == COMPOSITION or (model and not model.has_weights):
        return
    needed = BPE_PACKAGES if model and model.family == "dnabert" else PACKAGES
    if missing := [package for package in needed if find_spec(package) is None]:
        raise EnvironmentFault(
            f"--model {name} needs {' and '.join(missing)}, which this Python does not have.",
            remedy="pip install 'hpc-embed[torch]', or take --model composition, which needs neither.",
        )


def refuse_slow_precision(settings: PlanSettings, work: WorkSettings, devices: Sequence[int | str]) -> None:
    """EnvironmentFault for BF16 on a processor without it and for FP8 on any, unless it is insisted on."""
    wanted = settings.precision
    is_slow = wanted == "fp8" or (wanted == "bf16" and not processor.has_bf16())
    if is_slow and devices[0] == CPU and not work.force_precision:
        raise EnvironmentFault(
            f"--precision {wanted}: {processor.name()} {processor.WITHOUT[wanted]}.",
            remedy="Leave --precision out, or insist with --force-precision.",
        )
