/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded under mpirun by tests/cli_train.sh: on rank FB_ALLOC_RANK counts the calls of aligned_alloc, writes their
 * number to the file FB_ALLOC_COUNT at the end, and lets call number FB_ALLOC_FAIL fail. */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long calls;

static int is_chosen_rank(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *chosen = getenv("FB_ALLOC_RANK");
    return rank && chosen && strcmp(rank, chosen) == 0;
}

void *aligned_alloc(size_t alignment, size_t size_bytes)
{
    const char *fail = getenv("FB_ALLOC_FAIL");
    calls++;
    if (fail && calls == strtol(fail, NULL, 10) && is_chosen_rank()) {
        errno = ENOMEM;
        return NULL;
    }
    return memalign(alignment, size_bytes);
}

__attribute__((destructor)) static void write_count(void)
{
    const char *path = getenv("FB_ALLOC_COUNT");
    FILE *file = path && is_chosen_rank() ? fopen(path, "w") : NULL;
    if (!file)
        return;
    fprintf(file, "%ld\n", calls);
    fclose(file);
}
