"""The element-wise chains: what they say, and encoders that run on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from hpc_embed.engine import chains, dense, processor
from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.encoder import Encoder
from hpc_embed.families.dnabert import DNABERT, dnabert_shape
from tests.engine.references import CPU, TINY, encoder_of, esm2_encoder, random_tokens

WINDOWS = random_tokens([3, 64, 65, 200, 7])


def random(*size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_chains_by_the_textbook() -> None:
    out, x, weight, bias = (random(*size, seed=seed) for seed, size in enumerate([(70, 48), (70, 48), (48,), (48,)]))
    total = out + x
    normed = (total - total.mean(-1, keepdim=True)) / (total.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = normed * weight + bias
    for ours, theirs in zip(chains.add_norm(out, x, weight, bias, 1e-5), (total, expected), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    for ours in chains.norm_of_sum(out, x, weight, bias, 1e-5):
        assert torch.allclose(ours, expected, atol=1e-5)
    assert torch.equal(chains.gate(out, x), gelu(out) * x)


def test_rms_norm_by_the_textbook() -> None:
    x, weight = random(70, 48, seed=0), random(48, seed=1)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    assert torch.allclose(chains.normed(x, weight, None, 1e-6, is_rms=True), expected, atol=1e-5)


def test_queries_and_keys_are_normed_over_all_heads_and_values_are_left() -> None:
    qkv, weight = random(70, 3, 48, seed=0), random(2, 48, seed=1)
    normed = chains.norm_queries_keys(qkv.clone(), weight, 1e-5)
    for part in (0, 1):
        assert torch.allclose(normed[:, part], layer_norm(qkv[:, part], (48,), weight[part], None, 1e-5), atol=1e-5)
    assert torch.equal(normed[:, 2], qkv[:, 2])


def test_the_norm_of_the_next_product_is_in_its_precision_and_the_stream_in_float32() -> None:
    x, weight, bias = random(70, 48, seed=0), random(48, seed=1), random(48, seed=2)
    out = random(70, 48, seed=3, dtype=torch.bfloat16)
    total, normed = chains.add_norm(out, x, weight, bias, 1e-5)
    assert (total.dtype, normed.dtype) == (torch.float32, torch.bfloat16)
    exact, rounded = chains.norm_of_sum(out, x, weight, bias, 1e-5)
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(exact, layer_norm(total, (48,), weight, bias, 1e-5))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["esm2", "dnabert"])
def test_encoders_on_plain_products_and_chains_agree_with_those_on_onednn(
    family: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that a GPU takes, run on a CPU."""

    def make() -> Encoder:
        if family == "esm2":
            return esm2_encoder(TINY, precision)
        return encoder_of(DNABERT, dnabert_shape(2, 96, intermediate=384), precision)

    batch = make_batch(WINDOWS, CPU)
    num_layers = 6 if family == "esm2" else 2
    monkeypatch.setattr(processor, "maker", lambda: "any")
    laid_out = make()
    monkeypatch.setattr(dense, "_has_onednn", lambda dtype: False)
    plain = make()
    for layer in (0, 1, num_layers):
        ours, theirs = plain(batch, layer), laid_out(batch, layer)
        assert ours.dtype == theirs.dtype == torch.float32
        assert (ours - theirs).abs().max() <= (2e-5 if precision == "fp32" else 0.2), layer
