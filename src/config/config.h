/* SPDX-License-Identifier: Apache-2.0
 *
 * The configuration of `fedbrats train` and `fedbrats plan`: one struct with a field section_key per line of
 * options.def.
 */
#pragma once

#include "config/options.h"

enum { FB_PRESET_NONE = 0, FB_PRESET_PERCENTILE, FB_PRESET_SVT, FB_PRESET_SVT_AS_PUBLISHED };
enum { FB_MODE_FEDERATED = 0, FB_MODE_CENTRALISED, FB_MODE_LOCAL };
enum { FB_RESUME_AUTO = 0, FB_RESUME_NEVER, FB_RESUME_REQUIRE };
enum { FB_DEVICE_AUTO = 0, FB_DEVICE_CPU, FB_DEVICE_CUDA };
enum { FB_OPS_DNNL = 0, FB_OPS_REF };
enum { FB_CONV_AUTO = 0, FB_CONV_OWN, FB_CONV_CUDNN };
enum { FB_PRECISION_AUTO = 0, FB_PRECISION_F32, FB_PRECISION_BF16 };
enum { FB_MOMENTUM_RESTART = 0, FB_MOMENTUM_KEEP, FB_MOMENTUM_AVERAGE };
enum { FB_OPTIMIZER_ADAM = 0, FB_OPTIMIZER_SGD };
enum { FB_PRIVACY_NOISE_COMMON = 0, FB_PRIVACY_NOISE_PER_HOSPITAL };
enum { FB_SOLVE_EPSILON = 0, FB_SOLVE_NOISE, FB_SOLVE_ROUNDS, FB_SOLVE_SHARE };
enum { FB_WEIGHTING_SAMPLES = 0, FB_WEIGHTING_UNIFORM };
enum { FB_EVAL_BOTH = 0, FB_EVAL_TEST, FB_EVAL_VALIDATION, FB_EVAL_NONE };
enum { FB_BACKEND_AUTO = 0, FB_BACKEND_SELF, FB_BACKEND_MPI, FB_BACKEND_NCCL };

#define FB_FIELD_BOOL(name) int name
#define FB_FIELD_CHOICE(name) int name
#define FB_FIELD_INT(name) int64_t name
#define FB_FIELD_REAL(name) double name
#define FB_FIELD_TEXT(name) char name[FB_TEXT_CHARS]
#define FB_FIELD_SHAPE(name) int64_t name[3]
#define FB_FIELD_LIST(name) fb_list name

typedef struct fb_config {
#define FB_OPT(section, key, type, unit, fallback, min, max, choices, help) FB_FIELD_##type(section##_##key);
#include "config/options.def"
#undef FB_OPT
} fb_config;

/* The table, for --help and the records; *count receives its length. */
const fb_option *fb_config_table(int *count);

/* Reads `[FILE.ini] --section.key=value...` (argv[0] is skipped), applies the preset, checks what the options must
 * fulfil together. `options` keeps where each value came from; both are owned by the caller. Errors are usage errors.
 */
fb_status fb_config_read(int argc, char **argv, fb_config *config, fb_options **options) FB_MUST_USE;

/* The same for `fedbrats plan`: no option is required. */
fb_status fb_config_read_plan(int argc, char **argv, fb_config *config, fb_options **options) FB_MUST_USE;

/* The present value of any option as text, e.g. fb_config_text(&config, "sharing", "select", text). */
void fb_config_text(const fb_config *config, const char *section, const char *key, char text[FB_TEXT_CHARS]);

/* Its default as text, by the same names; NULL: the option is required. Borrowed. */
const char *fb_config_fallback(const char *section, const char *key);
