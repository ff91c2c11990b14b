/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/params.h"

#include "core/mem.h"
#include "core/rng.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { BLOCKS_MAX = 64, CHANNELS_MAX = 512, BLOCK_TENSORS = 6 };

static fb_status check_blocks(const char *what, const int64_t *blocks, int levels)
{
    for (int i = 0; i < levels; i++)
        if (blocks[i] < 1 || blocks[i] > BLOCKS_MAX)
            return FB_FAIL("%s: %lld residual blocks at position %d; it must be 1 to %d", what, (long long)blocks[i],
                           i + 1, BLOCKS_MAX);
    return FB_OK;
}

static fb_status check_spec(const fb_net_spec *spec)
{
    if (spec->filters < FB_NORM_GROUPS || spec->filters > CHANNELS_MAX || spec->filters % FB_NORM_GROUPS != 0)
        return FB_FAIL("model.filters: %lld; it must be a multiple of %d (the groups of GroupNorm) up to %d",
                       (long long)spec->filters, FB_NORM_GROUPS, CHANNELS_MAX);
    if (spec->levels < 1 || spec->levels > FB_LEVELS_MAX)
        return FB_FAIL("model: %d resolution levels (entries of blocks_down); it must be 1 to %d", spec->levels,
                       FB_LEVELS_MAX);
    if (spec->filters << (spec->levels - 1) > CHANNELS_MAX)
        return FB_FAIL("model.filters: %lld with %d levels gives %lld channels at the deepest; the limit is %d",
                       (long long)spec->filters, spec->levels, (long long)spec->filters << (spec->levels - 1),
                       CHANNELS_MAX);
    FB_TRY(check_blocks("model.blocks_down", spec->blocks_down, spec->levels));
    FB_TRY(check_blocks("model.blocks_up", spec->blocks_up, spec->levels - 1));
    if (!(spec->dropout >= 0.0 && spec->dropout < 1.0))
        return FB_FAIL("model.dropout: %g; it must be at least 0 and below 1", spec->dropout);
    return FB_OK;
}

/* --- the table, in the order of MONAI's state_dict ----------------------------------------------- */

static int64_t count_tensors(const fb_net_spec *spec)
{
    int64_t blocks = 0;
    for (int i = 0; i < spec->levels; i++)
        blocks += spec->blocks_down[i] + (i < spec->levels - 1 ? spec->blocks_up[i] : 0);
    const int64_t init = 1, per_step = 2, final = 4; /* a step is a convolution down and one up */
    return init + (spec->levels - 1) * per_step + blocks * BLOCK_TENSORS + final;
}

static fb_tensor_info *append(fb_params *params, int rank, const char *format, va_list args)
{
    fb_tensor_info *tensor = &params->tensors[params->tensor_count++];
    const int chars = vsnprintf(tensor->name, sizeof tensor->name, format, args);
    FB_ASSERT(chars > 0 && chars < FB_TENSOR_NAME_CHARS);
    tensor->rank = rank;
    tensor->offset = params->count;
    return tensor;
}

static void append_vector(fb_params *params, int64_t channels, const char *format, ...) FB_PRINTF(3, 4);
static void append_vector(fb_params *params, int64_t channels, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fb_tensor_info *tensor = append(params, 1, format, args);
    va_end(args);
    tensor->shape[0] = tensor->count = channels;
    params->count += tensor->count;
}

static void append_conv(fb_params *params, int64_t c_out, int64_t c_in, int64_t kernel, const char *format, ...)
    FB_PRINTF(5, 6);
static void append_conv(fb_params *params, int64_t c_out, int64_t c_in, int64_t kernel, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fb_tensor_info *tensor = append(params, 5, format, args);
    va_end(args);
    const int64_t shape[5] = {c_out, c_in, kernel, kernel, kernel};
    memcpy(tensor->shape, shape, sizeof shape);
    tensor->count = c_out * c_in * kernel * kernel * kernel;
    params->count += tensor->count;
}

static void append_block(fb_params *params, int64_t channels, const char *layers, int level, int64_t index)
{
    for (int norm = 1; norm <= 2; norm++) {
        append_vector(params, channels, "%s.%d.%lld.norm%d.weight", layers, level, (long long)index, norm);
        append_vector(params, channels, "%s.%d.%lld.norm%d.bias", layers, level, (long long)index, norm);
    }
    for (int conv = 1; conv <= 2; conv++)
        append_conv(params, channels, channels, 3, "%s.%d.%lld.conv%d.conv.weight", layers, level, (long long)index,
                    conv);
}

static void append_down(fb_params *params, const fb_net_spec *spec)
{
    for (int level = 0; level < spec->levels; level++) {
        const int64_t channels = spec->filters << level;
        if (level > 0)
            append_conv(params, channels, channels / 2, 3, "down_layers.%d.0.conv.weight", level);
        for (int64_t block = 1; block <= spec->blocks_down[level]; block++)
            append_block(params, channels, "down_layers", level, block);
    }
}

static void append_up(fb_params *params, const fb_net_spec *spec)
{
    const int ups = spec->levels - 1;
    for (int up = 0; up < ups; up++)
        for (int64_t block = 0; block < spec->blocks_up[up]; block++)
            append_block(params, spec->filters << (ups - 1 - up), "up_layers", up, block);
    for (int up = 0; up < ups; up++) {
        const int64_t channels = spec->filters << (ups - 1 - up);
        append_conv(params, channels, 2 * channels, 1, "up_samples.%d.0.conv.weight", up);
    }
}

fb_status fb_params_create(const fb_net_spec *spec, fb_params **out)
{
    FB_TRY(check_spec(spec));
    fb_params *params = NULL;
    fb_status status = FB_OK;
    const int64_t tensors = count_tensors(spec);
    FB_TRY(FB_ALLOC(params, 1, "parameter table"));
    FB_TRY_GOTO(status, FB_ALLOC(params->tensors, tensors, "parameter table"), fail);

    append_conv(params, spec->filters, FB_IMAGE_CHANNELS, 3, "convInit.conv.weight");
    append_down(params, spec);
    append_up(params, spec);
    append_vector(params, spec->filters, "conv_final.0.weight");
    append_vector(params, spec->filters, "conv_final.0.bias");
    append_conv(params, FB_REGIONS, spec->filters, 1, "conv_final.2.conv.weight");
    append_vector(params, FB_REGIONS, "conv_final.2.conv.bias");
    FB_ASSERT(params->tensor_count == tensors);
    *out = params;
    return FB_OK;
fail:
    fb_params_destroy(&params);
    return status;
}

void fb_params_destroy(fb_params **params)
{
    if (!*params)
        return;
    FB_FREE((*params)->tensors);
    FB_FREE(*params);
}

const fb_tensor_info *fb_params_find(const fb_params *params, const char *name)
{
    for (int i = 0; i < params->tensor_count; i++)
        if (strcmp(params->tensors[i].name, name) == 0)
            return &params->tensors[i];
    return NULL;
}

/* --- initial values ------------------------------------------------------------------------------ */

static int ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static void init_uniform(const fb_tensor_info *tensor, uint64_t seed, double bound, fb_real *w)
{
    const fb_rng rng = {.seed = seed, .purpose = FB_RNG_INIT};
    for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++)
        w[i] = (fb_real)fb_rng_range(&rng, (uint32_t)i, -bound, bound);
}

static void init_constant(const fb_tensor_info *tensor, double value, fb_real *w)
{
    for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++)
        w[i] = (fb_real)value;
}

void fb_params_init(const fb_params *params, uint64_t seed, fb_real *w)
{
    FB_ASSERT(params->count <= UINT32_MAX);
    int64_t fan_in = 1; /* of the convolution before: its bias has the same bound */
    for (int i = 0; i < params->tensor_count; i++) {
        const fb_tensor_info *tensor = &params->tensors[i];
        if (tensor->rank == 5)
            fan_in = tensor->count / tensor->shape[0];
        if (tensor->rank == 5 || ends_with(tensor->name, "conv.bias"))
            init_uniform(tensor, seed, 1.0 / sqrt((double)fan_in), w);
        else
            init_constant(tensor, ends_with(tensor->name, ".weight") ? 1.0 : 0.0, w);
    }
}
