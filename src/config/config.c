/* SPDX-License-Identifier: Apache-2.0 */
#include "config/config.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const fb_option table[] = {
#define FB_OPT(section, key, type, unit, fallback, min, max, choices, help)                                            \
    {#section, #key, FB_OPTION_##type, unit, fallback, min, max, choices, help, offsetof(fb_config, section##_##key)},
#include "config/options.def"
#undef FB_OPT
};

enum { TABLE_COUNT = sizeof table / sizeof table[0] };

const fb_option *fb_config_table(int *count)
{
    *count = TABLE_COUNT;
    return table;
}

typedef struct preset_value {
    int preset;
    const char *where, *key, *text;
} preset_value;

/* The paper's ways of sharing (Li et al. 2019, section 2), at its 40 % and with its clip for learning rate 1e-4. */
static const preset_value preset_values[] = {
    {FB_PRESET_PERCENTILE, "preset percentile", "sharing.select", "topk"},
    {FB_PRESET_PERCENTILE, "preset percentile", "sharing.fraction", "0.4"},
    {FB_PRESET_PERCENTILE, "preset percentile", "privacy.clip", "1e-4"},
    {FB_PRESET_SVT, "preset svt", "sharing.select", "svt"},
    {FB_PRESET_SVT, "preset svt", "sharing.fraction", "0.4"},
    {FB_PRESET_SVT, "preset svt", "privacy.mechanism", "laplace"},
    {FB_PRESET_SVT, "preset svt", "privacy.clip", "1e-4"},
    {FB_PRESET_SVT, "preset svt", "privacy.answer_budget", "per-parameter"},
    {FB_PRESET_SVT_AS_PUBLISHED, "preset svt-as-published", "sharing.select", "svt-as-published"},
    {FB_PRESET_SVT_AS_PUBLISHED, "preset svt-as-published", "sharing.fraction", "0.4"},
    {FB_PRESET_SVT_AS_PUBLISHED, "preset svt-as-published", "privacy.mechanism", "laplace"},
    {FB_PRESET_SVT_AS_PUBLISHED, "preset svt-as-published", "privacy.clip", "1e-4"},
    {FB_PRESET_SVT_AS_PUBLISHED, "preset svt-as-published", "privacy.answer_budget", "per-parameter"},
};

static fb_status apply_preset(fb_options *options, int preset)
{
    for (size_t i = 0; i < sizeof preset_values / sizeof preset_values[0]; i++)
        if (preset_values[i].preset == preset)
            FB_TRY(fb_options_preset(options, preset_values[i].key, preset_values[i].text, preset_values[i].where));
    return FB_OK;
}

static fb_status check_shape(const char *key, const int64_t shape[3], int64_t levels)
{
    const int64_t step = (int64_t)1 << (levels - 1);
    for (int axis = 0; axis < 3; axis++)
        if (shape[axis] % step != 0)
            return FB_USAGE(
                "%s = %lldx%lldx%lld: each extent must be a multiple of %lld, 2^(levels-1) for %lld levels in "
                "model.blocks_down",
                key, (long long)shape[0], (long long)shape[1], (long long)shape[2], (long long)step, (long long)levels);
    return FB_OK;
}

static fb_status check_model(const fb_config *config)
{
    const int64_t levels = config->model_blocks_down.count;
    if (config->model_filters % 8 != 0)
        return FB_USAGE("model.filters = %lld: not a multiple of 8, the number of normalisation groups",
                        (long long)config->model_filters);
    if (levels > 6)
        return FB_USAGE("model.blocks_down: %lld levels exceed the limit of 6", (long long)levels);
    if (config->model_blocks_up.count != levels - 1 && levels > 1)
        return FB_USAGE("model.blocks_up: %lld entries, but model.blocks_down has %lld levels; give %lld entries",
                        (long long)config->model_blocks_up.count, (long long)levels, (long long)levels - 1);
    FB_TRY(check_shape("data.patch", config->data_patch, levels));
    return check_shape("eval.window", config->eval_window, levels);
}

static fb_status read(int argc, char **argv, int complete, fb_config *config, fb_options **options)
{
    const char *file = NULL;
    int files = 0;
    memset(config, 0, sizeof *config);
    FB_TRY(fb_options_create(table, TABLE_COUNT, config, options));
    fb_status status = fb_options_read_args(*options, argc, argv, &file, 1, &files);
    if (status == FB_OK && files == 1)
        status = fb_options_read_ini(*options, file);
    if (status == FB_OK)
        status = apply_preset(*options, config->run_preset);
    if (status == FB_OK && complete)
        status = fb_options_complete(*options);
    if (status == FB_OK)
        status = check_model(config);
    if (status != FB_OK)
        fb_options_destroy(options);
    return status;
}

fb_status fb_config_read(int argc, char **argv, fb_config *config, fb_options **options)
{
    return read(argc, argv, 1, config, options);
}

fb_status fb_config_read_plan(int argc, char **argv, fb_config *config, fb_options **options)
{
    return read(argc, argv, 0, config, options);
}

static const fb_option *find_option(const char *section, const char *key)
{
    int i = 0;
    while (i < TABLE_COUNT && (strcmp(table[i].section, section) != 0 || strcmp(table[i].key, key) != 0))
        i++;
    FB_ASSERT(i < TABLE_COUNT);
    return &table[i];
}

void fb_config_text(const fb_config *config, const char *section, const char *key, char text[FB_TEXT_CHARS])
{
    fb_options_format(find_option(section, key), config, text);
}

const char *fb_config_fallback(const char *section, const char *key)
{
    return find_option(section, key)->fallback;
}
