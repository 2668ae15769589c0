"""ESM C (EvolutionaryScale 2024, Biohub 2026): ESM-2's letters in a modern block.

Pre-LayerNorm, rotary positions, queries and keys through LayerNorms of their own, SwiGLU, no biases in any product,
branches divided by sqrt(layers / 36).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hpc_embed.families.esm2 import VOCABULARY as ESM2_VOCABULARY
from hpc_embed.families.family import (
    USUAL_ROTARY,
    Attention,
    Config,
    Family,
    FeedForward,
    Names,
    Norms,
    Residues,
    SameAs,
    Shape,
    is_dimension,
)

VOCABULARY = (*ESM2_VOCABULARY[:31], "|", "<mask>")
"""The table of embeddings has 64 rows, of which these are used; | breaks chains."""
TABLE_ROWS = 64
LAYERS_OF_SCALE_ONE = 36

TRANSFORMERS_NAMES = Names(
    embedding="embed_tokens",
    layer="layers.{}.",
    attention_norm="input_layernorm",
    query_key_value=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    query_key_norms=("self_attn.q_norm", "self_attn.k_norm"),
    attention_out="self_attn.o_proj",
    feed_forward_norm="post_attention_layernorm",
    feed_forward_in=("mlp.gate_proj", "mlp.up_proj"),
    feed_forward_out="mlp.down_proj",
    final_norm="norm",
)
AUTHORS_NAMES = Names(
    embedding="embed",
    layer="transformer.blocks.{}.",
    attention_norm="attn.layernorm_qkv.0",
    query_key_value=("attn.layernorm_qkv.1",),
    query_key_norms=("attn.q_ln", "attn.k_ln"),
    attention_out="attn.out_proj",
    feed_forward_norm="ffn.0",
    feed_forward_in=("ffn.1",),
    feed_forward_out="ffn.3",
    final_norm="transformer.norm",
)
TRANSFORMER_ENGINE_NAMES = replace(
    AUTHORS_NAMES,
    attention_norm="attn.layernorm_qkv.layer_norm",
    query_key_value=("attn.layernorm_qkv",),
    feed_forward_norm="ffn.layer_norm",
    feed_forward_in=("ffn.fc1",),
    feed_forward_out="ffn.fc2",
)
"""The authors' once more, as TransformerEngine's fused layers name them."""
KEYS = {
    "num_layers": ("num_hidden_layers", "n_layers"),
    "hidden": ("hidden_size", "d_model"),
    "num_heads": ("num_attention_heads", "n_heads"),
    "intermediate": ("intermediate_size",),
    "vocabulary": ("vocab_size",),
    "eps": ("layer_norm_eps",),
}
"""In transformers' words, or in the authors'; their first files have an empty config.json."""
HEEDS = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "num_key_value_heads": (SameAs("num_heads"), None),
    "head_dim": (SameAs("head_dim"), None),
    "mask_token_id": (VOCABULARY.index("<mask>"), None),
    "pad_token_id": (VOCABULARY.index("<pad>"), None),
    **USUAL_ROTARY,
}


def esmc_shape(num_layers: int, hidden: int, num_heads: int, intermediate: int) -> Shape:
    """Dimensions of a published size, or of one of its proportions."""
    return Shape(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        intermediate=intermediate,
        vocabulary=TABLE_ROWS,
        eps=1e-5,
    )


def _claims(config: Config, names: Collection[str]) -> bool:
    return config.get("model_type") == "esmc" or "transformer.blocks.0.attn.layernorm_qkv.1.weight" in names


def _limit(config: Config) -> int | None:
    positions = config.get("max_position_embeddings")
    return max(1, int(positions) - 2) if is_dimension(positions) else None


ESMC = Family(
    name="esmc",
    block="pre_norm",
    attention=Attention(positions="rotary", has_bias=False, has_query_key_norm=True),
    feed_forward=FeedForward(activation="silu", is_gated=True, has_bias_in=False, has_bias_out=False),
    norms=Norms(has_final_bias=False),
    branch_scale=lambda shape: (shape.num_layers / LAYERS_OF_SCALE_ONE) ** -0.5,
    names=(TRANSFORMERS_NAMES, AUTHORS_NAMES, TRANSFORMER_ENGINE_NAMES),
    tokens=Residues(vocabulary=VOCABULARY, is_in_code=True),
    claims=_claims,
    config_keys=KEYS,
    heeds=HEEDS,
    usual={"eps": 1e-5, "vocabulary": TABLE_ROWS},
    head_dim=64,
    limit=_limit,
    untrained_embedding=30.0,
)
