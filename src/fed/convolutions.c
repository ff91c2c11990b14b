/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/convolutions.h"

#include "core/log.h"
#include "core/mem.h"
#include "core/timer.h"
#include "fed/federation.h"
#include "fed/resume.h"
#include "nn/op_cuda.h"
#include "nn/segresnet.h"

#include <string.h>

enum { TABLE_BYTES_MAX = 1 << 24 };

/* --- rank 0 --- */

/* Makes and drops the network of a training step, which measures each of its convolutions. */
static fb_status measure(const fb_config *config, const fb_ops *ops, const fb_conv_tuning *how)
{
    const fb_net_spec spec = fb_federation_net(config);
    fb_params *params = NULL;
    fb_segresnet *net = NULL;
    FB_TRY(fb_ops_cuda_tune_begin(ops, how));
    fb_status status = fb_params_create(&spec, &params);
    if (status == FB_OK)
        status = fb_segresnet_create(&spec, params, ops, config->data_patch, 1, &net);
    fb_ops_cuda_tune_end(ops);
    fb_segresnet_destroy(&net);
    fb_params_destroy(&params);
    return status;
}

static fb_status tune(const fb_config *config, const fb_ops *ops, const fb_conv_tuning *how)
{
    int all = 0, cudnn = 0;
    const double start_s = fb_time_s();
    fb_log_info("convolutions: measuring our own kernels and the plans of cuDNN (run.conv = own does without)");
    FB_TRY(measure(config, ops, how));
    fb_ops_cuda_choices_count(ops, &all, &cudnn);
    fb_log_info("convolutions: %d of %d by cuDNN, found in %.1f s", cudnn, all, fb_time_s() - start_s);
    return FB_OK;
}

/* Whether there is something to choose from; where there is not, the reason is shown. */
static int can_choose(const fb_config *config, const fb_ops *ops)
{
    if (config->run_conv == FB_CONV_OWN)
        return 0;
    fb_status status = fb_ops_cuda_start_cudnn(ops);
    const int there = status == FB_OK;
    if (!there)
        fb_log_info("convolutions: our own kernels (%s)", fb_error_message(status));
    fb_error_free(&status);
    return there;
}

/* A new run: decides and writes the file. */
static fb_status decide(const fb_config *config, const fb_ops *ops, const char *path, char **text)
{
    fb_conv_tuning how = fb_conv_tuning_default;
    how.prefer_cudnn = config->run_conv == FB_CONV_CUDNN;
    if (can_choose(config, ops))
        FB_TRY(tune(config, ops, &how));
    FB_TRY(fb_ops_cuda_choices_print(ops, 1, text));
    return fb_file_write_atomic(path, *text, (int64_t)strlen(*text));
}

static fb_status read_or_decide(const fb_config *config, const fb_ops *ops, char **text)
{
    char path[FB_PATH_CHARS];
    int64_t bytes = 0;
    int found = 0, begun = 0;
    FB_TRY(fb_path_join(path, config->run_output, "conv-plans.txt"));
    FB_TRY(fb_file_find(path, &found));
    FB_TRY(fb_resume_has_begun(config->run_output, &begun));
    if (found && begun)
        return fb_file_read(path, TABLE_BYTES_MAX, text, &bytes);
    if (begun)
        return FB_USAGE("%s is missing, by which the run's convolutions were chosen: put it back, or start "
                        "anew in another run.output",
                        path);
    return decide(config, ops, path, text);
}

/* --- all ranks --- */

static fb_status broadcast(fb_comm *comm, char **text)
{
    const int root = fb_comm_rank(comm) == 0;
    int64_t bytes = root ? (int64_t)strlen(*text) + 1 : 0;
    FB_TRY(fb_comm_broadcast(comm, &bytes, sizeof bytes));
    FB_TRY(fb_status_agree(comm, root ? FB_OK : fb_mem_alloc(text, bytes, 1, "table of convolutions")));
    return fb_comm_broadcast(comm, *text, bytes);
}

fb_status fb_convolutions_settle(const fb_config *config, const fb_ops *ops, fb_comm *comm, fb_convolutions *out)
{
    char *text = NULL;
    *out = (fb_convolutions){.table = NULL};
    if (ops->on_host)
        return FB_OK;
    fb_status status = fb_status_agree(comm, fb_comm_rank(comm) == 0 ? read_or_decide(config, ops, &text) : FB_OK);
    if (status == FB_OK)
        status = broadcast(comm, &text);
    if (status == FB_OK) {
        status = fb_error_context(fb_ops_cuda_choices_set(ops, text), "%s/conv-plans.txt", config->run_output);
        if (status == FB_OK)
            status = fb_ops_cuda_choices_print(ops, 0, &out->table);
        status = fb_status_agree(comm, status);
    }
    if (status == FB_OK)
        fb_sha256(out->table, (int64_t)strlen(out->table), out->sha256);
    else
        fb_convolutions_free(out);
    FB_FREE(text);
    return status;
}

void fb_convolutions_free(fb_convolutions *convolutions)
{
    FB_FREE(convolutions->table);
}
