/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the cuDNN convolutions. Everything in cuDNN's graph API is a descriptor that is made, given attributes and
 * finalised; the macros here do that with the attribute's name in the error. Reference: NVIDIA cuDNN backend API,
 * cudnn_graph library. Only conv_cudnn*.c include this file, and through it cuDNN.
 */
#pragma once

#include "core/mem.h"
#include "nn/conv_cudnn.h"

#include <cudnn_graph.h>

typedef cudnnBackendDescriptor_t descriptor;

enum {
    FB_CUDNN_NDIMS = 5, /* (N, C, D, H, W) of an activation, (K, C, T, R, S) of weights: cuDNN's logical order */
    FB_CUDNN_ERROR_CHARS = 1024
};

typedef enum tensor { INPUT, WEIGHTS, OUTPUT, TENSORS } tensor; /* of the convolution; their gradients going backward */

/* Descriptors in the order they were made; NULL entries have another owner. */
typedef struct bag {
    descriptor *items; /* (capacity), owned */
    int64_t count, capacity;
} bag;

typedef struct candidate {
    descriptor config, plan; /* owned */
    fb_cudnn_choice choice;
} candidate;

struct fb_cudnn {
    cudnnHandle_t handle; /* owned; NULL without a device */
    cudaStream_t stream;  /* borrowed */
    bag device_bag;       /* holds `device` */
    descriptor device;    /* properties of the device that plans are made for; NULL with a handle */
    int64_t version;
};

struct fb_cudnn_conv {
    fb_cudnn *cudnn; /* borrowed */
    fb_conv_shape shape;
    fb_cudnn_direction direction;
    fb_cudnn_precision precision;
    bag graph_bag; /* the operation graph and what it is made of */
    descriptor graph;
    candidate *candidates; /* (capacity), owned */
    int64_t count, capacity;
    fb_cudnn_listing listing;
    char refusal[FB_CUDNN_ERROR_CHARS]; /* cuDNN's text for a configuration that it refused, or "" */
};

/* The error of a call, with cuDNN's own words. */
fb_status fb_cudnn_failed(cudnnStatus_t status, const char *call, const char *what) FB_MUST_USE;

/* Makes a descriptor that the bag owns. */
fb_status fb_cudnn_bag_make(bag *b, cudnnBackendDescriptorType_t type, const char *name, descriptor *out) FB_MUST_USE;

/* Destroys the descriptors, the last one first, and frees the bag. */
void fb_cudnn_bag_empty(bag *b);

void fb_cudnn_destroy_descriptor(descriptor *d); /* sets *d to NULL; accepts NULL inside */

fb_status fb_cudnn_finalize(descriptor d, const char *what) FB_MUST_USE;

fb_status fb_cudnn_set(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                       const void *values, const char *what) FB_MUST_USE;

/* Up to `most` elements into `values`, their number, which is at least `least`, into *count. */
fb_status fb_cudnn_get(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t least,
                       int64_t most, int64_t *count, void *values, const char *what) FB_MUST_USE;

fb_status fb_cudnn_get_one(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                           void *value, const char *what) FB_MUST_USE;

#define MAKE(b, TYPE, out) fb_cudnn_bag_make(b, CUDNN_BACKEND_##TYPE##_DESCRIPTOR, #TYPE, out)

#define SET(d, NAME, TYPE, count, values)                                                                              \
    FB_TRY(fb_cudnn_set(d, CUDNN_ATTR_##NAME, CUDNN_TYPE_##TYPE, count, values, "CUDNN_ATTR_" #NAME))
#define GET(d, NAME, TYPE, most, count, values)                                                                        \
    FB_TRY(fb_cudnn_get(d, CUDNN_ATTR_##NAME, CUDNN_TYPE_##TYPE, 0, most, count, values, "CUDNN_ATTR_" #NAME))
#define GET_ONE(d, NAME, TYPE, value)                                                                                  \
    FB_TRY(fb_cudnn_get_one(d, CUDNN_ATTR_##NAME, CUDNN_TYPE_##TYPE, value, "CUDNN_ATTR_" #NAME))

/* Makes conv->graph of the convolution's shape, direction and precision. Errors: not a convolution, too large. */
fb_status fb_cudnn_make_graph(fb_cudnn_conv *conv) FB_MUST_USE;

/* Makes the candidates of conv->graph: all that serve, or exactly `choice`. On error some may be there. */
fb_status fb_cudnn_list_plans(fb_cudnn_conv *conv, const fb_cudnn_choice *choice) FB_MUST_USE;

void fb_cudnn_candidate_free(candidate *c);
