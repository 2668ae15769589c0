"""Nucleotide Transformer v2 (Dalla-Torre et al., Nat. Methods 2025): ESM-2's block with SwiGLU, over 6-mers.

The published remote code is not needed and not run.
"""

from __future__ import annotations

from collections.abc import Collection

from hpc_embed.families.esm2 import NAMES, UNREAD
from hpc_embed.families.family import (
    HUGGING_FACE_KEYS,
    USUAL_ROTARY,
    Attention,
    Config,
    Family,
    FeedForward,
    Kmers,
    Shape,
)

HEEDS = {
    "position_embedding_type": ("rotary",),
    "emb_layer_norm_before": (False, None),
    "token_dropout": (False,),
    "add_bias_fnn": (False,),
    "hidden_act": (None, "gelu"),  # not heeded by the authors' gated feed-forward
    "mask_token_id": (2, None),
    "pad_token_id": (1, None),
    "is_folding_model": (False, None),
    **USUAL_ROTARY,
}
"""What its config.json says. SegmentNT and others of its authors say more."""
SPECIAL = ("<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>")
VOCABULARY_SIZE = 4107


def nucleotide_shape(num_layers: int, hidden: int, num_heads: int = 16, vocabulary: int = VOCABULARY_SIZE) -> Shape:
    """Dimensions of a published size, or of one of its proportions."""
    return Shape(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        intermediate=4 * hidden,
        vocabulary=vocabulary,
        eps=1e-12,
    )


def _claims(config: Config, names: Collection[str]) -> bool:
    return config.get("model_type", "esm") == "esm" and config.get("add_bias_fnn") is False  # early ones have no type


NUCLEOTIDE_TRANSFORMER = Family(
    name="nucleotide_transformer",
    block="pre_norm",
    attention=Attention(positions="rotary"),
    feed_forward=FeedForward(activation="silu", is_gated=True, has_bias_in=False, has_bias_out=False),
    names=(NAMES,),
    tokens=Kmers(k=6, special=SPECIAL),
    claims=_claims,
    config_keys=HUGGING_FACE_KEYS,
    heeds=HEEDS,
    unread=UNREAD,
    usual={"eps": 1e-12},
    untrained_embedding=30.0,
)
