/* SPDX-License-Identifier: Apache-2.0
 *
 * The candidates: configurations that cuDNN lists or that a choice names, those that serve built into plans.
 */
#include "nn/conv_cudnn_impl.h"

#include <stdio.h>

enum { NOTES_MAX = 32 }; /* more than cuDNN has */

void fb_cudnn_candidate_free(candidate *c)
{
    fb_cudnn_destroy_descriptor(&c->plan);
    fb_cudnn_destroy_descriptor(&c->config);
}

static fb_status read_knobs(descriptor config, bag *parts, fb_cudnn_choice *choice)
{
    descriptor knobs[CUDNN_KNOB_TYPE_COUNTS];
    for (int i = 0; i < CUDNN_KNOB_TYPE_COUNTS; i++)
        FB_TRY(MAKE(parts, KNOB_CHOICE, &knobs[i]));
    GET(config, ENGINECFG_KNOB_CHOICES, BACKEND_DESCRIPTOR, CUDNN_KNOB_TYPE_COUNTS, &choice->knob_count, knobs);
    if (choice->knob_count > FB_CUDNN_KNOBS_MAX || choice->knob_count > CUDNN_KNOB_TYPE_COUNTS)
        return FB_FAIL("engine %lld of cuDNN %lld has %lld knobs, more than this build's headers know of; build "
                       "against the cuDNN that runs",
                       (long long)choice->engine, (long long)choice->version, (long long)choice->knob_count);
    for (int64_t i = 0; i < choice->knob_count; i++) {
        cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_COUNTS;
        GET_ONE(knobs[i], KNOB_CHOICE_KNOB_TYPE, KNOB_TYPE, &type);
        GET_ONE(knobs[i], KNOB_CHOICE_KNOB_VALUE, INT64, &choice->knobs[i].value);
        choice->knobs[i].type = type;
    }
    return FB_OK;
}

/* What a configuration is, and its numerical notes as a set of bits. */
static fb_status read_config(descriptor config, bag *parts, fb_cudnn_choice *choice, uint32_t *notes)
{
    descriptor engine = NULL;
    cudnnBackendNumericalNote_t list[NOTES_MAX];
    int64_t count = 0;
    FB_TRY(MAKE(parts, ENGINE, &engine));
    GET_ONE(config, ENGINECFG_ENGINE, BACKEND_DESCRIPTOR, &engine);
    GET_ONE(engine, ENGINE_GLOBAL_INDEX, INT64, &choice->engine);
    GET(engine, ENGINE_NUMERICAL_NOTE, NUMERICAL_NOTE, NOTES_MAX, &count, list);
    *notes = 0;
    for (int64_t i = 0; i < count && i < NOTES_MAX; i++)
        if ((unsigned)list[i] < NOTES_MAX)
            *notes |= 1U << (unsigned)list[i];
    return read_knobs(config, parts, choice);
}

#define NOTE(NAME) (1U << CUDNN_NUMERICAL_NOTE_##NAME)

static uint32_t imprecise_notes(fb_cudnn_precision precision)
{
    uint32_t notes = NOTE(DOWN_CONVERT_INPUTS) | NOTE(REDUCED_PRECISION_REDUCTION);
    if (precision == FB_CUDNN_F32)
        notes |= NOTE(TENSOR_CORE) | NOTE(FFT) | NOTE(WINOGRAD) | NOTE(WINOGRAD_TILE_4x4) | NOTE(WINOGRAD_TILE_6x6) |
                 NOTE(WINOGRAD_TILE_13x13);
    return notes;
}

/* Keeps the text of the first one, but sooner that of a failure than that of something not supported. */
static void count_refusal(fb_cudnn_conv *conv, cudnnStatus_t status, int64_t configurations, const char *what)
{
    char text[FB_CUDNN_ERROR_CHARS - 128] = "";
    const int unsupported = CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED;
    const int first_failure = !unsupported && conv->listing.failed == 0;
    if (unsupported)
        conv->listing.unsupported += configurations;
    else
        conv->listing.failed += configurations;
    cudnnGetLastErrorString(text, sizeof text);
    if (!conv->refusal[0] || first_failure)
        snprintf(conv->refusal, sizeof conv->refusal, "cudnnBackendFinalize(%s): %s: %s", what,
                 cudnnGetErrorString(status), text);
}

/* Builds the plan of c->config. One that cuDNN refuses is counted; c->plan is then NULL. */
static fb_status build_plan(fb_cudnn_conv *conv, candidate *c)
{
    const cudnnStatus_t made = cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &c->plan);
    if (made != CUDNN_STATUS_SUCCESS) {
        c->plan = NULL;
        return fb_cudnn_failed(made, "cudnnBackendCreateDescriptor", "EXECUTION_PLAN");
    }
    SET(c->plan, EXECUTION_PLAN_ENGINE_CONFIG, BACKEND_DESCRIPTOR, 1, &c->config);
    if (conv->cudnn->handle) /* newer versions know it from the graph, older ones ask for it */
        SET(c->plan, EXECUTION_PLAN_HANDLE, HANDLE, 1, &conv->cudnn->handle);
    const cudnnStatus_t built = cudnnBackendFinalize(c->plan);
    if (built != CUDNN_STATUS_SUCCESS) {
        count_refusal(conv, built, 1, "EXECUTION_PLAN");
        fb_cudnn_destroy_descriptor(&c->plan);
        return FB_OK;
    }
    GET_ONE(c->plan, EXECUTION_PLAN_WORKSPACE_SIZE, INT64, &c->choice.workspace_bytes);
    if (c->choice.workspace_bytes < 0)
        return FB_FAIL("cuDNN asks for %lld bytes of workspace", (long long)c->choice.workspace_bytes);
    return FB_OK;
}

static int is_listed(const fb_cudnn_conv *conv, const fb_cudnn_choice *choice)
{
    for (int64_t i = 0; i < conv->count; i++)
        if (fb_cudnn_choice_equal(&conv->candidates[i].choice, choice))
            return 1;
    return 0;
}

/* Counts configurations that are not wanted, else builds a plan and makes it a candidate. */
static fb_status consider(fb_cudnn_conv *conv, candidate *c, uint32_t notes)
{
    if (notes & NOTE(NONDETERMINISTIC))
        conv->listing.nondeterministic++;
    else if (notes & imprecise_notes(conv->precision))
        conv->listing.imprecise++;
    else if (is_listed(conv, &c->choice))
        conv->listing.repeated++;
    else
        FB_TRY(build_plan(conv, c));
    if (!c->plan)
        return FB_OK;
    if (conv->count == conv->capacity) {
        const int64_t capacity = 2 * conv->capacity + 8;
        FB_TRY(fb_mem_resize(&conv->candidates, capacity, sizeof *conv->candidates, "cuDNN candidates"));
        conv->capacity = capacity;
    }
    conv->candidates[conv->count++] = *c;
    *c = (candidate){0};
    return FB_OK;
}

/* Takes over *config, whatever becomes of it. `wanted` is the choice that it was made from, or NULL. */
static fb_status add_config(fb_cudnn_conv *conv, descriptor *config, const fb_cudnn_choice *wanted)
{
    bag parts = {0};
    uint32_t notes = 0;
    candidate c = {.config = *config, .choice = {.version = conv->cudnn->version}};
    *config = NULL;
    conv->listing.listed++;
    fb_status status = read_config(c.config, &parts, &c.choice, &notes);
    fb_cudnn_bag_empty(&parts);
    if (status == FB_OK && wanted && !fb_cudnn_choice_equal(&c.choice, wanted))
        status = FB_FAIL("cuDNN took other knobs than those asked for");
    if (status == FB_OK)
        status = consider(conv, &c, notes);
    fb_cudnn_candidate_free(&c);
    return status;
}

/* --- where candidates come from -------------------------------------------------------------------------------- */

static fb_status list_configs(fb_cudnn_conv *conv, cudnnBackendHeurMode_t mode, bag *results)
{
    descriptor heuristics = NULL;
    int64_t count = 0, delivered = 0;
    FB_TRY(MAKE(results, ENGINEHEUR, &heuristics));
    SET(heuristics, ENGINEHEUR_OPERATION_GRAPH, BACKEND_DESCRIPTOR, 1, &conv->graph);
    SET(heuristics, ENGINEHEUR_MODE, HEUR_MODE, 1, &mode);
    if (conv->cudnn->device)
        SET(heuristics, ENGINEHEUR_DEVICEPROP, BACKEND_DESCRIPTOR, 1, &conv->cudnn->device);
    const cudnnStatus_t listed = cudnnBackendFinalize(heuristics);
    if (CUDNN_STATUS_CATEGORY(listed) == CUDNN_STATUS_NOT_SUPPORTED) {
        count_refusal(conv, listed, 0, "ENGINEHEUR");
        return FB_OK;
    }
    if (listed != CUDNN_STATUS_SUCCESS)
        return fb_cudnn_failed(listed, "cudnnBackendFinalize", "ENGINEHEUR");
    GET(heuristics, ENGINEHEUR_RESULTS, BACKEND_DESCRIPTOR, 0, &count, NULL);
    const int64_t first = results->count;
    for (int64_t i = 0; i < count; i++) {
        descriptor config = NULL;
        FB_TRY(MAKE(results, ENGINECFG, &config));
    }
    if (count > 0) /* those that it does not deliver were found to be unsupported */
        GET(heuristics, ENGINEHEUR_RESULTS, BACKEND_DESCRIPTOR, count, &delivered, &results->items[first]);
    delivered = delivered < count ? delivered : count;
    conv->listing.listed += count - delivered;
    conv->listing.unsupported += count - delivered;
    for (int64_t i = 0; i < delivered; i++)
        FB_TRY(add_config(conv, &results->items[first + i], NULL));
    return FB_OK;
}

static fb_status from_heuristics(fb_cudnn_conv *conv)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    fb_status status = FB_OK;
    for (size_t m = 0; m < sizeof modes / sizeof *modes && status == FB_OK; m++) {
        bag results = {0};
        status = list_configs(conv, modes[m], &results);
        fb_cudnn_bag_empty(&results);
    }
    return status;
}

static fb_status make_engine(fb_cudnn_conv *conv, int64_t number, bag *parts, descriptor *out)
{
    FB_TRY(MAKE(parts, ENGINE, out));
    SET(*out, ENGINE_OPERATION_GRAPH, BACKEND_DESCRIPTOR, 1, &conv->graph);
    SET(*out, ENGINE_GLOBAL_INDEX, INT64, 1, &number);
    if (conv->cudnn->device)
        SET(*out, ENGINE_DEVICEPROP, BACKEND_DESCRIPTOR, 1, &conv->cudnn->device);
    return FB_OK;
}

/* The configuration is the last descriptor in `parts`, not yet finalised. */
static fb_status make_config(descriptor engine, int64_t knob_count, const fb_cudnn_knob *knobs, bag *parts)
{
    descriptor choices[FB_CUDNN_KNOBS_MAX], config = NULL;
    for (int64_t i = 0; i < knob_count; i++) {
        const cudnnBackendKnobType_t type = (cudnnBackendKnobType_t)knobs[i].type;
        FB_TRY(MAKE(parts, KNOB_CHOICE, &choices[i]));
        SET(choices[i], KNOB_CHOICE_KNOB_TYPE, KNOB_TYPE, 1, &type);
        SET(choices[i], KNOB_CHOICE_KNOB_VALUE, INT64, 1, &knobs[i].value);
        FB_TRY(fb_cudnn_finalize(choices[i], "KNOB_CHOICE"));
    }
    FB_TRY(MAKE(parts, ENGINECFG, &config));
    SET(config, ENGINECFG_ENGINE, BACKEND_DESCRIPTOR, 1, &engine);
    if (knob_count > 0)
        SET(config, ENGINECFG_KNOB_CHOICES, BACKEND_DESCRIPTOR, knob_count, choices);
    return FB_OK;
}

static fb_status build_choice(fb_cudnn_conv *conv, const fb_cudnn_choice *choice, bag *parts)
{
    descriptor engine = NULL;
    FB_TRY(make_engine(conv, choice->engine, parts, &engine));
    FB_TRY(fb_cudnn_finalize(engine, "ENGINE"));
    FB_TRY(make_config(engine, choice->knob_count, choice->knobs, parts));
    descriptor *config = &parts->items[parts->count - 1];
    FB_TRY(fb_cudnn_finalize(*config, "ENGINECFG"));
    return add_config(conv, config, choice);
}

/* The plan that `choice` names and no other. */
static fb_status from_choice(fb_cudnn_conv *conv, const fb_cudnn_choice *choice)
{
    bag parts = {0};
    if (choice->version != conv->cudnn->version)
        return FB_FAIL("it is of another version than cuDNN %lld, where its numbers mean other kernels",
                       (long long)conv->cudnn->version);
    fb_status status = build_choice(conv, choice, &parts);
    fb_cudnn_bag_empty(&parts);
    return status;
}

/* --- engines that no heuristics name --------------------------------------------------------------------------- */

/* Finalises a descriptor whose refusal is no error but a configuration the less. */
static int refused(fb_cudnn_conv *conv, descriptor d, const char *what)
{
    const cudnnStatus_t status = cudnnBackendFinalize(d);
    if (status == CUDNN_STATUS_SUCCESS)
        return 0;
    conv->listing.listed++;
    count_refusal(conv, status, 1, what);
    return 1;
}

/* The most parts into which an engine can split its sums; 1 if it does not. */
static fb_status read_most_splits(descriptor engine, bag *parts, int64_t *most)
{
    descriptor infos[CUDNN_KNOB_TYPE_COUNTS];
    int64_t count = 0;
    *most = 1;
    for (int i = 0; i < CUDNN_KNOB_TYPE_COUNTS; i++)
        FB_TRY(MAKE(parts, KNOB_INFO, &infos[i]));
    GET(engine, ENGINE_KNOB_INFO, BACKEND_DESCRIPTOR, CUDNN_KNOB_TYPE_COUNTS, &count, infos);
    for (int64_t i = 0; i < count && i < CUDNN_KNOB_TYPE_COUNTS; i++) {
        cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_COUNTS;
        GET_ONE(infos[i], KNOB_INFO_TYPE, KNOB_TYPE, &type);
        if (type == CUDNN_KNOB_TYPE_SPLIT_K_SLC)
            GET_ONE(infos[i], KNOB_INFO_MAXIMUM_VALUE, INT64, most);
    }
    return FB_OK;
}

/* An engine with its other knobs as they are by default. Few splits suit small volumes, many large ones. */
static fb_status try_engine(fb_cudnn_conv *conv, int64_t number, bag *parts)
{
    static const int64_t splits[] = {1, 16, 128};
    descriptor engine = NULL;
    int64_t most = 1;
    FB_TRY(make_engine(conv, number, parts, &engine));
    if (refused(conv, engine, "ENGINE"))
        return FB_OK;
    FB_TRY(read_most_splits(engine, parts, &most));
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        const fb_cudnn_knob knob = {CUDNN_KNOB_TYPE_SPLIT_K_SLC, splits[i]};
        if (splits[i] > most)
            break;
        FB_TRY(make_config(engine, most > 1, &knob, parts));
        descriptor *config = &parts->items[parts->count - 1];
        if (!refused(conv, *config, "ENGINECFG"))
            FB_TRY(add_config(conv, config, NULL));
    }
    return FB_OK;
}

/* A bfloat16 convolution with a float32 gradient: the heuristics of 9.19 list no engine that can, but there is one,
 * compiled at run time (engine 69). */
static fb_status from_all_engines(fb_cudnn_conv *conv)
{
    int64_t count = 0;
    fb_status status = FB_OK;
    GET_ONE(conv->graph, OPERATIONGRAPH_ENGINE_GLOBAL_COUNT, INT64, &count);
    for (int64_t number = 0; number < count && status == FB_OK; number++) {
        bag parts = {0};
        status = try_engine(conv, number, &parts);
        fb_cudnn_bag_empty(&parts);
    }
    return status;
}

static int wants_float32_gradient(const fb_cudnn_conv *conv)
{
    return conv->precision == FB_CUDNN_BF16_GRADIENT_F32 && conv->direction == FB_CUDNN_BACKWARD_WEIGHTS;
}

/* --- all together ---------------------------------------------------------------------------------------------- */

static const char *advice(const fb_cudnn_conv *conv)
{
    if (wants_float32_gradient(conv))
        return "; take the weight gradient in bf16";
    return conv->precision == FB_CUDNN_F32 ? "; allow tf32" : "; train on the CPU backend";
}

static fb_status nothing_left(const fb_cudnn_conv *conv, const char *next)
{
    const fb_cudnn_listing *l = &conv->listing;
    return FB_FAIL("none of %lld configurations of cuDNN %lld can be used: %lld not deterministic, %lld not precise "
                   "enough, %lld not supported, %lld failed%s%s%s",
                   (long long)l->listed, (long long)conv->cudnn->version, (long long)l->nondeterministic,
                   (long long)l->imprecise, (long long)l->unsupported, (long long)l->failed,
                   conv->refusal[0] ? "; the first: " : "", conv->refusal, next);
}

fb_status fb_cudnn_list_plans(fb_cudnn_conv *conv, const fb_cudnn_choice *choice)
{
    char text[FB_CUDNN_CHOICE_CHARS];
    fb_status status = choice ? from_choice(conv, choice) : from_heuristics(conv);
    if (status == FB_OK && conv->count == 0 && !choice && wants_float32_gradient(conv))
        status = from_all_engines(conv);
    if (status == FB_OK && conv->count == 0)
        status = nothing_left(conv, choice ? "" : advice(conv));
    if (!choice)
        return status;
    fb_cudnn_choice_print(choice, sizeof text, text);
    return fb_error_context(status,
                            "the plan \"%s\" is not to be had here (use the cuDNN and the kind of GPU that it "
                            "was made on, or tune anew, which gives other bits)",
                            text);
}
