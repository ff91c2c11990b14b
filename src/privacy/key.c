/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys of the hospitals: BLAKE2b-256 of a label, what distinguishes the source, and the hospital, so that no two
 * sources or hospitals have a key in common.
 */
#include "core/file.h"
#include "core/mem.h"
#include "privacy/noise.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_DIGITS = 2 * FB_KEY_BYTES };

static void put_u64(uint8_t bytes[8], uint64_t value)
{
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

/* key = BLAKE2b(label, seed, hospital) under `secret`, or without a secret when it is NULL */
static void derive(const char *label, const uint8_t *secret, uint64_t seed, uint32_t hospital,
                   uint8_t key[FB_KEY_BYTES])
{
    uint8_t numbers[16];
    crypto_generichash_state state;
    put_u64(numbers, seed);
    put_u64(numbers + 8, hospital);
    crypto_generichash_init(&state, secret, secret ? FB_KEY_BYTES : 0, FB_KEY_BYTES);
    crypto_generichash_update(&state, (const uint8_t *)label, strlen(label) + 1);
    crypto_generichash_update(&state, numbers, sizeof numbers);
    crypto_generichash_final(&state, key, FB_KEY_BYTES);
    sodium_memzero(&state, sizeof state);
}

static fb_status check_owner_only(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return FB_FAIL("%s: cannot open the key file: %s", path, strerror(errno));
    if (info.st_uid != geteuid())
        return FB_FAIL("%s: the key file belongs to user %lu, not to user %lu who runs this", path,
                       (unsigned long)info.st_uid, (unsigned long)geteuid());
    if ((info.st_mode & 077) != 0)
        return FB_FAIL("%s: the key file has mode %04o, others may use it; chmod 600 it", path,
                       (unsigned)info.st_mode & 07777);
    return FB_OK;
}

static fb_status read_secret(const char *path, uint8_t secret[FB_KEY_BYTES])
{
    char *text = NULL;
    int64_t size_bytes = 0;
    FB_TRY(check_owner_only(path));
    FB_TRY(fb_file_read(path, KEY_DIGITS + 1, &text, &size_bytes));
    size_t got = 0;
    const int digits_only = size_bytes >= KEY_DIGITS &&
                            sodium_hex2bin(secret, FB_KEY_BYTES, text, KEY_DIGITS, NULL, &got, NULL) == 0 &&
                            got == FB_KEY_BYTES && (size_bytes == KEY_DIGITS || text[KEY_DIGITS] == '\n');
    sodium_memzero(text, (size_t)size_bytes);
    FB_FREE(text);
    if (!digits_only)
        return FB_FAIL("%s: a key file holds %d hexadecimal digits and at most a line feed; make one with "
                       "'openssl rand -hex %d'",
                       path, KEY_DIGITS, FB_KEY_BYTES);
    return FB_OK;
}

fb_status fb_key_make(fb_key_source source, uint64_t seed, const char *path, uint32_t hospital,
                      uint8_t key[FB_KEY_BYTES])
{
    if (sodium_init() < 0)
        return FB_FAIL("libsodium cannot be initialised");
    if (source == FB_KEY_SYSTEM) {
        randombytes_buf(key, FB_KEY_BYTES);
    } else if (source == FB_KEY_SEED) {
        derive("fedbrats key from seed", NULL, seed, hospital, key);
    } else {
        uint8_t secret[FB_KEY_BYTES];
        FB_TRY(read_secret(path, secret));
        derive("fedbrats key from file", secret, seed, hospital, key);
        sodium_memzero(secret, sizeof secret);
    }
    return FB_OK;
}
