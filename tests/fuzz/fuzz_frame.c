/* SPDX-License-Identifier: Apache-2.0
 *
 * A hospital's message. First byte of the input: bit 0 leaves payload size and CRC-32C of the header as they are, which
 * are otherwise made right, so that what lies behind them is reached; bit 1 gives the decoder public indices. The rest
 * is the message. What is decoded is encoded, under the same codes to the same bytes, and decoded again to the same
 * update; the same message is refused as the answer to another round, hospital, number of steps, model or size.
 */
#include "fuzz.h"

#include "codec/frame.h"

/* The header's fields, as codec/frame.c lists them. */
enum {
    HEADER_BYTES = 76,
    N_OFFSET = 24,
    PAYLOAD_OFFSET = 64,
    CRC_OFFSET = 72,
    VALUE_BITS_OFFSET = 44,
    RICE_OFFSET = 45,
    CODING_OFFSET = 6
};

/* A value takes a bit of a message and eight bytes in memory, an index a bit and four. */
enum { N_MAX = 1 << 15, LIMIT_BYTES = 2 * 8 * 12 * FUZZ_INPUT_MAX };

static void put(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static void repair(uint8_t *message, size_t size)
{
    put(message + PAYLOAD_OFFSET, size - HEADER_BYTES, 8);
    const uint32_t crc = fb_crc32c(0, message, CRC_OFFSET);
    put(message + CRC_OFFSET, fb_crc32c(crc, message + HEADER_BYTES, (int64_t)size - HEADER_BYTES), 4);
}

static int same(const fb_update *a, const fb_update *b)
{
    const size_t count = (size_t)a->count;
    if (a->n != b->n || a->count != b->count || a->kind != b->kind || (a->index == NULL) != (b->index == NULL))
        return 0;
    if (a->index && memcmp(a->index, b->index, count * sizeof *a->index) != 0)
        return 0;
    if (a->kind == FB_VALUES_F32)
        return memcmp(a->f32, b->f32, count * sizeof *a->f32) == 0;
    return a->grid_log2 == b->grid_log2 && memcmp(a->grid, b->grid, count * sizeof *a->grid) == 0;
}

static void check_update(const fb_update *update, int64_t max_count)
{
    FB_ASSERT(update->count >= 0 && update->count <= max_count);
    FB_ASSERT((update->index == NULL) == (update->count == update->n));
    for (int64_t k = 0; update->index && k < update->count; k++) {
        FB_ASSERT(update->index[k] < update->n);
        FB_ASSERT(k == 0 || update->index[k] > update->index[k - 1]);
    }
}

static void encode_and_decode(const fb_frame_info *info, fb_update *update, const uint8_t *message, int64_t size,
                              const uint32_t *implied)
{
    uint8_t *bytes = NULL;
    int64_t size_bytes = 0, count = 0;
    fb_update again = {0};
    update->least_bits = message[VALUE_BITS_OFFSET];
    fuzz_must(fb_frame_encode(info, update, implied != NULL, &bytes, &size_bytes));
    fuzz_must(fb_frame_peek_count(bytes, size_bytes, &count));
    FB_ASSERT(count == update->count);
    if (bytes[CODING_OFFSET] == message[CODING_OFFSET] && bytes[RICE_OFFSET] == message[RICE_OFFSET])
        FB_ASSERT(size_bytes == size && memcmp(bytes, message, (size_t)size) == 0);
    fuzz_must(fb_frame_decode(bytes, size_bytes, info, update->n, update->count, implied, update->count, &again));
    FB_ASSERT(same(update, &again));
    fb_update_free(&again);
    FB_FREE(bytes);
}

static void must_refuse(const uint8_t *message, int64_t size, const fb_frame_info *expected, int64_t n, int64_t count,
                        const uint32_t *implied, int64_t implied_count)
{
    fb_update none = {0};
    fb_status status = fb_frame_decode(message, size, expected, n, count, implied, implied_count, &none);
    fuzz_refused(&status);
    FB_ASSERT(none.index == NULL && none.f32 == NULL && none.grid == NULL);
}

/* The message answers `info`, has n and count, and none but these. */
static void refuse_others(const uint8_t *message, int64_t size, const fb_frame_info *info, const fb_update *update,
                          const uint32_t *implied)
{
    fb_frame_info other[4] = {*info, *info, *info, *info};
    other[0].round++;
    other[1].hospital++;
    other[2].steps ^= 1;
    other[3].model_hash[15] ^= 1;
    for (int i = 0; i < 4; i++)
        must_refuse(message, size, &other[i], update->n, update->count, implied, update->count);
    must_refuse(message, size, info, update->n + 1, update->count, implied, update->count);
    if (implied)
        must_refuse(message, size, info, update->n, update->count, implied, update->count + 1);
    if (update->count > 0)
        must_refuse(message, size, info, update->n, update->count - 1, implied, update->count);
}

/* n of a model that the message could be for */
static int64_t wanted_n(const uint8_t *message)
{
    uint64_t n = 0;
    memcpy(&n, message + N_OFFSET, sizeof n);
    return n >= 1 && n <= N_MAX ? (int64_t)n : 100;
}

/* The public selection: every other coordinate as long as there are enough, the last ones behind them. */
static void select_indices(int64_t n, int64_t count, uint32_t *index)
{
    for (int64_t k = 0; k < count; k++)
        index[k] = (uint32_t)(2 * k <= n - count + k ? 2 * k : n - count + k);
}

static void decode(const uint8_t *message, int64_t size, int public_indices)
{
    fb_frame_info info = {0};
    fb_update update = {0};
    uint32_t *index = NULL;
    int64_t count = 0;
    fb_status status = fb_frame_peek(message, size, &info);
    fb_status of_count = fb_frame_peek_count(message, size, &count);
    FB_ASSERT((status == FB_OK) == (of_count == FB_OK));
    fb_error_free(&of_count);
    if (status != FB_OK) {
        fuzz_refused(&status);
        must_refuse(message, size, &info, 100, 100, NULL, 0);
        return;
    }
    const int64_t n = wanted_n(message);
    if (public_indices && count >= 0 && count <= n) {
        fuzz_must(FB_ALLOC(index, count, "public indices"));
        select_indices(n, count, index);
    }
    status = fb_frame_decode(message, size, &info, n, n, index, count, &update);
    if (status != FB_OK) {
        fuzz_refused(&status);
        FB_ASSERT(update.index == NULL && update.f32 == NULL && update.grid == NULL);
    } else {
        check_update(&update, n);
        encode_and_decode(&info, &update, message, size, index);
        refuse_others(message, size, &info, &update, index);
        fb_update_free(&update);
    }
    FB_FREE(index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    uint8_t *message = NULL;
    if (size < 1 || size > FUZZ_INPUT_MAX)
        return 0;
    const int mode = data[0];
    fuzz_must(FB_ALLOC(message, (int64_t)--size, "message"));
    memcpy(message, data + 1, size);
    if ((mode & 1) == 0 && size >= HEADER_BYTES)
        repair(message, size);
    decode(message, (int64_t)size, mode & 2);
    FB_FREE(message);
    return fuzz_end(start, LIMIT_BYTES);
}
