"""ESM-2 against both reference implementations, on random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.checkpoints import read_weights
from hpc_embed.engine.embedding import embed_windows
from hpc_embed.engine.pooling import pool
from hpc_embed.engine.references import esm2_reference
from hpc_embed.engine.weights import random_weights as weights_of
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.esm2 import ESM2, TOKEN_DROPOUT_SCALE, VOCABULARY, esm2_shape
from hpc_embed.families.family import Shape
from tests.engine.references import CPU, PROTEINS, SMALL, TINY, esm2_encoder, esm2_tokens, random_tokens

BOUND = 1e-5
PAD = VOCABULARY.index("<pad>")
random_weights = partial(weights_of, ESM2)


def hidden_states(tensors: Mapping[str, Tensor], shape: Shape, layer: int) -> list[Tensor]:
    """Ours, all proteins packed together."""
    batch = make_batch(esm2_tokens(PROTEINS), CPU)
    hidden_TD = esm2_encoder(shape, tensors=tensors)(batch, layer)
    return list(torch.split(hidden_TD, list(batch.lengths)))


def transformers_states(tensors: Mapping[str, Tensor], shape: Shape) -> list[tuple[Tensor, ...]]:
    """transformers' EsmModel, one protein at a time."""
    run = esm2_reference(shape, tensors, CPU)
    windows = [torch.tensor(tokens.astype(int))[None] for tokens in esm2_tokens(PROTEINS)]
    return [tuple(run(window, PAD, layer)[0] for layer in range(shape.num_layers + 1)) for window in windows]


def fair_esm_states(tensors: Mapping[str, Tensor], shape: Shape) -> list[Tensor]:
    """The authors' own fair-esm, the published names put into theirs."""
    from esm.model.esm2 import ESM2

    model = ESM2(shape.num_layers, shape.hidden, shape.num_heads, "ESM-1b").eval()
    names = {
        "attention.self.query": "self_attn.q_proj",
        "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj",
        "attention.self.rotary_embeddings": "self_attn.rot_emb",
        "attention.output.dense": "self_attn.out_proj",
        "attention.LayerNorm": "self_attn_layer_norm",
        "intermediate.dense": "fc1",
        "output.dense": "fc2",
        "LayerNorm": "final_layer_norm",
    }

    def theirs(name: str) -> str:
        name = name.removeprefix("esm.").replace("embeddings.word_embeddings", "embed_tokens")
        name = name.replace("encoder.emb_layer_norm_after", "emb_layer_norm_after")
        name = name.replace("encoder.layer.", "layers.")
        for ours, their in names.items():
            if f".{ours}." in name:
                return name.replace(f".{ours}.", f".{their}.")
        return name

    report = model.load_state_dict({theirs(name): tensor for name, tensor in tensors.items()}, strict=False)
    assert not report.unexpected_keys
    assert all(name.startswith(("lm_head", "contact_head")) for name in report.missing_keys)
    with torch.no_grad():
        return [
            model(torch.tensor(tokens.astype(int))[None], repr_layers=[shape.num_layers])["representations"][
                shape.num_layers
            ][0]
            for tokens in esm2_tokens(PROTEINS)
        ]


@pytest.mark.parametrize("shape", [SMALL, TINY], ids=["small", "true 8M"])
def test_hidden_states_equal_those_of_fair_esm(shape: Shape) -> None:
    tensors = random_weights(shape, seed=1)
    for ours, theirs in zip(
        hidden_states(tensors, shape, shape.num_layers), fair_esm_states(tensors, shape), strict=True
    ):
        assert (ours - theirs).abs().max() <= BOUND


@pytest.mark.parametrize("shape", [SMALL, TINY], ids=["small", "true 8M"])
@pytest.mark.parametrize("layer", [0, 2, -1])
def test_hidden_states_of_each_layer_equal_those_of_transformers(shape: Shape, layer: int) -> None:
    tensors = random_weights(shape, seed=2)
    number = layer % (shape.num_layers + 1)
    theirs = transformers_states(tensors, shape)
    for ours, states in zip(hidden_states(tensors, shape, number), theirs, strict=True):
        assert (ours - states[number]).abs().max() <= BOUND


def test_embeddings_are_scaled_by_0_88_for_the_token_dropout_of_training() -> None:
    assert pytest.approx(0.88) == TOKEN_DROPOUT_SCALE
    tensors = random_weights(SMALL, seed=3)
    words = tensors["esm.embeddings.word_embeddings.weight"]
    batch = make_batch(esm2_tokens([b"AC"]), CPU)
    assert torch.allclose(esm2_encoder(tensors=tensors)(batch, 0), 0.88 * words[[0, 5, 23, 2]], atol=1e-6)


def test_gelu_is_exact_and_not_the_tanh_approximation() -> None:
    shape = esm2_shape(1, 8, 2)
    tensors = random_weights(shape, seed=4)
    for name in ("attention.output.dense.weight", "attention.output.dense.bias"):
        tensors[f"esm.encoder.layer.0.{name}"].zero_()
    tensors["esm.encoder.layer.0.output.dense.weight"] *= 30
    batch = make_batch(esm2_tokens([b"MKV"]), CPU)
    encoder = esm2_encoder(shape, tensors=tensors)
    ours = encoder(batch, 1)

    def by_hand(approximate: str) -> Tensor:
        norm, w = torch.nn.functional.layer_norm, {k.removeprefix("esm."): v for k, v in tensors.items()}
        x = encoder(batch, 0)
        h = norm(x, (8,), w["encoder.layer.0.LayerNorm.weight"], w["encoder.layer.0.LayerNorm.bias"], 1e-5)
        h = h @ w["encoder.layer.0.intermediate.dense.weight"].T + w["encoder.layer.0.intermediate.dense.bias"]
        h = torch.nn.functional.gelu(h, approximate=approximate)
        x = x + h @ w["encoder.layer.0.output.dense.weight"].T + w["encoder.layer.0.output.dense.bias"]
        final = "encoder.emb_layer_norm_after"
        return norm(x, (8,), w[f"{final}.weight"], w[f"{final}.bias"], 1e-5)

    assert (ours - by_hand("none")).abs().max() < 1e-5
    assert (ours - by_hand("tanh")).abs().max() > 1e-4


def test_mean_leaves_cls_and_eos_out() -> None:
    batch = make_batch(esm2_tokens([b"AC", b"G"]), CPU)
    hidden_TD = torch.arange(7.0)[:, None] ** 2
    vectors, num_tokens = pool("mean", hidden_TD, batch)
    assert vectors.flatten().tolist() == [(1 + 4) / 2, 25.0]
    assert num_tokens.tolist() == [2, 1]


def test_rotary_frequencies_of_the_checkpoint_are_used() -> None:
    tensors = random_weights(SMALL, seed=5)
    batch = make_batch(esm2_tokens([PROTEINS[1]]), CPU)
    usual = esm2_encoder(tensors=tensors)(batch, 3)
    for name in tensors:
        if name.endswith("inv_freq"):
            tensors[name] *= 1.5
    assert (esm2_encoder(tensors=tensors)(batch, 3) - usual).abs().max() > 1e-3


def test_rotary_frequencies_that_differ_between_layers_are_refused() -> None:
    tensors = random_weights(SMALL, seed=5)
    tensors["esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq"] *= 1.5
    with pytest.raises(EnvironmentFault, match="inv_freq differs between layers"):
        esm2_encoder(tensors=tensors)


def test_each_letter_is_one_token_and_unknown_letters_are_not_folded() -> None:
    (tokens,) = esm2_tokens([b"LJJAm"])
    assert tokens.tolist() == [0, 4, 3, 3, 5, 3, 2]
    assert len(VOCABULARY) == 33
    assert VOCABULARY.index("<mask>") == 32


def test_tokens_of_an_empty_list_are_none() -> None:
    assert esm2_tokens([]) == []


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_vector_is_bit_identical_alone_and_in_any_batch(
    precision: str, num_threads: int, threads: Callable[[int], None]
) -> None:
    threads(num_threads)
    encoder = esm2_encoder(TINY, precision)
    windows = random_tokens([3, 4, 5, 7, 8, 16, 17, 31, 64, 100, 129, 255, 300, 511, 3, 1024])
    packed = embed_windows(encoder, windows, "mean", 6, CPU).vectors_BD
    backwards = embed_windows(encoder, windows[::-1], "mean", 6, CPU).vectors_BD.flip(0)
    for index, window in enumerate(windows):
        alone = embed_windows(encoder, [window], "mean", 6, CPU).vectors_BD[0]
        assert torch.equal(alone, packed[index]), len(window)
        assert torch.equal(alone, backwards[index]), len(window)


def test_bf16_keeps_the_direction_of_every_vector() -> None:
    batch = make_batch(esm2_tokens(PROTEINS), CPU)
    tensors = random_weights(TINY, seed=6)
    exact = pool("mean", esm2_encoder(TINY, "fp32", tensors)(batch, 6), batch)[0]
    rough = pool("mean", esm2_encoder(TINY, "bf16", tensors)(batch, 6), batch)[0]
    assert not torch.equal(exact, rough)
    assert (1 - torch.cosine_similarity(exact.double(), rough.double())).max() <= 5e-5


@pytest.mark.parametrize("prefix", ["esm.", "", "module.esm."])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_checkpoints_load_with_any_prefix_and_either_layer_norm_spelling(
    tmp_path: Path, prefix: str, suffix: str
) -> None:
    tensors = random_weights(SMALL, seed=3)
    written = {
        prefix + name.removeprefix("esm.").replace("LayerNorm.weight", "LayerNorm.gamma"): tensor.contiguous()
        for name, tensor in tensors.items()
    }
    written["lm_head.bias"] = torch.zeros(33)
    path = tmp_path / f"model.{suffix}"
    save_file(written, path) if suffix == "safetensors" else torch.save(written, path)
    batch = make_batch(esm2_tokens(PROTEINS), CPU)
    loaded = esm2_encoder(tensors=read_weights([path]))
    assert torch.equal(loaded(batch, 3), esm2_encoder(tensors=tensors)(batch, 3))


def test_missing_and_misshapen_weights_are_named_in_one_error() -> None:
    tensors = random_weights(SMALL, seed=3)
    del tensors["esm.encoder.layer.1.intermediate.dense.weight"]
    tensors["esm.encoder.emb_layer_norm_after.bias"] = torch.zeros(7)
    with pytest.raises(EnvironmentFault, match=r"1\.intermediate\.dense\.weight is missing.*after\.bias has shape"):
        esm2_encoder(tensors=tensors)


def test_a_pickle_in_disguise_is_refused(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps({"x": np.ones(3)}))
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        read_weights([path])


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EnvironmentFault, match=r"model\.safetensors: cannot be read"):
        read_weights([path])
