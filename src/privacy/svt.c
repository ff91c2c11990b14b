/* SPDX-License-Identifier: Apache-2.0
 *
 * A pass goes over the candidates in a public random order, in batches of whole blocks of draws. While one thread
 * shuffles the places of the next batch, the others test those of this one and draw the numbers that the batch after
 * next is shuffled by. Test k of a pass depends on draw k of its address and on the candidate at place k alone, so that
 * tests may be made in any order, and more of them than are needed. What counts is then cut where the sequential
 * algorithm stops, at the test that selects the last of `count`: no test after it shows in anything.
 */
#include "privacy/svt.h"

#include "core/mem.h"
#include "privacy/noise_stream.h"

#include <stdlib.h>
#include <string.h>

/* Blocks of draws in a batch: a small part of a pass, because what is done beyond the stop is done in vain. */
enum { BATCH_BLOCKS_MIN = 4, BATCH_BLOCKS_MAX = 32, BATCHES_OF_A_PASS = 128 };

/* The order of the tests is filled this many places ahead, so that the random memory accesses overlap. */
enum { SHUFFLE_AHEAD = 256 };

typedef struct candidate {
    uint32_t index;
    int32_t magnitude; /* on the grid */
} candidate;

/* What the tests of a block found: those that failed moved to its front, in their order. */
typedef struct block_result {
    int tests, passed;
    uint32_t index[FB_NOISE_BLOCK]; /* (passed) of the candidates */
    uint16_t until[FB_NOISE_BLOCK]; /* (passed) tests up to this one, itself among them */
} block_result;

typedef struct svt {
    const fb_svt_tables *tables;
    const fb_budget *budget;
    fb_noise *noise;
    fb_rng order;
    int64_t threshold;    /* noised, once */
    candidate *rest;      /* (n) the first `left` are not selected yet */
    uint64_t *chosen;     /* (n bits) */
    uint32_t *swap[2];    /* (batch) of two batches: how far on the candidate is that comes to a place */
    block_result *result; /* (blocks of a batch) */
    int64_t left, selected, tests;
    int64_t batch; /* places */
} svt;

/* Of the pass: the first place of a batch, or where its places end. */
static int64_t batch_begin(const svt *s, int64_t batch)
{
    return batch * s->batch < s->left ? batch * s->batch : s->left;
}

static int blocks_of(const svt *s, int64_t batch)
{
    return (int)fb_noise_blocks(batch_begin(s, batch + 1) - batch_begin(s, batch));
}

/* Fisher-Yates draws who comes to the places of a block of the batch. */
static void draw_swaps(svt *s, int64_t batch, int block)
{
    const int64_t from = batch_begin(s, batch), to = batch_begin(s, batch + 1);
    const int64_t first = from + block * FB_NOISE_BLOCK, rest = to - first;
    for (int64_t k = first; k < first + (rest < FB_NOISE_BLOCK ? rest : FB_NOISE_BLOCK); k++)
        s->swap[batch % 2][k - from] = fb_rng_below(&s->order, (uint32_t)k, (uint32_t)(s->left - k));
}

/* Fills the places of a batch, once its swaps are drawn and the batches before it are filled. */
static void shuffle(svt *s, int64_t batch)
{
    const int64_t from = batch_begin(s, batch), to = batch_begin(s, batch + 1);
    const uint32_t *swap = s->swap[batch % 2];
    for (int64_t first = from; first < to; first += SHUFFLE_AHEAD) {
        const int64_t end = first + SHUFFLE_AHEAD < to ? first + SHUFFLE_AHEAD : to;
        for (int64_t k = first; k < end; k++)
            __builtin_prefetch(&s->rest[k + swap[k - from]], 1);
        for (int64_t k = first; k < end; k++) {
            const candidate moved = s->rest[k];
            s->rest[k] = s->rest[k + swap[k - from]];
            s->rest[k + swap[k - from]] = moved;
        }
    }
}

/* Tests the places of a block of draws. */
static void test_block(svt *s, fb_stream *stream, int64_t block, block_result *result)
{
    const int tests = fb_noise_draws_in(block, s->left);
    candidate *const place = s->rest + block * FB_NOISE_BLOCK;
    int passed = 0, failed = 0;
    fb_stream_seek(stream, (uint64_t)block, (size_t)tests * FB_TAIL_CHUNK_BYTES * 17 / 16); /* more, where undecided */
    for (int k = 0; k < tests; k++) {
        const candidate c = place[k];
        const int above = fb_draw_reaches(&s->tables->query, s->threshold - c.magnitude, stream);
        result->index[passed] = c.index;
        result->until[passed] = (uint16_t)(k + 1);
        passed += above;
        place[failed] = c;
        failed += !above;
    }
    result->tests = tests;
    result->passed = passed;
}

/* Tests a block of a batch, and draws who comes to the places of one that is tested two batches later. */
static void test_and_draw(svt *s, fb_stream *stream, int64_t batch, int block)
{
    test_block(s, stream, batch * s->batch / FB_NOISE_BLOCK + block, &s->result[block]);
    if (block < blocks_of(s, batch + 2))
        draw_swaps(s, batch + 2, block);
}

/* Tests a batch, whose places are filled; fills those of the next, whose swaps are drawn; draws those after. A block
 * alone is tested without OpenMP, whose regions cost system calls even with a single thread. */
static void run_batch(svt *s, int64_t batch)
{
    const int blocks = blocks_of(s, batch);
    if (blocks == 1) {
        fb_stream stream;
        fb_stream_open(&stream, s->noise);
        test_and_draw(s, &stream, batch, 0);
        fb_stream_close(&stream);
        return;
    }
#pragma omp parallel
    {
        fb_stream stream;
        fb_stream_open(&stream, s->noise);
#pragma omp single nowait
        shuffle(s, batch + 1);
#pragma omp for schedule(dynamic) nowait
        for (int block = 0; block < blocks; block++)
            test_and_draw(s, &stream, batch, block);
        fb_stream_close(&stream);
    }
}

/* Counts the tests of a batch up to the one that selects the last. What failed moves to the places from `kept` on;
 * returns the new `kept`. */
static int64_t take_results(svt *s, int64_t batch, int64_t kept)
{
    const int blocks = blocks_of(s, batch);
    for (int block = 0; block < blocks; block++) {
        const block_result *r = &s->result[block];
        const int64_t wanted = s->budget->count - s->selected, failed = r->tests - r->passed;
        const int taken = r->passed < wanted ? r->passed : (int)wanted;
        for (int k = 0; k < taken; k++)
            s->chosen[r->index[k] / 64] |= UINT64_C(1) << r->index[k] % 64;
        s->selected += taken;
        s->tests += taken == wanted ? r->until[taken - 1] : r->tests;
        if (taken == wanted)
            break;
        memmove(s->rest + kept, s->rest + batch * s->batch + block * FB_NOISE_BLOCK, (size_t)failed * sizeof *s->rest);
        kept += failed;
    }
    return kept;
}

/* Draws the swaps of the first two batches and fills the places of the first. */
static void begin_pass(svt *s)
{
    const int blocks = blocks_of(s, 0), blocks_next = blocks_of(s, 1);
    if (blocks == 1) {
        draw_swaps(s, 0, 0);
    } else {
#pragma omp parallel for
        for (int block = 0; block < blocks; block++) {
            draw_swaps(s, 0, block);
            if (block < blocks_next)
                draw_swaps(s, 1, block);
        }
    }
    shuffle(s, 0);
}

static void run_pass(svt *s)
{
    int64_t kept = 0;
    begin_pass(s);
    for (int64_t batch = 0; batch * s->batch < s->left && s->selected < s->budget->count; batch++) {
        run_batch(s, batch);
        kept = take_results(s, batch, kept);
    }
    s->left = kept;
}

static int64_t choose_batch(int64_t n)
{
    const int64_t blocks = n / FB_NOISE_BLOCK / BATCHES_OF_A_PASS;
    return FB_NOISE_BLOCK * (blocks < BATCH_BLOCKS_MIN   ? BATCH_BLOCKS_MIN
                             : blocks > BATCH_BLOCKS_MAX ? BATCH_BLOCKS_MAX
                                                         : blocks);
}

int64_t fb_svt_bytes(int64_t n)
{
    const int64_t batch = choose_batch(n);
    return n * (int64_t)sizeof(candidate) + (n + 63) / 64 * (int64_t)sizeof(uint64_t) +
           2 * batch * (int64_t)sizeof(uint32_t) + fb_noise_blocks(batch) * (int64_t)sizeof(block_result);
}

static fb_status allocate(svt *s)
{
    s->batch = choose_batch(s->left);
    const int64_t batch = batch_begin(s, 1);
    FB_TRY(FB_ALLOC_RAW(s->rest, s->left, "order of the SVT tests"));
    FB_TRY(FB_ALLOC(s->chosen, (s->left + 63) / 64, "selection of the SVT"));
    FB_TRY(FB_ALLOC_RAW(s->swap[0], batch, "order of the SVT tests"));
    FB_TRY(FB_ALLOC_RAW(s->swap[1], batch, "order of the SVT tests"));
    return FB_ALLOC_RAW(s->result, fb_noise_blocks(batch), "results of the SVT tests");
}

static void release_memory(svt *s)
{
    FB_FREE(s->rest);
    FB_FREE(s->chosen);
    FB_FREE(s->swap[0]);
    FB_FREE(s->swap[1]);
    FB_FREE(s->result);
}

static fb_status prepare(svt *s, const fb_noise_address *address, const int32_t *grid)
{
    fb_noise_seek(s->noise, address);
    s->threshold = s->budget->threshold_grid + fb_tail_draw(&s->tables->threshold, s->noise);
    s->left = s->budget->n;
    FB_TRY(allocate(s));
    for (int64_t i = 0; i < s->left; i++)
        s->rest[i] = (candidate){(uint32_t)i, abs(grid[i])};
    return FB_OK;
}

/* The chosen ones, ascending. Returns how many. */
static int64_t list_chosen(const svt *s, uint32_t *index)
{
    int64_t filled = 0;
    for (int64_t word = 0; word < (s->budget->n + 63) / 64; word++) {
        for (uint64_t rest = s->chosen[word]; rest != 0; rest &= rest - 1u)
            index[filled++] = (uint32_t)(64 * word + __builtin_ctzll(rest));
    }
    return filled;
}

fb_svt_tables fb_svt_tables_of(const fb_budget *budget)
{
    return (fb_svt_tables){fb_tail_of(budget->scale_threshold), fb_tail_of(budget->scale_query)};
}

fb_status fb_svt_select(const fb_budget *budget, const fb_rng *public_rng, fb_noise *noise, uint32_t attempt,
                        uint32_t round, const int32_t *grid, uint32_t *index, int64_t *selected,
                        fb_release_report *report)
{
    const fb_svt_tables tables = fb_svt_tables_of(budget);
    return fb_svt_select_by(&tables, budget, public_rng, noise, attempt, round, grid, index, selected, report);
}

fb_status fb_svt_select_by(const fb_svt_tables *tables, const fb_budget *budget, const fb_rng *public_rng,
                           fb_noise *noise, uint32_t attempt, uint32_t round, const int32_t *grid, uint32_t *index,
                           int64_t *selected, fb_release_report *report)
{
    svt s = {.tables = tables, .budget = budget, .noise = noise, .order = *public_rng};
    fb_noise_address address = {.attempt = attempt, .round = round, .purpose = FB_NOISE_THRESHOLD};
    fb_status status = prepare(&s, &address, grid);
    if (status != FB_OK)
        goto done;
    address.purpose = FB_NOISE_QUERY;
    for (int pass = 0; pass < FB_SVT_PASSES && s.selected < budget->count; pass++) {
        s.order.epoch = (uint32_t)pass;
        address.pass = (uint16_t)pass;
        fb_noise_seek(noise, &address);
        run_pass(&s);
        report->passes = pass + 1;
    }
    *selected = list_chosen(&s, index);
    report->tests = s.tests;
done:
    release_memory(&s);
    return status;
}
