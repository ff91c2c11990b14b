/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels that draw, on the (emulated) GPU, against the processor's streams: 100,000 draws of every law, in blocks.
 */
#include "blocks.h"
#include "core/rng_draw.h"
#include "nn/op_cuda.h"
#include "privacy/gauss.h"
#include "privacy/gauss_draw.h"
#include "privacy/gumbel.h"
#include "privacy/kernels_privacy.h"
#include "privacy/laplace.h"
#include "privacy/laplace_draw.h"
#include "privacy/tail.h"
#include "testing.h"

enum { DRAWS = 100000 };

typedef struct drawing {
    fb_ops *ops;
    fb_cuda_queue *queue;
    fb_noise *noise; /* sought to the address */
    fb_address_key key;
    void *tables, *value;
    int64_t *drawn;
} drawing;

static drawing begin_drawing(void)
{
    const fb_noise_address address = {.attempt = 9, .round = 1, .purpose = FB_NOISE_AUDIT};
    drawing d = {0};
    fb_cuda_device described;
    uint8_t key[FB_KEY_BYTES], address_key[FB_KEY_BYTES];
    must(fb_cuda_use(0, &described));
    must(fb_ops_cuda_create(FB_ACT_F32, &d.ops));
    must(fb_key_make(FB_KEY_SEED, 4, NULL, 0, key));
    must(fb_noise_create(key, &d.noise));
    fb_noise_seek(d.noise, &address);
    fb_noise_address_key(key, &address, address_key);
    memcpy(d.key.word, address_key, sizeof d.key.word); /* a little-endian machine */
    d.queue = d.ops->state;
    must(d.ops->alloc(d.ops, sizeof(fb_gauss), "tables", &d.tables));
    must(d.ops->alloc(d.ops, DRAWS * 8, "draws", &d.value));
    must(FB_ALLOC(d.drawn, DRAWS, "draws"));
    return d;
}

static void end_drawing(drawing *d)
{
    d->ops->release(d->ops, &d->tables);
    d->ops->release(d->ops, &d->value);
    fb_noise_destroy(&d->noise);
    fb_ops_cuda_destroy(&d->ops);
    FB_FREE(d->drawn);
}

static void test_laplace_draws(void **state)
{
    static const double scales[] = {0x1p-4, 17.5, 1e6, 0x1p52};
    drawing d = begin_drawing();
    (void)state;
    for (int i = 0; i < 4; i++) {
        fb_laplace *laplace = NULL;
        must(fb_laplace_create(scales[i], &laplace));
        d.ops->upload(d.ops, d.tables, laplace, sizeof *laplace);
        d.ops->zero(d.ops, d.value, DRAWS * 8);
        fb_privacy_add_laplace(d.queue, &d.key, d.tables, INT64_MAX, DRAWS, d.value);
        must(d.ops->download(d.ops, d.drawn, d.value, DRAWS * 8));
        for (int64_t k = 0; k < DRAWS; k++) {
            before_draw(d.noise, k);
            assert_true(d.drawn[k] == fb_laplace_draw(laplace, d.noise));
        }
        fb_laplace_destroy(&laplace);
    }
    end_drawing(&d);
}

static void test_gauss_draws(void **state)
{
    static const double sigmas[] = {0.25, 1.0, 600.0, 0x1p30, 0x1p56};
    drawing d = begin_drawing();
    (void)state;
    for (int i = 0; i < 5; i++) {
        fb_gauss *gauss = NULL;
        must(fb_gauss_create(sigmas[i], &gauss));
        d.ops->upload(d.ops, d.tables, gauss, sizeof *gauss);
        d.ops->zero(d.ops, d.value, DRAWS * 8);
        fb_privacy_add_gauss(d.queue, &d.key, d.tables, INT64_MAX, DRAWS, d.value);
        must(d.ops->download(d.ops, d.drawn, d.value, DRAWS * 8));
        for (int64_t k = 0; k < DRAWS; k++) {
            before_draw(d.noise, k);
            assert_true(d.drawn[k] == fb_gauss_draw(gauss, d.noise));
        }
        fb_gauss_destroy(&gauss);
    }
    end_drawing(&d);
}

static void test_gumbel_draws(void **state)
{
    drawing d = begin_drawing();
    void *grid = NULL;
    (void)state;
    must(d.ops->alloc(d.ops, DRAWS * 4, "grid", &grid));
    d.ops->upload(d.ops, d.tables, fb_gumbel_tables(), sizeof(fb_gumbel));
    fb_privacy_gumbel_keys(d.queue, &d.key, d.tables, 12345, DRAWS, grid, d.value);
    must(d.ops->download(d.ops, d.drawn, d.value, DRAWS * 8));
    for (int64_t k = 0; k < DRAWS; k++) {
        before_draw(d.noise, k);
        assert_true(d.drawn[k] == fb_gumbel_draw(d.noise));
    }
    d.ops->release(d.ops, &grid);
    end_drawing(&d);
}

/* Places of a pass, from the fourth block on. */
static void test_svt_draws(void **state)
{
    enum { FROM = 3 * FB_NOISE_BLOCK, FAR = 5000 };
    static const double scales[] = {0.5, 1000.0, 1e9};
    drawing d = begin_drawing();
    fb_svt_place *place = NULL;
    uint8_t *flag = NULL;
    fb_svt_arrays arrays = {0};
    (void)state;
    must(FB_ALLOC(place, DRAWS, "places"));
    must(FB_ALLOC(flag, DRAWS, "flags"));
    must(d.ops->alloc(d.ops, DRAWS, "flags", (void **)&arrays.flag));
    arrays.rest = d.value;
    for (int64_t k = 0; k < DRAWS; k++)
        place[k] = (fb_svt_place){(uint32_t)k, (int32_t)(k * 7919 % (2 * FAR))};
    for (int i = 0; i < 3; i++) {
        const fb_tail tail = fb_tail_of(scales[i]);
        d.ops->upload(d.ops, d.tables, &tail, sizeof tail);
        d.ops->upload(d.ops, d.value, place, DRAWS * 8);
        fb_privacy_svt_test(d.queue, &d.key, d.tables, FAR, FROM, DRAWS, &arrays);
        must(d.ops->download(d.ops, flag, arrays.flag, DRAWS - FROM));
        for (int64_t k = 0; k < DRAWS; k++) {
            before_draw(d.noise, k);
            const int above = fb_tail_reaches(&tail, FAR - place[k].magnitude, d.noise);
            assert_true(k < FROM || flag[k - FROM] == above);
        }
    }
    d.ops->release(d.ops, (void **)&arrays.flag);
    FB_FREE(place);
    FB_FREE(flag);
    end_drawing(&d);
}

static void test_public_numbers(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < DRAWS; i++) {
        const fb_rng rng = {i * UINT64_C(0x9E3779B97F4A7C15), i % 251, i % (1u << 24), i * 7, ~i};
        const uint32_t count = i % 5 == 0 ? UINT32_MAX : 1 + (i * 2654435761u) % 1000003u;
        assert_true(fb_rng_draw_below(&rng, i * 40503u, count) == fb_rng_below(&rng, i * 40503u, count));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_public_numbers), cmocka_unit_test(test_laplace_draws),
        cmocka_unit_test(test_gauss_draws),    cmocka_unit_test(test_gumbel_draws),
        cmocka_unit_test(test_svt_draws),      cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("draws_cuda", tests, NULL, NULL);
}
