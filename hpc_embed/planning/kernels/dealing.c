/* Windows dealt to shards, longest first, each to the shard with the least to do. Called through ctypes. */

#include <stdint.h>

/* Windows of one cost go to the lowest marks: the k-th window of shard s is at load[s] + k * cost. With
   row, rest = load / cost, load % cost the marks lie in rows, and each shard has one in every row from its own on, at
   its rest. Returns the row of which only some marks are taken, perhaps none, in *num_left how many. */
static int64_t fill_rows(const int64_t *rows, int64_t num_shards, int64_t count, int64_t *num_left)
{
    int64_t row = INT64_MAX, above;
    do {
        int64_t num_below = 0, sum = 0;
        above = row;
        for (int64_t shard = 0; shard < num_shards; shard++)
            if (rows[shard] <= above)
                num_below++, sum += rows[shard];
        row = (count + sum) / num_below;
        *num_left = (count + sum) % num_below;
    } while (row < above);
    return row;
}

static int64_t num_up_to(const int64_t *rests, int64_t num_shards, int64_t most)
{
    int64_t count = 0;
    for (int64_t shard = 0; shard < num_shards; shard++)
        count += rests[shard] <= most;
    return count;
}

/* The lowest number up to which there are at least `count` rests. */
static int64_t last_rest(const int64_t *rests, int64_t num_shards, int64_t count, int64_t cost)
{
    int64_t low = 0, high = cost;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (num_up_to(rests, num_shards, middle) >= count)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Deals counts[l] windows of costs[l] each, one l after the other; of shards with equal loads the lower is first.

   `loads` has what each shard holds before and afterwards; `rows` and `rests` are for us. Every shard that takes windows
   of an l is written to `takers`, to `ends` how many windows of all l are dealt then, and to num_takers[l] how many
   shards they are. */
void hpc_embed_deal(int64_t *loads, int64_t *rows, int64_t *rests, int64_t num_shards, const int64_t *counts,
                    const int64_t *costs, int64_t num_lengths, int32_t *takers, int64_t *ends, int64_t *num_takers)
{
    for (int64_t length = 0, num_dealt = 0; length < num_lengths; length++) {
        int64_t cost = costs[length], last = -1, num_left, num_equal = 0, num = 0;
        for (int64_t shard = 0; shard < num_shards; shard++)
            rows[shard] = loads[shard] / cost, rests[shard] = loads[shard] % cost;
        int64_t row = fill_rows(rows, num_shards, counts[length], &num_left);
        if (num_left) {
            for (int64_t shard = 0; shard < num_shards; shard++)
                rests[shard] = rows[shard] > row ? cost : rests[shard]; /* not in this row */
            last = last_rest(rests, num_shards, num_left, cost);
            num_equal = num_left - num_up_to(rests, num_shards, last - 1);
        }
        for (int64_t shard = 0; shard < num_shards; shard++) {
            int64_t takes = rows[shard] < row ? row - rows[shard] : 0;
            takes += rests[shard] < last || (rests[shard] == last && num_equal-- > 0);
            if (takes) {
                loads[shard] += takes * cost, num_dealt += takes;
                takers[num] = (int32_t)shard, ends[num] = num_dealt;
                num++;
            }
        }
        takers += num, ends += num;
        num_takers[length] = num;
    }
}
