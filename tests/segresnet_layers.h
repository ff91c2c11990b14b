/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of SegResNet (blocks down 1-2-2-4, up 1-1-1, 4 channels in, 3 out) with `filters` filters at input
 * shape `in`, each distinct one once with the number of times that a forward pass runs it.
 */
#pragma once

#include "nn/op.h"

enum { LEVELS = 4, CONV_LAYERS = 1 + LEVELS + 2 * (LEVELS - 1) + 1 };

static const int blocks_at_level[LEVELS] = {1 + 1, 2 + 1, 2 + 1, 4}; /* down + up */

typedef struct conv_layer {
    const char *name;
    fb_conv_shape shape;
    int times;
} conv_layer;

static inline void list_conv_layers(const int64_t in[3], int64_t filters, conv_layer layers[CONV_LAYERS])
{
    static const char *const block[LEVELS] = {"block 0", "block 1", "block 2", "block 3"};
    static const char *const down[LEVELS] = {"", "down 1", "down 2", "down 3"},
                             *up[LEVELS] = {"", "up 1", "up 2", "up 3"};
    int n = 0;
    layers[n++] = (conv_layer){"init", {{in[0], in[1], in[2]}, 4, filters, 3, 1}, 1};
    for (int level = 0; level < LEVELS; level++) {
        const int64_t d = in[0] >> level, h = in[1] >> level, w = in[2] >> level, c = filters << level;
        if (level > 0)
            layers[n++] = (conv_layer){down[level], {{2 * d, 2 * h, 2 * w}, c / 2, c, 3, 2}, 1};
        layers[n++] = (conv_layer){block[level], {{d, h, w}, c, c, 3, 1}, 2 * blocks_at_level[level]};
        if (level > 0)
            layers[n++] = (conv_layer){up[level], {{d, h, w}, c, c / 2, 1, 1}, 1};
    }
    layers[n++] = (conv_layer){"final", {{in[0], in[1], in[2]}, filters, 3, 1, 1}, 1};
}
