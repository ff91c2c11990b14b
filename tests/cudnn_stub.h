/* SPDX-License-Identifier: Apache-2.0
 *
 * A cuDNN of ours for tests without a GPU: the calls of the graph API that nn/conv_cudnn*.c use, linked in place of the
 * library; cudnn_stub_cuda.h has those of the CUDA runtime. It is stricter than the real one: every attribute must be
 * known, of the right type and count and set before a descriptor is finalised, every descriptor in use must be
 * finalised, nothing may be lost. As in the real one, a descriptor keeps alive what its attributes name. Plans compute
 * with plain loops on host memory, whatever the layout that the tensor descriptors state.
 *
 * One program includes this file once.
 */
#pragma once

#include <cuda_runtime_api.h>
#include <cudnn_graph.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STUB_ATTRIBUTES = 16, STUB_NDIMS = 5, STUB_TEXT = 256 };

typedef struct stub_attribute {
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t count;
    size_t bytes;
    void *values;
} stub_attribute;

typedef struct stub_descriptor {
    cudnnBackendDescriptorType_t type;
    int finalized, held, references; /* held: by the program; references: by other descriptors */
    int count;
    stub_attribute attributes[STUB_ATTRIBUTES];
} stub_descriptor;

/* An engine configuration that the heuristics list. */
typedef struct stub_config {
    cudnnBackendHeurMode_t mode;
    int64_t engine, knobs;
    int64_t knob[2][2]; /* type, value */
} stub_config;

typedef struct stub_engine {
    int64_t index, workspace_bytes;
    uint32_t notes;     /* bits */
    cudnnStatus_t plan; /* what building a plan gives */
    float ms;
    int64_t most_splits; /* the largest value of its knob SPLIT_K_SLC; 0: has none */
} stub_engine;

#define STUB_NOTE(NAME) (1U << CUDNN_NUMERICAL_NOTE_##NAME)

static const stub_engine stub_engines[] = {
    {0, 0, 0, CUDNN_STATUS_SUCCESS, 9.0F, 0},
    {3, 64, STUB_NOTE(TENSOR_CORE), CUDNN_STATUS_SUCCESS, 3.0F, 0},
    {4, 4096, STUB_NOTE(TENSOR_CORE), CUDNN_STATUS_SUCCESS, 2.0F, 0},
    {5, 0, STUB_NOTE(TENSOR_CORE) | STUB_NOTE(NONDETERMINISTIC), CUDNN_STATUS_SUCCESS, 1.0F, 0},
    {7, 0, STUB_NOTE(REDUCED_PRECISION_REDUCTION), CUDNN_STATUS_SUCCESS, 1.0F, 0},
    {8, 0, STUB_NOTE(DOWN_CONVERT_INPUTS), CUDNN_STATUS_SUCCESS, 1.0F, 0},
    {9, 0, STUB_NOTE(TENSOR_CORE), CUDNN_STATUS_NOT_SUPPORTED_SHAPE, 1.0F, 0},
    {10, 0, 0, CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED, 1.0F, 0},
    {13, 0, STUB_NOTE(FFT), CUDNN_STATUS_SUCCESS, 4.0F, 0},
    {20, 32, STUB_NOTE(TENSOR_CORE), CUDNN_STATUS_SUCCESS, 5.0F, 64}, /* never listed; alone does mixed types */
};

static const stub_config stub_configs[] = {
    {CUDNN_HEUR_MODE_A, 5, 0, {{0}}},
    {CUDNN_HEUR_MODE_A, 3, 2, {{2, 16}, {12, -1}}},
    {CUDNN_HEUR_MODE_A, 3, 2, {{2, 4}, {12, 63}}},
    {CUDNN_HEUR_MODE_A, 4, 1, {{25, 1}}},
    {CUDNN_HEUR_MODE_A, 7, 0, {{0}}},
    {CUDNN_HEUR_MODE_A, 8, 0, {{0}}},
    {CUDNN_HEUR_MODE_A, 9, 1, {{2, 1}}},
    {CUDNN_HEUR_MODE_FALLBACK, 3, 2, {{2, 16}, {12, -1}}},
    {CUDNN_HEUR_MODE_FALLBACK, 10, 0, {{0}}},
    {CUDNN_HEUR_MODE_FALLBACK, 13, 0, {{0}}},
    {CUDNN_HEUR_MODE_FALLBACK, 0, 0, {{0}}},
};

enum { STUB_ENGINES = sizeof stub_engines / sizeof *stub_engines, STUB_UNDELIVERED = 2, STUB_ENGINE_COUNT = 22 };

/* What the tests set and read. */
typedef struct stub_state {
    size_t version;
    int no_device;               /* cudnnCreate finds none */
    int no_engines;              /* 1: none listed, 2: none there */
    int forgets_knobs;           /* configurations do not tell their knobs */
    cudnnStatus_t refuse_mode_a; /* what heuristics of mode A say */
    int64_t failing_engine;      /* its plans do not run; -1: none */
    int64_t wrong_engine;        /* its results are wrong by wrong_factor, where that is not 0 */
    float wrong_factor;
    int64_t unsteady_engine;              /* every second run of it gives other bits; 0: none */
    int64_t calls, fail_at;               /* call number fail_at fails; 0: none */
    const char *failed_call;              /* its name */
    int64_t descriptors, handles, events; /* alive */
    int64_t memory;                       /* descriptors not freed, held or not */
    cudaStream_t stream;
    int64_t ran_engine, runs;
    char last_error[STUB_TEXT], complaint[STUB_TEXT]; /* complaint: what the module did wrong, first one */
} stub_state;

static stub_state stub;

struct cudnnContext {
    cudaStream_t stream;
};

static cudnnStatus_t stub_wrong(cudnnStatus_t status, const char *what)
{
    if (!stub.complaint[0])
        snprintf(stub.complaint, sizeof stub.complaint, "%s", what);
    snprintf(stub.last_error, sizeof stub.last_error, "%s", what);
    return status;
}

static int stub_injected(const char *call)
{
    stub.calls++;
    stub.last_error[0] = '\0';
    if (stub.calls != stub.fail_at)
        return 0;
    stub.failed_call = call;
    snprintf(stub.last_error, sizeof stub.last_error, "injected failure");
    return 1;
}

/* --- rules: which attribute of which descriptor ---------------------------------------------------------------- */

typedef enum stub_need { OPTIONAL, NEEDED, WITH_DEVICE, WITHOUT_DEVICE } stub_need;

typedef struct stub_rule {
    cudnnBackendDescriptorType_t of;
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t count; /* 0: any but none */
    stub_need need;
    int points_to; /* descriptor type, for descriptors */
} stub_rule;

#define STUB_RULE(OF, NAME, TYPE, count, need)                                                                         \
    {                                                                                                                  \
        CUDNN_BACKEND_##OF##_DESCRIPTOR, CUDNN_ATTR_##NAME, CUDNN_TYPE_##TYPE, count, need, 0                          \
    }
#define STUB_LINK(OF, NAME, TO, count, need)                                                                           \
    {                                                                                                                  \
        CUDNN_BACKEND_##OF##_DESCRIPTOR, CUDNN_ATTR_##NAME, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, need,                \
            CUDNN_BACKEND_##TO##_DESCRIPTOR                                                                            \
    }
#define STUB_OPERATION(OF, P, X, W, Y)                                                                                 \
    STUB_LINK(OPERATION_CONVOLUTION_##OF, OPERATION_CONVOLUTION_##P##_CONV_DESC, CONVOLUTION, 1, NEEDED),              \
        STUB_LINK(OPERATION_CONVOLUTION_##OF, OPERATION_CONVOLUTION_##P##_##X, TENSOR, 1, NEEDED),                     \
        STUB_LINK(OPERATION_CONVOLUTION_##OF, OPERATION_CONVOLUTION_##P##_##W, TENSOR, 1, NEEDED),                     \
        STUB_LINK(OPERATION_CONVOLUTION_##OF, OPERATION_CONVOLUTION_##P##_##Y, TENSOR, 1, NEEDED),                     \
        STUB_RULE(OPERATION_CONVOLUTION_##OF, OPERATION_CONVOLUTION_##P##_ALPHA, FLOAT, 1, NEEDED),                    \
        STUB_RULE(OPERATION_CONVOLUTION_##OF, OPERATION_CONVOLUTION_##P##_BETA, FLOAT, 1, NEEDED)

static const stub_rule stub_rules[] = {
    STUB_RULE(TENSOR, TENSOR_UNIQUE_ID, INT64, 1, NEEDED),
    STUB_RULE(TENSOR, TENSOR_DATA_TYPE, DATA_TYPE, 1, NEEDED),
    STUB_RULE(TENSOR, TENSOR_DIMENSIONS, INT64, STUB_NDIMS, NEEDED),
    STUB_RULE(TENSOR, TENSOR_STRIDES, INT64, STUB_NDIMS, NEEDED),
    STUB_RULE(TENSOR, TENSOR_BYTE_ALIGNMENT, INT64, 1, NEEDED),
    STUB_RULE(CONVOLUTION, CONVOLUTION_SPATIAL_DIMS, INT64, 1, NEEDED),
    STUB_RULE(CONVOLUTION, CONVOLUTION_COMP_TYPE, DATA_TYPE, 1, NEEDED),
    STUB_RULE(CONVOLUTION, CONVOLUTION_CONV_MODE, CONVOLUTION_MODE, 1, NEEDED),
    STUB_RULE(CONVOLUTION, CONVOLUTION_PRE_PADDINGS, INT64, 3, NEEDED),
    STUB_RULE(CONVOLUTION, CONVOLUTION_POST_PADDINGS, INT64, 3, NEEDED),
    STUB_RULE(CONVOLUTION, CONVOLUTION_FILTER_STRIDES, INT64, 3, NEEDED),
    STUB_RULE(CONVOLUTION, CONVOLUTION_DILATIONS, INT64, 3, NEEDED),
    STUB_OPERATION(FORWARD, FORWARD, X, W, Y),
    STUB_OPERATION(BACKWARD_DATA, BWD_DATA, DX, W, DY),
    STUB_OPERATION(BACKWARD_FILTER, BWD_FILTER, X, DW, DY),
    STUB_LINK(OPERATIONGRAPH, OPERATIONGRAPH_OPS, OPERATION_CONVOLUTION_FORWARD, 1, NEEDED),
    STUB_RULE(OPERATIONGRAPH, OPERATIONGRAPH_HANDLE, HANDLE, 1, WITH_DEVICE),
    STUB_LINK(ENGINEHEUR, ENGINEHEUR_OPERATION_GRAPH, OPERATIONGRAPH, 1, NEEDED),
    STUB_RULE(ENGINEHEUR, ENGINEHEUR_MODE, HEUR_MODE, 1, NEEDED),
    STUB_LINK(ENGINEHEUR, ENGINEHEUR_DEVICEPROP, DEVICEPROP, 1, WITHOUT_DEVICE),
    STUB_LINK(ENGINE, ENGINE_OPERATION_GRAPH, OPERATIONGRAPH, 1, NEEDED),
    STUB_RULE(ENGINE, ENGINE_GLOBAL_INDEX, INT64, 1, NEEDED),
    STUB_LINK(ENGINE, ENGINE_DEVICEPROP, DEVICEPROP, 1, WITHOUT_DEVICE),
    STUB_RULE(KNOB_CHOICE, KNOB_CHOICE_KNOB_TYPE, KNOB_TYPE, 1, NEEDED),
    STUB_RULE(KNOB_CHOICE, KNOB_CHOICE_KNOB_VALUE, INT64, 1, NEEDED),
    STUB_RULE(KNOB_INFO, KNOB_INFO_TYPE, KNOB_TYPE, 1, NEEDED),
    STUB_RULE(KNOB_INFO, KNOB_INFO_MAXIMUM_VALUE, INT64, 1, NEEDED),
    STUB_LINK(ENGINECFG, ENGINECFG_ENGINE, ENGINE, 1, NEEDED),
    STUB_LINK(ENGINECFG, ENGINECFG_KNOB_CHOICES, KNOB_CHOICE, 0, OPTIONAL),
    STUB_LINK(EXECUTION_PLAN, EXECUTION_PLAN_ENGINE_CONFIG, ENGINECFG, 1, NEEDED),
    STUB_RULE(EXECUTION_PLAN, EXECUTION_PLAN_HANDLE, HANDLE, 1, WITH_DEVICE),
    STUB_RULE(VARIANT_PACK, VARIANT_PACK_UNIQUE_IDS, INT64, 3, NEEDED),
    STUB_RULE(VARIANT_PACK, VARIANT_PACK_DATA_POINTERS, VOID_PTR, 3, NEEDED),
    STUB_RULE(VARIANT_PACK, VARIANT_PACK_WORKSPACE, VOID_PTR, 1, NEEDED),
    STUB_RULE(DEVICEPROP, DEVICEPROP_JSON_REPRESENTATION, CHAR, 0, NEEDED),
};

enum { STUB_RULES = sizeof stub_rules / sizeof *stub_rules };

static const stub_rule *stub_rule_of(cudnnBackendDescriptorType_t of, cudnnBackendAttributeName_t name)
{
    for (int i = 0; i < STUB_RULES; i++)
        if (stub_rules[i].of == of && stub_rules[i].name == name)
            return &stub_rules[i];
    return NULL;
}

static size_t stub_bytes(cudnnBackendAttributeType_t type)
{
    switch ((int)type) {
    case CUDNN_TYPE_INT64:
        return sizeof(int64_t);
    case CUDNN_TYPE_FLOAT:
        return sizeof(float);
    case CUDNN_TYPE_CHAR:
        return 1;
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return sizeof(void *);
    default:
        return sizeof(int); /* enumerations */
    }
}

static const stub_attribute *stub_find(const stub_descriptor *d, cudnnBackendAttributeName_t name)
{
    for (int i = 0; i < d->count; i++)
        if (d->attributes[i].name == name)
            return &d->attributes[i];
    return NULL;
}

static const int64_t *stub_integers(const stub_descriptor *d, cudnnBackendAttributeName_t name)
{
    return stub_find(d, name)->values;
}

static stub_descriptor *stub_link(const stub_descriptor *d, cudnnBackendAttributeName_t name)
{
    return *(stub_descriptor *const *)stub_find(d, name)->values;
}

static int stub_enum(const stub_descriptor *d, cudnnBackendAttributeName_t name)
{
    return *(const int *)stub_find(d, name)->values;
}

/* --- descriptors ----------------------------------------------------------------------------------------------- */

static stub_descriptor *stub_make(cudnnBackendDescriptorType_t type)
{
    stub_descriptor *d = calloc(1, sizeof *d);
    d->type = type;
    stub.memory++;
    return d;
}

static void stub_release(stub_descriptor *d)
{
    if (d->held || d->references > 0)
        return;
    for (int i = 0; i < d->count; i++) {
        stub_attribute *a = &d->attributes[i];
        for (int64_t k = 0; a->type == CUDNN_TYPE_BACKEND_DESCRIPTOR && k < a->count; k++) {
            stub_descriptor *to = ((stub_descriptor **)a->values)[k];
            to->references--;
            stub_release(to);
        }
        free(a->values);
    }
    stub.memory--;
    free(d);
}

static void stub_put(stub_descriptor *d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                     int64_t count, const void *values)
{
    stub_attribute *a = &d->attributes[d->count++];
    *a = (stub_attribute){name, type, count, stub_bytes(type) * (size_t)count, NULL};
    a->values = malloc(a->bytes);
    memcpy(a->values, values, a->bytes);
    for (int64_t k = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && k < count; k++)
        ((stub_descriptor **)a->values)[k]->references++;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *out)
{
    if (stub_injected("cudnnBackendCreateDescriptor"))
        return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    stub_descriptor *d = stub_make(type);
    d->held = 1;
    stub.descriptors++;
    *out = d;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor)
{
    stub_descriptor *d = descriptor;
    if (!d->held)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM, "destroyed twice");
    d->held = 0;
    stub.descriptors--;
    stub_release(d);
    return CUDNN_STATUS_SUCCESS;
}

static int stub_is_operation(cudnnBackendDescriptorType_t type)
{
    return type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR ||
           type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR ||
           type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR;
}

static cudnnStatus_t stub_check_links(const stub_rule *rule, int64_t count, stub_descriptor *const *to)
{
    for (int64_t k = 0; k < count; k++) {
        if (!to[k] || !to[k]->finalized)
            return stub_wrong(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a descriptor in use is not finalised");
        const int fits = rule->name == CUDNN_ATTR_OPERATIONGRAPH_OPS ? stub_is_operation(to[k]->type)
                                                                     : (int)to[k]->type == rule->points_to;
        if (!fits)
            return stub_wrong(CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE, "a descriptor of another type is expected");
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    stub_descriptor *d = descriptor;
    if (stub_injected("cudnnBackendSetAttribute"))
        return CUDNN_STATUS_BAD_PARAM;
    const stub_rule *rule = stub_rule_of(d->type, name);
    if (!d->held || d->finalized)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM, "an attribute is set after finalising");
    if (!rule || rule->type != type)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "no such attribute, or of another type");
    if (!values || count < 1 || (rule->count != 0 && rule->count != count))
        return stub_wrong(CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT, "wrong number of elements");
    if (stub_find(d, name))
        return stub_wrong(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES, "an attribute is set twice");
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        const cudnnStatus_t status = stub_check_links(rule, count, values);
        if (status != CUDNN_STATUS_SUCCESS)
            return status;
    }
    if (type == CUDNN_TYPE_HANDLE && !*(const cudnnHandle_t *)values)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "no handle");
    stub_put(d, name, type, count, values);
    return CUDNN_STATUS_SUCCESS;
}

/* Computes a job, now or when the stream comes to it, and frees it afterwards: the including program's. */
typedef struct stub_job stub_job;
static cudnnStatus_t stub_submit(stub_job *job, cudaStream_t stream);

#include "cudnn_stub_run.h"
