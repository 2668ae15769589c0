"""ESM-2 (Lin et al., Science 2023): pre-LayerNorm, rotary positions, exact GELU."""

from __future__ import annotations

from collections.abc import Collection

from hpc_embed.families.family import (
    HUGGING_FACE_KEYS,
    USUAL_ROTARY,
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
HEEDS = {
    "position_embedding_type": ("rotary",),
    "emb_layer_norm_before": (False, None),
    "token_dropout": (True,),
    "hidden_act": ("gelu", None),
    "mask_token_id": (VOCABULARY.index("<mask>"),),
    "pad_token_id": (VOCABULARY.index("<pad>"),),
    "add_bias_fnn": (True, None),
    "is_folding_model": (False, None),
    "dplm_type": ("dplm_esm", None),
    **USUAL_ROTARY,
}
"""What ESM-2's config.json says. DPLM is ESM-2 with weights of another training."""
UNREAD = ("embeddings.position_ids", "embeddings.position_embeddings", "contact_head")
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


def _claims(config: Config, names: Collection[str]) -> bool:
    return config.get("model_type") == "esm" and config.get("add_bias_fnn") is not False


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
    claims=_claims,
    config_keys=HUGGING_FACE_KEYS,
    heeds=HEEDS,
    unread=UNREAD,
    usual={"eps": 1e-12},
    limit=_limit,
    untrained_embedding=30.0,
)
