"""DNABERT-2 and -S against the authors' own numbers and against a textbook oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.biases import alibi_slopes
from hpc_embed.engine.bytepairs import BpeTokenizer, untrained_bpe_json
from hpc_embed.engine.embedding import embed_windows
from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.pooling import pool
from hpc_embed.engine.references import dnabert_reference
from hpc_embed.engine.weights import random_weights
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.dnabert import DNABERT, dnabert_shape
from hpc_embed.families.family import Shape
from tests.engine.references import CPU, encoder_of, random_tokens

ORACLE = Path(__file__).parent / "oracle"
"""The authors' forward pass in float32 for a small model; see its README."""
BOUND = 1e-5
PAD = 3
SHAPE = dnabert_shape(num_layers=2, hidden=96, num_heads=12, intermediate=384, vocabulary=128)
TWELVE_SLOPES = [
    *(0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625),
    *(0.7071067811865476, 0.35355339059327384, 0.17677669529663692, 0.08838834764831849),
]


def encoder(shape: Shape = SHAPE, precision: str = "fp32", seed: int = 1) -> Encoder:
    """An encoder with random weights."""
    return encoder_of(DNABERT, shape, precision, seed=seed)


def test_hidden_states_and_means_are_the_authors_own() -> None:
    inputs = json.loads((ORACLE / "inputs.json").read_text())
    expected = load_file(ORACLE / "expected.safetensors")
    config = inputs["config"]
    shape = dnabert_shape(
        num_layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        num_heads=config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
    )
    tensors = load_file(ORACLE / "weights.safetensors")
    model = encoder_of(DNABERT, shape, tensors=tensors)
    batch = make_batch([np.array(tokens) for tokens in inputs["token_ids"]], CPU)
    hidden_TD = model(batch, shape.num_layers)
    means, _ = pool("mean_with_special", hidden_TD, batch)
    reference = dnabert_reference(shape, tensors, CPU)
    for index, hidden in enumerate(torch.split(hidden_TD, list(batch.lengths))):
        textbook = reference(torch.tensor([inputs["token_ids"][index]]), PAD, shape.num_layers)[0]
        assert (textbook - expected[f"hidden_{index}"]).abs().max() <= BOUND
        assert (hidden - expected[f"hidden_{index}"]).abs().max() <= BOUND
        assert (means[index] - expected[f"mean_with_special_{index}"]).abs().max() <= BOUND


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_hidden_states_equal_a_dense_padded_textbook_forward_pass(layer: int) -> None:
    windows = random_tokens([3, 50, 7, 200], high=128)
    padded_BN = torch.full((4, 200), PAD)
    for row, window in enumerate(windows):
        padded_BN[row, : len(window)] = torch.from_numpy(window.astype(int))
    dense_BND = dnabert_reference(SHAPE, random_weights(DNABERT, SHAPE, seed=1), CPU)(padded_BN, PAD, layer)
    batch = make_batch(windows, CPU)
    packed = torch.split(encoder()(batch, layer), list(batch.lengths))
    for expected, ours in zip(dense_BND, packed, strict=True):
        assert (ours - expected[: len(ours)]).abs().max() <= BOUND


def test_alibi_slopes_of_twelve_heads_are_those_of_eight_and_every_second_of_sixteen() -> None:
    assert alibi_slopes(12) == pytest.approx(TWELVE_SLOPES, rel=1e-12)


def test_alibi_slopes_of_a_power_of_two_are_a_geometric_series() -> None:
    assert alibi_slopes(4) == [0.25, 0.0625, 0.015625, 0.00390625]


def test_special_tokens_are_those_that_the_tokenizer_file_names_whatever_their_numbers() -> None:
    """config.json says pad_token_id 0; the published tokenizer, whose numbers these are, says 3, and 0 is unknown."""
    usual = BpeTokenizer(untrained_bpe_json())
    assert usual([b"N"])[0].tolist() == [1, 0, 2]
    content = json.loads(untrained_bpe_json())
    names = content["model"]["vocab"]
    names["[PAD]"], names["[SEP]"] = names["[SEP]"], names["[PAD]"]
    for token in content["added_tokens"]:
        token["id"] = names[token["content"]]
    other = BpeTokenizer(json.dumps(content))
    assert (other.pad, other.unknown, other.cls, other.sep) == (2, 0, 1, 3)


def test_soft_masked_bases_are_unknown_one_by_one_unless_upper_cased() -> None:
    tokenizer = BpeTokenizer(untrained_bpe_json())
    masked, upper = tokenizer([b"acgtacgt", b"ACGTACGT"])
    assert masked.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert 0 not in upper
    assert len(upper) == 4


def test_padding_and_truncation_blocks_of_a_published_tokenizer_are_cleared() -> None:
    content = json.loads(untrained_bpe_json())
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 3,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (tokens,) = BpeTokenizer(json.dumps(content))([b"ACGT" * 20])
    assert len(tokens) == 22


def test_a_tokenizer_without_its_special_tokens_is_refused() -> None:
    content = untrained_bpe_json().replace("[SEP]", "[END]")
    with pytest.raises(EnvironmentFault, match=r"no \[SEP\]"):
        BpeTokenizer(content)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_vector_is_bit_identical_alone_and_in_any_batch(precision: str) -> None:
    model = encoder(precision=precision)
    windows = random_tokens([2, 3, 5, 64, 65, 200, 3, 1500], high=128)
    packed = embed_windows(model, windows, "mean_with_special", 2, CPU).vectors_BD
    for index, window in enumerate(windows):
        alone = embed_windows(model, [window], "mean_with_special", 2, CPU).vectors_BD[0]
        assert torch.equal(alone, packed[index]), len(window)


def test_bf16_keeps_the_direction_of_every_vector() -> None:
    windows = random_tokens([20, 90, 200])
    shape = dnabert_shape()
    tensors = random_weights(DNABERT, shape, 1)
    exact, rough = (
        embed_windows(
            encoder_of(DNABERT, shape, precision, tensors),
            windows,
            "mean_with_special",
            12,
            CPU,
        ).vectors_BD
        for precision in ("fp32", "bf16")
    )
    assert not torch.equal(exact, rough)
    assert (1 - torch.cosine_similarity(exact.double(), rough.double())).max() <= 5e-5
