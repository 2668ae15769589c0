"""FP8: how rows are rounded to it, and encoders that multiply in it, on a CPU that has none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from hpc_embed.engine import fp8
from hpc_embed.engine.chains import quantised
from hpc_embed.engine.dense import Dense
from hpc_embed.engine.embedding import embed_windows
from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.fp8 import Fp8Dense
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families import FAMILIES
from hpc_embed.families.dnabert import dnabert_shape
from hpc_embed.families.esmc import esmc_shape
from hpc_embed.families.t5 import t5_shape
from tests.engine.references import CPU, TINY, encoder_of, random_tokens

SHAPES = {
    "esm2": TINY,
    "dnabert": dnabert_shape(2, 96, intermediate=384),
    "esmc": esmc_shape(3, 192, 3, 512),
    "t5": t5_shape(3, 64, 4, 256, 32),
}
SMALLEST = 2.0**-9
"""The least number above zero."""


def random(*size: int, seed: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def restored(x_RD: Tensor) -> Tensor:
    """In float64, what is left of rows rounded to FP8."""
    rounded_RD, scale_R1 = quantised(x_RD)
    return rounded_RD.double() * scale_R1.double()


def test_each_number_is_rounded_to_the_nearest_of_its_row_s_scale() -> None:
    x = random(7, 300, seed=0) * torch.tensor([[1.0, 1e-6, 1e6, 448.0, 1e-30, 1e37, 3.0]]).T
    rounded, scale = quantised(x)
    assert (rounded.dtype, scale.shape) == (torch.float8_e4m3fn, (7, 1))
    assert torch.equal(scale.log2(), scale.log2().round())
    scaled = x.double() / scale.double()
    assert torch.equal(rounded.float(), scaled.to(torch.float8_e4m3fn).float())
    assert ((scaled.abs().amax(1) >= 128) & (scaled.abs().amax(1) < 256)).all()
    steps = torch.maximum(2.0 ** (scaled.abs().log2().floor() - 3), torch.tensor(SMALLEST, dtype=torch.float64))
    assert ((rounded.double() - scaled).abs() <= steps / 2).all()


def test_rows_of_nothing_stay_so_and_no_other_row_has_a_nan_of_its_neighbour() -> None:
    assert torch.equal(restored(torch.zeros(2, 16)), torch.zeros(2, 16, dtype=torch.float64))
    made = restored(torch.tensor([[1.0, float("nan")], [1.0, 2.0], [float("inf"), 1.0]]))
    assert made.isnan().any(1).tolist() == [True, False, True]
    assert made[1].tolist() == [1.0, 2.0]


def layer(*, has_bias: bool) -> tuple[Fp8Dense, Tensor, Tensor]:
    """With rows for it, and the product of the rounded numbers in float64."""
    weight, x = random(64, 48, seed=0) / 7, random(70, 48, seed=1).bfloat16()
    bias = random(64, seed=2).bfloat16() if has_bias else None
    product = linear(restored(x), restored(weight), None if bias is None else bias.double())
    return Fp8Dense(weight, bias, device=CPU, dtype=torch.bfloat16), x, product


@torch.inference_mode()
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_is_the_product_of_the_rounded_numbers(has_bias: bool) -> None:
    ours, x, product = layer(has_bias=has_bias)
    residual = random(70, 64, seed=4)
    for made, expected in (
        (ours(x), product),
        (ours.activated(x, "gelu"), gelu(product)),
        (ours.gated(ours, x, "gelu"), gelu(product) * product),
        (ours.plus(x, residual), product + residual),
    ):
        assert ((made.double() - expected).abs() / (1 + expected.abs())).max() <= 2e-2
    exact = linear(x.double(), random(64, 48, seed=0).double() / 7)
    if not has_bias:
        assert 1e-2 < (product - exact).norm() / exact.norm() < 6e-2, "FP8 is no BF16"


@torch.inference_mode()
def test_a_gpu_is_given_rounded_rows_and_columns_with_their_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake of the GPU's product, in float64."""
    asked: list[object] = []

    def multiply(
        a_RD: Tensor, b_DE: Tensor, scale_R1: Tensor, scale_1E: Tensor, bias: Tensor, **options: object
    ) -> Tensor:
        asked.append(options)
        assert a_RD.dtype == b_DE.dtype == torch.float8_e4m3fn
        assert a_RD.is_contiguous()
        assert b_DE.T.is_contiguous(), "cuBLAS wants the second factor by columns"
        assert scale_R1.is_contiguous()
        assert scale_1E.is_contiguous()
        return ((a_RD.double() * scale_R1) @ (b_DE.double() * scale_1E) + bias.double()).bfloat16()

    monkeypatch.setattr(fp8, "has_fp8", lambda device: True)
    monkeypatch.setattr(torch, "_scaled_mm", multiply)
    ours, x, product = layer(has_bias=True)
    assert ((ours(x).double() - product).abs() / (1 + product.abs())).max() <= 4e-3
    assert asked == [{"out_dtype": torch.bfloat16, "use_fast_accum": True}]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED\nand more"),
            "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_",
        ),
        (2.0, "its FP8 products differ by 1.0e+00"),
        (float("nan"), "its FP8 products differ by nan"),
        (1.0, None),
    ],
)
def test_a_gpu_whose_products_fail_or_differ_is_told_before_the_first_batch(
    fault: Exception | float, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake of a GPU that has FP8, under a name that torch takes for a CPU's."""
    gpu = torch.device("cpu", 0)

    def multiply(a: Tensor, b: Tensor, scale_R1: Tensor, scale_1E: Tensor, bias: Tensor, **_: object) -> Tensor:
        if isinstance(fault, Exception):
            raise fault
        return ((a.double() * scale_R1) @ (b.double() * scale_1E) + bias.double()).bfloat16() * fault

    monkeypatch.setattr(fp8, "has_fp8", lambda device: device == gpu)
    monkeypatch.setattr(torch, "_scaled_mm", multiply)
    why_not = fp8.why_not
    why_not.cache_clear()
    found = why_not(gpu)
    why_not.cache_clear()
    assert found is None if reason is None else str(found).startswith(reason)
    assert "\n" not in str(found)
    monkeypatch.setattr(fp8, "why_not", lambda device: found)
    if found is None:
        encoder_of(FAMILIES["esm2"], TINY, "fp8")
    else:
        encoder_of(FAMILIES["esm2"], TINY, "bf16")
        with pytest.raises(EnvironmentFault, match=r"--precision fp8: cpu .* with torch .*: .* Install a newer torch"):
            encoder_of(FAMILIES["esm2"], TINY, "fp8")


@pytest.mark.parametrize("name", SHAPES)
def test_a_vector_keeps_near_its_direction_and_is_bit_identical_alone_and_in_a_batch(name: str) -> None:
    family, shape = FAMILIES[name], SHAPES[name]
    windows = random_tokens([20, 150, 64, 300])
    exact, rough = encoder_of(family, shape), encoder_of(family, shape, "fp8")

    def vectors(encoder: Encoder) -> Tensor:
        return embed_windows(encoder, windows, "mean", shape.num_layers, CPU).vectors_BD

    packed = vectors(rough)
    assert 1e-5 < (1 - torch.cosine_similarity(vectors(exact).double(), packed.double())).max() < 2e-2
    for index, window in enumerate(windows):
        alone = embed_windows(rough, [window], "mean", shape.num_layers, CPU).vectors_BD
        assert torch.equal(alone[0], packed[index])


def test_products_with_odd_sides_stay_in_bf16() -> None:
    made = encoder_of(FAMILIES["t5"], t5_shape(1, 64, 4, 250, 32), "fp8")
    kinds = {name: type(getattr(made._layers[0], name)) for name in ("attention_out", "feed_forward_out")}
    assert kinds == {"attention_out": Fp8Dense, "feed_forward_out": Dense}
    assert isinstance(encoder_of(FAMILIES["esm2"], TINY, "bf16")._layers[0].attention_out, Dense)
