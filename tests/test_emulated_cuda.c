/* SPDX-License-Identifier: Apache-2.0
 *
 * The emulated GPU is an oracle for the kernels, so it must show the faults that it promises to show; and, since only
 * it can be told to, the GPU backend when calls fail and when memory runs out.
 */
#include "device_work.h"
#include "emulator/faults.h"
#include "hospital.h"
#include "nn/op_cuda.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>

static const int64_t MIB = 1 << 20;

/* --- faults of kernels ------------------------------------------------------------------------------------- */

typedef struct bench_gpu {
    cudaStream_t stream;
    float *in, *out; /* the device's (FAULT_THREADS) */
    float host[FAULT_THREADS];
} bench_gpu;

#define cuda(call) assert_int_equal(call, cudaSuccess)

static void open_gpu(bench_gpu *g)
{
    void *in = NULL, *out = NULL;
    cuda(cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking));
    cuda(cudaMalloc(&in, sizeof g->host));
    cuda(cudaMalloc(&out, sizeof g->host));
    for (int i = 0; i < FAULT_THREADS; i++)
        g->host[i] = (float)(i * i % 97);
    cuda(cudaMemcpyAsync(in, g->host, sizeof g->host, cudaMemcpyHostToDevice, g->stream));
    g->in = in;
    g->out = out;
}

static void close_gpu(bench_gpu *g)
{
    cuda(cudaFree(g->in));
    cuda(cudaFree(g->out));
    cuda(cudaStreamDestroy(g->stream));
    assert_int_equal(fb_emulator_live_blocks(), 0);
}

static void run_kernel(const bench_gpu *g, fault which, float got[FAULT_THREADS])
{
    cuda(fault_launch(which, g->in, g->out, g->stream));
    cuda(cudaMemcpyAsync(got, g->out, sizeof g->host, cudaMemcpyDeviceToHost, g->stream));
    cuda(cudaStreamSynchronize(g->stream));
}

static int is_right(const bench_gpu *g, const float got[FAULT_THREADS])
{
    const int last = FAULT_THREADS - 1;
    int right = 1;
    for (int t = 0; t <= last; t++)
        right &= got[t] == g->host[last - t] + (t < last ? g->host[last - t - 1] : 0.0F);
    return right;
}

static void a_right_kernel_is_right(void **state)
{
    (void)state;
    bench_gpu g;
    float got[FAULT_THREADS];
    open_gpu(&g);
    for (int i = 0; i < 10; i++) {
        run_kernel(&g, FAULT_NONE, got);
        assert_true(is_right(&g, got));
    }
    close_gpu(&g);
}

static void wrong_barriers_show(void **state)
{
    (void)state;
    static const fault faults[] = {FAULT_NO_BARRIER, FAULT_EARLY_WRITE, FAULT_UNINITIALISED, FAULT_WARP_BARRIER};
    bench_gpu g;
    float got[FAULT_THREADS];
    open_gpu(&g);
    for (int i = 0; i < 4; i++) {
        run_kernel(&g, FAULT_NONE, got); /* leaves right values behind, which must not hide anything */
        run_kernel(&g, faults[i], got);
        assert_false(is_right(&g, got));
    }
    run_kernel(&g, FAULT_UNINITIALISED, got);
    assert_true(isnan(got[0]));
    run_kernel(&g, FAULT_NO_BARRIER_AFTER_COPY, got);
    int same = 1;
    for (int t = 0; t < FAULT_THREADS; t++)
        same &= got[t] == g.host[FAULT_THREADS - 1 - t];
    assert_false(same);
    close_gpu(&g);
}

/* --- faults that end the program --------------------------------------------------------------------------- */

static void write_beyond(bench_gpu *g)
{
    run_kernel(g, FAULT_BEYOND, g->host);
}

static void diverge(bench_gpu *g)
{
    run_kernel(g, FAULT_DIVERGENT, g->host);
}

static void do_not_wait(bench_gpu *g)
{
    run_kernel(g, FAULT_STILL_COPYING, g->host);
}

static void read_on_host(bench_gpu *g)
{
    g->host[0] = *(volatile float *)g->in;
}

static void write_on_host(bench_gpu *g)
{
    run_kernel(g, FAULT_NONE, g->host);
    *(volatile float *)g->out = 1.0F;
}

static void give_host_memory(bench_gpu *g)
{
    (void)fault_launch(FAULT_NONE, g->host, g->out, g->stream);
}

static void use_after_free(bench_gpu *g)
{
    cuda(cudaFree(g->out));
    cuda(fault_launch(FAULT_NONE, g->in, g->out, g->stream));
    cuda(cudaStreamSynchronize(g->stream));
}

static void free_twice(bench_gpu *g)
{
    cuda(cudaFree(g->out));
    (void)cudaFree(g->out);
}

static void copy_beyond(bench_gpu *g)
{
    (void)cudaMemcpyAsync(g->host, g->in + 1, sizeof g->host, cudaMemcpyDeviceToHost, g->stream);
}

static void copy_the_wrong_way(bench_gpu *g)
{
    (void)cudaMemcpyAsync(g->out, g->in, sizeof g->host, cudaMemcpyHostToDevice, g->stream);
}

static void clear_beyond(bench_gpu *g)
{
    (void)cudaMemsetAsync(g->out + 1, 0, sizeof g->host, g->stream);
}

/* The signal that ends a process which does this, 0 for none. */
static int signal_of(void (*what)(bench_gpu *), bench_gpu *g)
{
    int status = 0;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(1);
        signal(SIGSEGV, SIG_DFL); /* without cmocka's and the sanitizer's */
        signal(SIGABRT, SIG_DFL);
        what(g);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void right_work(bench_gpu *g)
{
    run_kernel(g, FAULT_NONE, g->host);
}

static void wrong_accesses_end_the_program(void **state)
{
    (void)state;
    bench_gpu g;
    open_gpu(&g);
    assert_int_equal(signal_of(right_work, &g), 0);
    assert_int_equal(signal_of(write_beyond, &g), SIGSEGV);
    assert_int_equal(signal_of(read_on_host, &g), SIGSEGV);
    assert_int_equal(signal_of(write_on_host, &g), SIGSEGV);
    assert_int_equal(signal_of(use_after_free, &g), SIGSEGV);
    assert_int_equal(signal_of(diverge, &g), SIGABRT);
    assert_int_equal(signal_of(do_not_wait, &g), SIGABRT);
    assert_int_equal(signal_of(give_host_memory, &g), SIGABRT);
    assert_int_equal(signal_of(free_twice, &g), SIGABRT);
    assert_int_equal(signal_of(copy_beyond, &g), SIGABRT);
    assert_int_equal(signal_of(copy_the_wrong_way, &g), SIGABRT);
    assert_int_equal(signal_of(clear_beyond, &g), SIGABRT);
    close_gpu(&g);
}

/* --- host memory that changes after a copy was queued ------------------------------------------------------- */

static float first_after_change(const bench_gpu *g, float *source)
{
    float got = 0.0F;
    source[0] = 5.0F;
    cuda(cudaMemcpyAsync(g->in, source, sizeof *source, cudaMemcpyHostToDevice, g->stream));
    source[0] = 6.0F;
    cuda(cudaMemcpyAsync(&got, g->in, sizeof got, cudaMemcpyDeviceToHost, g->stream));
    cuda(cudaStreamSynchronize(g->stream));
    return got;
}

static void a_source_that_changes_too_early(void **state)
{
    (void)state;
    bench_gpu g;
    float ordinary[4];
    void *pinned = NULL;
    open_gpu(&g);
    cuda(cudaHostAlloc(&pinned, sizeof ordinary, cudaHostAllocDefault));
    assert_true(first_after_change(&g, ordinary) == 5.0F);
    assert_true(first_after_change(&g, pinned) == 6.0F);
    cuda(cudaFreeHost(pinned));
    close_gpu(&g);
}

/* --- the backend when calls fail ---------------------------------------------------------------------------- */

static fb_status use_work(const fb_ops *ops, const device_work *work, char *result)
{
    void *recording = NULL;
    reset_work(work);
    FB_TRY(queue_work(work));
    FB_TRY(read_work(work, result));
    reset_work(work);
    FB_TRY(ops->record_begin(ops));
    const fb_status queued = queue_work(work);
    fb_status status = ops->record_end(ops, &recording);
    if (status == FB_OK)
        status = queued;
    if (status == FB_OK)
        ops->record_replay(ops, recording);
    ops->record_free(ops, &recording);
    FB_TRY(status);
    return read_work(work, result);
}

/* All of a backend's life; result gets what the operations left. */
static fb_status live(fb_act_type act, char *result)
{
    fb_cuda_device device;
    fb_ops *ops = NULL;
    device_work work;
    FB_TRY(fb_cuda_use(0, &device));
    FB_TRY(fb_ops_cuda_create(act, &ops));
    fb_status status = create_work(ops, &work);
    if (status == FB_OK) {
        status = use_work(ops, &work, result);
        memset(result + work.at[WORK_SAMPLE], 0, sizeof(fb_sample)); /* addresses */
        destroy_work(&work);
    }
    fb_ops_cuda_destroy(&ops);
    assert_null(ops);
    return status;
}

/* Room for the results of `act`. */
static char *make_room(fb_act_type act, int64_t *bytes)
{
    const fb_ops like = {.act_bytes = act == FB_ACT_BF16 ? 2 : 4};
    device_work work = {.ops = &like};
    char *room = NULL;
    lay_out_work(&work);
    *bytes = work.bytes;
    must(FB_ALLOC(room, work.bytes, "results"));
    return room;
}

/* Each call in turn fails: an error that names CUDA, or the same result as without (where a failed call does not
 * matter); never another result; nothing is left. */
static void check_failures(fb_act_type act)
{
    enum { MANY = 1000000 };
    int64_t bytes = 0, failures = 0;
    char *want = make_room(act, &bytes), *got = make_room(act, &bytes);
    fb_emulator_fail_after(MANY);
    must(live(act, want));
    const int64_t calls = MANY - fb_emulator_fail_after(-1), blocks = fb_mem_live_blocks();
    assert_true(calls > 60);
    for (int64_t k = 0; k < calls; k++) {
        fb_emulator_fail_after(k);
        fb_status status = live(act, got);
        assert_true(fb_emulator_fail_after(-1) == -1); /* it came to that call */
        if (status == FB_OK)
            assert_memory_equal(got, want, (size_t)bytes);
        else
            assert_non_null(strstr(fb_error_message(status), "CUDA: "));
        failures += status != FB_OK;
        fb_error_free(&status);
        assert_int_equal(fb_emulator_live_blocks(), 0);
        assert_int_equal(fb_mem_live_blocks(), blocks);
    }
    assert_true(failures == calls); /* none of these calls is one whose failure does not matter */
    must(live(act, got));
    assert_memory_equal(got, want, (size_t)bytes);
    FB_FREE(want);
    FB_FREE(got);
}

static void every_call_may_fail(void **state)
{
    (void)state;
    check_failures(FB_ACT_F32);
    check_failures(FB_ACT_BF16);
}

/* A trainer from creation to its end; `bench` has one already. */
static fb_status train_once(const bench *b, const fb_ops *ops)
{
    fb_train_report report;
    fb_trainer *trainer = NULL;
    bench copy = *b;
    FB_TRY(fb_trainer_create(&b->config, &b->spec, b->params, b->subset, ops, &trainer));
    start_again(&copy);
    const fb_status status =
        fb_trainer_run(trainer, &copy.shard, 1, HOSPITAL, ROUND, NULL, copy.w, &copy.moments, &report);
    fb_trainer_destroy(&trainer);
    return status;
}

/* Calls here and there; the backend lives on, and the next training is right. */
static void training_may_fail(void **state)
{
    (void)state;
    enum { MANY = 1000000, PLACES = 12 };
    fb_cuda_device device;
    fb_ops *ops = NULL;
    bench b;
    must(fb_cuda_use(0, &device));
    must(fb_ops_cuda_create(FB_ACT_F32, &ops));
    open_bench(&b, "", ops, FB_OPTIMIZER_ADAM, 0.1);
    float *want = NULL;
    must(FB_ALLOC(want, b.params->count, "model"));
    must(train_once(&b, ops)); /* makes the stages of uploads, which stay */
    fb_emulator_fail_after(MANY);
    must(train_once(&b, ops));
    const int64_t calls = MANY - fb_emulator_fail_after(-1), blocks = fb_mem_live_blocks();
    const int64_t on_device = fb_emulator_live_blocks();
    memcpy(want, b.w, (size_t)b.params->count * sizeof *want);
    for (int64_t i = 0; i < PLACES; i++) {
        fb_emulator_fail_after((calls - 1) * i / (PLACES - 1));
        must_fail(train_once(&b, ops), "CUDA: ");
        fb_emulator_fail_after(-1);
        assert_int_equal(fb_emulator_live_blocks(), on_device);
        assert_int_equal(fb_mem_live_blocks(), blocks);
    }
    must(train_once(&b, ops));
    assert_memory_equal(b.w, want, (size_t)b.params->count * sizeof *want);
    FB_FREE(want);
    close_bench(&b);
    fb_ops_cuda_destroy(&ops);
}

static fb_ops *make_ops(void)
{
    fb_cuda_device device;
    fb_ops *ops = NULL;
    must(fb_cuda_use(0, &device));
    must(fb_ops_cuda_create(FB_ACT_F32, &ops));
    return ops;
}

/* The first of two failures, by the name of the call; then work goes on. */
static void download_reports_the_first_failure(void **state)
{
    (void)state;
    fb_ops *ops = make_ops();
    void *memory = NULL;
    float got[8] = {0.0F};
    const float ones[8] = {1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F};
    must(ops->alloc(ops, 32, "test", &memory));
    ops->upload(ops, memory, ones, 32);
    fb_emulator_fail_after(0);
    ops->add(ops, 8, memory, memory, memory);
    fb_emulator_fail_after(0);
    ops->zero(ops, memory, 16);
    must_fail(ops->download(ops, got, memory, 32), "CUDA: add: unknown error (cudaErrorUnknown)");
    must(ops->download(ops, got, memory, 32));
    assert_memory_equal(got, ones, 32);
    ops->add(ops, 8, memory, memory, memory);
    must(ops->download(ops, got, memory, 32));
    assert_true(got[7] == 2.0F);
    fb_emulator_fail_after(0);
    ops->copy(ops, memory, (const char *)memory + 16, 16);
    ops->add(ops, 8, memory, memory, memory); /* not queued any more */
    must_fail(ops->download(ops, got, memory, 32), "CUDA: copy on the device: ");
    must(ops->download(ops, got, memory, 32));
    assert_true(got[7] == 2.0F);
    ops->release(ops, &memory);
    fb_ops_cuda_destroy(&ops);
}

/* --- the backend when memory runs out ----------------------------------------------------------------------- */

static void out_of_memory_says_what_is_held(void **state)
{
    (void)state;
    static const char *const subject[] = {"activations", "cases", "cases", "little"};
    const int64_t bytes[] = {30 * MIB, 10 * MIB, 5 * MIB + MIB / 2, MIB / 2};
    void *memory[4] = {NULL}, *more = NULL;
    fb_emulator_limit(64 * MIB);
    fb_ops *ops = make_ops(); /* with 4 MiB of its own */
    for (int i = 0; i < 4; i++)
        must(ops->alloc(ops, bytes[i], subject[i], &memory[i]));
    must_fail(ops->alloc(ops, 20 * MIB - 1, "training sample", &more), "GPU memory: 20 MiB for training sample",
              "14 of 64 MiB are free", "data.patch", "eval.window", "model.filters", "data.device_cache_bytes",
              "fewer ranks", "holds:\n", "\n        30 MiB activations", "\n        15 MiB cases",
              "\n         4 MiB partial sums");
    assert_null(more);
    fb_status status = ops->alloc(ops, 20 * MIB, "training sample", &more);
    assert_null(strstr(fb_error_message(status), "little"));
    fb_error_free(&status);
    ops->release(ops, &memory[0]);
    must(ops->alloc(ops, 20 * MIB, "training sample", &more)); /* and it goes on */
    must(ops->download(ops, &status, more, sizeof status));
    ops->release(ops, &more);
    for (int i = 1; i < 4; i++)
        ops->release(ops, &memory[i]);
    fb_ops_cuda_destroy(&ops);
    fb_emulator_limit(4096 * MIB);
}

/* However little there is: an error, or enough; nothing is left. */
static void any_limit_ends_well(void **state)
{
    (void)state;
    int64_t bytes = 0;
    char *room = make_room(FB_ACT_F32, &bytes);
    const int64_t blocks = fb_mem_live_blocks();
    for (int64_t limit = 0; limit < 16 * MIB; limit += MIB / 4) {
        fb_emulator_limit(limit);
        fb_status status = live(FB_ACT_F32, room);
        assert_true(status == FB_OK || strstr(fb_error_message(status), "GPU memory: "));
        assert_true(status != FB_OK || limit > 4 * MIB);
        assert_true(status == FB_OK || limit < 15 * MIB);
        fb_error_free(&status);
        assert_int_equal(fb_emulator_live_blocks(), 0);
        assert_int_equal(fb_mem_live_blocks(), blocks);
    }
    fb_emulator_limit(4096 * MIB);
    FB_FREE(room);
}

static void nothing_is_left_on_the_device(void **state)
{
    (void)state;
    assert_int_equal(fb_emulator_live_blocks(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_kernel_is_right),
        cmocka_unit_test(wrong_barriers_show),
        cmocka_unit_test(wrong_accesses_end_the_program),
        cmocka_unit_test(a_source_that_changes_too_early),
        cmocka_unit_test(every_call_may_fail),
        cmocka_unit_test(training_may_fail),
        cmocka_unit_test(download_reports_the_first_failure),
        cmocka_unit_test(out_of_memory_says_what_is_held),
        cmocka_unit_test(any_limit_ends_well),
        cmocka_unit_test(nothing_is_left_on_the_device),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
