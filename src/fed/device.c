/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/device.h"

#include "core/log.h"
#include "core/mem.h"
#include "nn/op_cuda.h"

#include <stdio.h>
#include <unistd.h>

struct fb_device {
    const fb_ops *ops;
    fb_ops *cuda; /* owned; NULL on the CPU */
    int number;   /* of the GPU; -1 on the CPU */
};

/* What rank 0 is told of a rank. */
typedef struct report {
    char line[384]; /* "" on the CPU */
} report;

static fb_status use_cpu(const fb_config *config, fb_device *device)
{
    if (config->model_precision == FB_PRECISION_BF16)
        return FB_USAGE("model.precision = bf16: the CPU computes in f32; choose f32 or auto, or run.device = cuda");
    if (config->run_conv == FB_CONV_CUDNN)
        return FB_USAGE("run.conv = cudnn: this rank computes on the CPU; choose run.conv = auto or own");
    device->number = -1;
    device->ops = config->run_ops == FB_OPS_REF ? &fb_ops_ref : &fb_ops_dnnl;
    return FB_OK;
}

static fb_status need_cudnn(const fb_ops *ops)
{
    fb_status status = fb_ops_cuda_start_cudnn(ops);
    if (status == FB_OK)
        return FB_OK;
    fb_status usage = FB_USAGE("run.conv = cudnn: %s; or choose run.conv = own", fb_error_message(status));
    fb_error_free(&status);
    return usage;
}

static fb_status use_gpu(const fb_config *config, const fb_comm *comm, int count, fb_device *device, report *said)
{
    static const char *const act_name[] = {"float32", "bfloat16"};
    const fb_act_type act = config->model_precision == FB_PRECISION_F32 ? FB_ACT_F32 : FB_ACT_BF16;
    const int number = device->number = fb_comm_local_rank(comm) % count;
    fb_cuda_device found;
    char host[64] = "";
    if (config->run_ops == FB_OPS_REF)
        return FB_USAGE("run.ops = ref is for the CPU; choose run.device = cpu too");
    FB_TRY(fb_error_context(fb_cuda_use(number, &found),
                            "GPU %d, for local rank %d (where a GPU is in exclusive mode it serves one rank only)",
                            number, fb_comm_local_rank(comm)));
    if (found.major < 8)
        return FB_USAGE("GPU %d, %s, has compute capability %d.%d; 8.0 is needed: choose run.device = cpu", number,
                        found.name, found.major, found.minor);
    FB_TRY(fb_ops_cuda_create(act, &device->cuda));
    device->ops = device->cuda;
    if (config->run_conv == FB_CONV_CUDNN)
        FB_TRY(need_cudnn(device->cuda));
    (void)gethostname(host, sizeof host - 1); /* only shown */
    snprintf(said->line, sizeof said->line, "rank %d on %s: GPU %d of %d, %s, bus %s, %.1f GiB free, %s",
             fb_comm_rank(comm), host, number, count, found.name, found.bus_id,
             (double)found.free_bytes / (double)(1 << 30), act_name[act]);
    return FB_OK;
}

static fb_status choose(const fb_config *config, const fb_comm *comm, fb_device *device, report *said)
{
    char why[256] = "";
    const int count = config->run_device == FB_DEVICE_CPU ? 0 : fb_cuda_count(sizeof why, why);
    if (config->run_device == FB_DEVICE_CUDA && count == 0)
        return FB_USAGE("run.device = cuda: %s; choose run.device = cpu or auto to compute on the CPU", why);
    if (count > 0)
        return use_gpu(config, comm, count, device, said);
    if (config->run_device == FB_DEVICE_AUTO && fb_comm_rank(comm) == 0)
        fb_log_info("device: CPU (%s)", why);
    return use_cpu(config, device);
}

static fb_status show(fb_comm *comm, const report *mine)
{
    const int ranks = fb_comm_size(comm), root = fb_comm_rank(comm) == 0;
    report *all = NULL;
    FB_TRY(fb_status_agree(comm, FB_ALLOC(all, root ? ranks : 0, "devices of the ranks")));
    const fb_status status = fb_comm_gather(comm, mine, sizeof *mine, all);
    for (int rank = 0; root && status == FB_OK && rank < ranks; rank++)
        if (all[rank].line[0])
            fb_log_info("device: %s", all[rank].line);
    FB_FREE(all);
    return status;
}

fb_status fb_device_open(const fb_config *config, fb_comm *comm, fb_device **out)
{
    fb_device *device = NULL;
    report said = {""};
    FB_TRY(fb_status_agree(comm, FB_ALLOC(device, 1, "device")));
    fb_status status = fb_status_agree(comm, choose(config, comm, device, &said));
    if (status == FB_OK)
        status = show(comm, &said);
    if (status != FB_OK)
        fb_device_close(&device);
    *out = device;
    return status;
}

void fb_device_close(fb_device **device)
{
    if (!*device)
        return;
    fb_ops_cuda_destroy(&(*device)->cuda);
    FB_FREE(*device);
}

int fb_device_number(const fb_device *device)
{
    return device->number;
}

const fb_ops *fb_device_ops(const fb_device *device)
{
    return device->ops;
}
