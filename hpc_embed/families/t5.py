"""T5's encoder (Raffel et al., JMLR 2020), trained on proteins: ProtT5, ProstT5, Ankh.

Pre-RMSNorm, no biases, scores that are not scaled but carry a learned number for each head and distance, one table
for all layers. ProtT5 and ProstT5 have a plain ReLU feed-forward, Ankh one gated by GELU.
"""

from __future__ import annotations

from dataclasses import replace

from hpc_embed.families.family import Attention, Config, Family, FeedForward, Names, Norms, Pieces, Shape

LARGEST_VOCABULARY = 256
"""T5s of texts have tens of thousands of pieces."""
NAMES = Names(
    embedding="shared",
    layer="encoder.block.{}.",
    attention_norm="layer.0.layer_norm",
    query_key_value=("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"),
    attention_out="layer.0.SelfAttention.o",
    feed_forward_norm="layer.1.layer_norm",
    feed_forward_in=("layer.1.DenseReluDense.wi",),
    feed_forward_out="layer.1.DenseReluDense.wo",
    final_norm="encoder.final_layer_norm",
    bias_table="encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
)
GATED_NAMES = replace(NAMES, feed_forward_in=("layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1"))
UNTIED = "encoder.embed_tokens"
"""The embedding's name in a file that holds the encoder alone."""
KEYS = {
    "num_layers": ("num_layers",),
    "hidden": ("d_model",),
    "num_heads": ("num_heads",),
    "head_dim": ("d_kv",),
    "intermediate": ("d_ff",),
    "vocabulary": ("vocab_size",),
    "num_buckets": ("relative_attention_num_buckets",),
    "max_distance": ("relative_attention_max_distance",),
    "eps": ("layer_norm_epsilon",),
}


def t5_shape(
    num_layers: int,
    hidden: int,
    num_heads: int,
    intermediate: int,
    head_dim: int,
    *,
    vocabulary: int = 128,
    num_buckets: int = 32,
) -> Shape:
    """Dimensions of a published size, or of one of its proportions."""
    return Shape(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocabulary=vocabulary,
        num_buckets=num_buckets,
        max_distance=128,
        eps=1e-6,
    )


def _claims(config: Config, feed_forward: str) -> bool:
    size = config.get("vocab_size")
    is_small = isinstance(size, int) and size <= LARGEST_VOCABULARY
    return config.get("model_type") == "t5" and is_small and config.get("feed_forward_proj", "relu") == feed_forward


def _heeds(feed_forward: str, activation: str, *, is_gated: bool) -> dict[str, tuple[object, ...]]:
    return {
        "feed_forward_proj": (feed_forward, None),
        "dense_act_fn": (activation, None),
        "is_gated_act": (is_gated, None),
    }


T5 = Family(
    name="t5",
    block="pre_norm",
    attention=Attention(positions="buckets", has_bias=False, is_scaled=False),
    feed_forward=FeedForward(activation="relu", has_bias_in=False, has_bias_out=False),
    norms=Norms(kind="rms", has_bias=False, has_final_bias=False),
    names=(NAMES, replace(NAMES, embedding=UNTIED)),
    tokens=Pieces(
        letters="ALGVSREDTIPKFQNYMHWCXBOUZ",
        front="<AA2fold>",
        front_id=149,
        rewritten=dict.fromkeys("UZOB", "X"),
    ),
    claims=lambda config, names: _claims(config, "relu"),
    config_keys=KEYS,
    heeds=_heeds("relu", "relu", is_gated=False),
    unread=("shared", UNTIED, "decoder"),
    usual={"num_buckets": 32, "max_distance": 128, "eps": 1e-6},
    untrained_embedding=30.0,
)
ANKH = replace(
    T5,
    name="ankh",
    feed_forward=FeedForward(activation="gelu_tanh", is_gated=True, has_bias_in=False, has_bias_out=False),
    names=(GATED_NAMES, replace(GATED_NAMES, embedding=UNTIED)),
    tokens=Pieces(letters="ALGVSREDTIPKFQNYMHWCXBOUZ"),
    claims=lambda config, names: _claims(config, "gated-gelu"),
    heeds=_heeds("gated-gelu", "gelu_new", is_gated=True),
)
