"""Nucleotide Transformer v2 (Dalla-Torre et al., Nat. Methods 2025): ESM-2's block with SwiGLU, over 6-mers.

The published remote code is not needed and not run.
"""

from __future__ import annotations

from hpc_embed.families.esm2 import NAMES
from hpc_embed.families.family import HUGGING_FACE_KEYS, Attention, Config, Family, FeedForward, Kmers, Shape

HABITS = {
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
    "token_dropout": False,
    "add_bias_fnn": False,
}
"""What its config.json says and that of no other `esm` does."""
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


def _is_nucleotide_transformer(config: Config) -> bool:
    return config.get("model_type") == "esm" and all(config.get(key) == value for key, value in HABITS.items())


NUCLEOTIDE_TRANSFORMER = Family(
    name="nucleotide_transformer",
    block="pre_norm",
    attention=Attention(positions="rotary"),
    feed_forward=FeedForward(activation="silu", is_gated=True, has_bias_in=False, has_bias_out=False),
    names=(NAMES,),
    tokens=Kmers(k=6, special=SPECIAL),
    is_this=_is_nucleotide_transformer,
    config_keys=HUGGING_FACE_KEYS,
    usual={"eps": 1e-12},
    untrained_embedding=30.0,
)
