/* SPDX-License-Identifier: Apache-2.0
 *
 * A model as safetensors, of a network of three tensors. What is accepted is written and read again to the same
 * weights; what is refused leaves the weights as they were.
 */
#include "fuzz_folder.h"

#include "io/safetensors.h"

enum { COUNT = 12, LIMIT_BYTES = 4 * FUZZ_INPUT_MAX };

static fb_tensor_info tensors[] = {
    {.name = "conv.weight", .shape = {2, 2, 1, 1, 2}, .rank = 5, .offset = 0, .count = 8},
    {.name = "conv.bias", .shape = {2}, .rank = 1, .offset = 8, .count = 2},
    {.name = "norm", .shape = {2}, .rank = 1, .offset = 10, .count = 2},
};

static void write_and_read(const fb_params *params, const float w[COUNT])
{
    static const char *const metadata[] = {"round \"1\"", "a\\b\n\x01"};
    char path[FB_PATH_CHARS], sha256[FB_SHA256_CHARS], of_weights[FB_SHA256_CHARS];
    float again[COUNT];
    fuzz_must(fb_path_join(path, fuzz_folder(), "again.safetensors"));
    fuzz_must(fb_safetensors_write(path, params, w, metadata, 1, sha256));
    fuzz_must(fb_safetensors_read(path, params, again));
    FB_ASSERT(memcmp(w, again, sizeof again) == 0);
    fb_sha256(w, sizeof again, of_weights);
    FB_ASSERT(strcmp(sha256, of_weights) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    const fb_params params = {.count = COUNT, .tensor_count = 3, .tensors = tensors};
    float w[COUNT];
    if (size > FUZZ_INPUT_MAX)
        return 0;
    for (int i = 0; i < COUNT; i++)
        w[i] = -1.0f;
    fb_status status = fb_safetensors_read(fuzz_file(data, size), &params, w);
    if (status != FB_OK) {
        fuzz_refused(&status);
        for (int i = 0; i < COUNT; i++)
            FB_ASSERT(w[i] == -1.0f);
    } else {
        write_and_read(&params, w);
    }
    return fuzz_end(start, LIMIT_BYTES);
}
