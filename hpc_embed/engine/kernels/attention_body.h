/* One window and head. Defined by the including file: ATTEND its name, W lanes of a vector, R keys and KR rows
 * of the output held in registers at once, and DOT_BF16 where products of BF16 pairs are to be used. */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define LOCAL(name) JOIN(ATTEND, name)
#define BQ (2 * W)
#define VF LOCAL(vf)
#define VI LOCAL(vi)
#define INLINE static inline __attribute__((always_inline))

typedef float VF __attribute__((vector_size(W * 4)));
typedef int32_t VI __attribute__((vector_size(W * 4)));

#if W == 16
INLINE VF LOCAL(max)(VF a, VF b) { return (VF)_mm512_max_ps((__m512)a, (__m512)b); }
#else
INLINE VF LOCAL(max)(VF a, VF b) { return (VF)_mm256_max_ps((__m256)a, (__m256)b); }
#endif

/* 2 to the power x for x <= 0: the rounded part goes into the exponent, the rest, at most a half, into a minimax
 * polynomial, whose degree leaves 8e-8 (float32) or 8e-5 (rounded to BF16 afterwards). */
INLINE VF LOCAL(exp2)(VF x) {
    const VF magic = (VF){} + 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    x = LOCAL(max)(x, (VF){} - 126.0f);
    const VF shifted = x + magic, f = x - (shifted - magic);
#ifdef DOT_BF16
    VF p = f * 0.05517167f + 0.24261112f;
    p = p * f + 0.69326099f;
    p = p * f + 0.99992807f;
#else
    VF p = f * 0.00132765f + 0.00967554f;
    p = p * f + 0.05550713f;
    p = p * f + 0.24022120f;
    p = p * f + 0.69314697f;
    p = p * f + 1.00000007f;
#endif
    return (VF)((VI)p + ((VI)shifted << 23));
}

/* BF16, in the lower halves: rounded to nearest, ties to even; NaN stays NaN. */
INLINE U8 LOCAL(to_bf16)(F8 values) {
    const U8 bits = (U8)values, is_nan = (U8)((bits & 0x7fffffff) > 0x7f800000);
    return ((is_nan & (bits | 0x400000)) | (~is_nan & (bits + 0x7fff + (bits >> 16 & 1)))) >> 16;
}

#ifdef DOT_BF16
#define ELEMENT uint32_t /* a pair of BF16 */
#define KEYS 2           /* whose weights and values are one */
INLINE VF LOCAL(dot)(VF sum, const uint32_t *queries, uint32_t pair) {
    return (VF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_load_si512(queries), (__m512bh)_mm512_set1_epi32((int)pair));
}
#else
#define ELEMENT float
#define KEYS 1
INLINE VF LOCAL(dot)(VF sum, const float *queries, float value) { return sum + *(const VF *)queries * value; }
#endif

/* Scores of `count` keys, a constant where it is inlined; the maxima go along. */
INLINE void LOCAL(scores)(const ELEMENT *keys, const ELEMENT *queries, int steps, int count, float *S, VF most[2],
                          float slope, const float *table, int64_t reach, int64_t distance) {
    VF sum[R][2];
    for (int j = 0; j < count; j++) sum[j][0] = sum[j][1] = (VF){};
    for (int k = 0; k < steps; k++)
        for (int j = 0; j < count; j++)
            for (int v = 0; v < 2; v++) sum[j][v] = LOCAL(dot)(sum[j][v], queries + k * BQ + v * W, keys[j * steps + k]);
    if (slope != 0) {
        VF lane;
        for (int i = 0; i < W; i++) lane[i] = (float)i;
        for (int j = 0; j < count; j++)
            for (int v = 0; v < 2; v++) {
                const VF d = lane + (float)(distance + v * W - j);
                sum[j][v] -= slope * LOCAL(max)(d, -d);
            }
    }
    if (table) /* its middle; beyond reach all lanes read the same number */
        for (int j = 0; j < count; j++)
            for (int v = 0; v < 2; v++) {
                const int64_t lane = distance + v * W - j, low = -reach - TABLE_MARGIN;
                VF bias;
                memcpy(&bias, table + (lane < low ? low : lane > reach ? reach : lane), sizeof bias);
                sum[j][v] += bias * LOG2_E;
            }
    for (int j = 0; j < count; j++)
        for (int v = 0; v < 2; v++) {
            most[v] = LOCAL(max)(most[v], sum[j][v]);
            *(VF *)(S + j * BQ + v * W) = sum[j][v];
        }
}

/* Scores of key j, or of the j-th pair where products are of pairs, to weights in place, in row j. */
INLINE void LOCAL(weigh)(float *S, int j, int count, const VF most[2], VF total[2]) {
    for (int v = 0; v < 2; v++) {
        float *at = S + j * BQ + v * W;
#ifdef DOT_BF16 /* totals take the weights before they are rounded */
        const VF even = LOCAL(exp2)(*(VF *)(at + j * BQ) - most[v]);
        const VF odd = 2 * j + 1 < count ? LOCAL(exp2)(*(VF *)(at + (j + 1) * BQ) - most[v]) : (VF){};
        total[v] += even + odd;
        const __m512i low = _mm512_srli_epi32(_mm512_add_epi32((__m512i)even, _mm512_set1_epi32(0x8000)), 16);
        const __m512i high = _mm512_add_epi32((__m512i)odd, _mm512_set1_epi32(0x8000));
        _mm512_store_si512(at, _mm512_mask_blend_epi16(0xaaaaaaaa, low, high));
#else
        *(VF *)at = LOCAL(exp2)(*(VF *)at - most[v]);
        total[v] += *(VF *)at;
#endif
    }
}

/* KR rows of O = O shrink + V' P over `count` keys: a block is summed by itself first, since one sum over thousands of
 * keys would lose as many bits as all layers together. The first KR rows make weights of the scores on the way, between
 * products that leave a processor's other units free. */
INLINE void LOCAL(gather)(const ELEMENT *values, int dim, float *S, int count, float *O, const VF shrink[2],
                          int is_first, const VF most[2], VF total[2]) {
    VF sum[KR][2];
    for (int k = 0; k < KR; k++) sum[k][0] = sum[k][1] = (VF){};
    for (int j = 0; j * KEYS < count; j++) {
        if (is_first) LOCAL(weigh)(S, j, count, most, total);
        for (int k = 0; k < KR; k++)
            for (int v = 0; v < 2; v++)
                sum[k][v] = LOCAL(dot)(sum[k][v], (ELEMENT *)S + j * BQ + v * W, values[(int64_t)j * dim + k]);
    }
    for (int k = 0; k < KR; k++)
        for (int v = 0; v < 2; v++) {
            VF *at = (VF *)(O + k * BQ + v * W);
            *at = *at * shrink[v] + sum[k][v];
        }
}

/* Rows and columns of 8 x 8 numbers change places. */
INLINE void LOCAL(transpose)(F8 rows[8]) {
    __m256 pairs[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps((__m256)rows[i], (__m256)rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps((__m256)rows[i], (__m256)rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
            fours[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        rows[i] = (F8)_mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        rows[i + 4] = (F8)_mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}

/* Queries of `count` tokens, at most eight, from t on become as many columns of Q; the rest of eight is zero. */
INLINE void LOCAL(read_queries)(const Job *job, ELEMENT *Q, int64_t t, int count, int h, int64_t position) {
    const int dim = job->head_dim;
    float rows[8 * MAX_DIM];
    for (int i = 0; i < count; i++) read_row(job, rows + i * dim, t + i, 0, h, (int)position + i);
    memset(rows + count * dim, 0, (size_t)((8 - count) * dim) * 4);
    for (int k = 0; k < dim; k += 8) {
        F8 columns[8];
        for (int i = 0; i < 8; i++) columns[i] = *(const F8 *)(rows + i * dim + k) * LOG2_E;
        LOCAL(transpose)(columns);
#ifdef DOT_BF16
        for (int i = 0; i < 8; i += 2)
            *(U8 *)(Q + (k + i) / 2 * BQ) = LOCAL(to_bf16)(columns[i]) | LOCAL(to_bf16)(columns[i + 1]) << 16;
#else
        for (int i = 0; i < 8; i++) *(F8 *)(Q + (k + i) * BQ) = columns[i];
#endif
    }
}

/* As many columns of O, each times its scale, become outputs of `count` tokens, at most eight, from t on. */
INLINE void LOCAL(write_outputs)(const Job *job, const float *O, F8 scales, int64_t t, int count, int h) {
    const int dim = job->head_dim;
    for (int k = 0; k < dim; k += 8) {
        F8 rows[8];
        for (int i = 0; i < 8; i++) rows[i] = *(const F8 *)(O + (k + i) * BQ) * scales;
        LOCAL(transpose)(rows);
        for (int i = 0; i < count; i++) {
            const int64_t to = ((t + i) * job->num_heads + h) * dim + k;
            if (job->is_bf16) *(H8 *)((uint16_t *)job->out + to) = __builtin_convertvector(LOCAL(to_bf16)(rows[i]), H8);
            else *(F8 *)((float *)job->out + to) = rows[i];
        }
    }
}

static void ATTEND(const Job *job, int64_t start, int64_t length, int h, void *key_rows, void *value_rows) {
    const int dim = job->head_dim;
    ELEMENT *keys = key_rows, *values = value_rows;
#ifdef DOT_BF16
    const int steps = dim / 2;
    float rows[2 * MAX_DIM];
    for (int64_t j = 0; j < length; j++) {
        read_row(job, rows, start + j, 1, h, (int)j);
        for (int k = 0; k < dim; k += 8)
            *(H8 *)((uint16_t *)keys + j * dim + k) = __builtin_convertvector(LOCAL(to_bf16)(*(const F8 *)(rows + k)), H8);
    }
    for (int64_t j = 0; j < length; j += 2) {
        read_row(job, rows, start + j, 2, h, (int)j);
        if (j + 1 < length) read_row(job, rows + dim, start + j + 1, 2, h, (int)j + 1);
        else memset(rows + dim, 0, (size_t)dim * 4);
        for (int k = 0; k < dim; k += 8)
            *(U8 *)(values + j / 2 * dim + k) =
                LOCAL(to_bf16)(*(const F8 *)(rows + k)) | LOCAL(to_bf16)(*(const F8 *)(rows + dim + k)) << 16;
    }
#else
    const int steps = dim;
    for (int64_t j = 0; j < length; j++) {
        read_row(job, keys + j * dim, start + j, 1, h, (int)j);
        read_row(job, values + j * dim, start + j, 2, h, (int)j);
    }
#endif
    const float slope = job->slopes ? job->slopes[h] * LOG2_E : 0.0f;
    const int64_t table_width = 2 * ((int64_t)job->reach + TABLE_MARGIN) + 1;
    const float *table = job->table ? job->table + h * table_width + table_width / 2 : 0;
    float S[BK * BQ] __attribute__((aligned(64))), O[MAX_DIM * BQ] __attribute__((aligned(64)));
    ELEMENT Q[MAX_DIM * BQ] __attribute__((aligned(64)));
    for (int64_t first = 0; first < length; first += BQ) {
        const int num_queries = length - first < BQ ? (int)(length - first) : BQ;
        if (num_queries < BQ) memset(Q, 0, (size_t)steps * BQ * sizeof(ELEMENT));
        memset(O, 0, (size_t)dim * BQ * 4);
        for (int i = 0; i < num_queries; i += 8)
            LOCAL(read_queries)(job, Q + i, start + first + i, num_queries - i < 8 ? num_queries - i : 8, h, first + i);
        VF most[2], total[2] = {};
        most[0] = most[1] = (VF){} - 3e38f;
        for (int64_t at = 0; at < length; at += BK) {
            const int count = length - at < BK ? (int)(length - at) : BK;
            const VF before[2] = {most[0], most[1]};
            VF shrink[2], sum[2] = {};
            int j = 0;
            for (; j + R <= count; j += R)
                LOCAL(scores)(keys + (at + j) * steps, Q, steps, R, S + j * BQ, most, slope, table, job->reach,
                              first - at - j);
            for (; j + R / 2 <= count; j += R / 2)
                LOCAL(scores)(keys + (at + j) * steps, Q, steps, R / 2, S + j * BQ, most, slope, table, job->reach,
                              first - at - j);
            for (; j < count; j++)
                LOCAL(scores)(keys + (at + j) * steps, Q, steps, 1, S + j * BQ, most, slope, table, job->reach,
                              first - at - j);
            for (int v = 0; v < 2; v++) shrink[v] = LOCAL(exp2)(before[v] - most[v]);
            const ELEMENT *from = values + at / KEYS * dim;
            LOCAL(gather)(from, dim, S, count, O, shrink, 1, most, sum);
            for (int k = KR; k < dim; k += KR)
                LOCAL(gather)(from + k, dim, S, count, O + k * BQ, shrink, 0, most, sum);
            for (int v = 0; v < 2; v++) total[v] = total[v] * shrink[v] + sum[v];
        }
        for (int v = 0; v < 2; v++) total[v] = 1.0f / total[v];
        for (int i = 0; i < num_queries; i += 8)
            LOCAL(write_outputs)(job, O + i, *(const F8 *)((const float *)total + i), start + first + i,
                                 num_queries - i < 8 ? num_queries - i : 8, h);
    }
}

#undef JOIN_
#undef JOIN
#undef LOCAL
#undef BQ
#undef VF
#undef VI
#undef INLINE
#undef ELEMENT
#undef KEYS
#undef ATTEND
#undef W
#undef R
#undef KR
#undef DOT_BF16
