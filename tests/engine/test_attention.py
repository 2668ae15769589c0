"""Every attention back end that this machine has, against a slow dense oracle."""

from __future__ import annotations

import platform
import shutil

import pytest
import torch
from torch import Tensor

from hpc_embed.engine import kernel
from hpc_embed.engine.attention import FLEX_BLOCK, HankelAlibi, available_back_ends, document_mask, make_attention
from hpc_embed.engine.batches import PackedBatch, make_batch
from hpc_embed.engine.dnabert import alibi_slopes
from hpc_embed.engine.rotary import Rotary
from tests.engine.references import CPU, dense_attention, random_tokens

LENGTHS = [1, 2, 3, 65, 65, 200, 7]
BLOCK_EDGES = [600, 513, 512, 511, 257, 256, 255, 64, 33, 33, 32, 31, 17, 16, 15, 9, 8, 7, 2, 1]
"""On either side of the kernel's blocks of 256 keys, 32 or 16 queries and 8 or 4 keys."""
NUM_HEADS, HEAD_DIM = 12, 16
CPU_BACK_ENDS = available_back_ends(CPU, HEAD_DIM, torch.float32, has_alibi=False)
LEVELS = range(1, kernel.level() + 1)
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 4e-2}
"""Inputs are of the order of 1; BF16 keeps eight bits of each weight and of each result."""


def packed(lengths: list[int], head_dim: int = HEAD_DIM, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random q, k and v [T, 3, H, K], the scale in q."""
    qkv = torch.randn(sum(lengths), 3, NUM_HEADS, head_dim, generator=torch.Generator().manual_seed(0))
    qkv[:, 0] *= head_dim**-0.5
    return qkv.to(dtype)


def rotary_of(batch: PackedBatch, head_dim: int = HEAD_DIM) -> Rotary:
    """Rotary positions as ESM-2 has them."""
    return Rotary(10000 ** -(torch.arange(0, head_dim, 2).float() / head_dim), batch)


def turned_by_complex_numbers(x_THK: Tensor, lengths: list[int]) -> Tensor:
    """Rotary positions by the textbook: each pair a complex number, turned by its position, in float64."""
    half = x_THK.shape[-1] // 2
    positions = torch.cat([torch.arange(length) for length in lengths]).double()
    angles = positions[:, None, None] * 10000 ** -(torch.arange(half).double() / half)
    pairs = torch.complex(x_THK[..., :half].double(), x_THK[..., half:].double())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def oracle(qkv: Tensor, lengths: list[int], slopes: list[float] | None, is_rotary: bool) -> Tensor:
    """The same in float64, dense."""
    q, k, v = qkv.double().unbind(1)
    if is_rotary:
        q, k = (turned_by_complex_numbers(x, lengths) for x in (q, k))
    return dense_attention(q, k, v, lengths, slopes or [0.0] * NUM_HEADS)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [*CPU_BACK_ENDS, "flex"])
@pytest.mark.parametrize("kind", ["plain", "rotary", "alibi"])
def test_back_end_equals_the_dense_oracle_on_the_cpu(name: str, kind: str) -> None:
    slopes = alibi_slopes(NUM_HEADS) if kind == "alibi" else None
    qkv, batch = packed(LENGTHS), make_batch(random_tokens(LENGTHS), CPU)
    attend = make_attention(name, None if slopes is None else torch.tensor(slopes))
    ours = attend(qkv, rotary_of(batch) if kind == "rotary" else None, batch)
    assert (ours - oracle(qkv, LENGTHS, slopes, kind == "rotary")).abs().max() <= BOUNDS[torch.float32]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: kernel.LEVELS[level])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("head_dim", [8, 16, 24, 32, 64, 128])
def test_kernel_equals_the_dense_oracle_at_every_edge_of_its_blocks(
    level: int, dtype: torch.dtype, head_dim: int
) -> None:
    batch = make_batch(random_tokens(BLOCK_EDGES), CPU)
    qkv = packed(BLOCK_EDGES, head_dim, dtype)
    slopes = alibi_slopes(NUM_HEADS)
    ours = kernel.attend(qkv, None, batch, torch.tensor(slopes), level)
    assert ours.dtype == dtype
    assert (ours - oracle(qkv, BLOCK_EDGES, slopes, is_rotary=False)).abs().max() <= BOUNDS[dtype]
    turned = kernel.attend(qkv, rotary_of(batch, head_dim), batch, None, level)
    assert (turned - oracle(qkv, BLOCK_EDGES, None, is_rotary=True)).abs().max() <= BOUNDS[dtype]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: kernel.LEVELS[level])
@pytest.mark.parametrize("shift", [-300.0, 300.0])
def test_kernel_keeps_to_the_softmax_where_scores_are_extreme(level: int, shift: float) -> None:
    lengths = [300]
    qkv = packed(lengths)
    qkv[:, 0] *= 30
    qkv[:, 0, :, 0], qkv[:, 1, :, 0] = shift, 1.0  # all scores far from zero, and far from each other
    batch = make_batch(random_tokens(lengths), CPU)
    ours = kernel.attend(qkv, None, batch, None, level)
    assert (ours - oracle(qkv, lengths, None, is_rotary=False)).abs().max() <= 1e-3


@pytest.mark.parametrize("name", CPU_BACK_ENDS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("kind", ["rotary", "alibi"])
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_back_end_gives_the_same_bits_alone_and_packed(
    name: str, dtype: torch.dtype, kind: str, num_threads: int
) -> None:
    slopes = torch.tensor(alibi_slopes(NUM_HEADS)) if kind == "alibi" else None

    def attend(qkv: Tensor, lengths: list[int]) -> Tensor:
        batch = make_batch(random_tokens(lengths), CPU)
        return make_attention(name, slopes)(qkv, rotary_of(batch) if kind == "rotary" else None, batch)

    qkv = packed(BLOCK_EDGES, dtype=dtype)
    one_thread = attend(qkv, BLOCK_EDGES)
    torch.set_num_threads(num_threads)
    try:
        together = attend(qkv, BLOCK_EDGES)
        windows = zip(torch.split(qkv, BLOCK_EDGES), torch.split(together, BLOCK_EDGES), BLOCK_EDGES, strict=True)
        for window, expected, length in windows:
            assert torch.equal(attend(window, [length]), expected), length
    finally:
        torch.set_num_threads(1)
    assert torch.equal(together, one_thread)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["rotary", "alibi"])
def test_every_back_end_of_a_gpu_equals_the_dense_oracle(kind: str) -> None:
    slopes = alibi_slopes(NUM_HEADS) if kind == "alibi" else None
    device = torch.device("cuda")
    qkv, batch = packed(LENGTHS, dtype=torch.bfloat16), make_batch(random_tokens(LENGTHS), device)
    expected = oracle(qkv, LENGTHS, slopes, kind == "rotary")
    frequencies = 10000 ** -(torch.arange(0, HEAD_DIM, 2, device=device).float() / HEAD_DIM)
    for name in available_back_ends(device, HEAD_DIM, torch.bfloat16, has_alibi=kind == "alibi"):
        attend = make_attention(name, None if slopes is None else torch.tensor(slopes, device=device))
        ours = attend(qkv.to(device), Rotary(frequencies, batch) if kind == "rotary" else None, batch)
        assert (ours.cpu() - expected).abs().max() <= BOUNDS[torch.bfloat16], name


@pytest.mark.parametrize("lengths", [[1], [FLEX_BLOCK], [FLEX_BLOCK + 1, 1], BLOCK_EDGES, [5] * 200, [1000, 3, 2, 1]])
def test_document_mask_names_the_blocks_that_share_a_window_and_no_others(lengths: list[int]) -> None:
    window_T = make_batch(random_tokens(lengths), CPU).window_of_token_T
    same_TT = window_T[:, None] == window_T
    num_blocks = -(-len(window_T) // FLEX_BLOCK)
    expected = [
        [bool(same_TT[q : q + FLEX_BLOCK, k : k + FLEX_BLOCK].any()) for k in range(0, len(window_T), FLEX_BLOCK)]
        for q in range(0, len(window_T), FLEX_BLOCK)
    ]
    mask = document_mask(make_batch(random_tokens(lengths), CPU))
    assert mask.to_dense()[0, 0].bool().tolist() == expected
    assert mask.shape == (1, 1, len(window_T), len(window_T))
    assert len(expected) == num_blocks


def test_the_kernel_is_built_where_a_compiler_is() -> None:
    if platform.machine() != "x86_64" or shutil.which("cc") is None:
        pytest.skip("needs x86-64 and a C compiler")
    assert kernel.LIBRARY.exists()
    assert kernel.level() > 0


def test_the_cpu_takes_the_kernel_where_it_can_and_sdpa_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def back_ends(head_dim: int) -> list[str]:
        return available_back_ends(CPU, head_dim, torch.bfloat16, has_alibi=True)

    assert back_ends(16) == (["kernel", "sdpa"] if LEVELS else ["sdpa"])
    assert back_ends(20) == ["sdpa"]
    monkeypatch.setattr(kernel, "_library", lambda: None)
    assert back_ends(16) == ["sdpa"]


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
