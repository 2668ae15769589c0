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

#ifdef DOT_BF16
#define ELEMENT uint32_t /* a pair of BF16 */
INLINE VF LOCAL(dot)(VF sum, const uint32_t *queries, uint32_t pair) {
    return (VF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_load_si512(queries), (__m512bh)_mm512_set1_epi32((int)pair));
}
#else
#define ELEMENT float
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

/* KR rows of O = O shrink + V' P over `count` keys, or pairs of keys: a block is summed by itself first, since one sum
 * over thousands of keys would lose as many bits as all layers together. */
INLINE void LOCAL(gather)(const ELEMENT *values, int dim, const ELEMENT *P, int count, float *O, const VF shrink[2]) {
    VF sum[KR][2];
    for (int k = 0; k < KR; k++) sum[k][0] = sum[k][1] = (VF){};
    for (int j = 0; j < count; j++)
        for (int k = 0; k < KR; k++)
            for (int v = 0; v < 2; v++) sum[k][v] = LOCAL(dot)(sum[k][v], P + j * BQ + v * W, values[(int64_t)j * dim + k]);
    for (int k = 0; k < KR; k++)
        for (int v = 0; v < 2; v++) {
            VF *at = (VF *)(O + k * BQ + v * W);
            *at = *at * shrink[v] + sum[k][v];
        }
}

/* Scores to weights in place, a pair of keys to one row where products are of pairs; returns nothing lost: the
 * sums take the weights before they are rounded. */
INLINE void LOCAL(weights)(float *S, int count, const VF most[2], VF total[2]) {
#ifdef DOT_BF16
    for (int j = 0; j < count; j += 2)
        for (int v = 0; v < 2; v++) {
            const VF even = LOCAL(exp2)(*(VF *)(S + j * BQ + v * W) - most[v]);
            const VF odd = j + 1 < count ? LOCAL(exp2)(*(VF *)(S + (j + 1) * BQ + v * W) - most[v]) : (VF){};
            total[v] += even + odd;
            const __m512i low = _mm512_srli_epi32(_mm512_add_epi32((__m512i)even, _mm512_set1_epi32(0x8000)), 16);
            const __m512i high = _mm512_add_epi32((__m512i)odd, _mm512_set1_epi32(0x8000));
            const __m512i pair = _mm512_mask_blend_epi16(0xaaaaaaaa, low, high);
            _mm512_store_si512((uint32_t *)S + j / 2 * BQ + v * W, pair);
        }
#else
    for (int j = 0; j < count; j++)
        for (int v = 0; v < 2; v++) {
            VF *at = (VF *)(S + j * BQ + v * W);
            *at = LOCAL(exp2)(*at - most[v]);
            total[v] += *at;
        }
#endif
}

static void ATTEND(const Job *job, int64_t start, int64_t length, int h, void *key_rows, void *value_rows) {
    const int dim = job->head_dim;
    ELEMENT *keys = key_rows, *values = value_rows;
    float row[MAX_DIM];
#ifdef DOT_BF16
    const int steps = dim / 2, keys_per_row = 2;
    for (int64_t j = 0; j < length; j++) {
        read_row(job, row, start + j, 1, h, (int)j);
        for (int k = 0; k < dim; k++) ((uint16_t *)keys)[j * dim + k] = to_bf16(row[k]);
        read_row(job, row, start + j, 2, h, (int)j);
        for (int k = 0; k < dim; k++) ((uint16_t *)values)[(j / 2 * dim + k) * 2 + j % 2] = to_bf16(row[k]);
    }
    if (length % 2)
        for (int k = 0; k < dim; k++) ((uint16_t *)values)[(length / 2 * dim + k) * 2 + 1] = 0;
#else
    const int steps = dim, keys_per_row = 1;
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
        memset(Q, 0, (size_t)steps * BQ * sizeof(ELEMENT));
        memset(O, 0, (size_t)dim * BQ * 4);
        for (int i = 0; i < num_queries; i++) {
            read_row(job, row, start + first + i, 0, h, (int)(first + i));
            for (int k = 0; k < dim; k++) {
#ifdef DOT_BF16
                ((uint16_t *)Q)[(k / 2 * BQ + i) * 2 + k % 2] = to_bf16(row[k] * LOG2_E);
#else
                Q[k * BQ + i] = row[k] * LOG2_E;
#endif
            }
        }
        VF most[2], total[2] = {(VF){}, (VF){}};
        most[0] = most[1] = (VF){} - 3e38f;
        for (int64_t at = 0; at < length; at += BK) {
            const int count = length - at < BK ? (int)(length - at) : BK;
            const VF before[2] = {most[0], most[1]};
            int j = 0;
            for (; j + R <= count; j += R)
                LOCAL(scores)(keys + (at + j) * steps, Q, steps, R, S + j * BQ, most, slope, table, job->reach,
                              first - at - j);
            for (; j < count; j++)
                LOCAL(scores)(keys + (at + j) * steps, Q, steps, 1, S + j * BQ, most, slope, table, job->reach,
                              first - at - j);
            VF shrink[2], sum[2] = {(VF){}, (VF){}};
            LOCAL(weights)(S, count, most, sum);
            for (int v = 0; v < 2; v++) {
                shrink[v] = LOCAL(exp2)(before[v] - most[v]);
                total[v] = total[v] * shrink[v] + sum[v];
            }
            for (int k = 0; k < dim; k += KR)
                LOCAL(gather)(values + at / keys_per_row * dim + k, dim, (ELEMENT *)S,
                              (count + keys_per_row - 1) / keys_per_row, O + k * BQ, shrink);
        }
        for (int v = 0; v < 2; v++) total[v] = 1.0f / total[v];
        for (int i = 0; i < num_queries; i++) {
            const int64_t to = ((start + first + i) * job->num_heads + h) * dim;
            const float scale = total[i / W][i % W];
            for (int k = 0; k < dim; k++) {
                const float value = O[k * BQ + i] * scale;
                if (job->is_bf16) ((uint16_t *)job->out)[to + k] = to_bf16(value);
                else ((float *)job->out)[to + k] = value;
            }
        }
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
#undef ATTEND
#undef W
#undef R
#undef KR
#undef DOT_BF16
