"""Every attention back end that this machine has, against a slow dense oracle."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hpc_embed.engine import kernel
from hpc_embed.engine.attention import FLEX_BLOCK, Sight, available_back_ends, document_mask, make_attention
from hpc_embed.engine.batches import PackedBatch, make_batch
from hpc_embed.engine.biases import Alibi, Bias, DistanceTable, alibi_slopes, bucket_of_distances
from hpc_embed.engine.rotary import Rotary
from tests.engine.references import CPU, dense_attention, hiding, random_tokens

LENGTHS = [1, 2, 3, 65, 65, 200, 7]
BLOCK_EDGES = [600, 513, 512, 511, 257, 256, 255, 64, 33, 33, 32, 31, 17, 16, 15, 9, 8, 7, 2, 1]
"""On either side of the kernel's blocks of 256 keys, of 32, 16 or 8 queries and of 8, 6, 4 or 3 keys."""
NUM_HEADS, HEAD_DIM = 12, 16
CPU_BACK_ENDS = available_back_ends(CPU, HEAD_DIM, torch.float32, bias=None)
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


def oracle(qkv: Tensor, lengths: list[int], kind: str) -> Tensor:
    """The same in float64, dense."""
    q, k, v = qkv.double().unbind(1)
    if kind == "rotary":
        q, k = (turned_by_complex_numbers(x, lengths) for x in (q, k))
    return dense_attention(q, k, v, lengths, TEXTBOOK_BIASES.get(kind))


def t5_bias(distance_NN: Tensor) -> Tensor:
    """[H, n, n]: transformers' own buckets, and the number that each has for a head."""
    from transformers.models.t5.modeling_t5 import T5Attention

    return TABLE_BH[T5Attention._relative_position_bucket(distance_NN, True, 32, REACH)].permute(2, 0, 1)


REACH = 128
TABLE_BH = torch.randn(32, NUM_HEADS, generator=torch.Generator().manual_seed(9))
TEXTBOOK_BIASES = {
    "alibi": lambda distance: -torch.tensor(alibi_slopes(NUM_HEADS)).double()[:, None, None] * distance.abs(),
    "table": t5_bias,
}
KINDS = ["plain", "rotary", "alibi", "table"]


def bias_of(kind: str, device: torch.device = CPU) -> Bias | None:
    """Ours."""
    if kind == "alibi":
        return Alibi(torch.tensor(alibi_slopes(NUM_HEADS), device=device))
    if kind == "table":
        return DistanceTable(TABLE_BH[bucket_of_distances(32, REACH)].T.contiguous().to(device))
    return None


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [*CPU_BACK_ENDS, "flex"])
@pytest.mark.parametrize("kind", KINDS)
def test_back_end_equals_the_dense_oracle_on_the_cpu(name: str, kind: str) -> None:
    qkv, batch = packed(LENGTHS), make_batch(random_tokens(LENGTHS), CPU)
    ours = make_attention(name, bias_of(kind))(qkv, rotary_of(batch) if kind == "rotary" else None, batch)
    assert (ours - oracle(qkv, LENGTHS, kind)).abs().max() <= BOUNDS[torch.float32]


@pytest.mark.parametrize("name", CPU_BACK_ENDS)
@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize(("is_causal", "reach"), [(True, None), (False, 9), (True, 9), (False, 65), (True, 1000)])
def test_what_a_query_may_not_see_of_its_window_is_left_out(
    name: str, dtype: torch.dtype, is_causal: bool, reach: int | None
) -> None:
    lengths, sight = [*LENGTHS, 600], Sight(is_causal, reach)
    assert available_back_ends(CPU, HEAD_DIM, dtype, sight=sight) == CPU_BACK_ENDS
    qkv, attend = packed(lengths, dtype=dtype), make_attention(name, None, sight)
    found = attend(qkv, None, make_batch(random_tokens(lengths), CPU))
    q, k, v = qkv.double().unbind(1)
    expected = dense_attention(q, k, v, lengths, hiding(is_causal, reach))
    assert (found - expected).abs().max() <= BOUNDS[dtype]
    alone = attend(qkv[71:136], None, make_batch(random_tokens([65]), CPU))
    assert torch.equal(found[71:136], alone)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: kernel.LEVELS[level])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("head_dim", [8, 16, 24, 32, 64, 128])
@pytest.mark.parametrize("kind", ["rotary", "alibi", "table"])
def test_kernel_equals_the_dense_oracle_at_every_edge_of_its_blocks(
    level: int, dtype: torch.dtype, head_dim: int, kind: str
) -> None:
    batch = make_batch(random_tokens(BLOCK_EDGES), CPU)
    qkv = packed(BLOCK_EDGES, head_dim, dtype)
    ours = kernel.attend(qkv, rotary_of(batch, head_dim) if kind == "rotary" else None, batch, bias_of(kind), level)
    assert ours.dtype == dtype
    assert (ours - oracle(qkv, BLOCK_EDGES, kind)).abs().max() <= BOUNDS[dtype]


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (64, 128), (32, 20)])
def test_buckets_of_distances_are_those_of_transformers(num_buckets: int, max_distance: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-2 * max_distance, 2 * max_distance + 1)
    theirs = T5Attention._relative_position_bucket(distances, True, num_buckets, max_distance)
    ours = bucket_of_distances(num_buckets, max_distance)
    assert torch.equal(ours[distances.clamp(-max_distance, max_distance) + max_distance], theirs)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: kernel.LEVELS[level])
@pytest.mark.parametrize("shift", [-300.0, 300.0])
def test_kernel_keeps_to_the_softmax_where_scores_are_extreme(level: int, shift: float) -> None:
    lengths = [300]
    qkv = packed(lengths)
    qkv[:, 0] *= 30
    qkv[:, 0, :, 0], qkv[:, 1, :, 0] = shift, 1.0  # all scores far from zero, and far from each other
    batch = make_batch(random_tokens(lengths), CPU)
    ours = kernel.attend(qkv, None, batch, None, level)
    assert (ours - oracle(qkv, lengths, "plain")).abs().max() <= 1e-3


@pytest.mark.parametrize("level", [level for level in LEVELS if level < 3], ids=lambda level: kernel.LEVELS[level])
def test_kernel_loses_nothing_over_thousands_of_keys(level: int) -> None:
    """Values of one sign, whose sums grow: added up one by one, their last bits would go."""
    lengths = [4000]
    qkv = packed(lengths)
    qkv[:, 2].abs_()
    exact = oracle(qkv, lengths, "plain")
    ours = kernel.attend(qkv, None, make_batch(random_tokens(lengths), CPU), None, level)
    assert (ours - exact).norm() <= 2e-7 * exact.norm()


@pytest.mark.parametrize("name", CPU_BACK_ENDS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("kind", ["rotary", "alibi", "table"])
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_back_end_gives_the_same_bits_alone_and_packed(
    name: str, dtype: torch.dtype, kind: str, num_threads: int, threads: Callable[[int], None]
) -> None:
    bias = bias_of(kind)

    def attend(qkv: Tensor, lengths: list[int]) -> Tensor:
        batch = make_batch(random_tokens(lengths), CPU)
        return make_attention(name, bias)(qkv, rotary_of(batch) if kind == "rotary" else None, batch)

    qkv = packed(BLOCK_EDGES, dtype=dtype)
    one_thread = attend(qkv, BLOCK_EDGES)
    threads(num_threads)
    together = attend(qkv, BLOCK_EDGES)
    windows = zip(torch.split(qkv, BLOCK_EDGES), torch.split(together, BLOCK_EDGES), BLOCK_EDGES, strict=True)
    for window, expected, length in windows:
        assert torch.equal(attend(window, [length]), expected), length
    assert torch.equal(together, one_thread)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["rotary", "alibi", "table"])
def test_every_back_end_of_a_gpu_equals_the_dense_oracle(kind: str) -> None:
    device = torch.device("cuda")
    qkv, batch = packed(LENGTHS, dtype=torch.bfloat16), make_batch(random_tokens(LENGTHS), device)
    bias, expected = bias_of(kind, device), oracle(qkv, LENGTHS, kind)
    frequencies = 10000 ** -(torch.arange(0, HEAD_DIM, 2, device=device).float() / HEAD_DIM)
    rotary = Rotary(frequencies, batch) if kind == "rotary" else None
    for name in available_back_ends(device, HEAD_DIM, torch.bfloat16, bias=None if bias is None else bias.kind):
        ours = make_attention(name, bias)(qkv.to(device), rotary, batch)
        assert (ours.cpu() - expected).abs().max() <= BOUNDS[torch.bfloat16], name


@pytest.mark.parametrize("lengths", [[1], [FLEX_BLOCK], [FLEX_BLOCK + 1, 1], BLOCK_EDGES, [5] * 200, [1000, 3, 2, 1]])
def test_document_mask_names_the_blocks_that_share_a_window_and_no_others(lengths: list[int]) -> None:
    num_blocks = max(2, -(-sum(lengths) // FLEX_BLOCK))
    filled = [*lengths, num_blocks * FLEX_BLOCK - sum(lengths)]  # what fills the last block is a window of its own
    window_T = torch.arange(len(filled)).repeat_interleave(torch.tensor(filled))
    same_TT = window_T[:, None] == window_T
    expected = [
        [bool(same_TT[q : q + FLEX_BLOCK, k : k + FLEX_BLOCK].any()) for k in range(0, len(window_T), FLEX_BLOCK)]
        for q in range(0, len(window_T), FLEX_BLOCK)
    ]
    mask = document_mask(make_batch(random_tokens(lengths), CPU))
    assert mask.to_dense()[0, 0].bool().tolist() == expected
    assert mask.shape == (1, 1, len(window_T), len(window_T))
    assert len(expected) == num_blocks


@pytest.mark.skipif(kernel.level() < 1, reason="no kernel for this processor")
def test_the_smallest_numbers_count_as_nothing_inside_the_kernel_and_nowhere_else() -> None:
    """A steep ALiBi gives far keys such weights; left as they are, each takes a processor a hundred cycles."""
    smallest = torch.full((600, 3, 1, 64), 1e-39)
    out = kernel.attend(smallest, None, make_batch(random_tokens([600]), CPU), Alibi(torch.tensor([0.7])))
    assert not out.any()
    assert (smallest * 2).all()


def test_the_kernel_is_built_where_a_compiler_is() -> None:
    if platform.machine() != "x86_64" or shutil.which("cc") is None:
        pytest.skip("needs x86-64 and a C compiler")
    assert kernel.LIBRARY.exists()
    assert kernel.level() > 0


def test_the_cpu_takes_the_kernel_where_it_can_and_sdpa_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def back_ends(head_dim: int) -> list[str]:
        return available_back_ends(CPU, head_dim, torch.bfloat16, bias="table")

    assert back_ends(16) == (["kernel", "sdpa"] if LEVELS else ["sdpa"])
    assert back_ends(20) == ["sdpa"]
    monkeypatch.setattr(kernel, "_library", lambda: None)
    assert back_ends(16) == ["sdpa"]


def test_alibi_bias_is_a_view_that_takes_no_memory_of_its_own() -> None:
    alibi = Alibi(torch.tensor(alibi_slopes(12)))
    bias = alibi.reversed_bias(20_000, torch.float32)
    assert bias.shape == (12, 20_000, 20_000)
    assert bias.untyped_storage().nbytes() == 12 * 39_999 * 4


def test_alibi_bias_of_a_shorter_window_is_right_after_a_longer_one() -> None:
    slopes = torch.tensor([0.5, 0.25])
    alibi = Alibi(slopes)
    alibi.reversed_bias(9, torch.float32)
    bias = alibi.reversed_bias(3, torch.float32).flip(1)
    assert bias[0].tolist() == [[0, -0.5, -1], [-0.5, 0, -0.5], [-1, -0.5, 0]]
