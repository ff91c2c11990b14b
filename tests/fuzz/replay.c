/* SPDX-License-Identifier: Apache-2.0
 *
 * Feeds files to a fuzz target, without libFuzzer: fuzz_X FOLDER|FILE... Prints how many there were. Fails when there
 * is none, or when one takes longer than a second of this processor; the target itself aborts.
 */
#include "fuzz.h"

#include <dirent.h>
#include <sys/stat.h>

/* Owned by the caller, by malloc: in a block of its own size, so that a sanitizer sees every byte too far, and outside
 * the count of core/mem.h, which targets check. */
static fb_status read_input(const char *path, uint8_t **data, size_t *size)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file)
        return FB_FAIL("%s: cannot open", path);
    *size = fstat(fileno(file), &info) == 0 ? (size_t)info.st_size : 0;
    *data = malloc(*size + (*size == 0));
    const int complete = *data != NULL && fread(*data, 1, *size, file) == *size;
    fclose(file);
    return complete ? FB_OK : FB_FAIL("%s: cannot read", path);
}

static fb_status replay_file(const char *path, int *count)
{
    uint8_t *data = NULL;
    size_t size = 0;
    fb_status status = read_input(path, &data, &size);
    if (status == FB_OK)
        *count += LLVMFuzzerTestOneInput(data, size) == 0;
    free(data);
    return status;
}

static fb_status replay_folder(const char *folder, int *count)
{
    fb_status status = FB_OK;
    DIR *list = opendir(folder);
    if (!list)
        return FB_FAIL("%s: cannot open the folder", folder);
    for (struct dirent *entry; status == FB_OK && (entry = readdir(list)) != NULL;) {
        char path[FB_PATH_CHARS];
        status = fb_path_join(path, folder, entry->d_name);
        if (status == FB_OK && fb_file_exists(path))
            status = replay_file(path, count);
    }
    closedir(list);
    return status;
}

int main(int argc, char **argv)
{
    fb_status status = FB_OK;
    int count = 0;
    for (int i = 1; i < argc && status == FB_OK; i++)
        status = fb_folder_exists(argv[i]) ? replay_folder(argv[i], &count) : replay_file(argv[i], &count);
    if (status == FB_OK && count == 0)
        status = FB_FAIL("nothing to replay: give a folder with inputs");
    printf("%d inputs\n", count);
    if (status == FB_OK)
        return FB_EXIT_OK;
    fprintf(stderr, "%s\n", fb_error_message(status));
    fb_error_free(&status);
    return FB_EXIT_FAILED;
}
