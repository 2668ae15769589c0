"""Runs the GPU's kernels on the CPU, in Triton's interpreter, beside their plain twins; a line of JSON for each case.

    TRITON_INTERPRET=1 python -m tests.engine.interpreted

A process of its own, since Triton decides once and for all whether it interprets or compiles.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

os.environ["TRITON_INTERPRET"] = "1"

import triton.language as tl
from triton.runtime import interpreter

from hpc_embed.engine import chains, gpu_chains
from hpc_embed.engine.attention import make_attention
from hpc_embed.engine.batches import PackedBatch, make_batch
from hpc_embed.engine.biases import Alibi, Bias, DistanceTable, alibi_slopes
from hpc_embed.engine.gpu_attention import Blocks, TritonAttention
from hpc_embed.engine.rotary import Rotary
from tests.engine.references import CPU, dense_attention, hiding, random_tokens

LENGTHS = [70, 32, 3, 1]
SHAPES = ((2, 16), (2, 24), (1, 64), (1, 40), (1, 128))
"""Heads and their dimension: those of ESM-2's small models, the usual one, one that is no power of two, ProtT5's."""
DTYPES = (torch.float32, torch.bfloat16)
SIGHTS = {"causal": (True, None), "near": (False, 9), "causal-near": (True, 40)}
"""Whether a query sees no key behind it, and fewer than how many tokens away."""


def products_of_bf16() -> None:
    """Teach the interpreter to multiply BF16, which it keeps as bits."""
    multiply = interpreter.InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return multiply(self, widened(a), widened(b), *others)

    interpreter.InterpreterBuilder.create_dot = create_dot


def rounding_to_fp8() -> None:
    """Teach the interpreter to round to FP8 as a GPU does: it loses what is carried into the exponent."""
    convert = interpreter._convert_float

    def rounded(data: Any, of: Any, to: Any, mode: Any) -> Any:
        if to != tl.float8e4nv:
            return convert(data, of, to, mode)
        return torch.from_numpy(data).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    interpreter._convert_float = rounded


def bias_of(kind: str, num_heads: int) -> Bias | None:
    if kind == "alibi":
        return Alibi(torch.tensor(alibi_slopes(num_heads)))
    return DistanceTable(torch.randn(num_heads, 41)) if kind == "table" else None


def attention_cases() -> Iterator[dict[str, object]]:
    batch = make_batch(random_tokens(LENGTHS), CPU)
    for (num_heads, head_dim), dtype, kind in product(SHAPES, DTYPES, ("rotary", "alibi", "table")):
        qkv = (torch.randn(batch.num_tokens, 3, num_heads, head_dim) * head_dim**-0.25).to(dtype)
        frequencies = 10000 ** -(torch.arange(0, head_dim, 2).float() / head_dim)
        bias = bias_of(kind, num_heads)
        back_end = TritonAttention(bias, Blocks(32, 32, 4, 2))

        def rotary(of: PackedBatch, frequencies: Tensor = frequencies, kind: str = kind) -> Rotary | None:
            return Rotary(frequencies, of) if kind == "rotary" else None

        packed = back_end(qkv, rotary(batch), batch)
        alone = []
        for part in torch.split(qkv, LENGTHS):
            of_one = make_batch(random_tokens([len(part)]), CPU)
            alone.append(back_end(part, rotary(of_one), of_one))
        if bias is None:
            q, k = Rotary(frequencies, batch).rotated(qkv[:, :2].float()).unbind(1)
            expected = dense_attention(q, k, qkv[:, 2].float(), LENGTHS)
        else:
            expected = make_attention("sdpa", bias)(qkv.float(), None, batch)
        name = f"attention {kind} {num_heads}x{head_dim}"
        yield case(name, dtype, packed, expected) | {"is_alone_the_same": torch.equal(packed, torch.cat(alone))}


def sight_cases() -> Iterator[dict[str, object]]:
    """The forms that leave keys out, in tiles of which some see nothing of a block."""
    batch = make_batch(random_tokens(LENGTHS), CPU)
    for (name, (is_causal, reach)), dtype in product(SIGHTS.items(), DTYPES):
        qkv = torch.randn(batch.num_tokens, 3, 2, 16).to(dtype)
        back_end = TritonAttention(None, Blocks(16, 16, 4, 2), is_causal=is_causal, reach=reach)
        packed = back_end(qkv, None, batch)
        alone = [
            back_end(part, None, make_batch(random_tokens([len(part)]), CPU)) for part in torch.split(qkv, LENGTHS)
        ]
        q, k, v = qkv.float().unbind(1)
        expected = dense_attention(q, k, v, LENGTHS, hiding(is_causal, reach))
        told = {"is_alone_the_same": torch.equal(packed, torch.cat(alone))}
        yield case(f"attention {name}", dtype, packed, expected) | told


def chain_cases() -> Iterator[dict[str, object]]:
    for dtype, width in product(DTYPES, (48, 320, 1280)):
        out, x, weight, bias = torch.randn(7, width).to(dtype), torch.randn(7, width), *torch.rand(2, width)
        for name in ("add_norm", "norm_of_sum"):
            yield twins(name, dtype, out, x, weight, bias, 1e-5)
            yield twins(name, dtype, out, x, weight, None, 1e-6, True)
        yield quantised(out * torch.tensor([[1, 0, 1e-6, 1e6, 448, 1e37, 1e-38]], dtype=dtype).T)
        yield twins("norm_queries_keys", dtype, torch.randn(7, 3, width).to(dtype), torch.rand(2, width), 1e-5)
        for activation in chains.ACTIVATIONS:
            yield twins("gate", dtype, out, torch.randn(7, width).to(dtype), activation)
            yield twins("activated", dtype, out, activation)
    for dtype, head_dim, parts in product(DTYPES, (16, 24, 64), (slice(0, 2), slice(1, 2))):
        qkv, angles = torch.randn(7, 3, 4, head_dim).to(dtype), torch.randn(7, 1, 1, head_dim // 2)
        yield twins("rotate", dtype, qkv[:, parts], angles.cos(), angles.sin())


def twins(name: str, dtype: torch.dtype, *arguments: Any) -> dict[str, object]:
    """One chain in its two forms, either of which may write over its arguments."""
    expected = gpu_chains.as_one(getattr(chains, name)(*gpu_chains.copied(arguments)))
    ours = gpu_chains.as_one(gpu_chains.TWINS[name](*arguments))
    return case(name, dtype, ours, expected)


def quantised(x: Tensor) -> dict[str, object]:
    """Its two forms bit for bit: a number rounded to the other side would be another one."""
    pairs = zip(gpu_chains.quantised(x), chains.quantised(x), strict=True)
    is_the_same = all(torch.equal(ours.float(), expected.float()) for ours, expected in pairs)
    return {"name": "quantised", "dtype": str(x.dtype)[6:], "difference": 0.0 if is_the_same else 1.0}


def case(name: str, dtype: torch.dtype, ours: Tensor, expected: Tensor) -> dict[str, object]:
    difference = float((ours.float() - expected.float()).abs().max() / expected.float().abs().max())
    return {"name": name, "dtype": str(dtype)[6:], "difference": difference}


def main() -> None:
    torch.manual_seed(0)
    products_of_bf16()
    rounding_to_fp8()
    for found in (*attention_cases(), *sight_cases(), *chain_cases()):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
