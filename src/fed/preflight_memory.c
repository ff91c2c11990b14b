/* SPDX-License-Identifier: Apache-2.0 */
#include "core/log.h"
#include "core/mem.h"
#include "fed/preflight_impl.h"

#include <stdio.h>
#include <string.h>

static const double MIB = 1048576.0;

static void print_heading(const fb_preflight_state *s)
{
    fb_log_info("memory by rank, MiB: %s", s->ops->on_host
                                               ? "program + model + training + evaluation + cases + messages + server"
                                               : "program + model + cases + messages + server on the host; training + "
                                                 "evaluation on the GPU");
}

static void print_rank(const fb_preflight_state *s, int rank, const char *host, const fb_memory *m)
{
    const double evaluation = (double)m->evaluation_host_bytes;
    const double messages = (double)(m->message_bytes + m->hole_bytes);
    if (s->ops->on_host)
        fb_log_info("rank %d%s: %.0f + %.0f + %.0f + %.0f + %.0f + %.0f + %.0f = %.0f", rank, host,
                    (double)m->program_bytes / MIB, (double)m->model_bytes / MIB, (double)m->training_bytes / MIB,
                    ((double)m->evaluation_bytes + evaluation) / MIB, (double)m->cache_bytes / MIB, messages / MIB,
                    (double)m->server_bytes / MIB, (double)m->host_bytes / MIB);
    else
        fb_log_info("rank %d%s: %.0f + %.0f + %.0f + %.0f + %.0f = %.0f; GPU %.0f + %.0f, in all %.0f", rank, host,
                    (double)m->program_bytes / MIB, (double)m->model_bytes / MIB, (double)m->cache_bytes / MIB,
                    messages / MIB, ((double)m->server_bytes + evaluation) / MIB, (double)m->host_bytes / MIB,
                    (double)m->training_bytes / MIB, (double)m->evaluation_bytes / MIB, (double)m->device_bytes / MIB);
}

/* --- one process --- */

static fb_status check_process(int rank, const fb_rank_figures *r, const fb_memory *m)
{
    const int64_t more = m->host_bytes - r->memory.resident_bytes;
    if (more > r->memory.address_bytes)
        return FB_FAIL(
            "memory: rank %d needs %.0f MiB more, but its limit of address space (ulimit -v) leaves %.0f MiB; "
            "raise it, or lower data.cache_bytes, data.patch, eval.window or model.filters",
            rank, (double)more / MIB, (double)r->memory.address_bytes / MIB);
    return FB_OK;
}

static fb_status check_device(int rank, const fb_rank_figures *r, const fb_memory *m)
{
    if (m->device_bytes > r->device_free_bytes)
        return FB_FAIL("memory: rank %d needs %.0f MiB of GPU %d on %s, where %.0f MiB are free; lower data.patch, "
                       "eval.window or model.filters, or free the GPU",
                       rank, (double)m->device_bytes / MIB, r->gpu, r->host, (double)r->device_free_bytes / MIB);
    return FB_OK;
}

/* --- one host --- */

/* The ranks of a host need so much beside what they hold already; the first of them speaks for it. */
static fb_status check_host(const fb_rank_figures *r, int ranks, int64_t more, int silent)
{
    const int64_t machine = r->memory.free_bytes, group = r->memory.cgroup_bytes;
    const int64_t free_bytes = machine < group ? machine : group;
    if (!silent)
        fb_log_info("memory of %s: %.0f MiB more for %d rank%s, %.0f MiB are free%s", r->host, (double)more / MIB,
                    ranks, ranks == 1 ? "" : "s", (double)free_bytes / MIB,
                    group < machine ? " under its control group" : "");
    if (more <= free_bytes)
        return FB_OK;
    return FB_FAIL("memory: the %d rank%s on %s need%s %.0f MiB more, but %.0f MiB are free%s; use more hosts or fewer "
                   "ranks on each, ask for more memory (sbatch --mem), or lower data.cache_bytes, data.patch, "
                   "eval.window or model.filters",
                   ranks, ranks == 1 ? "" : "s", r->host, ranks == 1 ? "s" : "", (double)more / MIB,
                   (double)free_bytes / MIB, group < machine ? " under its control group (job or container)" : "");
}

/* GPUs that two ranks share are asked for both. */
static void check_real(fb_preflight_state *s, const fb_memory *memory, int silent)
{
    const int ranks = fb_comm_size(s->comm) < s->ranks ? fb_comm_size(s->comm) : s->ranks;
    for (int first = 0; first < ranks; first++) {
        int64_t more = 0, device = 0;
        int on_host = 0, seen = 0;
        for (int rank = 0; rank < ranks; rank++) {
            if (strcmp(s->all[rank].host, s->all[first].host) != 0)
                continue;
            seen |= rank < first;
            on_host++;
            more += memory[rank].host_bytes - s->all[rank].memory.resident_bytes;
            device += s->all[rank].gpu == s->all[first].gpu ? memory[rank].device_bytes : 0;
        }
        fb_memory shared = memory[first];
        shared.device_bytes = device;
        fb_problems_add(&s->problems, check_process(first, &s->all[first], &memory[first]));
        fb_problems_add(&s->problems, check_device(first, &s->all[first], &shared));
        if (!seen)
            fb_problems_add(&s->problems, check_host(&s->all[first], on_host, more, silent));
    }
}

/* Planned ranks may lie on any hosts: each must fit into one like this. */
static void check_planned(fb_preflight_state *s, const fb_memory *memory, int silent)
{
    int largest = 0, fit = 0;
    int64_t sum = 0;
    for (int rank = 1; rank < s->ranks; rank++)
        largest = memory[rank].host_bytes > memory[largest].host_bytes ? rank : largest;
    fb_problems_add(&s->problems, check_process(largest, s->all, &memory[largest]));
    fb_problems_add(&s->problems, check_device(largest, s->all, &memory[largest]));
    fb_problems_add(&s->problems,
                    check_host(s->all, 1, memory[largest].host_bytes - s->all->memory.resident_bytes, silent));
    for (int rank = 0; rank < s->ranks; rank++) {
        sum += memory[rank].host_bytes;
        fit += sum <= s->all->memory.free_bytes && sum <= s->all->memory.cgroup_bytes;
    }
    if (!silent)
        fb_log_info("memory: a host like this one has room for %d of the %d ranks", fit, s->ranks);
}

static fb_status estimate(fb_preflight_state *s, fb_memory *memory)
{
    s->memory_bytes = 0;
    for (int rank = 0; rank < s->ranks; rank++) {
        const fb_rank_figures *r = &s->all[s->what_if ? 0 : rank];
        const int warm = r->program_bytes > 0;
        FB_TRY(fb_memory_estimate(s->federation, rank, s->facts, s->results_bytes,
                                  warm ? r->program_bytes : r->memory.resident_bytes, warm, &memory[rank]));
        s->memory_bytes += memory[rank].host_bytes;
    }
    return FB_OK;
}

static void print_table(const fb_preflight_state *s, const fb_memory *memory)
{
    char host[FB_HOST_CHARS + 8] = "";
    print_heading(s);
    for (int rank = 0; rank < s->ranks; rank++) {
        if (!s->what_if)
            snprintf(host, sizeof host, " on %s", s->all[rank].host);
        print_rank(s, rank, host, &memory[rank]);
    }
}

fb_status fb_preflight_memory(fb_preflight_state *s, int silent)
{
    fb_memory *memory = NULL; /* (ranks) */
    const int before = s->problems.count;
    FB_TRY(FB_ALLOC(memory, s->ranks, "memory of the ranks"));
    const fb_status status = estimate(s, memory);
    if (status == FB_OK && s->what_if)
        check_planned(s, memory, silent);
    else if (status == FB_OK)
        check_real(s, memory, silent);
    if (status == FB_OK && (!silent || s->problems.count > before))
        print_table(s, memory);
    FB_FREE(memory);
    return status;
}
