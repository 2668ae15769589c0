/* FASTA in blocks of bytes: records found, letters laid side by side, spans digested. Called through ctypes.

   What is unusual (a byte beyond ASCII, a lone carriage return, a control character, blanks between letters, a line
   that may be no sequence) is left to the caller: the parser stops in front of the record that has it. Every function is pure: it reads and writes the buffers that it is given and nothing else. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_VECTORS /* may be had: the processor is asked */
#endif

typedef uint8_t byte;

#define EACH_BYTE(b) (0x0101010101010101u * (b))

/* What a sequence may hold, white space at the ends of its lines apart: letters, stops, gaps, what is missing. */
static const byte IS_SEQUENCE[256] = {
    ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1, ['*'] = 1, ['-'] = 1, ['.'] = 1, ['?'] = 1, ['~'] = 1,
};

static int is_letter(byte c) { return (byte)((c | 0x20) - 'a') < 26; }

/* Copies a piece of a line; whether all of it is letters, eight at a time: bytes from 0x40 to 0x7f whose low five
   bits are 1 to 26. */
static int copy_letters(byte *restrict to, const byte *restrict from, int64_t size)
{
    uint64_t missing = 0, above = 0, word;
    int64_t i = 0;
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, from + i, sizeof word);
        memcpy(to + i, &word, sizeof word);
        uint64_t low = word & EACH_BYTE(0x1f);
        missing |= ~(word & (low + EACH_BYTE(0x1f)) << 1);
        above |= word | (low + EACH_BYTE(5)) << 2;
    }
    int is_odd = (missing & EACH_BYTE(0x40)) || (above & EACH_BYTE(0x80));
    for (; i < size; i++)
        to[i] = from[i], is_odd |= !is_letter(from[i]);
    return !is_odd;
}

/* A header that only Python reads: bytes beyond ASCII, control characters, and what may be PIR's. */
static int is_odd_header(const byte *header, int64_t length)
{
    byte found = length > 2 && header[2] == ';';
    for (int64_t i = 0; i < length; i++)
        found |= (header[i] < ' ' && header[i] != '\t') | (header[i] >= 127);
    return found;
}

/* White space that may stand at the ends of a line. */
static int is_blank(byte c) { return c == ' ' || c == '\t' || c == '\v' || c == '\f'; }

/* The end of the line that begins at `at`, without its line feed or its carriage return and line feed; *next is the
   start of the line after it. */
static int64_t line_end(const byte *raw, int64_t at, int64_t size, int64_t *next)
{
    const byte *feed = memchr(raw + at, '\n', size - at);
    if (feed == NULL) {
        *next = size;
        return size;
    }
    int64_t end = feed - raw;
    *next = end + 1;
    return end > at && raw[end - 1] == '\r' ? end - 1 : end;
}

/* Lines that begin with '>'. */
int64_t hpc_embed_count_headers(const byte *raw, int64_t size)
{
    int64_t count = 0;
    for (const byte *at = raw, *end = raw + size; at < end && (at = memchr(at, '>', end - at)) != NULL; at++)
        count += at == raw || at[-1] == '\n';
    return count;
}

/* Parses `raw`, which begins with '>', as far as it is usual; returns the number of records.

   For each record: `letters` without white space, `headers` without trailing white space, `ids` (the first words),
   each side by side with where they stop, and the line of the header counted from 0.
   done[0] is the number of bytes that were parsed, done[1] of lines. Buffers hold `size` bytes, arrays as many
   elements as there are headers. */
int64_t hpc_embed_parse(const byte *raw, int64_t size, byte *letters, int64_t *letter_stops, byte *headers,
                        int32_t *header_stops, byte *ids, int32_t *id_stops, int64_t *lines, int64_t *done)
{
    int64_t at = 0, line = 0, count = 0, num_letters = 0, num_header_bytes = 0, num_id_bytes = 0;
    while (at < size) {
        int64_t record_at = at, record_line = line, record_letters = num_letters;
        int64_t end = line_end(raw, at, size, &at);
        byte *header = headers + num_header_bytes;
        int64_t length = end - (record_at + 1);
        memcpy(header, raw + record_at + 1, length);
        int is_odd = is_odd_header(header, length) || num_header_bytes + length > INT32_MAX;
        line++;
        while (!is_odd && at < size && raw[at] != '>') {
            int64_t start = at;
            end = line_end(raw, at, size, &at);
            line++;
            if (!copy_letters(letters + num_letters, raw + start, end - start)) {
                while (start < end && is_blank(raw[start]))
                    start++;
                while (end > start && is_blank(raw[end - 1]))
                    end--;
                for (int64_t i = start; i < end; i++)
                    is_odd |= !IS_SEQUENCE[raw[i]];
                memcpy(letters + num_letters, raw + start, end - start);
            }
            num_letters += end - start;
        }
        if (is_odd) {
            at = record_at, line = record_line, num_letters = record_letters;
            break;
        }
        while (length > 0 && is_blank(header[length - 1]))
            length--;
        int64_t word = 0, word_end;
        while (word < length && is_blank(header[word]))
            word++;
        for (word_end = word; word_end < length && !is_blank(header[word_end]);)
            word_end++;
        memcpy(ids + num_id_bytes, header + word, word_end - word);
        num_header_bytes += length;
        num_id_bytes += word_end - word;
        letter_stops[count] = num_letters;
        header_stops[count] = (int32_t)num_header_bytes;
        id_stops[count] = (int32_t)num_id_bytes;
        lines[count] = record_line;
        count++;
    }
    done[0] = at;
    done[1] = line;
    return count;
}

/* The letters A to Z of a sequence as the bits of a word; a bit beyond them for any other byte. */
static inline __attribute__((always_inline)) uint32_t capitals_of(const byte *letters, int64_t length)
{
    byte lowest = 255, highest = 0;
    uint32_t found = 0;
    for (int64_t i = 0; i < length; i++) {
        lowest = letters[i] < lowest ? letters[i] : lowest;
        highest = letters[i] > highest ? letters[i] : highest;
        found |= 1u << (letters[i] & 31);
    }
    return length == 0 || (lowest >= 'A' && highest <= 'Z') ? found : found | 1u << 31;
}

static uint32_t capitals_plain(const byte *letters, int64_t length) { return capitals_of(letters, length); }

#ifdef HAS_VECTORS
__attribute__((target("avx2"))) static uint32_t capitals_avx2(const byte *letters, int64_t length)
{
    return capitals_of(letters, length);
}
#endif

/* The residue policy, in place: letters mapped, trailing `stop`s dropped from `lengths` (0: none are), unknown ones
   counted, the first of each record kept, and whether anything became different. */
void hpc_embed_apply_policy(byte *letters, const int64_t *starts, int64_t *lengths, int64_t count, const byte *map,
                            const byte *is_unknown, int stop, int64_t *num_unknown, byte *first_unknown,
                            byte *is_changed)
{
    uint32_t (*capitals)(const byte *, int64_t) = capitals_plain, known = 0;
#ifdef HAS_VECTORS
    if (__builtin_cpu_supports("avx2"))
        capitals = capitals_avx2;
#endif
    for (byte letter = 'A'; letter <= 'Z'; letter++)
        known |= (map[letter] == letter && !is_unknown[letter] && letter != stop) * 1u << (letter & 31);
    for (int64_t record = 0; record < count; record++) {
        byte *at = letters + starts[record];
        int64_t length = lengths[record], unknown = 0;
        byte changes = 0;
        num_unknown[record] = 0, first_unknown[record] = 0, is_changed[record] = 0;
        if ((capitals(at, length) & ~known) == 0)
            continue; /* nothing to do, as for nearly all proteins */
        while (stop && length > 0 && at[length - 1] == stop)
            length--;
        for (int64_t i = 0; i < length; i++) {
            byte letter = map[at[i]];
            changes |= letter ^ at[i];
            at[i] = letter;
            unknown += is_unknown[letter];
        }
        is_changed[record] = changes != 0 || length != lengths[record];
        lengths[record] = length;
        num_unknown[record] = unknown;
        for (int64_t i = 0; unknown && i < length; i++)
            if (is_unknown[at[i]]) {
                first_unknown[record] = at[i];
                break;
            }
    }
}

/* Moves spans, which ascend and do not overlap, side by side to the front; returns their bytes. */
int64_t hpc_embed_pack(byte *letters, const int64_t *starts, const int64_t *lengths, int64_t count)
{
    int64_t size = 0;
    for (int64_t i = 0; i < count; i++) {
        if (starts[i] != size)
            memmove(letters + size, letters + starts[i], lengths[i]);
        size += lengths[i];
    }
    return size;
}

/* Lays spans side by side in the order in which they are named. */
void hpc_embed_gather(const byte *letters, const int64_t *starts, const int64_t *lengths, int64_t count, byte *gathered)
{
    for (int64_t i = 0; i < count; gathered += lengths[i], i++)
        memcpy(gathered, letters + starts[i], lengths[i]);
}

/* BLAKE2b (RFC 7693), unkeyed, 16 bytes. */

#define DIGEST_BYTES 16
#define BLOCK_BYTES 128
#define PARAMETERS (0x01010000 ^ DIGEST_BYTES)

static const uint64_t IV[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                               0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

#define ROTATE(x, n) ((x) >> (n) | (x) << (64 - (n)))

#define G(a, b, c, d, x, y)    \
    do {                       \
        a += b + (x);          \
        d = ROTATE(d ^ a, 32); \
        c += d;                \
        b = ROTATE(b ^ c, 24); \
        a += b + (y);          \
        d = ROTATE(d ^ a, 16); \
        c += d;                \
        b = ROTATE(b ^ c, 63); \
    } while (0)

#define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd, se, sf) \
    do {                                                                      \
        G(v0, v4, v8, vc, m[s0], m[s1]);                                      \
        G(v1, v5, v9, vd, m[s2], m[s3]);                                      \
        G(v2, v6, va, ve, m[s4], m[s5]);                                      \
        G(v3, v7, vb, vf, m[s6], m[s7]);                                      \
        G(v0, v5, va, vf, m[s8], m[s9]);                                      \
        G(v1, v6, vb, vc, m[sa], m[sb]);                                      \
        G(v2, v7, v8, vd, m[sc], m[sd]);                                      \
        G(v3, v4, v9, ve, m[se], m[sf]);                                      \
    } while (0)

/* One block into the state, of one message (`word` a number) or of four side by side (a vector of four). */
#define COMPRESS(word, h, m, num_bytes, last)                                                          \
    do {                                                                                               \
        word zero = {0};                                                                               \
        word v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];   \
        word v8 = zero + IV[0], v9 = zero + IV[1], va = zero + IV[2], vb = zero + IV[3];               \
        word vc = num_bytes ^ (zero + IV[4]), vd = zero + IV[5], ve = last ^ (zero + IV[6]), vf = zero + IV[7]; \
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);                                   \
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);                                   \
        ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);                                   \
        ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);                                   \
        ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);                                   \
        ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);                                   \
        ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);                                   \
        ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);                                   \
        ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);                                   \
        ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);                                   \
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);                                   \
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);                                   \
        h[0] ^= v0 ^ v8, h[1] ^= v1 ^ v9, h[2] ^= v2 ^ va, h[3] ^= v3 ^ vb;                            \
        h[4] ^= v4 ^ vc, h[5] ^= v5 ^ vd, h[6] ^= v6 ^ ve, h[7] ^= v7 ^ vf;                            \
    } while (0)

/* A message on its way. */
typedef struct {
    const byte *at;
    int64_t left;
    int64_t span;      /* its number; -1 for none */
    uint64_t num_bytes; /* with the block at hand */
    uint64_t last;     /* all ones for the last block */
    byte tail[BLOCK_BYTES];
} message;

static const byte NOTHING[BLOCK_BYTES];

/* The next block of a message, the last one filled with zeros. */
static const byte *next_block(message *m)
{
    if (m->span < 0)
        return NOTHING;
    if (m->left > BLOCK_BYTES) {
        m->at += BLOCK_BYTES, m->left -= BLOCK_BYTES, m->num_bytes += BLOCK_BYTES;
        return m->at - BLOCK_BYTES;
    }
    memset(m->tail, 0, BLOCK_BYTES);
    memcpy(m->tail, m->at, m->left);
    m->num_bytes += m->left, m->last = ~(uint64_t)0;
    return m->tail;
}

static void digest_one_by_one(const byte *bytes, const int64_t *starts, const int64_t *lengths, int64_t count,
                              byte *digests)
{
    for (int64_t i = 0; i < count; i++) {
        message one = {.at = bytes + starts[i], .left = lengths[i], .span = i};
        uint64_t h[8], m[16]; /* little-endian machines only; the loader of this library checks */
        memcpy(h, IV, sizeof h);
        h[0] ^= PARAMETERS;
        while (!one.last) {
            memcpy(m, next_block(&one), sizeof m);
            COMPRESS(uint64_t, h, m, one.num_bytes, one.last);
        }
        memcpy(digests + i * DIGEST_BYTES, h, DIGEST_BYTES);
    }
}

#ifdef HAS_VECTORS

/* As above, several messages side by side: a lane whose message ends takes the next. */
#define DIGEST_SIDE_BY_SIDE(name, lanes, isa)                                                                    \
    typedef uint64_t name##_words __attribute__((vector_size(8 * lanes)));                                       \
    __attribute__((target(isa))) static void name(const byte *bytes, const int64_t *starts,                      \
                                                  const int64_t *lengths, int64_t count, byte *digests)          \
    {                                                                                                            \
        message waiting[lanes];                                                                                  \
        name##_words h[8], m[16];                                                                                \
        memset(h, 0, sizeof h);                                                                                  \
        for (int lane = 0; lane < lanes; lane++)                                                                 \
            waiting[lane] = (message){.span = -1};                                                               \
        for (int64_t next = 0, num_done = 0; num_done < count;) {                                                \
            name##_words num_bytes, last;                                                                        \
            for (int lane = 0; lane < lanes; lane++) {                                                           \
                message *one = &waiting[lane];                                                                   \
                if (one->span < 0 && next < count) {                                                             \
                    *one = (message){.at = bytes + starts[next], .left = lengths[next], .span = next};           \
                    next++;                                                                                      \
                    for (int word = 0; word < 8; word++)                                                         \
                        h[word][lane] = word ? IV[word] : IV[0] ^ PARAMETERS;                                    \
                }                                                                                                \
                const byte *block = next_block(one);                                                             \
                for (int word = 0; word < 16; word++) {                                                          \
                    uint64_t value;                                                                              \
                    memcpy(&value, block + 8 * word, sizeof value);                                              \
                    m[word][lane] = value;                                                                       \
                }                                                                                                \
                num_bytes[lane] = one->num_bytes, last[lane] = one->last;                                        \
            }                                                                                                    \
            COMPRESS(name##_words, h, m, num_bytes, last);                                                       \
            for (int lane = 0; lane < lanes; lane++)                                                             \
                if (waiting[lane].last) {                                                                        \
                    uint64_t digest[2] = {h[0][lane], h[1][lane]};                                               \
                    memcpy(digests + waiting[lane].span * DIGEST_BYTES, digest, DIGEST_BYTES);                   \
                    waiting[lane].span = -1, waiting[lane].last = 0, num_done++;                                 \
                }                                                                                                \
        }                                                                                                        \
    }

DIGEST_SIDE_BY_SIDE(digest_four, 4, "avx2")
DIGEST_SIDE_BY_SIDE(digest_eight, 8, "avx512f")

#endif

/* The digest of each span, at most so many at a time; each number of lanes gives the same. */
void hpc_embed_digest(const byte *bytes, const int64_t *starts, const int64_t *lengths, int64_t count, byte *digests,
                      int most_lanes)
{
#ifdef HAS_VECTORS
    if (most_lanes >= 8 && __builtin_cpu_supports("avx512f")) {
        digest_eight(bytes, starts, lengths, count, digests);
        return;
    }
    if (most_lanes >= 4 && __builtin_cpu_supports("avx2")) {
        digest_four(bytes, starts, lengths, count, digests);
        return;
    }
#endif
    digest_one_by_one(bytes, starts, lengths, count, digests);
}
