"""Attention over packed rows in Triton: one program for each head of each tile, a block of one window's queries.

It walks over the window's keys with a running softmax (Milakov and Gimelshein, 2018; Dao et al., 2022).
"""

# K = head dimension

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["reach", "near"])
def attend(
    q,
    k,
    v,
    out,
    tiles_N3,
    cosines,
    sines,
    numbers,
    q_row,
    k_row,
    v_row,
    reach,
    near,
    NUM_HEADS: tl.constexpr,
    K: tl.constexpr,
    PADDED_K: tl.constexpr,
    TURNS: tl.constexpr,
    BIAS: tl.constexpr,
    CAUSAL: tl.constexpr,
    NEAR: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, tile = tl.program_id(0) % NUM_HEADS, tl.program_id(0) // NUM_HEADS
    first, begin, end = tl.load(tiles_N3 + 3 * tile), tl.load(tiles_N3 + 3 * tile + 1), tl.load(tiles_N3 + 3 * tile + 2)
    dims, rows = tl.arange(0, PADDED_K), first + tl.arange(0, QUERIES)
    is_query = (rows < end)[:, None] & (dims < K)[None, :]
    at_q = q + rows.to(tl.int64)[:, None] * q_row + head * K
    queries = tl.load(at_q + dims[None, :], mask=is_query, other=0.0)
    if TURNS:  # Su et al., 2021: the halves of a head paired
        HALF: tl.constexpr = K // 2
        is_first = dims < HALF
        partners = tl.load(at_q + tl.where(is_first, dims + HALF, dims - HALF)[None, :], mask=is_query, other=0.0)
        angles = (rows - begin)[:, None] * HALF + tl.where(is_first, dims, dims - HALF)[None, :]
        cosine = tl.load(cosines + angles, mask=is_query, other=0.0)
        sine = tl.load(sines + angles, mask=is_query, other=0.0)
        signed = tl.where(is_first[None, :], -sine, sine)
        queries = (queries.to(tl.float32) * cosine + partners.to(tl.float32) * signed).to(queries.dtype)
    sums = tl.zeros([QUERIES, PADDED_K], dtype=tl.float32)
    largest = tl.full([QUERIES], float("-inf"), dtype=tl.float32)
    total = tl.zeros([QUERIES], dtype=tl.float32)
    low, stop = begin, end
    if CAUSAL:
        stop = tl.minimum(end, first + QUERIES)
    if NEAR:  # blocks of keys lie alike for all tiles of a window
        low = begin + tl.maximum(first - near + 1 - begin, 0) // KEYS * KEYS
        stop = tl.minimum(stop, first + QUERIES + near - 1)
    whole = low + (stop - low) // KEYS * KEYS
    for start in range(low, whole, KEYS):
        sums, largest, total = _walk(
            *(queries, sums, largest, total, k, v, numbers, k_row, v_row, reach, near, head, rows, begin, start, stop),
            *(NUM_HEADS, K, PADDED_K, BIAS, CAUSAL, NEAR, KEYS, PRECISION, False),
        )
    if whole < stop:
        sums, largest, total = _walk(
            *(queries, sums, largest, total, k, v, numbers, k_row, v_row, reach, near, head, rows, begin, whole, stop),
            *(NUM_HEADS, K, PADDED_K, BIAS, CAUSAL, NEAR, KEYS, PRECISION, True),
        )
    at_out = out + rows.to(tl.int64)[:, None] * (NUM_HEADS * K) + head * K + dims[None, :]
    tl.store(at_out, (sums / total[:, None]).to(queries.dtype), mask=is_query)


@triton.jit
def _walk(
    queries,
    sums,
    largest,
    total,
    k,
    v,
    numbers,
    k_row,
    v_row,
    reach,
    near,
    head,
    rows,
    begin,
    start,
    end,
    NUM_HEADS: tl.constexpr,
    K: tl.constexpr,
    PADDED_K: tl.constexpr,
    BIAS: tl.constexpr,
    CAUSAL: tl.constexpr,
    NEAR: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    IS_LAST: tl.constexpr,
):
    """One block of keys; the last one of a window may be cut."""
    dims, columns = tl.arange(0, PADDED_K), start + tl.arange(0, KEYS)
    is_key = (dims < K)[None, :]
    if IS_LAST:
        is_key = is_key & (columns < end)[:, None]
    wide = columns.to(tl.int64)[:, None]
    keys = tl.load(k + wide * k_row + head * K + dims[None, :], mask=is_key, other=0.0)
    values = tl.load(v + wide * v_row + head * K + dims[None, :], mask=is_key, other=0.0)
    scores = tl.dot(queries, keys.T, input_precision=PRECISION)
    if BIAS == "alibi":  # Press et al., ICLR 2022; whole numbers are exact, and cheaper as floats
        distances = (columns - begin).to(tl.float32)[None, :] - (rows - begin).to(tl.float32)[:, None]
        scores -= tl.load(numbers + head) * tl.abs(distances)
    if BIAS == "table":  # Raffel et al., JMLR 2020
        place = tl.minimum(tl.maximum(columns[None, :] - rows[:, None], -reach), reach) + reach
        scores += tl.load(numbers + head * (2 * reach + 1) + place)
    if IS_LAST:
        scores = tl.where((columns < end)[None, :], scores, float("-inf"))
    if CAUSAL:
        scores = tl.where(columns[None, :] <= rows[:, None], scores, float("-inf"))
    if NEAR:
        scores = tl.where(tl.abs(columns[None, :] - rows[:, None]) < near, scores, float("-inf"))
    now = tl.maximum(largest, tl.max(scores, 1))
    if NEAR:  # of a query that no key so far is near to: no difference of infinities
        now = tl.maximum(now, -1e38)
    shares = tl.exp2(scores * LOG2_E - (now * LOG2_E)[:, None])
    rest = tl.exp2((largest - now) * LOG2_E)
    sums = tl.dot(shares.to(values.dtype), values, sums * rest[:, None], input_precision=PRECISION)
    return sums, now, total * rest + tl.sum(shares, 1)
