/* SPDX-License-Identifier: Apache-2.0
 *
 * A build without cuDNN: there is no handle, so that nothing else is ever called with one.
 */
#include "nn/conv_cudnn.h"

static fb_status missing(void)
{
    return FB_FAIL("this build has no cuDNN; build where its headers are, or with CUDNN_HOME=... make");
}

fb_status fb_cudnn_create(void *stream, fb_cudnn **out)
{
    (void)stream;
    *out = NULL;
    return missing();
}

void fb_cudnn_destroy(fb_cudnn **cudnn)
{
    (void)cudnn;
}

int64_t fb_cudnn_version(const fb_cudnn *cudnn)
{
    (void)cudnn;
    return 0;
}

fb_status fb_cudnn_conv_create(fb_cudnn *cudnn, const fb_conv_shape *shape, fb_cudnn_direction direction,
                               fb_cudnn_precision precision, const fb_cudnn_choice *choice, fb_cudnn_conv **out)
{
    (void)cudnn;
    (void)shape;
    (void)direction;
    (void)precision;
    (void)choice;
    *out = NULL;
    return missing();
}

void fb_cudnn_conv_destroy(fb_cudnn_conv **conv)
{
    (void)conv;
}

int64_t fb_cudnn_conv_count(const fb_cudnn_conv *conv)
{
    (void)conv;
    return 0;
}

const fb_cudnn_choice *fb_cudnn_conv_choice(const fb_cudnn_conv *conv, int64_t i)
{
    static const fb_cudnn_choice none = {.version = 0};
    (void)conv;
    (void)i;
    return &none;
}

fb_status fb_cudnn_conv_run(fb_cudnn_conv *conv, int64_t i, void *x, void *w, void *y, void *workspace)
{
    (void)conv;
    (void)i;
    (void)x;
    (void)w;
    (void)y;
    (void)workspace;
    return missing();
}

void fb_cudnn_conv_keep(fb_cudnn_conv *conv, int64_t i)
{
    (void)conv;
    (void)i;
}
