/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/index.h"

#include "codec/bits.h"

typedef void visit_gap(void *context, uint64_t gap);

/* Calls visit for the gap in front of each shared coordinate. */
static void each_gap(int64_t count, const uint32_t *index, visit_gap *visit, void *context)
{
    int64_t next = 0;
    for (int64_t k = 0; k < count; k++) {
        visit(context, (uint64_t)(index[k] - next));
        next = (int64_t)index[k] + 1;
    }
}

/* Calls visit for the gap in front of each absent coordinate. */
static void each_absent_gap(int64_t n, int64_t count, const uint32_t *index, visit_gap *visit, void *context)
{
    uint64_t shared = 0;
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++) {
        if (k < count && index[k] == i) {
            shared++;
            k++;
        } else {
            visit(context, shared);
            shared = 0;
        }
    }
}

/* bits[k] of all gaps under Rice code k, but for the one and the k low bits of each */
typedef struct rice_cost {
    uint64_t zeros[FB_RICE_MAX + 1];
} rice_cost;

static inline void add_cost(void *context, uint64_t gap)
{
    rice_cost *cost = context;
    for (int k = 0; gap != 0; k++, gap >>= 1)
        cost->zeros[k] += gap;
}

static void choose_rice(const rice_cost *cost, int64_t codes, fb_index_coding coding, fb_index_plan *best)
{
    for (int k = 0; k <= FB_RICE_MAX; k++) {
        const uint64_t bits = cost->zeros[k] + (uint64_t)codes * (uint64_t)(k + 1);
        const int64_t size_bytes = fb_bits_to_bytes((int64_t)bits);
        if (size_bytes < best->size_bytes)
            *best = (fb_index_plan){coding, k, size_bytes};
    }
}

fb_index_plan fb_index_plan_smallest(int64_t n, int64_t count, const uint32_t *index)
{
    FB_ASSERT(0 <= count && count < n && n <= UINT32_MAX);
    fb_index_plan best = {FB_INDEX_BITMAP, 0, fb_bits_to_bytes(n)};
    rice_cost cost = {{0}};
    if (count <= n - count) {
        each_gap(count, index, add_cost, &cost);
        choose_rice(&cost, count, FB_INDEX_RICE, &best);
    } else {
        each_absent_gap(n, count, index, add_cost, &cost);
        choose_rice(&cost, n - count, FB_INDEX_RICE_ABSENT, &best);
    }
    return best;
}

typedef struct rice_writer {
    fb_bit_writer bits;
    int rice;
} rice_writer;

static inline void write_gap(void *context, uint64_t gap)
{
    rice_writer *writer = context;
    writer->bits.position += (int64_t)(gap >> writer->rice); /* the bytes are zero */
    fb_bits_put(&writer->bits, (gap << 1 | 1u) & ((UINT64_C(2) << writer->rice) - 1u), writer->rice + 1);
}

void fb_index_write(const fb_index_plan *plan, int64_t n, int64_t count, const uint32_t *index, uint8_t *bytes)
{
    rice_writer writer = {{bytes, 0}, plan->rice};
    switch (plan->coding) {
    case FB_INDEX_ALL:
    case FB_INDEX_IMPLIED:
        break;
    case FB_INDEX_RICE:
        each_gap(count, index, write_gap, &writer);
        break;
    case FB_INDEX_RICE_ABSENT:
        each_absent_gap(n, count, index, write_gap, &writer);
        break;
    case FB_INDEX_BITMAP:
        for (int64_t k = 0; k < count; k++)
            bytes[index[k] >> 3] = (uint8_t)(bytes[index[k] >> 3] | 1u << (index[k] & 7u));
        break;
    }
}

int fb_index_is_plausible(const fb_index_plan *plan, int64_t n, int64_t count)
{
    const int64_t codes = plan->coding == FB_INDEX_RICE ? count : n - count;
    switch (plan->coding) {
    case FB_INDEX_ALL:
        return count == n && plan->size_bytes == 0 && plan->rice == 0;
    case FB_INDEX_IMPLIED:
        return count < n && plan->size_bytes == 0 && plan->rice == 0;
    case FB_INDEX_RICE:
    case FB_INDEX_RICE_ABSENT: /* a code takes k + 1 bits at least */
        return count < n && plan->rice <= FB_RICE_MAX && plan->size_bytes >= fb_bits_to_bytes(codes * (plan->rice + 1));
    case FB_INDEX_BITMAP:
        return count < n && plan->size_bytes == fb_bits_to_bytes(n) && plan->rice == 0;
    }
    return 0;
}

/* A gap of 2^32 or more counts as an overrun. */
static inline int64_t read_gap(fb_bit_reader *reader, int rice)
{
    const int64_t high = fb_bits_get_unary(reader);
    if (high >> (32 - rice) != 0) {
        reader->overrun = 1;
        return 0;
    }
    return high << rice | (int64_t)fb_bits_get(reader, rice);
}

static fb_status read_rice(fb_bit_reader *reader, int rice, int64_t n, int64_t count, uint32_t *index)
{
    int64_t next = 0;
    for (int64_t k = 0; k < count; k++) {
        const int64_t gap = read_gap(reader, rice);
        if (reader->overrun || gap >= n - next)
            return FB_FAIL("index %lld: at least %lld, the limit is %lld", (long long)k, (long long)(next + gap),
                           (long long)(n - 1));
        index[k] = (uint32_t)(next + gap);
        next += gap + 1;
    }
    return FB_OK;
}

/* Fills index with next..next + run - 1 while there is room. Returns 0 when there is not. */
static int fill_run(int64_t next, int64_t run, int64_t count, int64_t *filled, uint32_t *index)
{
    if (run > count - *filled)
        return 0;
    for (int64_t i = 0; i < run; i++)
        index[(*filled)++] = (uint32_t)(next + i);
    return 1;
}

static fb_status read_rice_absent(fb_bit_reader *reader, int rice, int64_t n, int64_t count, uint32_t *index)
{
    int64_t next = 0, filled = 0;
    for (int64_t k = 0; k < n - count; k++) {
        const int64_t run = read_gap(reader, rice);
        if (reader->overrun || !fill_run(next, run, count, &filled, index))
            return FB_FAIL("absent index %lld: at least %lld, the limit is %lld", (long long)k, (long long)(next + run),
                           (long long)(n - 1));
        next += run + 1;
    }
    (void)fill_run(next, count - filled, count, &filled, index); /* behind the last absent one; ends at n - 1 */
    return FB_OK;
}

static fb_status read_bitmap(int64_t n, int64_t count, const uint8_t *bytes, uint32_t *index)
{
    int64_t found = 0;
    for (int64_t i = 0; i < fb_bits_to_bytes(n); i++) {
        for (unsigned rest = bytes[i]; rest != 0; rest &= rest - 1u) {
            const int64_t at = 8 * i + __builtin_ctz(rest);
            if (at >= n || found == count)
                return FB_FAIL("bitmap: coordinate %lld is one more than the %lld of %lld announced", (long long)at,
                               (long long)count, (long long)n);
            index[found++] = (uint32_t)at;
        }
    }
    if (found != count)
        return FB_FAIL("bitmap: %lld coordinates, the header announces %lld", (long long)found, (long long)count);
    return FB_OK;
}

fb_status fb_index_read(const fb_index_plan *plan, int64_t n, int64_t count, const uint8_t *bytes, uint32_t *index)
{
    FB_ASSERT(fb_index_is_plausible(plan, n, count) && n <= UINT32_MAX);
    fb_bit_reader reader = {.bytes = bytes, .size_bits = 8 * plan->size_bytes};
    if (plan->coding == FB_INDEX_BITMAP)
        return read_bitmap(n, count, bytes, index);
    FB_ASSERT(plan->coding == FB_INDEX_RICE || plan->coding == FB_INDEX_RICE_ABSENT);
    FB_TRY(plan->coding == FB_INDEX_RICE ? read_rice(&reader, plan->rice, n, count, index)
                                         : read_rice_absent(&reader, plan->rice, n, count, index));
    const int64_t left = reader.size_bits - reader.position;
    if (left >= 8 || fb_bits_window(&reader) != 0)
        return FB_FAIL("indices: %lld bits are left behind the last one, or are not zero", (long long)left);
    return FB_OK;
}
