"""ESM-2 (Lin et al., Science 2023): pre-LayerNorm, rotary positions, exact GELU."""

from __future__ import annotations

from hpc_embed.families.family import (
    HUGGING_FACE_KEYS,
    Attention,
    Config,
    Family,
    FeedForward,
    Names,
    Residues,
    Shape,
    is_dimension,
)

TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8
"""Training masked 15 % of the tokens, 80 % of them by <mask>, and scaled embeddings by what was left; without
any <mask>, inference scales every embedding by the same 0.88 (fair-esm, esm2.py, `token_dropout`)."""
VOCABULARY = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)
RESIDUES = Residues(vocabulary=VOCABULARY)
HABITS = {"position_embedding_type": "rotary", "emb_layer_norm_before": False, "token_dropout": True}
"""What ESM-2's config.json says and that of no other `esm` does."""
POSITIONS_TAKEN = 4
"""Of max_position_embeddings: two for the padding's offset, <cls> and <eos>."""

NAMES = Names(
    written_prefix="esm.",
    embedding="embeddings.word_embeddings",
    layer="encoder.layer.{}.",
    attention_norm="attention.LayerNorm",
    query_key_value=("attention.self.query", "attention.self.key", "attention.self.value"),
    inverse_frequencies="attention.self.rotary_embeddings.inv_freq",
    attention_out="attention.output.dense",
    feed_forward_norm="LayerNorm",
    feed_forward_in=("intermediate.dense",),
    feed_forward_out="output.dense",
    final_norm="encoder.emb_layer_norm_after",
)


def esm2_shape(num_layers: int, hidden: int, num_heads: int = 20) -> Shape:
    """Dimensions of a published size, or of one of its proportions."""
    return Shape(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        intermediate=4 * hidden,
        vocabulary=len(VOCABULARY),
        eps=1e-5,
    )


def _is_esm2(config: Config) -> bool:
    has_habits = all(config.get(key) in (None, value) for key, value in HABITS.items())
    return config.get("model_type") == "esm" and config.get("add_bias_fnn") is not False and has_habits


def _limit(config: Config) -> int | None:
    positions = config.get("max_position_embeddings")
    return max(1, int(positions) - POSITIONS_TAKEN) if is_dimension(positions) else None


ESM2 = Family(
    name="esm2",
    block="pre_norm",
    attention=Attention(positions="rotary"),
    feed_forward=FeedForward(activation="gelu"),
    embedding_scale=TOKEN_DROPOUT_SCALE,
    names=(NAMES,),
    tokens=RESIDUES,
    is_this=_is_esm2,
    config_keys=HUGGING_FACE_KEYS,
    usual={"eps": 1e-5},
    limit=_limit,
    untrained_embedding=30.0,
)
