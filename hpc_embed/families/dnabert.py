"""DNABERT-2 and DNABERT-S (Zhou et al., 2024): a BERT of MosaicML's kind.

Fused Wqkv, ALiBi instead of positions, a gated feed-forward, LayerNorm after each residual sum. The published
remote code is not needed and not run.
"""

from __future__ import annotations

from collections.abc import Collection

from hpc_embed.families.family import (
    HUGGING_FACE_KEYS,
    Attention,
    BytePairs,
    Config,
    Family,
    FeedForward,
    Names,
    Shape,
)

NAMES = Names(
    written_prefix="bert.",
    embedding="embeddings.word_embeddings",
    token_types="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    layer="encoder.layer.{}.",
    attention_norm="attention.output.LayerNorm",
    query_key_value=("attention.self.Wqkv",),
    attention_out="attention.output.dense",
    feed_forward_norm="mlp.layernorm",
    feed_forward_in=("mlp.gated_layers",),
    feed_forward_out="mlp.wo",
)


def dnabert_shape(
    num_layers: int = 12, hidden: int = 768, num_heads: int = 12, intermediate: int = 3072, vocabulary: int = 4096
) -> Shape:
    """Dimensions of both models, or smaller ones."""
    return Shape(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        intermediate=intermediate,
        vocabulary=vocabulary,
        eps=1e-12,
    )


HEEDS = {
    "hidden_act": ("gelu", None),
    "position_embedding_type": ("absolute", "alibi", None),  # says absolute, and is ALiBi all the same
    "type_vocab_size": (2, None),
}


def _claims(config: Config, names: Collection[str]) -> bool:
    is_bert = config.get("model_type", "bert") == "bert"  # DNABERT-2's has no type
    return is_bert and ("alibi_starting_size" in config or "encoder.layer.0.attention.self.Wqkv.weight" in names)


DNABERT = Family(
    name="dnabert",
    block="post_norm",
    attention=Attention(positions="alibi"),
    feed_forward=FeedForward(activation="gelu", is_gated=True, has_bias_in=False),
    names=(NAMES,),
    tokens=BytePairs(),
    claims=_claims,
    config_keys=HUGGING_FACE_KEYS,
    heeds=HEEDS,
    unread=("embeddings.position_ids",),
    usual={"eps": 1e-12},
)
