"""A checkpoint of none of our families as planning sees it: transformers' own model will run it, padded. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import Shape, is_dimension
from hpc_embed.registry import ANY_ENCODER, Kind, Model

KEYS = {
    "num_layers": ("num_hidden_layers", "num_layers", "n_layers", "n_layer"),
    "hidden": ("hidden_size", "d_model", "dim", "n_embd"),
    "num_heads": ("num_attention_heads", "num_heads", "n_heads", "n_head"),
    "intermediate": ("intermediate_size", "d_ff", "hidden_dim", "n_inner"),
    "vocabulary": ("vocab_size",),
    "num_positions": ("max_position_embeddings", "n_positions"),
}
"""What the native models call each dimension."""
UNLIMITED = ("t5", "mt5", "umt5")
"""Their positions are distances: a number in config.json is what they were trained on."""
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "esm", "mpnet", "longformer")
"""Their positions begin behind the padding's id, which is 1."""
PADDING_OFFSET = 2
SPECIAL_TOKENS = 2


def native_model(name: str, config: Mapping[str, object], folder: Path, kind: Kind | None, licence: str) -> Model:
    """What planning must know; EnvironmentFault for a model that runs code of its own, or tells no dimensions."""
    if "auto_map" in config:
        raise EnvironmentFault(
            f"{folder}: model_type {config.get('model_type')!r} runs code of its own, which is never run here.",
            remedy="Choose a model of `hpc-embed models`, or one that transformers knows natively.",
        )
    num_layers, hidden = _dimension(config, "num_layers"), _dimension(config, "hidden")
    if num_layers is None or hidden is None:
        missing = "num_hidden_layers" if num_layers is None else "hidden_size"
        raise EnvironmentFault(f"{folder / 'config.json'}: no {missing}.", remedy="Fetch the checkpoint again.")
    shape = Shape(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=_dimension(config, "num_heads") or 1,
        intermediate=_dimension(config, "intermediate") or 4 * hidden,
        vocabulary=_dimension(config, "vocabulary") or 1,
        eps=0.0,
    )
    return replace(
        ANY_ENCODER,
        name=name,
        kind=kind or ANY_ENCODER.kind,
        dimension=hidden,
        shape=shape,
        max_residues=_limit(config),
        licence=licence,
    )


def _dimension(config: Mapping[str, object], name: str) -> int | None:
    return next((int(value) for key in KEYS[name] if is_dimension(value := config.get(key))), None)


def _limit(config: Mapping[str, object]) -> int | None:
    """Residues that surely fit its positions, at one token each."""
    positions, model_type = _dimension(config, "num_positions"), config.get("model_type")
    if positions is None or model_type in UNLIMITED or config.get("position_embedding_type") == "rotary":
        return None
    taken = SPECIAL_TOKENS + (PADDING_OFFSET if model_type in POSITIONS_AFTER_PADDING else 0)
    return max(1, positions - taken)
