"""Dense layers as they are laid out, against the textbook product."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from hpc_embed.engine import dense, processor
from hpc_embed.engine.dense import Dense
from hpc_embed.families.family import Activation
from tests.engine.references import CPU

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "relu": lambda x: x.clamp_min(0),
}
STEPS = ["plain", "plus", *ACTIVATIONS, *(f"gated {name}" for name in ACTIVATIONS)]


WAYS = {
    "oneDNN, activations apart": ("oneDNN", "any", 0, set[str]()),
    "oneDNN, activations inside": ("oneDNN", "any", 0, {"avx512f"}),
    "MKL": ("MKL", "AuthenticAMD", 25, set[str]()),
}
"""The library, and the processor that has it so: its maker, family and instructions."""


def play(monkeypatch: pytest.MonkeyPatch, maker: str, family: int, flags: set[str]) -> None:
    """Another processor."""
    monkeypatch.setattr(processor, "maker", lambda: maker)
    monkeypatch.setattr(processor, "family", lambda: family)
    monkeypatch.setattr(processor, "flags", lambda: flags)


@pytest.fixture(params=WAYS)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two in each of its ways, on whatever processor."""
    name, maker, family, flags = WAYS[request.param]
    if name == "MKL" and not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("needs a torch with MKL")
    play(monkeypatch, maker, family, flags)
    return name


@pytest.mark.parametrize(
    ("maker", "family", "flags", "expected"),
    [
        ("AuthenticAMD", 23, set(), "MKL"),
        ("AuthenticAMD", 25, set(), "MKL"),
        ("AuthenticAMD", 25, {"avx512f"}, "oneDNN"),
        ("AuthenticAMD", 26, set(), "oneDNN"),
        ("GenuineIntel", 6, set(), "oneDNN"),
        ("", 0, set(), "oneDNN"),
    ],
)
def test_the_library_is_that_of_the_processor(
    maker: str, family: int, flags: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (torch.backends.mkl.is_available() and dense._has_onednn(torch.float32)):  # type: ignore[no-untyped-call]
        pytest.skip("needs a torch with both")
    play(monkeypatch, maker, family, flags)
    assert dense.products() == expected


def random(*size: int, seed: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def step(layer: Dense, name: str, x_RD: Tensor, other_RE: Tensor) -> Tensor:
    """One of the layer's ways."""
    for activation in ACTIVATIONS:
        if name == activation:
            return layer.activated(x_RD, activation)
        if name == f"gated {activation}":
            return layer.gated(layer, x_RD, activation)
    return layer.plus(x_RD, other_RE) if name == "plus" else layer(x_RD)


@torch.inference_mode()
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_each_way_equals_the_product_in_float64(name: str, dtype: torch.dtype, has_bias: bool, library: str) -> None:
    assert dense.products() == library
    weight, x, other = random(60, 40, seed=0) / 7, random(70, 40, seed=1), random(70, 60, seed=2)
    weight, x = weight.to(dtype), x.to(dtype)
    bias = random(60, seed=3).to(dtype) if has_bias else None
    ours = step(Dense(weight, bias, device=CPU, dtype=dtype), name, x, other)
    product = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    expected = {"plain": product, "plus": product + other}
    expected |= {activation: function(product) for activation, function in ACTIVATIONS.items()}
    expected |= {f"gated {name}": product * function(product) for name, function in ACTIVATIONS.items()}
    assert ((ours.double() - expected[name]).abs() / (1 + expected[name].abs())).max() <= BOUNDS[dtype]
    assert ours.dtype == (torch.float32 if name == "plus" else dtype)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["plain", "gelu", "gated gelu", "gated silu", "relu", "plus"])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("columns_in", "columns_out"), [(320, 960), (1280, 320), (768, 3072), (3072, 768)])
def test_a_row_does_not_depend_on_the_others_from_64_rows_on(
    name: str, dtype: torch.dtype, columns_in: int, columns_out: int
) -> None:
    x, other = random(3000, columns_in, seed=1), random(3000, columns_out, seed=2)
    layer = Dense(random(columns_out, columns_in, seed=0), random(columns_out, seed=3), device=CPU, dtype=dtype)
    every = step(layer, name, x, other)
    for first, last in [(0, 64), (0, 65), (7, 101), (31, 498), (1000, 2049), (2000, 3000)]:
        assert torch.equal(step(layer, name, x[first:last], other[first:last]), every[first:last]), (first, last)


@torch.inference_mode()
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("columns_in", "columns_out"), [(320, 320), (1280, 320), (1280, 1280), (3072, 768)])
def test_a_row_does_not_depend_on_the_number_of_threads(
    columns_in: int, columns_out: int, threads: Callable[[int], None]
) -> None:
    x = random(1000, columns_in, seed=1)
    layer = Dense(random(columns_out, columns_in, seed=0), random(columns_out, seed=3), device=CPU, dtype=torch.float32)
    expected = layer(x)
    for number in (1, 2, 3, 8):
        threads(number)
        for num_rows in (64, 65, 66, 67, 100, 177, 334, 1000):
            assert torch.equal(layer(x[:num_rows]), expected[:num_rows]), (number, num_rows)


def test_the_arguments_stay_as_they_were() -> None:
    x, other = random(70, 40, seed=1), random(70, 60, seed=2)
    layer = Dense(random(60, 40, seed=0), None, device=CPU, dtype=torch.float32)
    before = x.clone(), other.clone()
    for name in STEPS:
        step(layer, name, x, other)
    assert torch.equal(x, before[0])
    assert torch.equal(other, before[1])


@torch.inference_mode()
@pytest.mark.usefixtures("library")
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


@torch.inference_mode()
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_autocast_around_it_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    """An encoder in BF16 runs under it, and a layer knows better in what it multiplies."""
    x, other = random(70, 40, seed=1).to(dtype), random(70, 60, seed=2)
    layer = Dense(random(60, 40, seed=0) / 7, random(60, seed=3), device=CPU, dtype=dtype)
    expected = step(layer, name, x, other)
    with torch.autocast("cpu", torch.bfloat16):
        ours = step(layer, name, x, other)
    assert ours.dtype == expected.dtype
    assert torch.equal(ours, expected)


@torch.inference_mode()
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("num_rows", [1, 511, 512, 513, 1300])
def test_products_of_so_many_rows_at_a_time_are_the_products(
    name: str, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As BF16 is multiplied on a processor with AMX, played here in FP32."""
    weight, x, other = random(60, 40, seed=0), random(num_rows, 40, seed=1), random(num_rows, 60, seed=2)
    layer = Dense(weight, random(60, seed=3), device=CPU, dtype=torch.float32)
    whole = step(layer, name, x, other)
    layer._block = dense.BLOCK_ROWS
    assert torch.allclose(step(layer, name, x, other), whole, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("words", "goes_on"), [("allow_splitk=False requires the cuBLASLt backend", True), ("lost", False)]
)
def test_a_product_refused_for_the_order_of_its_sums_is_made_without(
    words: str, goes_on: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake of torch's product, which refuses once."""
    monkeypatch.setattr(dense, "products", lambda *_: "torch")
    layer, x = Dense(random(60, 40, seed=0), None, device=CPU, dtype=torch.float32), random(70, 40, seed=1)
    expected = layer(x)
    refused: list[str] = []

    def refuses(*given: Tensor) -> Tensor:
        if not refused:
            refused.append(words)
            raise RuntimeError(words)
        return linear(*given)

    monkeypatch.setattr(dense, "linear", refuses)
    if goes_on:
        assert torch.equal(layer(x), expected)
    else:
        with pytest.raises(RuntimeError, match="lost"):
            layer(x)
