/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/op_cuda.h"

#include <stdio.h>

const fb_conv_tuning fb_conv_tuning_default = {0};

static const char *const missing = "this build has no CUDA; build where nvcc is, or with CUDA_HOME=... make";

int fb_cuda_count(size_t chars, char *why)
{
    snprintf(why, chars, "%s", missing);
    return 0;
}

fb_status fb_cuda_use(int device, fb_cuda_device *out)
{
    (void)device;
    (void)out;
    return FB_FAIL("%s", missing);
}

void fb_cuda_versions(size_t chars, char *text)
{
    snprintf(text, chars, "not built");
}

fb_status fb_ops_cuda_create(fb_act_type act, fb_ops **out)
{
    (void)act;
    (void)out;
    return FB_FAIL("%s", missing);
}

void fb_ops_cuda_destroy(fb_ops **ops)
{
    (void)ops;
}

fb_status fb_ops_cuda_start_cudnn(const fb_ops *ops)
{
    (void)ops;
    return FB_FAIL("%s", missing);
}

fb_status fb_ops_cuda_tune_begin(const fb_ops *ops, const fb_conv_tuning *how)
{
    (void)ops;
    (void)how;
    return FB_FAIL("%s", missing);
}

void fb_ops_cuda_tune_end(const fb_ops *ops)
{
    (void)ops;
}

fb_status fb_ops_cuda_choices_print(const fb_ops *ops, int with_times, char **text)
{
    (void)ops;
    (void)with_times;
    (void)text;
    return FB_FAIL("%s", missing);
}

fb_status fb_ops_cuda_choices_set(const fb_ops *ops, const char *text)
{
    (void)ops;
    (void)text;
    return FB_FAIL("%s", missing);
}

void fb_ops_cuda_choices_count(const fb_ops *ops, int *all, int *cudnn)
{
    (void)ops;
    *all = *cudnn = 0;
}
