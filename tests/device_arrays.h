/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays in the memory of the GPU backend, for the tests that run on the emulated GPU and on a real one: brought there,
 * brought back, and compared. What is written lies between guards; what is only read ends with its allocation, where
 * the emulated device's page ends.
 */
#pragma once

#include "arrays.h"
#include "nn/op_cuda.h"

#include <float.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { GUARD_BYTES = 256, DEVICE_ARRAYS_MAX = 64 };

/* The backend, and what was put there, which close_device releases. */
typedef struct device {
    fb_ops *ops;
    fb_act_type act;
    void *memory[DEVICE_ARRAYS_MAX];
    int count;
} device;

typedef struct array {
    char *memory, *first; /* of the device */
    int64_t count, width; /* elements, bytes of each */
    int64_t guard;        /* bytes before and behind */
} array;

static const char *const act_name[] = {"f32", "bf16"};

/* --- bfloat16 --- */

static inline uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffU) > 0x7f800000U)
        return 0x7fff;
    return (uint16_t)((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

static inline float float_of(uint16_t bf16)
{
    const uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* make_random, as the device's activations can hold it. */
static inline float *make_act(const device *d, int64_t count, uint32_t stream, double lo, double hi)
{
    float *a = make_random(count, stream, lo, hi);
    for (int64_t i = 0; d->act == FB_ACT_BF16 && i < count; i++)
        a[i] = float_of(bf16_of(a[i]));
    return a;
}

/* --- the device --- */

static inline void open_device(fb_act_type act, device *d)
{
    fb_cuda_device found;
    memset(d, 0, sizeof *d);
    d->act = act;
    must(fb_cuda_use(0, &found));
    must(fb_ops_cuda_create(act, &d->ops));
}

static inline void release_arrays(device *d)
{
    while (d->count > 0)
        d->ops->release(d->ops, &d->memory[--d->count]);
}

static inline void close_device(device *d)
{
    release_arrays(d);
    fb_ops_cuda_destroy(&d->ops);
    assert_null(d->ops);
}

/* All of it NaN, guards included. */
static inline array reserve_array(device *d, int64_t count, int64_t width, int64_t guard)
{
    const int64_t bytes = count * width + 2 * guard;
    array a = {.count = count, .width = width, .guard = guard};
    char *nothing = NULL;
    must(FB_ALLOC(nothing, bytes, "test array"));
    memset(nothing, 0xff, (size_t)bytes);
    assert_true(d->count < DEVICE_ARRAYS_MAX);
    must(d->ops->alloc(d->ops, bytes, "test array", &d->memory[d->count]));
    a.memory = d->memory[d->count++];
    a.first = a.memory + guard;
    d->ops->upload(d->ops, a.memory, nothing, bytes);
    FB_FREE(nothing);
    return a;
}

static inline void fill_array(const device *d, const array *a, const float *from)
{
    uint16_t *half = NULL;
    must(FB_ALLOC(half, a->count, "test array"));
    for (int64_t i = 0; i < a->count; i++)
        half[i] = bf16_of(from[i]);
    d->ops->upload(d->ops, a->first, a->width == 2 ? (const void *)half : from, a->count * a->width);
    FB_FREE(half);
}

/* What is only read: floats, and activations. */
static inline array put_floats(device *d, int64_t count, const float *from)
{
    const array a = reserve_array(d, count, sizeof *from, 0);
    fill_array(d, &a, from);
    return a;
}

static inline array put_act(device *d, int64_t count, const float *from)
{
    const array a = reserve_array(d, count, d->ops->act_bytes, 0);
    fill_array(d, &a, from);
    return a;
}

/* What is written; `from` NULL: NaN at first. */
static inline array out_floats(device *d, int64_t count, const float *from)
{
    const array a = reserve_array(d, count, sizeof *from, GUARD_BYTES);
    if (from)
        fill_array(d, &a, from);
    return a;
}

static inline array out_act(device *d, int64_t count, const float *from)
{
    const array a = reserve_array(d, count, d->ops->act_bytes, GUARD_BYTES);
    if (from)
        fill_array(d, &a, from);
    return a;
}

/* Anything else. */
static inline array put_bytes(device *d, int64_t bytes, const void *from)
{
    const array a = reserve_array(d, bytes, 1, 0);
    d->ops->upload(d->ops, a.first, from, bytes);
    return a;
}

static inline void get_bytes(const device *d, const array *a, void *to)
{
    must(d->ops->download(d->ops, to, a->first, a->count * a->width));
}

/* The values as floats, owned by the caller, after a look at the guards. */
static inline float *get(const device *d, const array *a)
{
    const int64_t bytes = a->count * a->width + 2 * a->guard;
    char *all = NULL;
    must(FB_ALLOC(all, bytes, "test array"));
    must(d->ops->download(d->ops, all, a->memory, bytes));
    for (int64_t i = 0; i < a->guard; i++)
        if ((uint8_t)all[i] != 0xff || (uint8_t)all[bytes - 1 - i] != 0xff)
            fail_msg("something was written outside of an array of %lld", (long long)a->count);
    float *out = make(a->count);
    for (int64_t i = 0; i < a->count; i++) {
        uint16_t half;
        memcpy(&half, all + a->guard + 2 * i, sizeof half);
        if (a->width == 2)
            out[i] = float_of(half);
        else
            memcpy(&out[i], all + a->guard + 4 * i, sizeof *out);
    }
    FB_FREE(all);
    return out;
}

/* --- how far off it may be --- */

/* Largest error in units of what is allowed: `bound` of the largest element expected, and 2^-8 of the element where it
 * is rounded to bfloat16, which has 8 bits. Infinite where something is not finite. */
static inline double excess_of(int64_t count, const float *got, const float *want, bool rounded, double bound)
{
    double largest = 0.0, excess = 0.0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)want[i]));
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(got[i]) || !isfinite(want[i]))
            return INFINITY;
        const double sum = bound * largest;
        const double allowed = sum + (rounded ? 0x1p-8 * (fabs((double)want[i]) + sum) : 0.0);
        if (got[i] != want[i])
            excess = fmax(excess, fabs((double)got[i] - (double)want[i]) / allowed);
    }
    return excess;
}

/* The array against what is expected; `what` names it, with the numbers that follow. */
static inline void compare(const device *d, const array *a, const float *want, double bound, const char *what, ...)
    __attribute__((format(printf, 5, 6)));
static inline void compare(const device *d, const array *a, const float *want, double bound, const char *what, ...)
{
    char name[128];
    float *got = get(d, a);
    const double excess = excess_of(a->count, got, want, a->width == 2, bound);
    va_list numbers;
    va_start(numbers, what);
    vsnprintf(name, sizeof name, what, numbers);
    va_end(numbers);
    FB_FREE(got);
    if (getenv("FB_VERBOSE"))
        print_message("%-4s %8.2g of the bound: %s\n", act_name[d->act], excess, name);
    if (!(excess <= 1.0))
        fail_msg("%s, %s: %.3g times the bound", act_name[d->act], name, excess);
}

/* Every bit. */
static inline void compare_bits(const device *d, const array *a, const float *want, const char *what)
{
    float *got = get(d, a);
    if (memcmp(got, want, (size_t)a->count * sizeof *got) != 0)
        fail_msg("%s, %s: other bits", act_name[d->act], what);
    FB_FREE(got);
}

/* Each test once for each type of activations. */
static inline void in_both(void (*check)(device *))
{
    for (int act = FB_ACT_F32; act <= FB_ACT_BF16; act++) {
        device d;
        open_device((fb_act_type)act, &d);
        check(&d);
        close_device(&d);
    }
}
