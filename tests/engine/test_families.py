"""Every family beside its reference implementation, on random weights under the true names."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from hpc_embed.engine.batches import PackedBatch, make_batch
from hpc_embed.engine.embedding import embed_windows
from hpc_embed.engine.references import REFERENCES
from hpc_embed.engine.tokens import make_tokeniser
from hpc_embed.engine.weights import random_weights
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families import FAMILIES
from hpc_embed.families.esmc import AUTHORS_NAMES, ESMC, TRANSFORMERS_NAMES, esmc_shape
from hpc_embed.families.family import Family, Shape
from hpc_embed.families.nucleotide import nucleotide_shape
from hpc_embed.families.t5 import T5, t5_shape
from tests.engine.references import CPU, PROTEINS, encoder_of, random_tokens

SHAPES = {
    "esmc": esmc_shape(3, 192, 3, 512),
    "t5": t5_shape(3, 64, 4, 256, 32),
    "ankh": t5_shape(3, 96, 6, 384, 16, vocabulary=144, num_buckets=64),
    "nucleotide_transformer": nucleotide_shape(3, 64, 4),
}
"""Of the true proportions: ESM C's head dimension, T5's attention wider than its hidden states."""
DNA = [b"ACGTTGCAACGT" * 40, b"A", b"ACGTN" * 3, b"GATTACA" * 9, b"ACGTAC"]
RELATIVE_BOUND = 1e-5


def packed(family: Family, shape: Shape) -> PackedBatch:
    """Windows of very different lengths, one beyond the reach of T5's table."""
    tokeniser = make_tokeniser(family, shape, None)
    sequences = DNA if family.name == "nucleotide_transformer" else PROTEINS
    return make_batch(tokeniser(sequences), CPU, tokeniser.special)


def largest_relative_difference(family: Family, shape: Shape, tensors: Mapping[str, Tensor], layer: int) -> float:
    """Of our packed hidden states from the reference's, alone, against their largest."""
    batch = packed(family, shape)
    run = REFERENCES[family.name](shape, tensors, CPU)
    ours = torch.split(encoder_of(family, shape, tensors=tensors)(batch, layer), list(batch.lengths))
    windows = torch.split(batch.tokens_T, list(batch.lengths))
    theirs = [run(window[None].long(), -1, layer)[0] for window in windows]
    size = max(float(hidden.abs().max()) for hidden in theirs)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / size


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_packed_hidden_states_equal_the_reference_alone(name: str, layer: int) -> None:
    family, shape = FAMILIES[name], SHAPES[name]
    tensors = random_weights(family, shape, seed=layer)
    assert largest_relative_difference(family, shape, tensors, layer) <= RELATIVE_BOUND


@pytest.mark.parametrize("name", SHAPES)
def test_a_vector_is_bit_identical_alone_and_in_any_batch(name: str) -> None:
    family, shape = FAMILIES[name], SHAPES[name]
    encoder, special = encoder_of(family, shape), make_tokeniser(family, shape, None).special
    windows = random_tokens([3, 4, 8, 17, 65, 300, 511, 3])
    packed = embed_windows(encoder, windows, "mean", 3, CPU, special).vectors_BD
    for index, window in enumerate(windows):
        assert torch.equal(embed_windows(encoder, [window], "mean", 3, CPU, special).vectors_BD[0], packed[index])


@pytest.mark.parametrize("name", SHAPES)
def test_bf16_keeps_the_direction_of_every_vector(name: str) -> None:
    family, shape = FAMILIES[name], SHAPES[name]
    windows = random_tokens([20, 150])
    exact, rough = (
        embed_windows(encoder_of(family, shape, precision), windows, "mean", 3, CPU).vectors_BD.double()
        for precision in ("fp32", "bf16")
    )
    assert not torch.equal(exact, rough)
    assert (1 - torch.cosine_similarity(exact, rough)).max() <= 5e-5


@pytest.mark.parametrize("name", SHAPES)
def test_every_back_end_of_this_machine_agrees(name: str) -> None:
    family, shape = FAMILIES[name], SHAPES[name]
    encoder, batch = encoder_of(family, shape), packed(family, shape)
    first = encoder(batch, 3)
    for back_end in encoder.attention_back_ends[1:]:
        encoder.use_attention(back_end)
        assert (encoder(batch, 3) - first).abs().max() <= RELATIVE_BOUND * first.abs().max()


def authors_form(tensors: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """ESM C's tensors as its authors' files have them, from transformers'."""
    names, theirs = TRANSFORMERS_NAMES, AUTHORS_NAMES
    renamed = {f"{theirs.embedding}.weight": tensors["embed_tokens.weight"]}
    renamed[f"{theirs.final_norm}.weight"] = tensors["norm.weight"]
    for index in range(num_layers):
        at, to = names.layer.format(index), theirs.layer.format(index)
        for old, new in (
            (names.query_key_value, theirs.query_key_value[0]),
            (names.feed_forward_in, theirs.feed_forward_in[0]),
            ((names.attention_out,), theirs.attention_out),
            ((names.feed_forward_out,), theirs.feed_forward_out),
            (names.query_key_norms[:1], theirs.query_key_norms[0]),
            (names.query_key_norms[1:], theirs.query_key_norms[1]),
        ):
            renamed[f"{to}{new}.weight"] = torch.cat([tensors[f"{at}{name}.weight"] for name in old])
        for old_norm, new_norm in (
            (names.attention_norm, theirs.attention_norm),
            (names.feed_forward_norm, theirs.feed_forward_norm),
        ):
            for part in ("weight", "bias"):
                renamed[f"{to}{new_norm}.{part}"] = tensors[f"{at}{old_norm}.{part}"]
    return renamed


@pytest.mark.parametrize("prefix", ["", "esmc."])
def test_both_forms_of_esmc_are_one_model(prefix: str) -> None:
    shape = SHAPES["esmc"]
    tensors = random_weights(ESMC, shape, seed=3)
    batch = packed(ESMC, shape)
    expected = encoder_of(ESMC, shape, tensors=tensors)(batch, 3)
    for form in (tensors, authors_form(tensors, shape.num_layers)):
        assert torch.equal(
            encoder_of(ESMC, shape, tensors={prefix + name: t for name, t in form.items()})(batch, 3), expected
        )


def test_t5_reads_either_name_of_its_embedding_and_leaves_a_decoder_alone() -> None:
    shape = SHAPES["t5"]
    tensors = random_weights(T5, shape, seed=3)
    batch = packed(T5, shape)
    expected = encoder_of(T5, shape, tensors=tensors)(batch, 3)
    other = dict(tensors) | {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2, 2)}
    other["encoder.embed_tokens.weight"] = other.pop("shared.weight")
    assert torch.equal(encoder_of(T5, shape, tensors=other)(batch, 3), expected)


def test_half_precision_checkpoints_run_in_float32() -> None:
    shape = SHAPES["t5"]
    tensors = {name: tensor.half() for name, tensor in random_weights(T5, shape, seed=3).items()}
    batch = packed(T5, shape)
    wide = {name: tensor.float() for name, tensor in tensors.items()}
    assert torch.equal(encoder_of(T5, shape, tensors=tensors)(batch, 3), encoder_of(T5, shape, tensors=wide)(batch, 3))


@pytest.mark.parametrize("name", SHAPES)
def test_a_missing_tensor_of_any_family_is_named_once(name: str) -> None:
    family, shape = FAMILIES[name], SHAPES[name]
    tensors = random_weights(family, shape, seed=3)
    gone = family.names[0].layer.format(2) + family.names[0].attention_out + ".weight"
    del tensors[family.names[0].written_prefix + gone]
    with pytest.raises(EnvironmentFault, match=rf"\({gone} is missing\)"):
        encoder_of(family, shape, tensors=tensors)
