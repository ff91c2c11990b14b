/* SPDX-License-Identifier: Apache-2.0
 *
 * fedbrats: the simulator. Parses, starts the communication, runs, ends. */
#include "comm/comm.h"
#include "config/config.h"
#include "core/build_info.h"
#include "core/cpu.h"
#include "core/log.h"
#include "core/mem.h"
#include "fed/audit_command.h"
#include "fed/device.h"
#include "fed/plan.h"
#include "fed/preflight.h"
#include "fed/run.h"
#include "fed/watchdog.h"
#include "nn/op_cuda.h"
#include "privacy/published.h"

#include <hdf5.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static void print_usage(FILE *stream)
{
    fputs(
        "Usage: fedbrats train [FILE.ini] --section.key=value ... [--dry-run[=RANKS]]\n"
        "       fedbrats plan [FILE.ini] --section.key=value ... | --examples\n"
        "       fedbrats audit [FILE.ini] --audit.key=value ...\n"
        "       fedbrats info\n"
        "       fedbrats --help | --version\n"
        "\n"
        "Simulates federated training of a 3-D brain-tumour segmentation network (SegResNet): each MPI rank plays one\n"
        "or more hospitals with a shard of a BraTS cohort and shares part of its update, with noise, every round.\n"
        "\n"
        "  mpirun -n 13 fedbrats train experiment.ini --sharing.select=topk --sharing.fraction=0.4\n"
        "\n"
        "Works without mpirun too: one process then plays all hospitals, with the same results bit for bit.\n"
        "--dry-run checks, before hours in a queue, whether the run would start and end: reads every case, compares\n"
        "memory and disk with what there is, measures a few steps, prints plan, bytes and seconds (=RANKS: of a run "
        "on\n"
        "so many ranks) and lists all that is wrong. It leaves nothing behind.\n"
        "plan says, without data, what such a run would share and spend and what the noise would leave of the "
        "updates;\n"
        "plan.solve finds noise, rounds or share for a budget; --examples: what published settings really spend.\n"
        "audit measures a lower bound of what the mechanisms spend.\n"
        "\n"
        "train goes on with a run that was interrupted: the same command again. SIGUSR1, SIGTERM or a file named stop "
        "in\n"
        "run.output ask it to stop with a checkpoint.\n"
        "\n"
        "Exit status: 0 ok, 1 failed, 2 usage or configuration error, 85 stopped on request: the same command goes "
        "on.\n",
        stream);
}

static void print_help(void)
{
    int count = 0;
    const fb_option *table = fb_config_table(&count);
    print_usage(stdout);
    printf("\nOptions, in the INI file as \"key = value\" under [section], or on the command line:\n");
    fb_options_help(stdout, table, count);
}

/* Ends with the status' exit code and frees it; prints its message once. */
static int report_error(fb_status status, int print)
{
    const int code = fb_error_exit_code(status);
    if (code == FB_EXIT_STOPPED && print)
        fb_log_info("%s; the same command goes on", fb_error_message(status));
    else if (status != FB_OK && print)
        fb_log_error("%s", fb_error_message(status));
    fb_error_free(&status);
    return code;
}

static int print_devices(void)
{
    char why[256] = "";
    fb_status status = FB_OK;
    const int count = fb_cuda_count(sizeof why, why);
    if (count == 0)
        printf("GPU         none: %s\n", why);
    for (int i = 0; i < count && status == FB_OK; i++) {
        fb_cuda_device device;
        status = fb_cuda_use(i, &device);
        if (status == FB_OK)
            printf("GPU %-7d %s, bus %s, compute capability %d.%d, %.1f of %.1f GiB free\n", i, device.name,
                   device.bus_id, device.major, device.minor, (double)device.free_bytes / (double)(1 << 30),
                   (double)device.total_bytes / (double)(1 << 30));
    }
    return report_error(status, 1);
}

static int print_info(void)
{
    unsigned major = 0, minor = 0, release = 0;
    char ops[256], cuda[256], nccl[128];
    H5get_libversion(&major, &minor, &release);
    fb_ops_dnnl.describe(&fb_ops_dnnl, sizeof ops, ops);
    fb_comm_nccl_describe(sizeof nccl, nccl);
    fb_cuda_versions(sizeof cuda, cuda);
    printf("fedbrats    %s\nrevision    %s\ncompiler    %s\nflags       %s\noperations  %s\nHDF5        %u.%u.%u\n"
           "libsodium   %s\nCUDA        %s\nNCCL        %s\n",
           fb_build_version(), fb_build_revision(), fb_build_compiler(), fb_build_flags(), ops, major, minor, release,
           sodium_version_string(), cuda, nccl);
    return print_devices();
}

static fb_status create_comm(const fb_config *config, fb_comm **comm)
{
    const int launched = fb_comm_mpi_launched();
    if (config->comm_backend == FB_BACKEND_SELF && launched)
        return FB_USAGE("comm.backend = self, but a launcher started this process: every rank would run alone; "
                        "use auto or mpi");
    if (config->comm_backend == FB_BACKEND_SELF || (config->comm_backend == FB_BACKEND_AUTO && !launched))
        return fb_comm_self_create(comm);
    return fb_comm_mpi_create(comm);
}

/* NCCL on top of MPI, where it was asked for or is possible. The ranks' devices may differ, so all of them ask. */
static fb_status add_nccl(const fb_config *config, int cuda_device, fb_comm **comm)
{
    const int required = config->comm_backend == FB_BACKEND_NCCL;
    const int wanted = config->comm_backend == FB_BACKEND_AUTO && fb_comm_size(*comm) > 1;
    return required || wanted ? fb_comm_use_nccl(comm, required, cuda_device, config->comm_timeout_s) : FB_OK;
}

/* A rank holds a shard and a ledger open for each hospital it plays; the usual soft limit is 1024 files. */
static void raise_file_limit(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return;
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files); /* refused: opening one file too many says so */
}

/* What `fedbrats train` holds while it runs. */
typedef struct training {
    fb_config config;
    fb_options *options; /* owned, as everything below */
    fb_comm *comm;
    fb_device *device;
    fb_watchdog *watchdog;
    int dry, dry_ranks; /* --dry-run */
} training;

static fb_status run_or_check(training *t, int argc, char **argv)
{
    FB_TRY(fb_status_agree(t->comm, fb_watchdog_create(fb_comm_rank(t->comm), fb_comm_size(t->comm),
                                                       t->config.run_watchdog_s, &t->watchdog)));
    fb_status status = fb_device_open(&t->config, t->comm, &t->device);
    if (status == FB_OK)
        status = add_nccl(&t->config, fb_device_number(t->device), &t->comm);
    if (t->dry)
        return fb_preflight(&t->config, status == FB_OK ? t->device : NULL, t->comm, t->dry_ranks, status);
    FB_TRY(status);
    return fb_run(&t->config, t->options, fb_device_ops(t->device), t->comm, t->watchdog, argc, argv);
}

static int train(int argc, char **argv)
{
    training t = {.options = NULL};
    fb_status status = fb_preflight_read_flag(&argc, argv, &t.dry, &t.dry_ranks);
    if (status == FB_OK)
        status = fb_config_read(argc - 1, argv + 1, &t.config, &t.options);
    if (status != FB_OK)
        return report_error(status, 1);
    fb_log_set_level((fb_log_level)t.config.run_verbosity);
    raise_file_limit();
    status = create_comm(&t.config, &t.comm);
    if (status != FB_OK) {
        fb_options_destroy(&t.options);
        return report_error(status, 1);
    }
    fb_log_set_rank(fb_comm_rank(t.comm), fb_comm_size(t.comm));
    status = run_or_check(&t, argc, argv);
    fb_device_close(&t.device);
    const int root = fb_comm_rank(t.comm) == 0;
    fb_log_set_rank(0, 1); /* an error that the ranks agreed on names its rank itself */
    const int code = report_error(status, root);
    fb_options_destroy(&t.options);
    fb_comm_destroy(&t.comm);
    fb_watchdog_destroy(&t.watchdog);
    const fb_status closed = fb_log_open(NULL);
    FB_ASSERT(closed == FB_OK);
    FB_ASSERT(fb_mem_live_blocks() == 0);
    return code;
}

static int plan(int argc, char **argv)
{
    fb_config config;
    fb_options *options = NULL;
    if (argc == 3 && strcmp(argv[2], "--examples") == 0) {
        fb_published_print(stdout);
        return FB_EXIT_OK;
    }
    fb_status status = fb_config_read_plan(argc - 1, argv + 1, &config, &options);
    if (status == FB_OK) {
        status = fb_plan_print(&config, stdout);
        fb_options_destroy(&options);
    }
    const int code = report_error(status, 1);
    FB_ASSERT(fb_mem_live_blocks() == 0);
    return code;
}

static int run_command(int argc, char **argv)
{
    if (fb_options_wants(argc, argv, "--version")) {
        printf("fedbrats %s (%s)\n", fb_build_version(), fb_build_revision());
        return FB_EXIT_OK;
    }
    const int audits = argc >= 2 && strcmp(argv[1], "audit") == 0; /* with options, and --help, of its own */
    if (!audits && fb_options_wants(argc, argv, "--help")) {
        print_help();
        return FB_EXIT_OK;
    }
    fb_mem_keep_freed();
    if (sodium_init() < 0) {
        fprintf(stderr, "fedbrats: libsodium cannot be initialised: no source of random numbers\n");
        return FB_EXIT_FAILED;
    }
    if (argc >= 2 && strcmp(argv[1], "train") == 0)
        return train(argc, argv);
    if (argc >= 2 && strcmp(argv[1], "plan") == 0)
        return plan(argc, argv);
    if (audits)
        return fb_audit_command(argc - 1, argv + 1);
    if (argc == 2 && strcmp(argv[1], "info") == 0)
        return print_info();
    if (argc >= 2)
        fprintf(stderr, "fedbrats: unknown command \"%s\"\n", argv[1]);
    print_usage(stderr);
    return FB_EXIT_USAGE;
}

int main(int argc, char **argv)
{
    if (!fb_cpu_suffices("fedbrats"))
        return FB_EXIT_FAILED;
    const int code = run_command(argc, argv);
    return code == FB_EXIT_OK ? report_error(fb_output_flush(), 1) : code;
}
