"""What a run is asked to give: poolings and layers, checked against what the model has."""

from __future__ import annotations

from hpc_embed.config import PlanSettings
from hpc_embed.errors import UsageError
from hpc_embed.families import FAMILIES
from hpc_embed.model import PER_LETTER, PER_WINDOW, WITH_SPECIAL, Model
from hpc_embed.registry import ANY_ENCODER


def poolings_of(settings: PlanSettings, model: Model) -> list[str]:
    """Those asked for, each once; no two of them may give a row for each letter."""
    names = [name.strip() for name in settings.pooling.split(",")]
    is_per_window = PER_WINDOW in names
    names = [name for name in names if name != PER_WINDOW] or ["default"]
    poolings = list(dict.fromkeys(model.pooling if name == "default" else name for name in names))
    for pooling in poolings:
        if pooling not in model.poolings:
            raise UsageError(
                f"--pooling {pooling}: {model.name} has none of that name.",
                remedy=f"Choose default or {', '.join(model.poolings)}.",
            )
    if len(set(poolings) & set(PER_LETTER)) > 1:
        raise UsageError(f"--pooling {settings.pooling}: rows for tokens and for bases at once.", remedy="Choose one.")
    if model.family == ANY_ENCODER.family and len({pooling in WITH_SPECIAL for pooling in poolings}) > 1:
        raise UsageError(
            f"--pooling {settings.pooling}: how many special tokens {model.name} has is not known when planning.",
            remedy="Plan a run for those that cover special tokens, and one for the others.",
        )
    if is_per_window and set(poolings) & set(PER_LETTER):
        raise UsageError(
            f"--pooling {settings.pooling}: rows for letters are rows of no window.", remedy="Leave out per_window."
        )
    return [*([PER_WINDOW] if is_per_window else []), *poolings]


def layers_of(settings: PlanSettings, model: Model) -> tuple[int, ...]:
    """Those asked for, counted from 0, each once."""
    try:
        asked = [int(layer) for layer in str(settings.layer).split(",")]
    except ValueError as error:
        raise UsageError(f"--layer {settings.layer}: not a layer or several.", remedy="Say -1, or -1,18,0.") from error
    layers = [layer if layer >= 0 else model.num_layers + 1 + layer for layer in asked]
    for layer in layers:
        if not 0 <= layer <= model.num_layers:
            raise UsageError(
                f"--layer {settings.layer}: {model.name} has layers 0 to {model.num_layers}.",
                remedy="Choose one of these, or count from -1, the last.",
            )
    return tuple(dict.fromkeys(layers))


def precision_of(settings: PlanSettings, model: Model) -> str:
    """As asked for; UsageError for FP8 where there are no packed layers that could have it."""
    if settings.precision == "fp8" and model.family not in FAMILIES:
        raise UsageError(
            f"--precision fp8: {model.name} is none of the encoders that are run in it.",
            remedy="Leave --precision out, or see `hpc-embed models` for those that are not `hf:`.",
        )
    return settings.precision


def stride_of(settings: PlanSettings, model: Model, poolings: list[str]) -> int | None:
    """Residues from window to window, None where they lie side by side."""
    if settings.stride is None:
        return None
    limit = settings.max_residues or model.max_residues
    if limit is None or settings.on_long != "window":
        raise UsageError(
            f"--stride {settings.stride}: no record is split into windows.",
            remedy="Give --max-residues, and leave --on-long at window.",
        )
    if settings.stride > limit:
        raise UsageError(
            f"--stride {settings.stride}: windows of {limit} residues would leave gaps.",
            remedy=f"Choose at most {limit}.",
        )
    if set(poolings) & set(PER_LETTER):
        raise UsageError(
            f"--stride {settings.stride}: letters in several windows would have several rows.",
            remedy="Leave --stride out, or pool.",
        )
    return int(settings.stride)
