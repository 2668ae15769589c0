"""The chains in Triton. Sums are float32 and within a row; nothing is compiled anew for another number of rows."""

# W = width of queries, keys or values, D = hidden, F = feed-forward

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["number"])
def rotate(
    x,
    cosines,
    sines,
    out,
    x_row,
    number,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    heads, dims = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, PADDED)[None, :]
    is_in = (heads < number)[:, None] & (dims < HALF)
    token = (heads // HEADS).to(tl.int64)[:, None]
    at = token * x_row + (heads % HEADS)[:, None] * (2 * HALF) + dims
    first = tl.load(x + at, mask=is_in).to(tl.float32)
    second = tl.load(x + at + HALF, mask=is_in).to(tl.float32)
    cosine = tl.load(cosines + token * HALF + dims, mask=is_in)
    sine = tl.load(sines + token * HALF + dims, mask=is_in)
    to = out + heads.to(tl.int64)[:, None] * (2 * HALF) + dims
    tl.store(to, (first * cosine - second * sine).to(out.dtype.element_ty), mask=is_in)
    tl.store(to + HALF, (second * cosine + first * sine).to(out.dtype.element_ty), mask=is_in)


@triton.jit(do_not_specialize=["num_rows"])
def norm_sum(
    out,
    x,
    weight,
    bias,
    stream,
    normed,
    num_rows,
    eps,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    IS_RMS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    KEEPS_SUM: tl.constexpr,
):
    rows, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, PADDED)[None, :]
    is_in = (rows < num_rows)[:, None] & (columns < D)
    at = rows.to(tl.int64)[:, None] * D + columns
    total = tl.load(x + at, mask=is_in, other=0.0) + tl.load(out + at, mask=is_in, other=0.0).to(tl.float32)
    if KEEPS_SUM:
        tl.store(stream + at, total, mask=is_in)
    result = _normed(total, is_in, eps, D, IS_RMS)
    result *= tl.load(weight + columns, mask=columns < D)
    if HAS_BIAS:
        result += tl.load(bias + columns, mask=columns < D)
    if not KEEPS_SUM:
        tl.store(stream + at, result, mask=is_in)
    tl.store(normed + at, result.to(normed.dtype.element_ty), mask=is_in)


@triton.jit(do_not_specialize=["num_rows"])
def norm_parts(
    qkv,
    weight,
    num_rows,
    eps,
    W: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    rows, part = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    columns = tl.arange(0, PADDED)[None, :]
    is_in = (rows < num_rows)[:, None] & (columns < W)
    at = qkv + rows.to(tl.int64)[:, None] * (3 * W) + part * W + columns
    x = tl.load(at, mask=is_in, other=0.0).to(tl.float32)
    result = _normed(x, is_in, eps, W, False) * tl.load(weight + part * W + columns, mask=columns < W)
    tl.store(at, result.to(qkv.dtype.element_ty), mask=is_in)


@triton.jit
def _normed(x, is_in, eps, D: tl.constexpr, IS_RMS: tl.constexpr):
    """Rows of mean 0, unless RMS, and of variance 1."""
    if not IS_RMS:
        x = tl.where(is_in, x - (tl.sum(x, 1) / D)[:, None], 0.0)
    return x * tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]


@triton.jit(do_not_specialize=["num_rows"])
def quantise(x, rounded, scale, num_rows, D: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr):
    """Rows times a power of two, in FP8; exponents are added and taken as bits, so that nothing is rounded twice."""
    rows, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, PADDED)[None, :]
    is_in = (rows < num_rows)[:, None] & (columns < D)
    at = rows.to(tl.int64)[:, None] * D + columns
    numbers = tl.load(x + at, mask=is_in, other=0.0).to(tl.float32)
    power = tl.max(tl.abs(numbers), 1).to(tl.int32, bitcast=True) & 0x7F800000
    power = tl.maximum(power, 27 << 23) - (7 << 23)
    tl.store(scale + rows, power.to(tl.float32, bitcast=True), mask=rows < num_rows)
    inverse = ((254 << 23) - power).to(tl.float32, bitcast=True)
    tl.store(rounded + at, (numbers * inverse[:, None]).to(rounded.dtype.element_ty), mask=is_in)


@triton.jit(do_not_specialize=["num_rows"])
def activate(x, gated, num_rows, F: tl.constexpr, ACTIVATION: tl.constexpr, HAS_GATE: tl.constexpr, SIZE: tl.constexpr):
    """x activated over itself, or times what it gates, over that."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    is_in = at < num_rows.to(tl.int64) * F  # whole vectors: the compiler sees what F divides by
    result = tl.load(x + at, mask=is_in).to(tl.float32)
    if ACTIVATION == "gelu":
        result *= 0.5 + 0.5 * tl.erf(result * 0.7071067811865476)
    elif ACTIVATION == "gelu_tanh":  # the same as 0.5 x (1 + tanh(…))
        result *= tl.sigmoid(1.5957691216057308 * (result + 0.044715 * result * result * result))
    elif ACTIVATION == "silu":
        result *= tl.sigmoid(result)
    else:
        result = tl.maximum(result, 0.0)
    if HAS_GATE:
        result *= tl.load(gated + at, mask=is_in).to(tl.float32)
    tl.store(gated + at, result.to(gated.dtype.element_ty), mask=is_in)
