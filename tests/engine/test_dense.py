"""Dense layers as they are laid out, against the textbook product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from hpc_embed.engine import dense
from hpc_embed.engine.dense import Dense
from tests.engine.references import CPU

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
STEPS = ["plain", "gelu", "gated", "plus"]


def random(*size: int, seed: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def step(layer: Dense, name: str, x_RD: Tensor, other_RE: Tensor) -> Tensor:
    """One of the layer's four ways."""
    if name == "gated":
        return layer.gated(layer, x_RD)
    if name == "plus":
        return layer.plus(x_RD, other_RE)
    return layer.gelu(x_RD) if name == "gelu" else layer(x_RD)


@torch.inference_mode()
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_each_way_equals_the_product_in_float64(name: str, dtype: torch.dtype, has_bias: bool) -> None:
    weight, x, other = random(60, 40, seed=0) / 7, random(70, 40, seed=1), random(70, 60, seed=2)
    weight, x = weight.to(dtype), x.to(dtype)
    bias = random(60, seed=3).to(dtype) if has_bias else None
    ours = step(Dense(weight, bias, device=CPU, dtype=dtype), name, x, other)
    product = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    expected = {
        "plain": product,
        "gelu": gelu(product),
        "gated": product * gelu(product),
        "plus": product + other,
    }[name]
    assert ((ours.double() - expected).abs() / (1 + expected.abs())).max() <= BOUNDS[dtype]
    assert ours.dtype == (torch.float32 if name == "plus" else dtype)


@torch.inference_mode()
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("columns_in", "columns_out"), [(320, 960), (1280, 320), (768, 3072), (3072, 768)])
def test_a_row_does_not_depend_on_the_others_from_64_rows_on(
    name: str, dtype: torch.dtype, columns_in: int, columns_out: int
) -> None:
    x, other = random(3000, columns_in, seed=1), random(3000, columns_out, seed=2)
    layer = Dense(random(columns_out, columns_in, seed=0), random(columns_out, seed=3), device=CPU, dtype=dtype)
    every = step(layer, name, x, other)
    for first, last in [(0, 64), (0, 65), (7, 100), (31, 500), (1000, 2049), (2000, 3000)]:
        assert torch.equal(step(layer, name, x[first:last], other[first:last]), every[first:last]), (first, last)


def test_the_arguments_stay_as_they_were() -> None:
    x, other = random(70, 40, seed=1), random(70, 60, seed=2)
    layer = Dense(random(60, 40, seed=0), None, device=CPU, dtype=torch.float32)
    before = x.clone(), other.clone()
    for name in STEPS:
        step(layer, name, x, other)
    assert torch.equal(x, before[0])
    assert torch.equal(other, before[1])


@torch.inference_mode()
@pytest.mark.parametrize("name", STEPS)
def test_bf16_without_instructions_for_it_is_the_rounded_product_in_float32(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not dense._has_onednn(torch.float32):
        pytest.skip("needs a torch with oneDNN")
    monkeypatch.setattr(dense, "_has_onednn", lambda dtype: dtype == torch.float32)
    weight, x, other = (random(*size, seed=seed).bfloat16() for seed, size in enumerate([(60, 40), (70, 40), (70, 60)]))
    rounded = step(Dense(weight, None, device=CPU, dtype=torch.bfloat16), name, x, other.float())
    exact = step(Dense(weight.float(), None, device=CPU, dtype=torch.float32), name, x.float(), other.float())
    assert rounded.dtype == (torch.float32 if name == "plus" else torch.bfloat16)
    assert ((rounded - exact).abs() / (1 + exact.abs())).max() <= 2**-7
    if name in ("plain", "gelu"):
        assert torch.equal(rounded, exact.bfloat16())
