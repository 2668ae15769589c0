"""Every attention back end that this machine has, against a slow dense oracle."""

from __future__ import annotations

import pytest
import torch

from hpc_embed.engine.attention import HankelAlibi, available_back_ends, choose_attention, make_attention
from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.dnabert import alibi_slopes
from tests.engine.references import CPU, dense_attention, random_tokens

LENGTHS = [1, 2, 3, 65, 65, 200, 7]
NUM_HEADS, HEAD_DIM = 12, 16


def case(device: torch.device, dtype: torch.dtype) -> tuple[list[torch.Tensor], object]:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, sum(LENGTHS), NUM_HEADS, HEAD_DIM, generator=generator)
    qkv[0] *= HEAD_DIM**-0.5
    return list(qkv.to(device, dtype)), make_batch(random_tokens(LENGTHS), device)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["sdpa", "flex"])
@pytest.mark.parametrize("has_alibi", [False, True])
def test_back_end_equals_the_dense_oracle_on_the_cpu(name: str, has_alibi: bool) -> None:
    slopes = alibi_slopes(NUM_HEADS) if has_alibi else [0.0] * NUM_HEADS
    (q, k, v), batch = case(CPU, torch.float32)
    attend = make_attention(name, torch.tensor(slopes) if has_alibi else None)
    ours = attend(q, k, v, batch)  # type: ignore[arg-type]
    assert (ours - dense_attention(q, k, v, LENGTHS, slopes)).abs().max() <= 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("has_alibi", [False, True])
def test_every_back_end_of_a_gpu_equals_the_dense_oracle(has_alibi: bool) -> None:
    slopes = alibi_slopes(NUM_HEADS) if has_alibi else [0.0] * NUM_HEADS
    device = torch.device("cuda")
    (q, k, v), batch = case(device, torch.bfloat16)
    oracle = dense_attention(q.cpu(), k.cpu(), v.cpu(), LENGTHS, slopes)
    for name in available_back_ends(device, has_alibi):
        attend = make_attention(name, torch.tensor(slopes, device=device) if has_alibi else None)
        assert (attend(q, k, v, batch).cpu() - oracle).abs().max() <= 2e-2, name  # type: ignore[arg-type]


def test_the_cpu_takes_sdpa() -> None:
    assert choose_attention(CPU)[0] == "sdpa"
    assert available_back_ends(CPU, has_alibi=True) == ["sdpa"]


def test_alibi_bias_is_a_view_that_takes_no_memory_of_its_own() -> None:
    alibi = HankelAlibi(torch.tensor(alibi_slopes(12)))
    bias = alibi.reversed_bias(20_000, torch.float32)
    assert bias.shape == (12, 20_000, 20_000)
    assert bias.untyped_storage().nbytes() == 12 * 39_999 * 4


def test_alibi_bias_of_a_shorter_window_is_right_after_a_longer_one() -> None:
    slopes = torch.tensor([0.5, 0.25])
    alibi = HankelAlibi(slopes)
    alibi.reversed_bias(9, torch.float32)
    bias = alibi.reversed_bias(3, torch.float32).flip(1)
    assert bias[0].tolist() == [[0, -0.5, -1], [-0.5, 0, -0.5], [-1, -0.5, 0]]
