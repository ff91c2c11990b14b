/* SPDX-License-Identifier: Apache-2.0 */
#include "phantom_anatomy.h"

#include "core/mem.h"

#include <math.h>
#include <string.h>

/* Sub-streams of a subject's random numbers (fb_rng.round). */
enum { STREAM_PARAMETERS = 0, STREAM_TUBES = 1, STREAM_SPOTS = 2, STREAM_FIELDS = 16 };

enum { TUBES_MAX = 12, TUBE_POINTS = 9, SPOTS_MAX = 12 };

typedef enum field_name {
    SURFACE, /* of the brain */
    FOLDS,   /* sulci and gyri are the zero crossings */
    PATCHES, /* which parts of dura, cortex and ventricle walls are bright */
    MARGIN,  /* of the tumour core */
    SPREAD,  /* of the oedema */
    RIM,     /* thickness of the enhancing rim */
    VIABLE,  /* where the rim enhances */
    TISSUE,  /* slow differences within a tissue */
    TEXTURE, /* fine differences */
    FIELDS
} field_name;

static const double cell_mm[FIELDS] = {36, 17, 30, 20, 24, 18, 26, 40, 9};

/* What tissues look like: T1, T1 with contrast agent, T2, FLAIR. Only thickness, place and surroundings tell vessels
 * and dura from enhancing tumour, white-matter lesions and bright cortex from oedema, CSF from necrosis. */
static const double white_matter[FB_MODALITIES] = {0.80, 0.82, 0.46, 0.48};
static const double grey_matter[FB_MODALITIES] = {0.58, 0.62, 0.62, 0.62};
static const double csf[FB_MODALITIES] = {0.24, 0.27, 0.98, 0.24};
static const double oedema[FB_MODALITIES] = {0.56, 0.58, 0.82, 0.86};
static const double necrosis[FB_MODALITIES] = {0.30, 0.34, 0.94, 0.38};
static const double infiltrated[FB_MODALITIES] = {0.38, 0.42, 0.86, 0.72}; /* non-enhancing tumour */
static const double enhancing[FB_MODALITIES] = {0.55, 1.02, 0.70, 0.70};
static const double vessel[FB_MODALITIES] = {0.54, 1.05, 0.66, 0.64};
static const double dura[FB_MODALITIES] = {0.52, 1.00, 0.66, 0.64};
static const double choroid[FB_MODALITIES] = {0.46, 1.00, 0.80, 0.56};
static const double lesion[FB_MODALITIES] = {0.57, 0.59, 0.80, 0.86};
static const double bright_cortex[FB_MODALITIES] = {0.54, 0.58, 0.78, 0.84};

typedef struct tube {
    double point_mm[TUBE_POINTS][3], middle_mm[3], reach_mm;
} tube;

struct fb_anatomy {
    double voxel_mm;
    double brain_mm[3]; /* half axes */
    double ventricle_size;
    int high_grade, tubes, spots, nodule;
    tube tube[TUBES_MAX];
    double spot_mm[SPOTS_MAX][4]; /* x, y, z, radius of white-matter lesions */
    double centre_mm[3], stretch[3];
    double core_mm, oedema_mm, rim_mm, quiet; /* quiet: above it in VIABLE the rim does not enhance */
    double nodule_mm[4];
    double brightness; /* of oedema and enhancement in this subject */
    double change[FB_MODALITIES];
    fb_field field[FIELDS];
};

static double next(const fb_rng *stream, uint32_t *index, double lo, double hi)
{
    return fb_rng_range(stream, (*index)++, lo, hi);
}

static double length(const double v[3])
{
    return sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
}

static double distance(const double a[3], const double b[3])
{
    const double v[3] = {a[0] - b[0], a[1] - b[1], a[2] - b[2]};
    return length(v);
}

/* --- the random parts --- */

static void place_tumour(fb_anatomy *a, const fb_rng *stream, uint32_t *i)
{
    const double side = next(stream, i, -1, 1) < 0 ? -1.0 : 1.0;
    const double azimuth = next(stream, i, -1.2, 1.2), height = next(stream, i, -0.35, 0.75);
    const double far = next(stream, i, 0.30, 0.58);
    a->centre_mm[0] = side * far * a->brain_mm[0] * cos(azimuth) * sqrt(1.0 - height * height) + side * 8.0;
    a->centre_mm[1] = far * a->brain_mm[1] * sin(azimuth) * sqrt(1.0 - height * height);
    a->centre_mm[2] = far * a->brain_mm[2] * height;
    for (int axis = 0; axis < 3; axis++)
        a->stretch[axis] = next(stream, i, 0.82, 1.22);
    const double hgg_core = next(stream, i, 21, 31), lgg_core = next(stream, i, 23, 35);
    const double hgg_halo = next(stream, i, 9, 18), lgg_halo = next(stream, i, 5, 10);
    a->core_mm = a->high_grade ? hgg_core : lgg_core;
    a->oedema_mm = a->core_mm + fmax(a->high_grade ? hgg_halo : lgg_halo, 0.9 * a->voxel_mm);
    a->rim_mm = fmax(next(stream, i, 8, 12.5), 1.2 * a->voxel_mm);
    a->quiet = next(stream, i, 0.5, 1.1);
    a->nodule = !a->high_grade && next(stream, i, 0, 1) < 0.4;
    for (int axis = 0; axis < 3; axis++)
        a->nodule_mm[axis] = a->centre_mm[axis] + a->core_mm * next(stream, i, -0.35, 0.35);
    a->nodule_mm[3] = fmax(next(stream, i, 7, 11), 1.1 * a->voxel_mm);
}

static void draw_parameters(fb_anatomy *a, fb_rng stream)
{
    uint32_t i = 0;
    stream.round = STREAM_PARAMETERS;
    const double mean_mm[3] = {69, 86, 62};
    for (int axis = 0; axis < 3; axis++)
        a->brain_mm[axis] = mean_mm[axis] * next(&stream, &i, 0.93, 1.07);
    a->ventricle_size = next(&stream, &i, 0.85, 1.45);
    a->brightness = next(&stream, &i, 0.85, 1.10);
    a->tubes = (int)next(&stream, &i, 6, TUBES_MAX + 1);
    a->spots = (int)next(&stream, &i, 2, SPOTS_MAX + 1);
    for (int m = 0; m < FB_MODALITIES; m++)
        a->change[m] = next(&stream, &i, -0.03, 0.03);
    place_tumour(a, &stream, &i);
}

static void point_in_brain(const fb_anatomy *a, const fb_rng *stream, uint32_t *i, double shrink, double point_mm[3])
{
    do {
        for (int axis = 0; axis < 3; axis++)
            point_mm[axis] = next(stream, i, -1, 1);
    } while (length(point_mm) > 1.0);
    for (int axis = 0; axis < 3; axis++)
        point_mm[axis] *= shrink * a->brain_mm[axis];
}

/* A vessel: a curved line (quadratic Bezier) as a chain of points. */
static void draw_tube(const fb_anatomy *a, const fb_rng *stream, uint32_t *i, tube *out)
{
    double control[3][3];
    for (int k = 0; k < 3; k++)
        point_in_brain(a, stream, i, 0.95, control[k]);
    for (int k = 0; k < TUBE_POINTS; k++) {
        const double t = (double)k / (TUBE_POINTS - 1);
        for (int axis = 0; axis < 3; axis++)
            out->point_mm[k][axis] =
                (1 - t) * (1 - t) * control[0][axis] + 2 * t * (1 - t) * control[1][axis] + t * t * control[2][axis];
    }
    memcpy(out->middle_mm, out->point_mm[TUBE_POINTS / 2], sizeof out->middle_mm);
    for (int k = 0; k < TUBE_POINTS; k++)
        out->reach_mm = fmax(out->reach_mm, distance(out->point_mm[k], out->middle_mm));
}

static void draw_structures(fb_anatomy *a, fb_rng stream)
{
    uint32_t i = 0;
    stream.round = STREAM_TUBES;
    for (int k = 0; k < a->tubes; k++)
        draw_tube(a, &stream, &i, &a->tube[k]);
    i = 0;
    stream.round = STREAM_SPOTS;
    for (int k = 0; k < a->spots; k++) {
        point_in_brain(a, &stream, &i, 0.8, a->spot_mm[k]);
        a->spot_mm[k][3] = fmax(next(&stream, &i, 2.5, 5.5), 0.6 * a->voxel_mm);
    }
}

fb_status fb_anatomy_create(fb_rng stream, int high_grade, double voxel_mm, fb_anatomy **out)
{
    fb_anatomy *a = NULL;
    *out = NULL;
    FB_TRY(FB_ALLOC(a, 1, "anatomy"));
    a->high_grade = high_grade;
    a->voxel_mm = voxel_mm;
    draw_parameters(a, stream);
    draw_structures(a, stream);
    fb_status status = FB_OK;
    for (uint32_t f = 0; f < FIELDS && status == FB_OK; f++)
        status = fb_field_create(&a->field[f], stream, STREAM_FIELDS + f, cell_mm[f]);
    if (status != FB_OK)
        fb_anatomy_destroy(&a);
    *out = a;
    return status;
}

void fb_anatomy_destroy(fb_anatomy **anatomy)
{
    for (int f = 0; *anatomy && f < FIELDS; f++)
        fb_field_destroy(&(*anatomy)->field[f]);
    FB_FREE(*anatomy);
}

/* --- what is where: every depth_ is in mm, positive inside --- */

static double at(const fb_anatomy *a, field_name name, const double p[3])
{
    return fb_field_at(&a->field[name], p);
}

/* The part of a voxel that lies inside, for a plane boundary `depth_mm` away. */
static double share(const fb_anatomy *a, double depth_mm)
{
    return fmin(fmax(0.5 + depth_mm / a->voxel_mm, 0.0), 1.0);
}

static void mix(double signal[FB_MODALITIES], const double tissue[FB_MODALITIES], double part)
{
    for (int m = 0; m < FB_MODALITIES; m++)
        signal[m] += part * (tissue[m] - signal[m]);
}

static double depth_ellipsoid(const double p[3], const double middle[3], const double half[3])
{
    const double v[3] = {(p[0] - middle[0]) / half[0], (p[1] - middle[1]) / half[1], (p[2] - middle[2]) / half[2]};
    return (1.0 - length(v)) * fmin(half[0], fmin(half[1], half[2]));
}

static double depth_brain(const fb_anatomy *a, const double p[3])
{
    const double v[3] = {p[0] / a->brain_mm[0], p[1] / a->brain_mm[1], p[2] / a->brain_mm[2]};
    const double base = fmax(0.0, -v[2] - 0.55); /* flatter below */
    return (1.0 - length(v) - 0.8 * base - 0.035 * at(a, SURFACE, p)) * 70.0;
}

static double depth_ventricles(const fb_anatomy *a, const double p[3])
{
    const double s = a->ventricle_size, side[3] = {fabs(p[0]), p[1], p[2]};
    const double bent = 9.0 * s + 0.006 * p[1] * p[1]; /* the horns turn outward */
    const double body[3] = {bent, -4, 8 - 0.004 * p[1] * p[1]}, half[3] = {7 * s, 33 * s, 9 * s};
    const double third[3] = {0, 2, -8}, third_half[3] = {fmax(3 * s, 0.5 * a->voxel_mm), 12, 9};
    return fmax(depth_ellipsoid(side, body, half), depth_ellipsoid(p, third, third_half)) + 1.2 * at(a, TISSUE, p);
}

static double depth_tubes(const fb_anatomy *a, const double p[3])
{
    const double radius = fmax(1.3, 0.5 * a->voxel_mm);
    double nearest = 1e9;
    for (int k = 0; k < a->tubes; k++) {
        const tube *t = &a->tube[k];
        if (distance(p, t->middle_mm) > t->reach_mm + radius + a->voxel_mm)
            continue;
        for (int j = 0; j + 1 < TUBE_POINTS; j++) {
            const double *from = t->point_mm[j], *to = t->point_mm[j + 1];
            double along = 0.0, square = 0.0, closest[3];
            for (int axis = 0; axis < 3; axis++) {
                along += (p[axis] - from[axis]) * (to[axis] - from[axis]);
                square += (to[axis] - from[axis]) * (to[axis] - from[axis]);
            }
            const double part = fmin(fmax(along / fmax(square, 1e-9), 0.0), 1.0);
            for (int axis = 0; axis < 3; axis++)
                closest[axis] = from[axis] + part * (to[axis] - from[axis]);
            nearest = fmin(nearest, distance(p, closest));
        }
    }
    return radius - nearest;
}

static double depth_spots(const fb_anatomy *a, const double p[3])
{
    double depth = -1e9;
    for (int k = 0; k < a->spots; k++)
        depth = fmax(depth, a->spot_mm[k][3] - distance(p, a->spot_mm[k]));
    return depth;
}

/* Healthy brain; p may be displaced by the tumour, brain_depth is that of the true place. */
static void healthy(const fb_anatomy *a, const double p[3], double brain_depth, double ventricle,
                    double signal[FB_MODALITIES])
{
    const double fold_mm = fabs(at(a, FOLDS, p)) * 14.0, patch = at(a, PATCHES, p);
    const double cortex = fmax(5.5 - brain_depth, fmin(5.5 - fold_mm, 15.0 - brain_depth));
    const double sulcus = fmin(fmax(1.1, 0.25 * a->voxel_mm) - fold_mm, 13.0 - brain_depth);
    const double fissure = fmin(fmax(1.0, 0.25 * a->voxel_mm) - fabs(p[0]), 24.0 - brain_depth);
    const double nuclei_middle[3] = {23, 2, -2}, nuclei_half[3] = {9, 17, 10}, side[3] = {fabs(p[0]), p[1], p[2]};
    memcpy(signal, white_matter, sizeof white_matter);
    mix(signal, grey_matter, 0.85 * share(a, depth_ellipsoid(side, nuclei_middle, nuclei_half)));
    mix(signal, lesion, share(a, fmin(depth_spots(a, p), brain_depth - 10.0)));
    mix(signal, lesion, share(a, fmin(ventricle + 3.0 + 5.0 * patch, -ventricle)));
    mix(signal, grey_matter, share(a, cortex));
    mix(signal, bright_cortex, share(a, fmin(cortex, 9.0 * (patch - 0.55))));
    mix(signal, csf, share(a, fmax(sulcus, fissure)));
    mix(signal, csf, share(a, ventricle));
    mix(signal, choroid, share(a, fmin(fmin(ventricle, 6.0 * patch), -12.0 - p[1])));
    mix(signal, vessel, share(a, depth_tubes(a, p)));
    mix(signal, dura, share(a, fmin(fmax(1.5, 0.55 * a->voxel_mm) - brain_depth, -12.0 * (patch - 0.15))));
}

/* Tumour tissue keeps some of the contrast of the subject: brightness moves it towards healthy white matter. */
static void mix_tumour(const fb_anatomy *a, double signal[FB_MODALITIES], const double tissue[FB_MODALITIES],
                       double part)
{
    double toned[FB_MODALITIES];
    for (int m = 0; m < FB_MODALITIES; m++)
        toned[m] = white_matter[m] + a->brightness * (tissue[m] - white_matter[m]);
    mix(signal, toned, part);
}

static double radius_from_tumour(const fb_anatomy *a, const double p[3])
{
    const double v[3] = {(p[0] - a->centre_mm[0]) / a->stretch[0], (p[1] - a->centre_mm[1]) / a->stretch[1],
                         (p[2] - a->centre_mm[2]) / a->stretch[2]};
    return length(v);
}

static uint8_t add_tumour(const fb_anatomy *a, const double p[3], double radius, double brain_depth, double ventricle,
                          double signal[FB_MODALITIES])
{
    const double margin = 0.22 * a->core_mm * at(a, MARGIN, p) + 2.0 * at(a, FOLDS, p);
    const double core = a->core_mm + margin - radius;
    const double wet =
        fmin(fmin(a->oedema_mm + 0.6 * margin + 0.18 * a->oedema_mm * at(a, SPREAD, p) - radius, brain_depth - 3.0),
             -ventricle);
    const double halo = fmax(core, wet);
    const double rim = a->rim_mm * (1.0 + 0.4 * at(a, RIM, p));
    const double live = a->high_grade ? fmin(rim - core, 40.0 * (a->quiet - at(a, VIABLE, p)))
                                      : a->nodule_mm[3] * (1.0 + 0.3 * at(a, RIM, p)) - distance(p, a->nodule_mm);
    const double active = a->high_grade || a->nodule ? fmin(core, live) : -1e9;
    const double dead = a->high_grade ? core - rim : -1e9;
    mix_tumour(a, signal, oedema, share(a, halo));
    mix_tumour(a, signal, infiltrated, share(a, core));
    mix_tumour(a, signal, necrosis, share(a, dead));
    mix_tumour(a, signal, enhancing, share(a, active));
    if (active > 0)
        return FB_LABEL_ENHANCING;
    return core > 0 ? FB_LABEL_CORE : halo > 0 ? FB_LABEL_EDEMA : FB_LABEL_NONE;
}

int fb_anatomy_at(const fb_anatomy *a, const double position_mm[3], double signal[FB_MODALITIES], uint8_t *label)
{
    const double *p = position_mm, brain_depth = depth_brain(a, p);
    *label = FB_LABEL_NONE;
    if (brain_depth <= 0.0) {
        memcpy(signal, csf, sizeof csf);
        return 0;
    }
    const double radius = radius_from_tumour(a, p);
    const double push = 0.30 * exp(-pow(radius / (1.3 * a->oedema_mm), 2)); /* mass effect */
    double q[3];
    for (int axis = 0; axis < 3; axis++)
        q[axis] = p[axis] - push * (p[axis] - a->centre_mm[axis]);
    const double ventricle = depth_ventricles(a, q);
    healthy(a, q, brain_depth, ventricle, signal);
    *label = add_tumour(a, p, radius, brain_depth, ventricle, signal);
    const double slow = 0.05 * at(a, TISSUE, p), fine = at(a, TEXTURE, p);
    for (int m = 0; m < FB_MODALITIES; m++)
        signal[m] = fmax(0.02, signal[m] + a->change[m] + slow + (m % 2 ? 0.06 : -0.05) * fine);
    return 1;
}
