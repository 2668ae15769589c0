/* Attention over packed rows on a CPU: softmax(Q K' + bias) V for each window and head by itself.
 *
 * Why it exists: torch's CPU attention reaches a quarter of the FP32 and a tenth of the BF16 peak at the head
 * dimensions of the small ESM-2 (benchmarks/reports), so that it takes half of the time in BF16.
 *
 * Lanes are queries. A block of BQ queries lies transposed in L1, so that every product is a broadcast from a
 * row of K or V times a vector of queries, maxima and sums are vertical, and no head dimension wastes lanes:
 *
 *     S[j][i] = sum_k K[j][k] * Q[i][k]       j: BK keys       i: BQ queries, the lanes
 *     O[k][i] = sum_j V[j][k] * P[j][i]       k: head dimension, P = exp2(S - max)
 *
 * Keys come in blocks of BK with a running maximum and sum (Milakov and Gimelshein, 2018), so that scores never
 * leave the cache and a window may have any length. The order of the operations on one query depends on its
 * window alone: the result is the same bit for bit whatever the batch and the number of threads.
 *
 * The body is compiled once for each instruction set and chosen by what the processor has.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LOG2_E 1.4426950408889634f
#define BK 256 /* keys in one block; even */
#define TABLE_MARGIN 16 /* numbers beyond reach on either side: the lanes of the widest vector */

typedef struct {
    const void *qkv; /* [T][3][H][K], the scale in Q already */
    void *out;       /* [T][H][K] */
    int is_bf16;     /* of qkv and out alike; float32 otherwise */
    int num_heads, head_dim;
    const float *cosines, *sines; /* [longest window][K / 2] rotary tables, or null */
    const float *slopes;          /* [H] ALiBi, or null */
    const float *table;           /* [H][2 * (reach + TABLE_MARGIN) + 1] bias by query - key, clipped, or null */
    int reach;
} Job;

/* Four numbers, eight and eight halves, wherever they lie: a head is a multiple of eight, its halves of four. */
typedef float F4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float F8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t U8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t H8 __attribute__((vector_size(16), aligned(2), may_alias));

#define AHEAD 16 /* rows; the same head's are kilobytes apart, so that no processor sees by itself which come next */
#define WIDE 32 /* head dimension from which the compiler's own loops and memcpy are the faster ones */
#define rotate(type, row, half, c, s, k)                                                                               \
    do {                                                                                                               \
        const type first = *(type *)(row + k), second = *(type *)(row + half + k);                                     \
        *(type *)(row + k) = first * *(const type *)(c + k) - second * *(const type *)(s + k);                         \
        *(type *)(row + half + k) = second * *(const type *)(c + k) + first * *(const type *)(s + k);                  \
    } while (0)

/* Row `which` (0 Q, 1 K, 2 V) of token t and head h, in float32, rotated to its position where asked. */
static inline __attribute__((always_inline)) void
read_row(const Job *job, float *restrict row, int64_t t, int which, int h, int position) {
    const int dim = job->head_dim, half = dim / 2;
    const int64_t at = ((t * 3 + which) * job->num_heads + h) * dim;
    const float *cosines = which < 2 ? job->cosines : 0;
    const int64_t size = job->is_bf16 ? 2 : 4, next = at + (int64_t)AHEAD * 3 * job->num_heads * dim;
    for (int64_t k = 0; k < dim * size; k += 64) __builtin_prefetch((const char *)job->qkv + next * size + k);
    if (job->is_bf16) {
        const uint16_t *from = (const uint16_t *)job->qkv + at;
        for (int k = 0; k < dim; k += 8) *(U8 *)(row + k) = __builtin_convertvector(*(const H8 *)(from + k), U8) << 16;
    } else if (dim < WIDE) {
        const float *from = (const float *)job->qkv + at;
        for (int k = 0; k < dim; k += 8) *(F8 *)(row + k) = *(const F8 *)(from + k);
    } else {
        memcpy(row, (const float *)job->qkv + at, (size_t)dim * 4);
    }
    if (!cosines) return;
    const float *restrict c = cosines + (int64_t)position * half, *restrict s = job->sines + (int64_t)position * half;
    if (dim < WIDE)
        for (int k = 0; k < half; k += 4) rotate(F4, row, half, c, s, k);
    else
        for (int k = 0; k < half; k++) rotate(float, row, half, c, s, k);
}

static int64_t round_up(int64_t number, int64_t multiple) { return (number + multiple - 1) / multiple * multiple; }

#define MAX_DIM 256 /* head dimension */
#define FLUSHED 0x8040 /* numbers below 1e-38 count as 0: with a steep ALiBi far keys have such weights, and each takes
                          an Intel processor as long as a hundred others (its manual, MXCSR: FTZ and DAZ) */

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#define ATTEND attend_avx512_bf16
#define W 16
#define R 8
#define KR 8
#define DOT_BF16
#include "attention_body.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#define ATTEND attend_avx512
#define W 16
#define R 8
#define KR 8
#include "attention_body.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define ATTEND attend_avx2
#define W 8
#define R 6
#define KR 4
#include "attention_body.h"
#pragma GCC pop_options
#endif

/* What this processor can run: 0 nothing of ours, 1 AVX2, 2 AVX-512, 3 AVX-512 with BF16 products. */
int hpc_embed_attention_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return __builtin_cpu_supports("avx512bf16") ? 3 : 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

/* Heads first_head to last_head - 1 of every window; starts has num_windows + 1 entries. The head dimension is a
 * multiple of 8, at most MAX_DIM. Returns 0, 1 where memory is short, 2 for arguments out of range. */
int hpc_embed_attend(const void *qkv, void *out, int is_bf16, const int32_t *starts, int num_windows, int num_heads,
                     int head_dim, const float *cosines, const float *sines, const float *slopes, const float *table,
                     int reach, int first_head, int last_head, int level) {
    if (head_dim % 8 || head_dim > MAX_DIM || head_dim <= 0 || level < 1 || level > 3) return 2;
    const Job job = {qkv, out, is_bf16, num_heads, head_dim, cosines, sines, slopes, table, reach};
    int64_t longest = 0;
    for (int b = 0; b < num_windows; b++)
        if (starts[b + 1] - starts[b] > longest) longest = starts[b + 1] - starts[b];
    const size_t rows = (size_t)round_up(longest + 2, 64);
    char *scratch = aligned_alloc(64, 2 * rows * (size_t)head_dim * 4);
    if (!scratch) return 1;
#if defined(__x86_64__)
    void *keys = scratch, *values = scratch + rows * (size_t)head_dim * 4;
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | FLUSHED);
    for (int b = 0; b < num_windows; b++)
        for (int h = first_head; h < last_head; h++) {
            const int64_t start = starts[b], length = starts[b + 1] - starts[b];
            if (level == 3 && is_bf16) attend_avx512_bf16(&job, start, length, h, keys, values);
            else if (level >= 2) attend_avx512(&job, start, length, h, keys, values);
            else attend_avx2(&job, start, length, h, keys, values);
        }
    _mm_setcsr(before);
    const int failed = 0;
#else
    const int failed = 2;
#endif
    free(scratch);
    return failed;
}
