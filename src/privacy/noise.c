/* SPDX-License-Identifier: Apache-2.0
 *
 * Key stream. The address does not fit ChaCha20's 96-bit nonce beside its 32-bit block counter, so that an address gets
 * a key of its own, BLAKE2b-256 under the hospital's key of the 16 bytes
 *     attempt (4) | round (4) | step (4) | purpose (2) | pass (2), little-endian,
 * with nonce 0 and blocks counted from 0; an address holds 2^32 blocks, 256 GiB, and more is an assertion.
 *
 * Discrete Laplace. The magnitude G is geometric, P(G = x) = (1 - a) a^x, a = exp(-1/s); its base-256 digits are
 * independent, digit j being a geometric variable of ratio a^(256^j) truncated to 0..255. Each is drawn by Walker's
 * alias method from a table of 64-bit integers. A random sign follows; (minus, 0) is drawn again, which leaves 0 its
 * probability. Of the 64 bits that an alias cut is compared with, 8 decide but for one draw in 256.
 *
 * Error of a draw in total variation, in units of u = 2^-64, half an ulp of the long double of the weights:
 *
 *   - t = 256^j / s and i * t are off by 2u, relatively, and expl by 2 ulp (glibc states 1): weight i by (2 i t + 4) u,
 *     on average 6u, because E[i t] = t / (e^t - 1) <= 1. Their sum, added exactly, by 6u, its conversion by u, the
 *     quotient by u, rounding 256 of them down to multiples of 2^-72 by u: 15u in L1 norm.
 *
 *   - Putting what the sum lacks on weight 0 at most doubles this; total variation is half of it: 15u for a digit.
 *
 *   - Digits left out: P(G >= 256^digits) <= e^-48 < u / 32. Digit 7 ends at 63: P(G >= 2^62) <= e^-64.
 *
 *   - Leaving out (minus, 0) divides the distance by the probability of the rest, (1 + a) / 2: at least 1/2 with one
 *     digit, 0.91 with two to seven (s > 5.3), 1 - 2^-50 with eight. The maximum, 121u with eight digits, is below
 *     2^-57 = 128u.
 */
#include "privacy/alias.h"
#include "privacy/noise_stream.h"

#include "core/mem.h"

#include <math.h>
#include <sodium.h>

_Static_assert(FB_KEY_BYTES == crypto_stream_chacha20_ietf_KEYBYTES, "key of ChaCha20");

enum {
    BUFFER_BYTES = FB_NOISE_BUFFER_BYTES,
    BLOCK_BYTES = 64,
    DIGITS_MAX = 8,
    DIGIT_VALUES = 256,
    TIE_BYTES = 7,
    DRAW_BYTES_MAX = 1 + DIGITS_MAX * (2 + TIE_BYTES)
};

static const uint64_t BLOCKS_PER_ADDRESS = UINT64_C(1) << 32;
static const double SCALE_MAX = 0x1p56;

/* Slot i of 256 holds digit i below its cut and digit other[i] from there on. */
typedef struct digit_table {
    uint8_t cut_high[256]; /* the top byte of the cut */
    uint8_t other[256];
    uint64_t cut_low[256]; /* the other 56 bits */
} digit_table;

struct fb_laplace {
    int digits;
    digit_table table[DIGITS_MAX]; /* lowest digit first */
};

fb_status fb_noise_create(const uint8_t key[FB_KEY_BYTES], fb_noise **out)
{
    if (sodium_init() < 0)
        return FB_FAIL("libsodium cannot be initialised");
    fb_noise *noise = NULL;
    FB_TRY(FB_ALLOC(noise, 1, "noise stream"));
    memcpy(noise->key, key, FB_KEY_BYTES);
    noise->block = UINT64_MAX;
    noise->position = BUFFER_BYTES;
    *out = noise;
    return FB_OK;
}

void fb_noise_destroy(fb_noise **noise)
{
    if (*noise)
        sodium_memzero(*noise, sizeof **noise);
    FB_FREE(*noise);
}

static void put_bytes(uint8_t *bytes, uint32_t value, int count)
{
    for (int i = 0; i < count; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

void fb_noise_seek(fb_noise *noise, const fb_noise_address *address)
{
    uint8_t bytes[16];
    put_bytes(bytes, address->attempt, 4);
    put_bytes(bytes + 4, address->round, 4);
    put_bytes(bytes + 8, address->step, 4);
    put_bytes(bytes + 12, address->purpose, 2);
    put_bytes(bytes + 14, address->pass, 2);
    crypto_generichash(noise->address_key, sizeof noise->address_key, bytes, sizeof bytes, noise->key, FB_KEY_BYTES);
    noise->block = 0;
    noise->position = BUFFER_BYTES;
}

/* The first 4096 bytes of an address come in two pieces, because most addresses of small updates need few of them. A
 * refill in between keeps what is left of the first, so that the draws are those of one piece. */
void fb_noise_refill(fb_noise *noise)
{
    static const uint8_t nonce[crypto_stream_chacha20_ietf_NONCEBYTES];
    enum { FIRST_BLOCKS = 8, BLOCKS = BUFFER_BYTES / BLOCK_BYTES };
    const int first = noise->block == 0, second = noise->block == FIRST_BLOCKS;
    const size_t fresh_blocks = first ? FIRST_BLOCKS : second ? BLOCKS - FIRST_BLOCKS : BLOCKS;
    const size_t fresh_bytes = fresh_blocks * BLOCK_BYTES, left = second ? BUFFER_BYTES - noise->position : 0;
    uint8_t *fresh = noise->buffer + BUFFER_BYTES - fresh_bytes;
    FB_ASSERT(noise->block < BLOCKS_PER_ADDRESS); /* sought, and not run out */
    FB_ASSERT(left <= BUFFER_BYTES - fresh_bytes);
    memmove(fresh - left, noise->buffer + noise->position, left);
    memset(fresh, 0, fresh_bytes);
    crypto_stream_chacha20_ietf_xor_ic(fresh, fresh, fresh_bytes, nonce, (uint32_t)noise->block, noise->address_key);
    noise->block += fresh_blocks;
    noise->position = BUFFER_BYTES - fresh_bytes - left;
}

uint8_t fb_noise_byte(fb_noise *noise)
{
    if (noise->position == BUFFER_BYTES)
        fb_noise_refill(noise);
    return noise->buffer[noise->position++];
}

uint64_t fb_noise_word(fb_noise *noise)
{
    uint64_t word;
    if (BUFFER_BYTES - noise->position < sizeof word)
        fb_noise_refill(noise); /* the few bytes left are dropped */
    memcpy(&word, noise->buffer + noise->position, sizeof word);
    noise->position += sizeof word;
    return word;
}

/* The table of a geometric digit of ratio e^-t, truncated to 0..values-1. */
static void make_table(long double t, int values, digit_table *table)
{
    long double share[DIGIT_VALUES];
    fb_wide weight[DIGIT_VALUES];
    uint64_t cut[DIGIT_VALUES];
    uint16_t other[DIGIT_VALUES];
    for (int i = 0; i < DIGIT_VALUES; i++)
        share[i] = i < values ? expl(-(long double)i * t) : 0.0L;
    fb_alias_weigh(DIGIT_VALUES, share, weight);
    fb_alias_build(DIGIT_VALUES, weight, cut, other);
    for (int i = 0; i < DIGIT_VALUES; i++) {
        table->cut_high[i] = (uint8_t)(cut[i] >> 56);
        table->cut_low[i] = cut[i] & UINT64_MAX >> 8;
        table->other[i] = (uint8_t)other[i];
    }
}

fb_status fb_laplace_create(double scale, fb_laplace **out)
{
    if (!(scale > 0.0 && scale <= SCALE_MAX))
        return FB_FAIL("noise scale %g grid steps: must be above 0 and at most 2^56; change epsilon or the clip",
                       scale);
    fb_laplace *laplace = NULL;
    FB_TRY(FB_ALLOC(laplace, 1, "noise tables"));
    const long double negligible = 48.0L; /* e^-48 < 2^-69 */
    do {
        const int j = laplace->digits++;
        make_table(ldexpl(1.0L, 8 * j) / (long double)scale, j == DIGITS_MAX - 1 ? 64 : DIGIT_VALUES,
                   &laplace->table[j]);
    } while (ldexpl(1.0L, 8 * laplace->digits) / (long double)scale < negligible);
    *out = laplace;
    return FB_OK;
}

void fb_laplace_destroy(fb_laplace **laplace)
{
    FB_FREE(*laplace);
}

/* The top byte of the random number equals the cut's: 56 more bits decide. */
static int below_cut(fb_noise *noise, uint64_t cut_low)
{
    uint64_t low = 0;
    for (int i = 0; i < TIE_BYTES; i++)
        low |= (uint64_t)noise->buffer[noise->position++] << (8 * i);
    return low < cut_low;
}

static uint64_t draw_digit(const digit_table *table, fb_noise *noise)
{
    const uint8_t slot = noise->buffer[noise->position], high = noise->buffer[noise->position + 1];
    noise->position += 2;
    const uint8_t cut = table->cut_high[slot];
    if (__builtin_expect(high == cut, 0))
        return below_cut(noise, table->cut_low[slot]) ? slot : table->other[slot];
    return high < cut ? slot : table->other[slot];
}

int64_t fb_laplace_draw(const fb_laplace *laplace, fb_noise *noise)
{
    for (;;) {
        fb_noise_reserve(noise, DRAW_BYTES_MAX);
        uint64_t magnitude = 0;
        for (int j = 0; j < laplace->digits; j++)
            magnitude |= draw_digit(&laplace->table[j], noise) << (8 * j);
        const int64_t sign = -(int64_t)(noise->buffer[noise->position++] & 1); /* 0 or -1 */
        if (sign == 0 || magnitude != 0)
            return ((int64_t)magnitude ^ sign) - sign; /* without a branch on the sign */
    }
}
