/* SPDX-License-Identifier: Apache-2.0
 *
 * Header, 76 bytes, little-endian; offset, bytes, field:
 *    0 4 magic "FBU1"     8 4 round       24 8 n          44 1 bits of a value      48 16 model hash
 *    4 2 version         12 4 hospital    32 8 count      45 1 Rice code            64 8  payload bytes
 *    6 1 index coding    16 8 steps       40 4 grid_log2  46 2 zero                 72 4  CRC-32C of 0..71 and payload
 *    7 1 value kind
 * Payload: indices, padded with zero bits to a byte; values, likewise. A message has one encoding per Rice code:
 * padding and unused fields must be zero.
 */
#include "codec/frame.h"

#include "codec/bits.h"
#include "codec/index.h"
#include "core/file.h"
#include "core/mem.h"

#include <math.h>
#include <string.h>

enum { HEADER_BYTES = 76, CRC_OFFSET = 72, VERSION = 1, GRID_LOG2_MIN = -40, GRID_LOG2_MAX = 64 };

static const char MAGIC[4] = {'F', 'B', 'U', '1'};
static const int64_t GRID_MAX = INT64_C(1) << 62;

typedef struct header {
    fb_frame_info info;
    int64_t n, count, payload_bytes;
    int version, value_bits, grid_log2, zero;
    fb_value_kind kind;
    fb_index_plan index; /* size_bytes: what the values leave of the payload */
} header;

static void put(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static uint32_t checksum(const uint8_t *bytes, int64_t size_bytes)
{
    return fb_crc32c(fb_crc32c(0, bytes, CRC_OFFSET), bytes + HEADER_BYTES, size_bytes - HEADER_BYTES);
}

static void write_header(const header *h, uint8_t *at)
{
    memcpy(at, MAGIC, sizeof MAGIC);
    put(at + 4, VERSION, 2);
    at[6] = (uint8_t)h->index.coding;
    at[7] = (uint8_t)h->kind;
    put(at + 8, h->info.round, 4);
    put(at + 12, h->info.hospital, 4);
    put(at + 16, (uint64_t)h->info.steps, 8);
    put(at + 24, (uint64_t)h->n, 8);
    put(at + 32, (uint64_t)h->count, 8);
    put(at + 40, (uint32_t)h->grid_log2, 4);
    at[44] = (uint8_t)h->value_bits;
    at[45] = (uint8_t)h->index.rice;
    memcpy(at + 48, h->info.model_hash, sizeof h->info.model_hash);
    put(at + 64, (uint64_t)h->payload_bytes, 8);
}

static header read_header(const uint8_t *at)
{
    header h = {.n = (int64_t)get(at + 24, 8), .count = (int64_t)get(at + 32, 8)};
    h.version = (int)get(at + 4, 2);
    h.index.coding = (fb_index_coding)at[6];
    h.kind = (fb_value_kind)at[7];
    h.info.round = (uint32_t)get(at + 8, 4);
    h.info.hospital = (uint32_t)get(at + 12, 4);
    h.info.steps = (int64_t)get(at + 16, 8);
    h.grid_log2 = (int32_t)(uint32_t)get(at + 40, 4);
    h.value_bits = at[44];
    h.index.rice = at[45];
    h.zero = (int)get(at + 46, 2);
    memcpy(h.info.model_hash, at + 48, sizeof h.info.model_hash);
    h.payload_bytes = (int64_t)get(at + 64, 8);
    return h;
}

/* --- encoding --- */

/* Bits of the widest value in two's complement. */
static int find_value_bits(const fb_update *update)
{
    uint64_t all = 0;
    for (int64_t k = 0; k < update->count; k++) {
        const int64_t value = update->grid[k];
        all |= (uint64_t)(value < 0 ? ~value : value);
    }
    const int bits = all == 0 ? 1 : 65 - __builtin_clzll(all);
    return bits > update->least_bits ? bits : update->least_bits;
}

/* Floats and their little-endian bytes, either way round: the same operation. */
static void copy_f32(void *to, const void *from, int64_t count)
{
    memcpy(to, from, (size_t)count * sizeof(float));
    if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
        return;
    uint8_t *bytes = to;
    for (int64_t k = 0; k < count; k++) {
        uint32_t bits;
        memcpy(&bits, bytes + 4 * k, sizeof bits);
        bits = __builtin_bswap32(bits);
        memcpy(bytes + 4 * k, &bits, sizeof bits);
    }
}

static void write_values(const fb_update *update, int value_bits, uint8_t *bytes)
{
    if (update->kind == FB_VALUES_F32) {
        copy_f32(bytes, update->f32, update->count);
        return;
    }
    fb_bit_writer writer = {bytes, 0};
    for (int64_t k = 0; k < update->count; k++)
        fb_bits_put(&writer, (uint64_t)update->grid[k], value_bits);
}

static header plan_header(const fb_frame_info *info, const fb_update *update, int implied)
{
    header h = {.info = *info, .n = update->n, .count = update->count, .kind = update->kind};
    h.value_bits = update->kind == FB_VALUES_F32 ? 32 : find_value_bits(update);
    h.grid_log2 = update->kind == FB_VALUES_F32 ? 0 : update->grid_log2;
    if (update->count == update->n)
        h.index.coding = FB_INDEX_ALL;
    else if (implied)
        h.index.coding = FB_INDEX_IMPLIED;
    else
        h.index = fb_index_plan_smallest(update->n, update->count, update->index);
    h.payload_bytes = h.index.size_bytes + fb_bits_to_bytes(h.count * h.value_bits);
    return h;
}

fb_status fb_frame_encode(const fb_frame_info *info, const fb_update *update, int implied, uint8_t **bytes,
                          int64_t *size_bytes)
{
    FB_ASSERT(0 <= update->count && update->count <= update->n && 1 <= update->n && update->n <= UINT32_MAX);
    const header h = plan_header(info, update, implied);
    uint8_t *message = NULL;
    FB_TRY(FB_ALLOC(message, HEADER_BYTES + h.payload_bytes, "message to the server"));
    uint8_t *const payload = message + HEADER_BYTES;
    write_header(&h, message);
    fb_index_write(&h.index, h.n, h.count, update->index, payload);
    write_values(update, h.value_bits, payload + h.index.size_bytes);
    *size_bytes = HEADER_BYTES + h.payload_bytes;
    put(message + CRC_OFFSET, checksum(message, *size_bytes), 4);
    *bytes = message;
    return FB_OK;
}

/* --- decoding --- */

static fb_status check_frame(const uint8_t *bytes, int64_t size_bytes, header *out)
{
    if (size_bytes < HEADER_BYTES)
        return FB_FAIL("message of %lld bytes: a header alone takes %d", (long long)size_bytes, HEADER_BYTES);
    if (memcmp(bytes, MAGIC, sizeof MAGIC) != 0)
        return FB_FAIL("message: does not begin with FBU1, it is no update");
    const header h = read_header(bytes);
    if (h.version != VERSION)
        return FB_FAIL("message: version %d, this program reads version %d; use one version everywhere", h.version,
                       VERSION);
    if (h.payload_bytes != size_bytes - HEADER_BYTES)
        return FB_FAIL("message: payload of %lld bytes announced, %lld arrived", (long long)h.payload_bytes,
                       (long long)size_bytes - HEADER_BYTES);
    const uint32_t stored = (uint32_t)get(bytes + CRC_OFFSET, 4), found = checksum(bytes, size_bytes);
    if (stored != found)
        return FB_FAIL("message: CRC-32C %08x does not match %08x: damaged on the way", found, stored);
    *out = h;
    return FB_OK;
}

fb_status fb_frame_peek(const uint8_t *bytes, int64_t size_bytes, fb_frame_info *info)
{
    header h;
    FB_TRY(check_frame(bytes, size_bytes, &h));
    *info = h.info;
    return FB_OK;
}

fb_status fb_frame_peek_count(const uint8_t *bytes, int64_t size_bytes, int64_t *count)
{
    header h;
    FB_TRY(check_frame(bytes, size_bytes, &h));
    *count = h.count;
    return FB_OK;
}

static fb_status check_answer(const header *h, const fb_frame_info *expected)
{
    if (h->info.round != expected->round)
        return FB_FAIL("round %u, expected is %u", h->info.round + 1, expected->round + 1);
    if (h->info.hospital != expected->hospital)
        return FB_FAIL("hospital %u, expected is %u", h->info.hospital, expected->hospital);
    if (h->info.steps != expected->steps)
        return FB_FAIL("steps %lld, expected are %lld", (long long)h->info.steps, (long long)expected->steps);
    if (memcmp(h->info.model_hash, expected->model_hash, sizeof expected->model_hash) != 0)
        return FB_FAIL("model hash %02x%02x%02x%02x..., expected is %02x%02x%02x%02x...: it answers another model",
                       h->info.model_hash[0], h->info.model_hash[1], h->info.model_hash[2], h->info.model_hash[3],
                       expected->model_hash[0], expected->model_hash[1], expected->model_hash[2],
                       expected->model_hash[3]);
    return FB_OK;
}

static fb_status check_counts(const header *h, int64_t n, int64_t max_count)
{
    if (h->n != n)
        return FB_FAIL("n %lld, the model has %lld parameters", (long long)h->n, (long long)n);
    if (h->count < 0 || h->count > n || h->count > max_count)
        return FB_FAIL("count %lld, the limit is %lld", (long long)h->count,
                       (long long)(max_count < n ? max_count : n));
    return FB_OK;
}

static fb_status check_values_form(const header *h)
{
    const int f32 = h->kind == FB_VALUES_F32;
    if (!f32 && h->kind != FB_VALUES_GRID)
        return FB_FAIL("value kind %d, known are 0 and 1", (int)h->kind);
    if (f32 ? h->value_bits != 32 : h->value_bits < 1 || h->value_bits > 64)
        return FB_FAIL("value bits %d, expected are %s", h->value_bits, f32 ? "32" : "1 to 64");
    if (f32 ? h->grid_log2 != 0 : h->grid_log2 < GRID_LOG2_MIN || h->grid_log2 > GRID_LOG2_MAX)
        return FB_FAIL("grid exponent %d, the limits are %d and %d", h->grid_log2, f32 ? 0 : GRID_LOG2_MIN,
                       f32 ? 0 : GRID_LOG2_MAX);
    if (h->zero != 0)
        return FB_FAIL("reserved bytes %04x, expected is 0", (unsigned)h->zero);
    return FB_OK;
}

/* Splits the payload; nothing is allocated for a message whose size its own counts do not explain. */
static fb_status check_sizes(header *h, const uint32_t *implied, int64_t implied_count)
{
    const int64_t value_bytes = fb_bits_to_bytes(h->count * h->value_bits);
    h->index.size_bytes = h->payload_bytes - value_bytes;
    if (!fb_index_is_plausible(&h->index, h->n, h->count))
        return FB_FAIL("index coding %d with Rice code %d and %lld bytes cannot hold %lld of %lld coordinates",
                       (int)h->index.coding, h->index.rice, (long long)h->index.size_bytes, (long long)h->count,
                       (long long)h->n);
    if (h->index.coding == FB_INDEX_IMPLIED && !implied)
        return FB_FAIL("index coding: implied indices, but this selection is not public");
    if (implied && h->index.coding != FB_INDEX_IMPLIED && h->index.coding != FB_INDEX_ALL)
        return FB_FAIL("index coding %d, but the indices are public and do not travel", (int)h->index.coding);
    if (implied && h->count != implied_count)
        return FB_FAIL("count %lld, the public selection has %lld", (long long)h->count, (long long)implied_count);
    return FB_OK;
}

static fb_status read_f32(const uint8_t *bytes, int64_t count, float *values)
{
    int finite = 1;
    copy_f32(values, bytes, count);
    for (int64_t k = 0; k < count; k++)
        finite &= isfinite(values[k]) != 0;
    for (int64_t k = 0; k < count && !finite; k++)
        if (!isfinite(values[k]))
            return FB_FAIL("value %lld: %g, not a finite number", (long long)k, (double)values[k]);
    return FB_OK;
}

static fb_status read_grid(const uint8_t *bytes, int64_t count, int value_bits, int64_t *values)
{
    fb_bit_reader reader = {.bytes = bytes, .size_bits = 8 * fb_bits_to_bytes(count * value_bits)};
    const uint64_t sign = UINT64_C(1) << (value_bits - 1);
    for (int64_t k = 0; k < count; k++) {
        const uint64_t raw = fb_bits_get(&reader, value_bits);
        values[k] = (int64_t)((raw ^ sign) - sign); /* extends the sign */
        if (values[k] > GRID_MAX || values[k] < -GRID_MAX)
            return FB_FAIL("value %lld: %lld, the limit is +-2^62", (long long)k, (long long)values[k]);
    }
    if (fb_bits_window(&reader) != 0)
        return FB_FAIL("values: the bits behind the last one are not zero");
    return FB_OK;
}

static fb_status read_payload(const header *h, const uint8_t *payload, const uint32_t *implied, fb_update *out)
{
    const uint8_t *values = payload + h->index.size_bytes;
    FB_TRY(fb_update_reserve(out, h->n, h->count, h->kind));
    out->grid_log2 = h->grid_log2;
    if (h->index.coding == FB_INDEX_IMPLIED)
        memcpy(out->index, implied, (size_t)h->count * sizeof *out->index);
    else if (h->index.coding != FB_INDEX_ALL)
        FB_TRY(fb_index_read(&h->index, h->n, h->count, payload, out->index));
    if (h->kind == FB_VALUES_F32)
        return read_f32(values, h->count, out->f32);
    return read_grid(values, h->count, h->value_bits, out->grid);
}

static fb_status decode(header *h, const uint8_t *bytes, const fb_frame_info *expected, int64_t n, int64_t max_count,
                        const uint32_t *implied, int64_t implied_count, fb_update *out)
{
    FB_TRY(check_answer(h, expected));
    FB_TRY(check_counts(h, n, max_count));
    FB_TRY(check_values_form(h));
    FB_TRY(check_sizes(h, implied, implied_count));
    return read_payload(h, bytes + HEADER_BYTES, implied, out);
}

fb_status fb_frame_decode(const uint8_t *bytes, int64_t size_bytes, const fb_frame_info *expected, int64_t n,
                          int64_t max_count, const uint32_t *implied, int64_t implied_count, fb_update *out)
{
    header h;
    fb_status status = check_frame(bytes, size_bytes, &h);
    if (status == FB_OK)
        status = decode(&h, bytes, expected, n, max_count, implied, implied_count, out);
    if (status == FB_OK)
        return FB_OK;
    fb_update_free(out);
    return fb_error_context(status, "hospital %u, round %u", expected->hospital, expected->round + 1);
}

double fb_frame_bound_bytes(int64_t n, int64_t count, int value_bits)
{
    const double subsets = lgamma((double)n + 1.0) - lgamma((double)count + 1.0) - lgamma((double)(n - count) + 1.0);
    return (subsets / log(2.0) + (double)count * (double)value_bits) / 8.0;
}
