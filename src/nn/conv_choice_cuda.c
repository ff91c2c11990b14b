/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of a backend: what was chosen for a convolution, and the plans of cuDNN that were built for it, each of
 * which serves all convolutions of its shape.
 */
#include "core/mem.h"
#include "nn/op_cuda_impl.h"

const fb_conv_tuning fb_conv_tuning_default = {.workspace_bytes = (int64_t)256 << 20, .repeats = 5};

fb_status fb_ops_cuda_start_cudnn(const fb_ops *ops)
{
    fb_cuda_backend *b = fb_cuda_state(ops);
    return b->engines.cudnn ? FB_OK : fb_cudnn_create(b->queue.stream, &b->engines.cudnn);
}

/* --- entries --------------------------------------------------------------------------------------------------- */

static fb_status make_room(fb_cuda_engines *e)
{
    if (e->choices.count < e->plan_capacity)
        return FB_OK;
    const int capacity = 2 * e->choices.count + 16;
    FB_TRY(fb_mem_resize(&e->plans, capacity, sizeof *e->plans, "plans of cuDNN"));
    e->plan_capacity = capacity;
    return FB_OK;
}

fb_status fb_cuda_add_choice(const fb_ops *ops, const fb_conv_choice *choice, fb_cudnn_conv **plan)
{
    fb_cuda_engines *e = &fb_cuda_state(ops)->engines;
    fb_status status = make_room(e);
    if (status == FB_OK)
        status = fb_conv_choices_add(&e->choices, choice);
    if (status == FB_OK)
        e->plans[e->choices.count - 1] = *plan;
    else
        fb_cudnn_conv_destroy(plan);
    *plan = NULL;
    return status;
}

static void clear_table(fb_cuda_engines *e)
{
    for (int i = 0; i < e->plan_capacity; i++)
        fb_cudnn_conv_destroy(&e->plans[i]);
    FB_FREE(e->plans);
    e->plan_capacity = 0;
    fb_conv_choices_free(&e->choices);
}

void fb_cuda_engines_free(fb_cuda_engines *engines)
{
    clear_table(engines);
    fb_cudnn_destroy(&engines->cudnn);
}

int64_t fb_cuda_workspace_bytes(const fb_ops *ops)
{
    const fb_conv_choices *choices = &fb_cuda_state(ops)->engines.choices;
    int64_t bytes = 0;
    for (int i = 0; i < choices->count; i++)
        if (choices->items[i].cudnn && choices->items[i].plan.workspace_bytes > bytes)
            bytes = choices->items[i].plan.workspace_bytes;
    return bytes;
}

void fb_cuda_conv_elements(const fb_conv_shape *s, int64_t *in, int64_t *out)
{
    *in = s->c_in;
    *out = s->c_out;
    for (int axis = 0; axis < 3; axis++) {
        *in *= s->in[axis];
        *out *= s->in[axis] / s->stride + s->in[axis] % s->stride;
    }
}

/* Runs a plan once: its code is loaded, which could not be while work is recorded, and what it cannot do here is known
 * before the training begins. */
static fb_status warm_up(const fb_ops *ops, const fb_conv_choice *c, fb_cudnn_conv *plan)
{
    static const char *const subject = "first run of a plan of cuDNN";
    void *x = NULL, *y = NULL, *image = NULL, *workspace = NULL;
    int64_t in = 0, out = 0;
    char first[2];
    fb_status status = FB_OK;
    fb_cuda_conv_elements(&c->shape, &in, &out);
    FB_TRY_GOTO(status, ops->alloc(ops, in * ops->act_bytes, subject, &x), done);
    FB_TRY_GOTO(status, ops->alloc(ops, out * ops->act_bytes, subject, &y), done);
    FB_TRY_GOTO(status, ops->alloc(ops, fb_cuda_image_bytes(&c->shape), subject, &image), done);
    if (c->plan.workspace_bytes > 0)
        FB_TRY_GOTO(status, ops->alloc(ops, c->plan.workspace_bytes, subject, &workspace), done);
    FB_TRY_GOTO(status, fb_cudnn_conv_run(plan, 0, x, image, y, workspace), done);
    status = ops->download(ops, first, x, sizeof first);
done:
    ops->release(ops, &x);
    ops->release(ops, &y);
    ops->release(ops, &image);
    ops->release(ops, &workspace);
    return status;
}

static fb_status build(const fb_ops *ops, int i)
{
    fb_cuda_engines *e = &fb_cuda_state(ops)->engines;
    const fb_conv_choice *c = &e->choices.items[i];
    FB_TRY(fb_ops_cuda_start_cudnn(ops));
    FB_TRY(fb_cudnn_conv_create(e->cudnn, &c->shape, c->direction, c->precision, &c->plan, &e->plans[i]));
    const int64_t bytes = fb_cudnn_conv_choice(e->plans[i], 0)->workspace_bytes;
    fb_status status = FB_OK;
    if (bytes > c->plan.workspace_bytes)
        status = FB_FAIL("a plan of cuDNN wants %lld bytes of workspace, %lld where it was chosen", (long long)bytes,
                         (long long)c->plan.workspace_bytes);
    if (status == FB_OK)
        status = warm_up(ops, c, e->plans[i]);
    if (status != FB_OK)
        fb_cudnn_conv_destroy(&e->plans[i]);
    return status;
}

fb_status fb_cuda_find_pass(const fb_ops *ops, const fb_conv_shape *shape, fb_cudnn_direction direction,
                            fb_cuda_pass *pass)
{
    fb_cuda_engines *e = &fb_cuda_state(ops)->engines;
    const int i = fb_conv_choices_find(&e->choices, shape, direction);
    *pass = (fb_cuda_pass){.plan = NULL};
    if (i < 0 || !e->choices.items[i].cudnn)
        return FB_OK;
    if (!e->plans[i])
        FB_TRY(build(ops, i));
    pass->plan = e->plans[i];
    pass->precision = e->choices.items[i].precision;
    return FB_OK;
}

/* --- the table as a whole -------------------------------------------------------------------------------------- */

fb_status fb_ops_cuda_tune_begin(const fb_ops *ops, const fb_conv_tuning *how)
{
    FB_ASSERT(how->repeats >= 1);
    FB_TRY(fb_ops_cuda_start_cudnn(ops));
    fb_cuda_state(ops)->engines.tuning = how;
    return FB_OK;
}

void fb_ops_cuda_tune_end(const fb_ops *ops)
{
    fb_cuda_state(ops)->engines.tuning = NULL;
}

fb_status fb_ops_cuda_choices_print(const fb_ops *ops, int with_times, char **text)
{
    return fb_conv_choices_print(&fb_cuda_state(ops)->engines.choices, with_times, text);
}

void fb_ops_cuda_choices_count(const fb_ops *ops, int *all, int *cudnn)
{
    const fb_conv_choices *choices = &fb_cuda_state(ops)->engines.choices;
    *all = choices->count;
    *cudnn = 0;
    for (int i = 0; i < choices->count; i++)
        *cudnn += choices->items[i].cudnn != 0;
}

/* Plans mean something in one version of cuDNN only: better said before a network is made. */
static fb_status check_versions(const fb_ops *ops, const fb_conv_choices *choices)
{
    for (int i = 0; i < choices->count; i++) {
        const fb_conv_choice *c = &choices->items[i];
        if (!c->cudnn)
            continue;
        FB_TRY(fb_error_context(fb_ops_cuda_start_cudnn(ops), "the table of convolutions has plans of cuDNN"));
        const int64_t here = fb_cudnn_version(fb_cuda_state(ops)->engines.cudnn), there = c->plan.version;
        if (here != there)
            return FB_FAIL("the table of convolutions was made with cuDNN %lld.%lld.%lld, but here is %lld.%lld.%lld, "
                           "whose plans are others: use that version, or start a new run",
                           (long long)(there / 10000), (long long)(there / 100 % 100), (long long)(there % 100),
                           (long long)(here / 10000), (long long)(here / 100 % 100), (long long)(here % 100));
    }
    return FB_OK;
}

fb_status fb_ops_cuda_choices_set(const fb_ops *ops, const char *text)
{
    fb_cuda_backend *b = fb_cuda_state(ops);
    fb_cuda_engines *e = &b->engines;
    fb_conv_choices choices;
    FB_ASSERT(b->convolutions == 0);
    FB_TRY(fb_conv_choices_parse(text, b->queue.act, &choices));
    fb_status status = check_versions(ops, &choices);
    if (status != FB_OK) {
        fb_conv_choices_free(&choices);
        return status;
    }
    clear_table(e);
    e->choices.act = b->queue.act;
    for (int i = 0; i < choices.count && status == FB_OK; i++) {
        fb_cudnn_conv *later = NULL;
        status = fb_cuda_add_choice(ops, &choices.items[i], &later);
    }
    fb_conv_choices_free(&choices);
    return status;
}
