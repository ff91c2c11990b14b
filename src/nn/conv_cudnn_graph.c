/* SPDX-License-Identifier: Apache-2.0
 *
 * Descriptors of cuDNN, and the operation graph of one convolution.
 */
#include "nn/conv_cudnn_impl.h"

fb_status fb_cudnn_failed(cudnnStatus_t status, const char *call, const char *what)
{
    char text[FB_CUDNN_ERROR_CHARS] = "";
    cudnnGetLastErrorString(text, sizeof text);
    return FB_FAIL("%s(%s): %s%s%s", call, what, cudnnGetErrorString(status), text[0] ? ": " : "", text);
}

fb_status fb_cudnn_bag_make(bag *b, cudnnBackendDescriptorType_t type, const char *name, descriptor *out)
{
    if (b->count == b->capacity) {
        const int64_t capacity = 2 * b->capacity + 8;
        FB_TRY(fb_mem_resize(&b->items, capacity, sizeof *b->items, "cuDNN descriptors"));
        b->capacity = capacity;
    }
    const cudnnStatus_t status = cudnnBackendCreateDescriptor(type, out);
    if (status != CUDNN_STATUS_SUCCESS)
        return fb_cudnn_failed(status, "cudnnBackendCreateDescriptor", name);
    b->items[b->count++] = *out;
    return FB_OK;
}

void fb_cudnn_destroy_descriptor(descriptor *d)
{
    if (*d)
        (void)cudnnBackendDestroyDescriptor(*d);
    *d = NULL;
}

void fb_cudnn_bag_empty(bag *b)
{
    while (b->count > 0)
        fb_cudnn_destroy_descriptor(&b->items[--b->count]);
    b->capacity = 0;
    FB_FREE(b->items);
}

fb_status fb_cudnn_set(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                       const void *values, const char *what)
{
    const cudnnStatus_t status = cudnnBackendSetAttribute(d, name, type, count, values);
    return status == CUDNN_STATUS_SUCCESS ? FB_OK : fb_cudnn_failed(status, "cudnnBackendSetAttribute", what);
}

fb_status fb_cudnn_get(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t least,
                       int64_t most, int64_t *count, void *values, const char *what)
{
    *count = 0;
    const cudnnStatus_t status = cudnnBackendGetAttribute(d, name, type, most, count, values);
    if (status != CUDNN_STATUS_SUCCESS)
        return fb_cudnn_failed(status, "cudnnBackendGetAttribute", what);
    if (*count < least || *count < 0)
        return FB_FAIL("cudnnBackendGetAttribute(%s): %lld elements instead of at least %lld", what, (long long)*count,
                       (long long)least);
    return FB_OK;
}

fb_status fb_cudnn_get_one(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                           void *value, const char *what)
{
    int64_t count = 0;
    return fb_cudnn_get(d, name, type, 1, 1, &count, value, what);
}

fb_status fb_cudnn_finalize(descriptor d, const char *what)
{
    const cudnnStatus_t status = cudnnBackendFinalize(d);
    return status == CUDNN_STATUS_SUCCESS ? FB_OK : fb_cudnn_failed(status, "cudnnBackendFinalize", what);
}

/* --- the operation graph --------------------------------------------------------------------------------------- */

/* Dimensions of the convolution's tensors in cuDNN's logical order. Errors: not a convolution, too large. */
static fb_status measure(const fb_conv_shape *s, int64_t dims[TENSORS][FB_CUDNN_NDIMS])
{
    if ((s->kernel != 1 && s->kernel != 3) || (s->stride != 1 && s->stride != 2))
        return FB_FAIL("kernel 1 or 3 and stride 1 or 2 are what there is");
    dims[INPUT][0] = dims[OUTPUT][0] = 1;
    dims[INPUT][1] = dims[WEIGHTS][1] = s->c_in;
    dims[OUTPUT][1] = dims[WEIGHTS][0] = s->c_out;
    for (int axis = 0; axis < 3; axis++) {
        dims[INPUT][2 + axis] = s->in[axis];
        dims[OUTPUT][2 + axis] = s->in[axis] / s->stride + s->in[axis] % s->stride;
        dims[WEIGHTS][2 + axis] = s->kernel;
    }
    for (tensor t = INPUT; t < TENSORS; t++) {
        int64_t elements = 1;
        for (int axis = 0; axis < FB_CUDNN_NDIMS; axis++) {
            if (dims[t][axis] < 1)
                return FB_FAIL("extents and channels must be at least 1");
            if (dims[t][axis] > INT32_MAX / elements)
                return FB_FAIL("a tensor of 2^31 elements or more; cuDNN's kernels that count in 32 bits have computed "
                               "such ones wrongly; use smaller volumes or fewer filters");
            elements *= dims[t][axis];
        }
    }
    return FB_OK;
}

static cudnnDataType_t data_type(const fb_cudnn_conv *conv, tensor t)
{
    const int gradient = t == WEIGHTS && conv->direction == FB_CUDNN_BACKWARD_WEIGHTS;
    if (conv->precision == FB_CUDNN_BF16 || (conv->precision == FB_CUDNN_BF16_GRADIENT_F32 && !gradient))
        return CUDNN_DATA_BFLOAT16;
    return CUDNN_DATA_FLOAT;
}

/* Dense with dims[1], the channels, fastest. The tensor is its own unique identifier. */
static fb_status make_tensor(fb_cudnn_conv *conv, tensor t, const int64_t dims[FB_CUDNN_NDIMS], descriptor *out)
{
    const cudnnDataType_t type = data_type(conv, t);
    const int64_t id = t, alignment = FB_CUDNN_ALIGNMENT_BYTES;
    int64_t strides[FB_CUDNN_NDIMS], step = dims[1];
    strides[1] = 1;
    for (int axis = FB_CUDNN_NDIMS - 1; axis > 1; axis--) {
        strides[axis] = step;
        step *= dims[axis];
    }
    strides[0] = step;
    FB_TRY(MAKE(&conv->graph_bag, TENSOR, out));
    SET(*out, TENSOR_UNIQUE_ID, INT64, 1, &id);
    SET(*out, TENSOR_DATA_TYPE, DATA_TYPE, 1, &type);
    SET(*out, TENSOR_DIMENSIONS, INT64, FB_CUDNN_NDIMS, dims);
    SET(*out, TENSOR_STRIDES, INT64, FB_CUDNN_NDIMS, strides);
    SET(*out, TENSOR_BYTE_ALIGNMENT, INT64, 1, &alignment);
    return fb_cudnn_finalize(*out, "TENSOR");
}

static fb_status make_convolution(fb_cudnn_conv *conv, descriptor *out)
{
    enum { AXES = FB_CUDNN_NDIMS - 2 };
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t axes = AXES, pad = conv->shape.kernel / 2, stride = conv->shape.stride;
    const int64_t pads[AXES] = {pad, pad, pad}, strides[AXES] = {stride, stride, stride}, dilations[AXES] = {1, 1, 1};
    FB_TRY(MAKE(&conv->graph_bag, CONVOLUTION, out));
    SET(*out, CONVOLUTION_SPATIAL_DIMS, INT64, 1, &axes);
    SET(*out, CONVOLUTION_COMP_TYPE, DATA_TYPE, 1, &sums);
    SET(*out, CONVOLUTION_CONV_MODE, CONVOLUTION_MODE, 1, &mode);
    SET(*out, CONVOLUTION_PRE_PADDINGS, INT64, AXES, pads);
    SET(*out, CONVOLUTION_POST_PADDINGS, INT64, AXES, pads);
    SET(*out, CONVOLUTION_FILTER_STRIDES, INT64, AXES, strides);
    SET(*out, CONVOLUTION_DILATIONS, INT64, AXES, dilations);
    return fb_cudnn_finalize(*out, "CONVOLUTION");
}

/* output = 1 * result + 0 * output */
#define SET_OPERATION(NAME, X, W, Y)                                                                                   \
    SET(*out, OPERATION_CONVOLUTION_##NAME##_CONV_DESC, BACKEND_DESCRIPTOR, 1, &convolution);                          \
    SET(*out, OPERATION_CONVOLUTION_##NAME##_##X, BACKEND_DESCRIPTOR, 1, &tensors[INPUT]);                             \
    SET(*out, OPERATION_CONVOLUTION_##NAME##_##W, BACKEND_DESCRIPTOR, 1, &tensors[WEIGHTS]);                           \
    SET(*out, OPERATION_CONVOLUTION_##NAME##_##Y, BACKEND_DESCRIPTOR, 1, &tensors[OUTPUT]);                            \
    SET(*out, OPERATION_CONVOLUTION_##NAME##_ALPHA, FLOAT, 1, &one);                                                   \
    SET(*out, OPERATION_CONVOLUTION_##NAME##_BETA, FLOAT, 1, &zero)

static fb_status make_operation(fb_cudnn_conv *conv, const descriptor tensors[TENSORS], descriptor convolution,
                                descriptor *out)
{
    const float one = 1.0F, zero = 0.0F;
    if (conv->direction == FB_CUDNN_FORWARD) {
        FB_TRY(MAKE(&conv->graph_bag, OPERATION_CONVOLUTION_FORWARD, out));
        SET_OPERATION(FORWARD, X, W, Y);
    } else if (conv->direction == FB_CUDNN_BACKWARD_DATA) {
        FB_TRY(MAKE(&conv->graph_bag, OPERATION_CONVOLUTION_BACKWARD_DATA, out));
        SET_OPERATION(BWD_DATA, DX, W, DY);
    } else {
        FB_TRY(MAKE(&conv->graph_bag, OPERATION_CONVOLUTION_BACKWARD_FILTER, out));
        SET_OPERATION(BWD_FILTER, X, DW, DY);
    }
    return fb_cudnn_finalize(*out, "OPERATION_CONVOLUTION");
}

fb_status fb_cudnn_make_graph(fb_cudnn_conv *conv)
{
    int64_t dims[TENSORS][FB_CUDNN_NDIMS];
    descriptor tensors[TENSORS], convolution = NULL, operation = NULL;
    FB_TRY(measure(&conv->shape, dims));
    for (tensor t = INPUT; t < TENSORS; t++)
        FB_TRY(make_tensor(conv, t, dims[t], &tensors[t]));
    FB_TRY(make_convolution(conv, &convolution));
    FB_TRY(make_operation(conv, tensors, convolution, &operation));
    FB_TRY(MAKE(&conv->graph_bag, OPERATIONGRAPH, &conv->graph));
    SET(conv->graph, OPERATIONGRAPH_OPS, BACKEND_DESCRIPTOR, 1, &operation);
    if (conv->cudnn->handle)
        SET(conv->graph, OPERATIONGRAPH_HANDLE, HANDLE, 1, &conv->cudnn->handle);
    return fb_cudnn_finalize(conv->graph, "OPERATIONGRAPH");
}
