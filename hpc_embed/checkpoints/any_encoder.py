"""A checkpoint of none of our families as planning sees it: transformers' own model will run it, padded. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import Config, Shape, is_dimension
from hpc_embed.model import Kind, Model
from hpc_embed.registry import ANY_ENCODER

KEYS = {
    "num_layers": ("num_hidden_layers", "encoder_layers", "num_layers", "n_layers", "n_layer"),
    "hidden": ("hidden_size", "d_model", "dim", "n_embd", "emb_dim"),
    "num_heads": ("num_attention_heads", "num_heads", "n_heads", "n_head"),
    "intermediate": ("intermediate_size", "d_ff", "hidden_dim", "n_inner"),
    "vocabulary": ("vocab_size",),
    "width": ("word_embed_proj_dim",),
    "num_positions": ("max_position_embeddings", "n_positions"),
}
"""What the native models call each dimension."""
UNLIMITED = ("t5", "mt5", "umt5")
"""Their positions are distances: a number in config.json is what they were trained on."""
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "esm", "mpnet", "longformer")
"""Their positions begin behind the padding's id, which is 1."""
PADDING_OFFSET = 2
SPECIAL_TOKENS = 2


AS_TRANSFORMERS = ("dnabert_layer",)
"""Modules of remote code whose mathematics are those of transformers' own model (DNABERT-1's)."""
NUCLEOTIDES = frozenset("ACGTUNRYSWKMBDHV")


def infer_model_type(config: Config) -> str | None:
    """What transformers calls the architecture; where config.json has no model_type, by the class that wrote it."""
    if isinstance(stated := config.get("model_type"), str):
        return stated
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return None
    found = re.match(r"(\w+?)(?:For[A-Z]\w*|Model|EncoderModel|LMHeadModel)$", str(architectures[0]))
    return found[1].lower() if found else None


def is_native(config: Config) -> bool:
    """Whether transformers has the model in itself; remote code is never run here."""
    auto_map = config.get("auto_map") or {}
    named = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    modules = [str(value).partition(".")[0] for value in named]
    return all(module.rpartition("--")[2] in AS_TRANSFORMERS for module in modules)


def native_model(
    name: str, config: Config, folder: Path, kind: Kind | None, licence: str, letters: str | None = None
) -> Model:
    """What planning must know; EnvironmentFault for a model that tells no dimensions. `letters` are those that its
    vocabulary tells apart, None where nobody knows."""
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
        kind=kind or ("dna" if letters and NUCLEOTIDES.issuperset(letters) else ANY_ENCODER.kind),
        known_letters=letters or ANY_ENCODER.known_letters,
        dimension=_dimension(config, "width") or hidden,
        shape=shape,
        max_residues=_limit(config),
        licence=licence,
    )


def _dimension(config: Mapping[str, object], name: str) -> int | None:
    return next((int(value) for key in KEYS[name] if is_dimension(value := config.get(key))), None)


def _limit(config: Mapping[str, object]) -> int | None:
    """Residues that surely fit its positions, at one token each."""
    positions, model_type = _dimension(config, "num_positions"), config.get("model_type")
    if positions is None or model_type in UNLIMITED:
        return None
    taken = SPECIAL_TOKENS + (PADDING_OFFSET if model_type in POSITIONS_AFTER_PADDING else 0)
    return max(1, positions - taken)
