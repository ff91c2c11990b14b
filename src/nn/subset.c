/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/subset.h"

#include "core/mem.h"

#include <regex.h>
#include <string.h>

/* POSIX finds the leftmost match and of these the longest: one from the first to the last character, if there is. */
static fb_status match_whole_name(const regex_t *regex, const char *name, int *matches)
{
    regmatch_t match;
    const int error = regexec(regex, name, 1, &match, 0);
    *matches = error == 0 && match.rm_so == 0 && (size_t)match.rm_eo == strlen(name);
    return error == 0 || error == REG_NOMATCH ? FB_OK : FB_FAIL("train.trainable: %s: out of memory", name);
}

static void append(fb_subset *subset, const fb_tensor_info *tensor)
{
    fb_range *last = subset->range_count > 0 ? &subset->ranges[subset->range_count - 1] : NULL;
    if (last && last->offset + last->count == tensor->offset)
        last->count += tensor->count;
    else
        subset->ranges[subset->range_count++] = (fb_range){tensor->offset, tensor->count};
    subset->count += tensor->count;
}

static fb_status no_match(const fb_params *params, const char *expression)
{
    const fb_tensor_info *tensors = params->tensors;
    const int last = params->tensor_count - 1;
    return FB_USAGE("train.trainable = %s: no parameter has a name that matches as a whole; the names run from %s, %s "
                    "to %s, %s: conv_final.* matches the last ones",
                    expression, tensors[0].name, tensors[1].name, tensors[last - 1].name, tensors[last].name);
}

static fb_status fill(const fb_params *params, const char *expression, fb_subset *subset)
{
    char reason[128];
    regex_t regex;
    const int error = regcomp(&regex, expression, REG_EXTENDED);
    if (error == REG_ESPACE)
        return FB_FAIL("train.trainable = %s: out of memory", expression);
    if (error != 0) {
        regerror(error, &regex, reason, sizeof reason);
        return FB_USAGE("train.trainable = %s: not an extended regular expression: %s", expression, reason);
    }
    fb_status status = FB_OK;
    for (int i = 0; status == FB_OK && i < params->tensor_count; i++) {
        int matches = expression[0] == '\0';
        if (!matches)
            status = match_whole_name(&regex, params->tensors[i].name, &matches);
        if (matches)
            append(subset, &params->tensors[i]);
    }
    regfree(&regex);
    FB_TRY(status);
    return subset->count > 0 ? FB_OK : no_match(params, expression);
}

fb_status fb_subset_create(const fb_params *params, const char *expression, fb_subset **out)
{
    fb_subset *subset = NULL;
    FB_TRY(FB_ALLOC(subset, 1, "trained parameters"));
    fb_status status = FB_ALLOC(subset->ranges, params->tensor_count, "trained parameters");
    if (status == FB_OK)
        status = fill(params, expression, subset);
    if (status != FB_OK) {
        fb_subset_destroy(&subset);
        return status;
    }
    *out = subset;
    return FB_OK;
}

void fb_subset_destroy(fb_subset **subset)
{
    if (*subset)
        FB_FREE((*subset)->ranges);
    FB_FREE(*subset);
}

void fb_subset_gather(const fb_subset *subset, const fb_real *arena, fb_real *compact)
{
    int64_t position = 0; /* never ahead of the range's offset: in place, nothing is overwritten before it is read */
    for (int r = 0; r < subset->range_count; r++) {
        const fb_range *range = &subset->ranges[r];
        if (compact + position != arena + range->offset)
            memmove(compact + position, arena + range->offset, (size_t)range->count * sizeof *compact);
        position += range->count;
    }
}

void fb_subset_difference(const fb_subset *subset, const fb_real *after, const fb_real *before, fb_real *compact)
{
    int64_t position = 0;
    for (int r = 0; r < subset->range_count; r++) {
        const fb_range *range = &subset->ranges[r];
        for (int64_t i = 0; i < range->count; i++)
            compact[position + i] = after[range->offset + i] - before[range->offset + i];
        position += range->count;
    }
}

void fb_subset_scatter(const fb_subset *subset, const fb_real *compact, fb_real *arena)
{
    int64_t position = 0;
    for (int r = 0; r < subset->range_count; r++) {
        const fb_range *range = &subset->ranges[r];
        memcpy(arena + range->offset, compact + position, (size_t)range->count * sizeof *arena);
        position += range->count;
    }
}
