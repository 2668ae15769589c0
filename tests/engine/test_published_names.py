"""The names by which each family finds its weights, held against published checkpoints as they are: stated here, by
what each tensor does, so that no table is its own oracle.

The names and sizes are those of facebook/esm2_t6_8M_UR50D, biohub/ESMC-300M-hf and esmc-300m-2024-12,
Rostlab/prot_t5_xl_half_uniref50-enc, ElnaggarLab/ankh-base, zhihan1996/DNABERT-2-117M and
InstaDeepAI/nucleotide-transformer-v2-500m-multi-species.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from hpc_embed.families import FAMILIES
from hpc_embed.families.dnabert import dnabert_shape
from hpc_embed.families.esm2 import esm2_shape
from hpc_embed.families.esmc import esmc_shape
from hpc_embed.families.family import Names, Shape
from hpc_embed.families.nucleotide import nucleotide_shape
from hpc_embed.families.parts import parts
from hpc_embed.families.t5 import t5_shape


class Published(NamedTuple):
    """A checkpoint: its tensors outside the layers and of layer 1, with their sizes, by what they do."""

    family: str
    shape: Shape
    outside: dict[str, dict[str, tuple[int, ...]]]
    of_layer_1: dict[str, dict[str, tuple[int, ...]]]


ESM2_LAYER = "encoder.layer.1."
T5_LAYER = "encoder.block.1.layer."
ESM2 = Published(
    "esm2",
    esm2_shape(6, 320),
    {
        "embedding": {"embeddings.word_embeddings.weight": (33, 320)},
        "final_norm": {"encoder.emb_layer_norm_after.weight": (320,), "encoder.emb_layer_norm_after.bias": (320,)},
    },
    {
        "attention_norm": {
            ESM2_LAYER + "attention.LayerNorm.weight": (320,),
            ESM2_LAYER + "attention.LayerNorm.bias": (320,),
        },
        "query_key_value": {
            ESM2_LAYER + "attention.self.query.weight": (320, 320),
            ESM2_LAYER + "attention.self.query.bias": (320,),
            ESM2_LAYER + "attention.self.key.weight": (320, 320),
            ESM2_LAYER + "attention.self.key.bias": (320,),
            ESM2_LAYER + "attention.self.value.weight": (320, 320),
            ESM2_LAYER + "attention.self.value.bias": (320,),
        },
        "attention_out": {
            ESM2_LAYER + "attention.output.dense.weight": (320, 320),
            ESM2_LAYER + "attention.output.dense.bias": (320,),
        },
        "feed_forward_norm": {ESM2_LAYER + "LayerNorm.weight": (320,), ESM2_LAYER + "LayerNorm.bias": (320,)},
        "feed_forward_in": {
            ESM2_LAYER + "intermediate.dense.weight": (1280, 320),
            ESM2_LAYER + "intermediate.dense.bias": (1280,),
        },
        "feed_forward_out": {
            ESM2_LAYER + "output.dense.weight": (320, 1280),
            ESM2_LAYER + "output.dense.bias": (320,),
        },
    },
)
NUCLEOTIDE = Published(
    "nucleotide_transformer",
    nucleotide_shape(29, 1024),
    {
        "embedding": {"embeddings.word_embeddings.weight": (4107, 1024)},
        "final_norm": {"encoder.emb_layer_norm_after.weight": (1024,), "encoder.emb_layer_norm_after.bias": (1024,)},
    },
    {
        "attention_norm": {
            ESM2_LAYER + "attention.LayerNorm.weight": (1024,),
            ESM2_LAYER + "attention.LayerNorm.bias": (1024,),
        },
        "query_key_value": {
            ESM2_LAYER + "attention.self.query.weight": (1024, 1024),
            ESM2_LAYER + "attention.self.query.bias": (1024,),
            ESM2_LAYER + "attention.self.key.weight": (1024, 1024),
            ESM2_LAYER + "attention.self.key.bias": (1024,),
            ESM2_LAYER + "attention.self.value.weight": (1024, 1024),
            ESM2_LAYER + "attention.self.value.bias": (1024,),
        },
        "attention_out": {
            ESM2_LAYER + "attention.output.dense.weight": (1024, 1024),
            ESM2_LAYER + "attention.output.dense.bias": (1024,),
        },
        "feed_forward_norm": {ESM2_LAYER + "LayerNorm.weight": (1024,), ESM2_LAYER + "LayerNorm.bias": (1024,)},
        "feed_forward_in": {ESM2_LAYER + "intermediate.dense.weight": (8192, 1024)},
        "feed_forward_out": {ESM2_LAYER + "output.dense.weight": (1024, 4096)},
    },
)
ESMC_OF_TRANSFORMERS = Published(
    "esmc",
    esmc_shape(30, 960, 15, 2560),
    {"embedding": {"embed_tokens.weight": (64, 960)}, "final_norm": {"norm.weight": (960,)}},
    {
        "attention_norm": {"layers.1.input_layernorm.weight": (960,), "layers.1.input_layernorm.bias": (960,)},
        "query_key_value": {
            "layers.1.self_attn.q_proj.weight": (960, 960),
            "layers.1.self_attn.k_proj.weight": (960, 960),
            "layers.1.self_attn.v_proj.weight": (960, 960),
        },
        "query_key_norms": {
            "layers.1.self_attn.q_norm.weight": (960,),
            "layers.1.self_attn.k_norm.weight": (960,),
        },
        "attention_out": {"layers.1.self_attn.o_proj.weight": (960, 960)},
        "feed_forward_norm": {
            "layers.1.post_attention_layernorm.weight": (960,),
            "layers.1.post_attention_layernorm.bias": (960,),
        },
        "feed_forward_in": {
            "layers.1.mlp.gate_proj.weight": (2560, 960),
            "layers.1.mlp.up_proj.weight": (2560, 960),
        },
        "feed_forward_out": {"layers.1.mlp.down_proj.weight": (960, 2560)},
    },
)
ESMC_OF_ITS_AUTHORS = Published(
    "esmc",
    esmc_shape(30, 960, 15, 2560),
    {"embedding": {"embed.weight": (64, 960)}, "final_norm": {"transformer.norm.weight": (960,)}},
    {
        "attention_norm": {
            "transformer.blocks.1.attn.layernorm_qkv.0.weight": (960,),
            "transformer.blocks.1.attn.layernorm_qkv.0.bias": (960,),
        },
        "query_key_value": {"transformer.blocks.1.attn.layernorm_qkv.1.weight": (2880, 960)},
        "query_key_norms": {
            "transformer.blocks.1.attn.q_ln.weight": (960,),
            "transformer.blocks.1.attn.k_ln.weight": (960,),
        },
        "attention_out": {"transformer.blocks.1.attn.out_proj.weight": (960, 960)},
        "feed_forward_norm": {
            "transformer.blocks.1.ffn.0.weight": (960,),
            "transformer.blocks.1.ffn.0.bias": (960,),
        },
        "feed_forward_in": {"transformer.blocks.1.ffn.1.weight": (5120, 960)},
        "feed_forward_out": {"transformer.blocks.1.ffn.3.weight": (960, 2560)},
    },
)


def of_t5(
    family: str, shape: Shape, embedding: str, heads: tuple[int, int], inner: dict[str, tuple[int, int]]
) -> Published:
    """T5's forms differ by the embedding's name and the feed-forward."""
    hidden, (num_buckets, num_heads) = shape.hidden, heads
    width = 64 * num_heads if family == "ankh" else 128 * num_heads
    return Published(
        family,
        shape,
        {
            "embedding": {embedding: (shape.vocabulary, hidden)},
            "bias_table": {
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (num_buckets, num_heads)
            },
            "final_norm": {"encoder.final_layer_norm.weight": (hidden,)},
        },
        {
            "attention_norm": {T5_LAYER + "0.layer_norm.weight": (hidden,)},
            "query_key_value": {
                T5_LAYER + "0.SelfAttention.q.weight": (width, hidden),
                T5_LAYER + "0.SelfAttention.k.weight": (width, hidden),
                T5_LAYER + "0.SelfAttention.v.weight": (width, hidden),
            },
            "attention_out": {T5_LAYER + "0.SelfAttention.o.weight": (hidden, width)},
            "feed_forward_norm": {T5_LAYER + "1.layer_norm.weight": (hidden,)},
            "feed_forward_in": {T5_LAYER + name: size for name, size in inner.items()},
            "feed_forward_out": {T5_LAYER + "1.DenseReluDense.wo.weight": (hidden, shape.intermediate)},
        },
    )


PLAIN = {"1.DenseReluDense.wi.weight": (16384, 1024)}
GATED = {"1.DenseReluDense.wi_0.weight": (3072, 768), "1.DenseReluDense.wi_1.weight": (3072, 768)}
PROT_T5 = t5_shape(24, 1024, 32, 16384, 128)
ANKH = t5_shape(48, 768, 12, 3072, 64, vocabulary=144, num_buckets=64)
DNABERT_LAYER = "encoder.layer.1."
DNABERT = Published(
    "dnabert",
    dnabert_shape(),
    {
        "embedding": {"embeddings.word_embeddings.weight": (4096, 768)},
        "token_types": {"embeddings.token_type_embeddings.weight": (2, 768)},
        "embedding_norm": {"embeddings.LayerNorm.weight": (768,), "embeddings.LayerNorm.bias": (768,)},
    },
    {
        "query_key_value": {
            DNABERT_LAYER + "attention.self.Wqkv.weight": (2304, 768),
            DNABERT_LAYER + "attention.self.Wqkv.bias": (2304,),
        },
        "attention_out": {
            DNABERT_LAYER + "attention.output.dense.weight": (768, 768),
            DNABERT_LAYER + "attention.output.dense.bias": (768,),
        },
        "attention_norm": {
            DNABERT_LAYER + "attention.output.LayerNorm.weight": (768,),
            DNABERT_LAYER + "attention.output.LayerNorm.bias": (768,),
        },
        "feed_forward_in": {DNABERT_LAYER + "mlp.gated_layers.weight": (6144, 768)},
        "feed_forward_out": {DNABERT_LAYER + "mlp.wo.weight": (768, 3072), DNABERT_LAYER + "mlp.wo.bias": (768,)},
        "feed_forward_norm": {
            DNABERT_LAYER + "mlp.layernorm.weight": (768,),
            DNABERT_LAYER + "mlp.layernorm.bias": (768,),
        },
    },
)
FORMS: dict[str, Published] = {
    "ESM-2": ESM2,
    "ESM C by transformers": ESMC_OF_TRANSFORMERS,
    "ESM C by its authors": ESMC_OF_ITS_AUTHORS,
    "ProtT5": of_t5("t5", PROT_T5, "shared.weight", (32, 32), PLAIN),
    "ProtT5, encoder alone": of_t5("t5", PROT_T5, "encoder.embed_tokens.weight", (32, 32), PLAIN),
    "Ankh": of_t5("ankh", ANKH, "shared.weight", (64, 12), GATED),
    "Ankh, encoder alone": of_t5("ankh", ANKH, "encoder.embed_tokens.weight", (64, 12), GATED),
    "DNABERT-2": DNABERT,
    "Nucleotide Transformer v2": NUCLEOTIDE,
}


def names_of(published: Published) -> Names:
    """The family's table for this form: as loading finds it, by the embedding."""
    (embedding,) = published.outside["embedding"]
    return next(n for n in FAMILIES[published.family].names if f"{n.embedding}.weight" == embedding)


def stem(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def by_order(tensors: dict[str, tuple[int, ...]]) -> list[str]:
    return [*dict.fromkeys(map(stem, tensors))]


@pytest.mark.parametrize("published", FORMS.values(), ids=FORMS)
def test_each_part_is_read_from_the_tensor_that_does_its_work(published: Published) -> None:
    names = names_of(published)

    def found(role: str, place: Callable[[str], str]) -> list[str]:
        value = getattr(names, role)
        return [place(each) for each in ([value] if isinstance(value, str) else value)]

    for role, tensors in published.outside.items():
        assert found(role, lambda name: name) == by_order(tensors), role
    for role, tensors in published.of_layer_1.items():
        assert found(role, lambda name: names.layer.format(1) + name) == by_order(tensors), role


@pytest.mark.parametrize("published", FORMS.values(), ids=FORMS)
def test_a_published_checkpoint_has_just_the_tensors_that_are_asked_for(published: Published) -> None:
    names, shape = names_of(published), published.shape
    wanted = {part.name: part.size for part in parts(FAMILIES[published.family], shape, names)}
    expected = {
        name: size
        for stated in (published.outside, published.of_layer_1)
        for tensors in stated.values()
        for name, size in tensors.items()
    }
    like_layer_1 = tuple(names.layer.format(number) for number in range(shape.num_layers) if number != 1)
    found = {name: size for name, size in wanted.items() if name in expected or not name.startswith(like_layer_1)}
    assert found == expected


def test_esm2s_files_hold_each_layers_rotary_frequencies() -> None:
    names = names_of(ESM2)
    assert names.layer.format(1) + names.inverse_frequencies == (
        "encoder.layer.1.attention.self.rotary_embeddings.inv_freq"
    )


def test_every_form_of_every_family_is_held() -> None:
    held = {(one.family, names_of(one).embedding) for one in FORMS.values()}
    assert held == {(family.name, names.embedding) for family in FAMILIES.values() for names in family.names}


def test_the_files_of_esm2_and_dnabert_put_their_architecture_in_front() -> None:
    written = {name: {names.written_prefix for names in FAMILIES[name].names} for name in ("esm2", "dnabert", "t5")}
    assert written == {"esm2": {"esm."}, "dnabert": {"bert."}, "t5": {""}}
