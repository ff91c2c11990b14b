/* SPDX-License-Identifier: Apache-2.0
 *
 * The second half of cudnn_stub.h: finalising, asking and running.
 */
#pragma once

#include "conv_problem.h"

/* --- finalising ------------------------------------------------------------------------------------------------ */

static const stub_engine *stub_engine_of(int64_t index)
{
    for (int i = 0; i < STUB_ENGINES; i++)
        if (stub_engines[i].index == index)
            return &stub_engines[i];
    return NULL;
}

/* Dense, the channels fastest, then W, H, D. */
static cudnnStatus_t stub_finalize_tensor(const stub_descriptor *d)
{
    const int64_t *dims = stub_integers(d, CUDNN_ATTR_TENSOR_DIMENSIONS);
    const int64_t *strides = stub_integers(d, CUDNN_ATTR_TENSOR_STRIDES);
    static const int order[STUB_NDIMS] = {1, 4, 3, 2, 0};
    int64_t step = 1;
    for (int i = 0; i < STUB_NDIMS; i++) {
        if (dims[order[i]] < 1 || strides[order[i]] != step)
            return stub_wrong(CUDNN_STATUS_BAD_PARAM, "a tensor is not dense and channels-last");
        step *= dims[order[i]];
    }
    if (*stub_integers(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT) != 16)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM, "alignment");
    return CUDNN_STATUS_SUCCESS;
}

typedef struct stub_operation {
    const stub_descriptor *convolution, *tensors[3]; /* x, w, y */
    int direction;                                   /* 0 forward, 1 data, 2 weights */
} stub_operation;

static stub_operation stub_operation_of(const stub_descriptor *d)
{
    static const cudnnBackendAttributeName_t names[3][4] = {
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}};
    stub_operation op = {.direction = d->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR     ? 1
                                      : d->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR ? 2
                                                                                                                  : 0};
    op.convolution = stub_link(d, names[op.direction][0]);
    for (int t = 0; t < 3; t++)
        op.tensors[t] = stub_link(d, names[op.direction][1 + t]);
    return op;
}

static cudnnStatus_t stub_finalize_operation(const stub_descriptor *d)
{
    static const cudnnBackendAttributeName_t alpha_beta[3][2] = {
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA}};
    const stub_operation op = stub_operation_of(d);
    const int64_t *x = stub_integers(op.tensors[0], CUDNN_ATTR_TENSOR_DIMENSIONS);
    const int64_t *w = stub_integers(op.tensors[1], CUDNN_ATTR_TENSOR_DIMENSIONS);
    const int64_t *y = stub_integers(op.tensors[2], CUDNN_ATTR_TENSOR_DIMENSIONS);
    const int64_t *pre = stub_integers(op.convolution, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
    const int64_t *post = stub_integers(op.convolution, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
    const int64_t *stride = stub_integers(op.convolution, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    int fits = x[0] == 1 && y[0] == 1 && x[1] == w[1] && y[1] == w[0];
    for (int i = 0; i < 3; i++)
        fits = fits && y[2 + i] == (x[2 + i] + pre[i] + post[i] - w[2 + i]) / stride[i] + 1;
    fits = fits && *(const float *)stub_find(d, alpha_beta[op.direction][0])->values == 1.0F &&
           *(const float *)stub_find(d, alpha_beta[op.direction][1])->values == 0.0F;
    return fits ? CUDNN_STATUS_SUCCESS
                : stub_wrong(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "shapes or factors do not fit");
}

/* bfloat16 with a float32 gradient */
static int stub_is_mixed(const stub_descriptor *graph)
{
    const stub_operation op = stub_operation_of(stub_link(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS));
    return stub_enum(op.tensors[0], CUDNN_ATTR_TENSOR_DATA_TYPE) !=
           stub_enum(op.tensors[1], CUDNN_ATTR_TENSOR_DATA_TYPE);
}

static cudnnStatus_t stub_finalize_convolution(const stub_descriptor *d)
{
    const int64_t *dilation = stub_integers(d, CUDNN_ATTR_CONVOLUTION_DILATIONS);
    const int fits = *stub_integers(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS) == 3 && dilation[0] == 1 &&
                     dilation[1] == 1 && dilation[2] == 1 &&
                     stub_enum(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE) == CUDNN_DATA_FLOAT &&
                     stub_enum(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE) == CUDNN_CROSS_CORRELATION;
    return fits ? CUDNN_STATUS_SUCCESS : stub_wrong(CUDNN_STATUS_BAD_PARAM, "not a 3-D cross-correlation in float32");
}

static cudnnStatus_t stub_finalize_heuristics(const stub_descriptor *d)
{
    if (stub_enum(d, CUDNN_ATTR_ENGINEHEUR_MODE) != CUDNN_HEUR_MODE_A || stub.refuse_mode_a == CUDNN_STATUS_SUCCESS)
        return CUDNN_STATUS_SUCCESS;
    snprintf(stub.last_error, sizeof stub.last_error, "mode A refused");
    return stub.refuse_mode_a;
}

/* As the real one, which finds engine and knobs unusable only here. */
static cudnnStatus_t stub_finalize_plan(const stub_descriptor *d)
{
    const stub_descriptor *config = stub_link(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    const stub_descriptor *engine = stub_link(config, CUDNN_ATTR_ENGINECFG_ENGINE);
    const cudnnStatus_t status = stub_engine_of(*stub_integers(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX))->plan;
    if (status != CUDNN_STATUS_SUCCESS)
        snprintf(stub.last_error, sizeof stub.last_error, "this engine cannot");
    return status;
}

static cudnnStatus_t stub_finalize_engine(const stub_descriptor *d)
{
    if (stub_engine_of(*stub_integers(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX)))
        return CUDNN_STATUS_SUCCESS;
    snprintf(stub.last_error, sizeof stub.last_error, "no such engine");
    return CUDNN_STATUS_NOT_SUPPORTED;
}

static cudnnStatus_t stub_finalize_config(const stub_descriptor *d)
{
    const stub_descriptor *engine = stub_link(d, CUDNN_ATTR_ENGINECFG_ENGINE);
    const stub_descriptor *graph = stub_link(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
    if (!stub_is_mixed(graph) || *stub_integers(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX) == 20)
        return CUDNN_STATUS_SUCCESS;
    snprintf(stub.last_error, sizeof stub.last_error, "this engine cannot");
    return CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE;
}

static cudnnStatus_t stub_finalize(const stub_descriptor *d)
{
    switch ((int)d->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
        return stub_finalize_tensor(d);
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR:
        return stub_finalize_convolution(d);
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
        return stub_finalize_heuristics(d);
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
        return stub_finalize_engine(d);
    case CUDNN_BACKEND_ENGINECFG_DESCRIPTOR:
        return stub_finalize_config(d);
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
        return stub_finalize_plan(d);
    default:
        return stub_is_operation(d->type) ? stub_finalize_operation(d) : CUDNN_STATUS_SUCCESS;
    }
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor)
{
    stub_descriptor *d = descriptor;
    if (stub_injected("cudnnBackendFinalize"))
        return CUDNN_STATUS_INTERNAL_ERROR;
    if (!d->held || d->finalized)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM, "finalised twice");
    for (int i = 0; i < STUB_RULES; i++) {
        const stub_rule *r = &stub_rules[i];
        if (r->of != d->type)
            continue;
        const int set = stub_find(d, r->name) != NULL, device = stub.handles > 0;
        if ((r->need == NEEDED && !set) || (r->need == WITH_DEVICE && set != device) ||
            (r->need == WITHOUT_DEVICE && set == device))
            return stub_wrong(CUDNN_STATUS_BAD_PARAM, "an attribute is missing, or set where it may not be");
    }
    const cudnnStatus_t status = stub_finalize(d);
    d->finalized = status == CUDNN_STATUS_SUCCESS;
    return status;
}

/* --- asking ---------------------------------------------------------------------------------------------------- */

/* Makes an empty descriptor of the program's a finalised copy of another. */
static cudnnStatus_t stub_fill(stub_descriptor *to, const stub_descriptor *from)
{
    if (!to || !to->held || to->finalized || to->count > 0 || to->type != from->type)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM, "the result needs an empty descriptor of its type");
    for (int i = 0; i < from->count; i++)
        stub_put(to, from->attributes[i].name, from->attributes[i].type, from->attributes[i].count,
                 from->attributes[i].values);
    to->finalized = 1;
    return CUDNN_STATUS_SUCCESS;
}

/* Makes *to the configuration, with an engine and knobs that only it refers to. */
static cudnnStatus_t stub_fill_config(stub_descriptor *to, const stub_descriptor *heuristics, const stub_config *c)
{
    stub_descriptor *engine = stub_make(CUDNN_BACKEND_ENGINE_DESCRIPTOR), *knobs[2];
    stub_descriptor *from = stub_make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    stub_descriptor *graph = stub_link(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    stub_put(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &c->engine);
    stub_put(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
    engine->finalized = 1;
    for (int64_t k = 0; k < c->knobs; k++) {
        const int type = (int)c->knob[k][0];
        knobs[k] = stub_make(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        stub_put(knobs[k], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
        stub_put(knobs[k], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &c->knob[k][1]);
        knobs[k]->finalized = 1;
    }
    stub_put(from, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine);
    if (c->knobs > 0)
        stub_put(from, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, c->knobs, knobs);
    const cudnnStatus_t status = stub_fill(to, from);
    stub_release(from);
    return status;
}

/* Asked for their number only, it counts some that it will not deliver, as the real one does. */
static cudnnStatus_t stub_results(const stub_descriptor *d, int64_t most, int64_t *count, stub_descriptor **out)
{
    const int mode = stub_enum(d, CUDNN_ATTR_ENGINEHEUR_MODE);
    const int mixed = stub_is_mixed(stub_link(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH));
    *count = 0;
    for (size_t i = 0; i < sizeof stub_configs / sizeof *stub_configs && !stub.no_engines; i++) {
        if ((int)stub_configs[i].mode != mode || (mixed && out))
            continue;
        if (out && *count < most) {
            const cudnnStatus_t status = stub_fill_config(out[*count], d, &stub_configs[i]);
            if (status != CUDNN_STATUS_SUCCESS)
                return status;
        }
        ++*count;
    }
    *count += !out && *count > 0 ? STUB_UNDELIVERED : 0;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t stub_notes(const stub_descriptor *d, int64_t most, int64_t *count, int *out)
{
    const uint32_t notes = stub_engine_of(*stub_integers(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX))->notes;
    *count = 0;
    for (int note = 0; note < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; note++)
        if (notes & (1U << note)) {
            if (*count < most)
                out[*count] = note;
            ++*count;
        }
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t stub_knob_infos(const stub_descriptor *d, int64_t *count, stub_descriptor **out)
{
    const int type = CUDNN_KNOB_TYPE_SPLIT_K_SLC;
    const int64_t most = stub_engine_of(*stub_integers(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX))->most_splits;
    *count = most > 0;
    if (most == 0)
        return CUDNN_STATUS_SUCCESS;
    stub_descriptor *info = stub_make(CUDNN_BACKEND_KNOB_INFO_DESCRIPTOR);
    stub_put(info, CUDNN_ATTR_KNOB_INFO_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
    stub_put(info, CUDNN_ATTR_KNOB_INFO_MAXIMUM_VALUE, CUDNN_TYPE_INT64, 1, &most);
    const cudnnStatus_t status = stub_fill(out[0], info);
    stub_release(info);
    return status;
}

static cudnnStatus_t stub_workspace(const stub_descriptor *d, int64_t *count, int64_t *out)
{
    const stub_descriptor *config = stub_link(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    const stub_descriptor *engine = stub_link(config, CUDNN_ATTR_ENGINECFG_ENGINE);
    *count = 1;
    *out = stub_engine_of(*stub_integers(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX))->workspace_bytes;
    return CUDNN_STATUS_SUCCESS;
}

/* An attribute as it was set; descriptors are copied into the program's. */
static cudnnStatus_t stub_stored(const stub_descriptor *d, const stub_attribute *a, int64_t most, int64_t *count,
                                 void *out)
{
    (void)d;
    *count = a && !(stub.forgets_knobs && a->name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES) ? a->count : 0;
    if (*count == 0 || most == 0)
        return CUDNN_STATUS_SUCCESS;
    if (most < a->count)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT, "too few elements");
    if (a->type != CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        memcpy(out, a->values, a->bytes);
        return CUDNN_STATUS_SUCCESS;
    }
    for (int64_t k = 0; k < a->count; k++) {
        const cudnnStatus_t status = stub_fill(((stub_descriptor **)out)[k], ((stub_descriptor **)a->values)[k]);
        if (status != CUDNN_STATUS_SUCCESS)
            return status;
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t most, int64_t *count, void *out)
{
    const stub_descriptor *d = descriptor;
    if (stub_injected("cudnnBackendGetAttribute"))
        return CUDNN_STATUS_INTERNAL_ERROR;
    if (!d->held || !d->finalized)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "asked before finalising");
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        return stub_results(d, most, count, out);
    if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE && type == CUDNN_TYPE_NUMERICAL_NOTE)
        return stub_notes(d, most, count, out);
    if (name == CUDNN_ATTR_ENGINE_KNOB_INFO && type == CUDNN_TYPE_BACKEND_DESCRIPTOR && most >= 1)
        return stub_knob_infos(d, count, out);
    if (name == CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT && type == CUDNN_TYPE_INT64 && most == 1) {
        *count = 1;
        *(int64_t *)out = stub.no_engines == 2 ? 0 : STUB_ENGINE_COUNT;
        return CUDNN_STATUS_SUCCESS;
    }
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE && type == CUDNN_TYPE_INT64 && most == 1)
        return stub_workspace(d, count, out);
    const stub_rule *rule = stub_rule_of(d->type, name);
    if (!rule || rule->type != type)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "no such attribute, or of another type");
    return stub_stored(d, stub_find(d, name), most, count, out);
}

/* --- running --------------------------------------------------------------------------------------------------- */

/* One convolution with its tensors' layouts; its descriptors may be gone when it is computed. */
struct stub_job {
    int direction; /* 0 forward, 1 data, 2 weights */
    int64_t engine;
    float factor; /* of the result: 1, but for an engine that computes wrongly */
    void *data[3], *workspace;
    size_t workspace_bytes;
    int types[3]; /* cudnnDataType_t */
    int64_t dims[3][STUB_NDIMS], strides[3][STUB_NDIMS], pad[3], stride[3];
};

static double stub_load(const stub_job *j, int t, int64_t i)
{
    if (j->types[t] == CUDNN_DATA_FLOAT)
        return (double)((const float *)j->data[t])[i];
    return (double)of_bf16(((const uint16_t *)j->data[t])[i]);
}

static void stub_store(const stub_job *j, int t, int64_t i, double value)
{
    if (j->types[t] == CUDNN_DATA_FLOAT)
        ((float *)j->data[t])[i] = (float)value;
    else
        ((uint16_t *)j->data[t])[i] = to_bf16((float)value);
}

/* Element (a, b, position) of a tensor. */
static int64_t stub_at(const stub_job *j, int t, int64_t a, int64_t b, const int64_t p[3])
{
    const int64_t *s = j->strides[t];
    return a * s[0] + b * s[1] + p[0] * s[2] + p[1] * s[3] + p[2] * s[4];
}

static int stub_next(int64_t p[3], const int64_t extent[3])
{
    for (int axis = 2; axis >= 0; axis--) {
        if (++p[axis] < extent[axis])
            return 1;
        p[axis] = 0;
    }
    return 0;
}

/* Walks every product that the convolution has and adds it to where the direction wants it. */
static void stub_products(const stub_job *j, int64_t o, int64_t i, const int64_t q[3], double *sums)
{
    int64_t r[3] = {0, 0, 0};
    do {
        int64_t p[3];
        int inside = 1;
        for (int axis = 0; axis < 3; axis++) {
            p[axis] = q[axis] * j->stride[axis] + r[axis] - j->pad[axis];
            inside = inside && p[axis] >= 0 && p[axis] < j->dims[0][2 + axis];
        }
        if (!inside)
            continue;
        const int64_t at[3] = {stub_at(j, 0, 0, i, p), stub_at(j, 1, o, i, r), stub_at(j, 2, 0, o, q)};
        const int to = j->direction == 0 ? 2 : j->direction - 1; /* y, x or w */
        const int a = (to + 1) % 3, b = (to + 2) % 3;
        sums[at[to]] += stub_load(j, a, at[a]) * stub_load(j, b, at[b]);
    } while (stub_next(r, j->dims[1] + 2));
}

/* What the device does. */
static void stub_compute(const stub_job *j)
{
    const int to = j->direction == 0 ? 2 : j->direction - 1;
    int64_t elements = 1;
    if (j->workspace_bytes > 0)
        memset(j->workspace, 0xA5, j->workspace_bytes);
    for (int axis = 0; axis < STUB_NDIMS; axis++)
        elements *= j->dims[to][axis];
    double *sums = calloc((size_t)elements, sizeof *sums);
    for (int64_t o = 0; o < j->dims[1][0]; o++)
        for (int64_t i = 0; i < j->dims[1][1]; i++) {
            int64_t q[3] = {0, 0, 0};
            do
                stub_products(j, o, i, q, sums);
            while (stub_next(q, j->dims[2] + 2));
        }
    for (int64_t e = 0; e < elements; e++)
        stub_store(j, to, e, sums[e] * (double)j->factor);
    free(sums);
}

static cudnnStatus_t stub_job_of(const stub_descriptor *graph, const stub_descriptor *pack, stub_job *j)
{
    const stub_operation op = stub_operation_of(stub_link(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS));
    const int64_t *ids = stub_integers(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    void *const *pointers = stub_find(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)->values;
    j->direction = op.direction;
    for (int t = 0; t < 3; t++) {
        j->types[t] = stub_enum(op.tensors[t], CUDNN_ATTR_TENSOR_DATA_TYPE);
        memcpy(j->dims[t], stub_integers(op.tensors[t], CUDNN_ATTR_TENSOR_DIMENSIONS), sizeof j->dims[t]);
        memcpy(j->strides[t], stub_integers(op.tensors[t], CUDNN_ATTR_TENSOR_STRIDES), sizeof j->strides[t]);
        for (int k = 0; k < 3; k++)
            if (ids[k] == *stub_integers(op.tensors[t], CUDNN_ATTR_TENSOR_UNIQUE_ID))
                j->data[t] = pointers[k];
        if (!j->data[t] || (uintptr_t)j->data[t] % 16 != 0)
            return stub_wrong(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, "no data, or not aligned");
    }
    memcpy(j->pad, stub_integers(op.convolution, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS), sizeof j->pad);
    memcpy(j->stride, stub_integers(op.convolution, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES), sizeof j->stride);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack)
{
    const stub_descriptor *p = plan, *v = pack;
    if (stub_injected("cudnnBackendExecute"))
        return CUDNN_STATUS_EXECUTION_FAILED;
    if (!handle || handle->stream != stub.stream || !p->held || !p->finalized || !v->held || !v->finalized)
        return stub_wrong(CUDNN_STATUS_BAD_PARAM, "handle, plan or pack");
    const stub_descriptor *engine =
        stub_link(stub_link(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG), CUDNN_ATTR_ENGINECFG_ENGINE);
    const stub_engine *e = stub_engine_of(*stub_integers(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
    if (e->index == stub.failing_engine) {
        snprintf(stub.last_error, sizeof stub.last_error, "this engine does not run");
        return CUDNN_STATUS_EXECUTION_FAILED;
    }
    stub_job *job = calloc(1, sizeof *job);
    job->engine = e->index;
    job->factor = stub.wrong_factor != 0.0F && e->index == stub.wrong_engine ? stub.wrong_factor : 1.0F;
    if (stub.unsteady_engine > 0 && e->index == stub.unsteady_engine && stub.runs % 2 == 1)
        job->factor = 1.0F + 0x1p-9F;
    job->workspace = *(void **)stub_find(v, CUDNN_ATTR_VARIANT_PACK_WORKSPACE)->values;
    job->workspace_bytes = (size_t)e->workspace_bytes;
    const cudnnStatus_t status = stub_job_of(stub_link(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH), v, job);
    if (status != CUDNN_STATUS_SUCCESS) {
        free(job);
        return status;
    }
    stub.ran_engine = e->index;
    stub.runs++;
    return stub_submit(job, handle->stream);
}

/* --- handles and errors ---------------------------------------------------------------------------------------- */

size_t cudnnGetVersion(void)
{
    return stub.version;
}

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    return status == CUDNN_STATUS_SUCCESS ? "CUDNN_STATUS_SUCCESS" : "CUDNN_STATUS_OF_THE_STUB";
}

void cudnnGetLastErrorString(char *message, size_t max_size)
{
    snprintf(message, max_size, "%s", stub.last_error);
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    if (stub_injected("cudnnCreate") || stub.no_device)
        return CUDNN_STATUS_NOT_INITIALIZED;
    *handle = calloc(1, sizeof **handle);
    stub.handles++;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    stub.handles--;
    free(handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    if (stub_injected("cudnnSetStream"))
        return CUDNN_STATUS_BAD_PARAM;
    handle->stream = stub.stream = stream;
    return CUDNN_STATUS_SUCCESS;
}
