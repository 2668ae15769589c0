"""The CPU's attention kernel, kernels/attention.c, built when the package is installed where a C compiler is."""

# T = packed tokens, H = heads, K = head dimension

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from hpc_embed.engine import processor
from hpc_embed.engine.batches import PackedBatch
from hpc_embed.engine.biases import Alibi, Bias, DistanceTable
from hpc_embed.engine.rotary import Rotary

LIBRARY = Path(__file__).with_name("libattention.so")
LEVELS = ("none", "AVX2", "AVX-512", "AVX-512 with BF16")
"""Instruction sets that the kernel was compiled for; each does what those before it do."""
LARGEST_HEAD = 256


def level() -> int:
    """Index into LEVELS of what this processor runs; 0 without the library."""
    library = _library()
    if library is None:
        return 0
    most = 3 if "avx512_bf16" in processor.flags() else 2 if processor.has_avx512() else 1
    return min(int(library.hpc_embed_attention_level()), most)


def takes(head_dim: int) -> bool:
    """True where the kernel is here and takes heads of this dimension."""
    return level() > 0 and head_dim % 8 == 0 and head_dim <= LARGEST_HEAD


def attend(
    qkv_T3HK: Tensor, rotary: Rotary | None, batch: PackedBatch, bias: Bias | None, at_level: int | None = None
) -> Tensor:
    """Attention [T, H, K] of packed rows, float32 or bfloat16, on torch's number of threads.

    Rotary positions are applied on the way. Each head goes whole to one thread: their number changes no bit.
    """
    library = _library()
    assert library is not None
    qkv_T3HK = qkv_T3HK.contiguous()
    num_tokens, _, num_heads, head_dim = qkv_T3HK.shape
    out_THK = torch.empty(num_tokens, num_heads, head_dim, dtype=qkv_T3HK.dtype)
    cosines, sines = (None, None) if rotary is None else rotary.tables_NK
    slopes_H = bias.slopes_H if isinstance(bias, Alibi) else None
    table_HL, reach = (bias.kernel_table_HL, bias.reach) if isinstance(bias, DistanceTable) else (None, 0)
    assert qkv_T3HK.dtype in (torch.float32, torch.bfloat16)

    def run(first_head: int, last_head: int) -> int:
        status: int = library.hpc_embed_attend(
            qkv_T3HK.data_ptr(),
            out_THK.data_ptr(),
            qkv_T3HK.dtype == torch.bfloat16,
            batch.starts_B1.data_ptr(),
            batch.num_windows,
            num_heads,
            head_dim,
            _address(cosines),
            _address(sines),
            _address(slopes_H),
            _address(table_HL),
            reach,
            first_head,
            last_head,
            level() if at_level is None else at_level,
        )
        return status

    parts = _parts(num_heads, torch.get_num_threads())
    if len(parts) == 1:
        statuses = [run(0, num_heads)]
    else:
        statuses = list(_threads(len(parts)).map(lambda part: run(*part), parts))
    if 1 in statuses:
        raise MemoryError(f"no memory for attention over {batch.max_length} tokens")
    assert not any(statuses)
    return out_THK


def _parts(num_heads: int, num_parts: int) -> list[tuple[int, int]]:
    edges = [num_heads * part // num_parts for part in range(num_parts + 1)]
    return [(first, last) for first, last in pairwise(edges) if first < last]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="attention")


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:  # not built, or for another platform
        return None
    address, number = ctypes.c_void_p, ctypes.c_int
    library.hpc_embed_attend.argtypes = [
        *(address, address, number, address, number, number, number),
        *(address, address, address, address, number, number, number, number),
    ]
    return library
