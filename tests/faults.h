/* SPDX-License-Identifier: Apache-2.0
 *
 * What the preloaded libraries alloc_fail.c and io_fail.c share: they count calls, write the list of them, and let one
 * of them fail. From the environment:
 *   FB_FAULT_RANK    the MPI rank that counts and fails; unset: a program without MPI, or every rank
 *   FB_FAULT_NUMBER  the call that fails, from 1; unset: none
 *   FB_FAULT_ERRNO   EIO, ENOSPC, EDQUOT, EINTR or ENOMEM: its reason; SHORT: it moves half of the bytes and says so
 *   FB_FAULT_STAYS   1: all later calls fail too, as on a file system that is gone
 *   FB_FAULT_LIST    a file; a line "NUMBER CALL PATH" is added for every call, with " failed" for those that do
 *   FB_FAULT_BELOW   folders, separated by ':'; only calls with a path below one of them count. Unset: all do
 * The system is called directly where this writes: the wrapped functions must not meet themselves. */
#pragma once

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FAULT_NONE = 0, FAULT_ERROR, FAULT_SHORT };

static atomic_long fault_calls;

static int fault_is_here(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *chosen = getenv("FB_FAULT_RANK");
    return !chosen || (rank && strcmp(rank, chosen) == 0);
}

/* Whether the program itself made the call, and not one of its libraries. */
static inline int fault_is_ours(const void *caller)
{
    const unsigned long entry = getauxval(AT_ENTRY);
    void *start = NULL;
    Dl_info program, from;
    memcpy(&start, &entry, sizeof start);
    return dladdr(start, &program) && dladdr(caller, &from) && program.dli_fbase == from.dli_fbase;
}

static int fault_is_below(const char *path)
{
    const char *below = getenv("FB_FAULT_BELOW");
    while (below && *below) {
        const size_t chars = strcspn(below, ":");
        if (strncmp(path, below, chars) == 0 && (path[chars] == '/' || path[chars] == '\0'))
            return 1;
        below += chars + (below[chars] == ':');
    }
    return !getenv("FB_FAULT_BELOW");
}

static int fault_errno(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } known[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EINTR", EINTR}, {"ENOMEM", ENOMEM}};
    for (size_t i = 0; name && i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].number;
    return EIO;
}

static void fault_list(long number, const char *call, const char *path, int failed)
{
    const char *list = getenv("FB_FAULT_LIST");
    char line[4352];
    if (!list)
        return;
    const int chars = snprintf(line, sizeof line, "%ld %s %s%s\n", number, call, path, failed ? " failed" : "");
    const long fd = syscall(SYS_openat, AT_FDCWD, list, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || syscall(SYS_write, fd, line, (size_t)chars) != chars)
        abort();
    syscall(SYS_close, fd);
}

/* Whether this call fails, and how; errno is then set, and otherwise left alone. */
static int fault(const char *call, const char *path)
{
    if (!fault_is_here() || !fault_is_below(path))
        return FAULT_NONE;
    const int before = errno;
    const char *chosen = getenv("FB_FAULT_NUMBER"), *reason = getenv("FB_FAULT_ERRNO");
    const long number = atomic_fetch_add(&fault_calls, 1) + 1, at = chosen ? strtol(chosen, NULL, 10) : 0;
    const int fails = at > 0 && (number == at || (number > at && getenv("FB_FAULT_STAYS")));
    fault_list(number, call, path, fails);
    errno = before;
    if (!fails)
        return FAULT_NONE;
    errno = fault_errno(reason);
    return reason && strcmp(reason, "SHORT") == 0 ? FAULT_SHORT : FAULT_ERROR;
}
