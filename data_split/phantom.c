/* SPDX-License-Identifier: Apache-2.0 */
#include "phantom.h"

#include "core/mem.h"

#include <math.h>

const fb_phantom_site fb_phantom_sites[FB_PHANTOM_SITES] = {
    {"2013", 30, -1},  {"CBICA", 88, 1}, {"TCIA01", 22, 1}, {"TCIA02", 34, 1}, {"TCIA03", 12, 1},
    {"TCIA04", 8, 1},  {"TCIA05", 4, 1}, {"TCIA06", 8, 1},  {"TCIA08", 14, 1}, {"TCIA09", 11, 0},
    {"TCIA10", 35, 0}, {"TCIA12", 6, 0}, {"TCIA13", 13, 0},
};

static const double view_mm[3] = {155, 240, 240}; /* D, H, W */

/* Streams of random numbers: `hospital` is site << 16 | number; the site's scanner takes the last number. */
enum { SCANNER_NUMBER = 0xFFFF, STREAM_SCANNER = 0, STREAM_COIL = 1, STREAM_NOISE = 64, STREAM_POSITIONING = 80 };

typedef struct scanner {
    double gain[FB_MODALITIES], gamma[FB_MODALITIES], noise[FB_MODALITIES], bias[FB_MODALITIES];
    double blur;                /* of a neighbour's signal that a voxel receives, along each axis */
    fb_field coil, positioning; /* sensitivity: of the site's coil, of this scan */
} scanner;

int64_t fb_phantom_count(int site, double scale)
{
    /* 1e-9: 0.1 * 30 is above 3 in floating point */
    const int64_t count = (int64_t)ceil(scale * (double)fb_phantom_sites[site].subjects - 1e-9);
    return count < 2 ? 2 : count;
}

int fb_phantom_high_grade(int site, int64_t number)
{
    const int grade = fb_phantom_sites[site].high_grade;
    return grade < 0 ? number % 3 != 1 : grade;
}

static fb_rng stream_of(uint64_t seed, int site, int64_t number)
{
    return (fb_rng){.seed = seed, .purpose = FB_RNG_PHANTOM, .hospital = (uint32_t)site << 16 | (uint32_t)number};
}

static fb_status scanner_create(scanner *s, uint64_t seed, int site, fb_rng subject)
{
    fb_rng stream = stream_of(seed, site, SCANNER_NUMBER);
    stream.round = STREAM_SCANNER;
    s->blur = fb_rng_range(&stream, 0, 0.0, 0.08);
    for (uint32_t m = 0; m < FB_MODALITIES; m++) {
        const uint32_t first = 8 * (m + 1);
        s->gain[m] = 600.0 * exp(fb_rng_range(&stream, first, -1.0, 1.0));
        s->gamma[m] = fb_rng_range(&stream, first + 1, 0.8, 1.25);
        s->noise[m] = fb_rng_range(&stream, first + 2, 0.03, 0.06);
        s->bias[m] = fb_rng_range(&stream, first + 3, 0.04, 0.16);
    }
    FB_TRY(fb_field_create(&s->coil, stream, STREAM_COIL, 100));
    return fb_field_create(&s->positioning, subject, STREAM_POSITIONING, 80);
}

static void scanner_destroy(scanner *s)
{
    fb_field_destroy(&s->coil);
    fb_field_destroy(&s->positioning);
}

/* Voxel (z, y, x) -> mm from the middle of the field of view; x and y run as in BraTS: to the left, to the back. */
static void position_of(const int64_t shape[3], int64_t z, int64_t y, int64_t x, double p[3])
{
    p[0] = (((double)x + 0.5) / (double)shape[2] - 0.5) * view_mm[2];
    p[1] = -(((double)y + 0.5) / (double)shape[1] - 0.5) * view_mm[1];
    p[2] = (((double)z + 0.5) / (double)shape[0] - 0.5) * view_mm[0];
}

static void draw(const fb_anatomy *anatomy, const int64_t shape[3], float *signal[FB_MODALITIES], uint8_t *inside,
                 uint8_t *label)
{
    for (int64_t row = 0; row < shape[0] * shape[1]; row++) {
        for (int64_t x = 0; x < shape[2]; x++) {
            double p[3], value[FB_MODALITIES];
            const int64_t voxel = row * shape[2] + x;
            position_of(shape, row / shape[1], row % shape[1], x, p);
            inside[voxel] = (uint8_t)fb_anatomy_at(anatomy, p, value, &label[voxel]);
            for (int m = 0; m < FB_MODALITIES; m++)
                signal[m][voxel] = (float)value[m];
        }
    }
}

/* One axis of a separable 3-point blur, in place: `lines` are independent, `stride` apart within a line. */
static void blur_line(float *value, int64_t count, int64_t stride, float part)
{
    float before = value[0];
    for (int64_t i = 0; i < count; i++) {
        const float here = value[i * stride], after = i + 1 < count ? value[(i + 1) * stride] : here;
        value[i * stride] = here + part * (before + after - 2.0f * here);
        before = here;
    }
}

static void blur(float *value, const int64_t shape[3], float part)
{
    const int64_t area = shape[1] * shape[2];
    for (int64_t i = 0; i < area; i++)
        blur_line(value + i, shape[0], area, part);
    for (int64_t z = 0; z < shape[0]; z++) {
        for (int64_t x = 0; x < shape[2]; x++)
            blur_line(value + z * area + x, shape[1], shape[2], part);
        for (int64_t y = 0; y < shape[1]; y++)
            blur_line(value + z * area + y * shape[2], shape[2], 1, part);
    }
}

/* Contrast, coil sensitivity, Rician noise (the magnitude of a complex signal), digitisation. */
static void acquire(const scanner *s, int m, fb_rng noise, const int64_t shape[3], const float *signal,
                    const uint8_t *inside, int16_t *image)
{
    noise.round = STREAM_NOISE + (uint32_t)m;
    for (int64_t row = 0; row < shape[0] * shape[1]; row++) {
        for (int64_t x = 0; x < shape[2]; x++) {
            const int64_t voxel = row * shape[2] + x;
            double p[3];
            if (!inside[voxel])
                continue;
            position_of(shape, row / shape[1], row % shape[1], x, p);
            const double coil = exp(s->bias[m] * (fb_field_at(&s->coil, p) + 0.4 * fb_field_at(&s->positioning, p)));
            const double real = coil * pow((double)signal[voxel], s->gamma[m]) +
                                s->noise[m] * fb_rng_normal(&noise, 2 * (uint32_t)voxel);
            const double imaginary = s->noise[m] * fb_rng_normal(&noise, 2 * (uint32_t)voxel + 1);
            const double counts = s->gain[m] * sqrt(real * real + imaginary * imaginary);
            image[voxel] = (int16_t)fmin(fmax(counts + 0.5, 1.0), INT16_MAX); /* 0 is kept for outside */
        }
    }
}

static fb_status allocate(const int64_t shape[3], fb_phantom **out)
{
    fb_phantom *phantom = NULL;
    const int64_t voxels = shape[0] * shape[1] * shape[2];
    *out = NULL;
    FB_TRY(FB_ALLOC(phantom, 1, "phantom"));
    fb_status status = FB_ALLOC(phantom->label, voxels, "labels of a phantom");
    for (int m = 0; m < FB_MODALITIES && status == FB_OK; m++)
        status = FB_ALLOC(phantom->image[m], voxels, "images of a phantom");
    if (status != FB_OK) {
        fb_phantom_destroy(&phantom);
        return status;
    }
    for (int axis = 0; axis < 3; axis++) {
        const int from = 2 - axis;
        const double spacing_mm = view_mm[from] / (double)shape[from];
        phantom->shape[axis] = shape[axis];
        phantom->affine[axis][axis] = axis < 2 ? -spacing_mm : spacing_mm;
    }
    phantom->affine[1][3] = view_mm[1] - view_mm[1] / (double)shape[1]; /* 239 mm on BraTS's own grid */
    *out = phantom;
    return FB_OK;
}

static fb_status fill(fb_phantom *phantom, const fb_anatomy *anatomy, const scanner *s, fb_rng stream)
{
    float *signal[FB_MODALITIES] = {NULL};
    uint8_t *inside = NULL;
    const int64_t voxels = phantom->shape[0] * phantom->shape[1] * phantom->shape[2];
    fb_status status = FB_ALLOC(inside, voxels, "brain mask of a phantom");
    for (int m = 0; m < FB_MODALITIES && status == FB_OK; m++)
        status = FB_ALLOC(signal[m], voxels, "signal of a phantom");
    if (status == FB_OK) {
        draw(anatomy, phantom->shape, signal, inside, phantom->label);
        for (int m = 0; m < FB_MODALITIES; m++) {
            blur(signal[m], phantom->shape, (float)s->blur);
            acquire(s, m, stream, phantom->shape, signal[m], inside, phantom->image[m]);
        }
    }
    for (int m = 0; m < FB_MODALITIES; m++)
        FB_FREE(signal[m]);
    FB_FREE(inside);
    return status;
}

fb_status fb_phantom_create(uint64_t seed, int site, int64_t number, const int64_t shape[3], fb_phantom **out)
{
    FB_ASSERT(site >= 0 && site < FB_PHANTOM_SITES && number >= 0 && number < SCANNER_NUMBER);
    const fb_rng stream = stream_of(seed, site, number);
    const double voxel_mm = cbrt(view_mm[0] * view_mm[1] * view_mm[2] / (double)(shape[0] * shape[1] * shape[2]));
    scanner s = {0};
    fb_anatomy *anatomy = NULL;
    *out = NULL;
    fb_status status = scanner_create(&s, seed, site, stream);
    if (status == FB_OK)
        status = fb_anatomy_create(stream, fb_phantom_high_grade(site, number), voxel_mm, &anatomy);
    if (status == FB_OK)
        status = allocate(shape, out);
    if (status == FB_OK)
        status = fill(*out, anatomy, &s, stream);
    if (status != FB_OK)
        fb_phantom_destroy(out);
    fb_anatomy_destroy(&anatomy);
    scanner_destroy(&s);
    return status;
}

void fb_phantom_destroy(fb_phantom **phantom)
{
    for (int m = 0; *phantom && m < FB_MODALITIES; m++)
        FB_FREE((*phantom)->image[m]);
    if (*phantom)
        FB_FREE((*phantom)->label);
    FB_FREE(*phantom);
}
