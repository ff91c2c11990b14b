/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded by tests/cli_faults.sh and tests/cli_train.sh: lets one allocation fail, as tests/faults.h says. Those of
 * the program itself count, and those that the C library makes for it (streams); not those of other
 * libraries, whose failures are theirs to handle, unless FB_FAULT_LIBRARY names one by a part of its path.
 * FB_FAULT_CUDA: the program holds the CUDA runtime, whose calls of malloc cannot be told from its own: of the
 * program only core/mem counts. */
#define _GNU_SOURCE
#include "faults.h"

#include <malloc.h>

static int is_counted(const char *call, const void *caller)
{
    Dl_info from;
    const char *library = getenv("FB_FAULT_LIBRARY");
    if (!dladdr(caller, &from) || !from.dli_fname)
        return 0;
    if (library)
        return strstr(from.dli_fname, library) != NULL;
    const int of_strdup = from.dli_sname && strstr(from.dli_sname, "strdup"); /* only libraries use it */
    const int of_cuda = getenv("FB_FAULT_CUDA") && strcmp(call, "aligned_alloc") != 0;
    return (fault_is_ours(caller) && !of_cuda) || (strstr(from.dli_fname, "/libc.so") && !of_strdup);
}

static int has_begun; /* with the first call of core/mem; before it libraries start up */

static int fails(const char *call, const void *caller)
{
    static _Thread_local int inside; /* what is asked here may allocate */
    if (inside)
        return 0;
    inside = 1;
    has_begun |= strcmp(call, "aligned_alloc") == 0 && fault_is_ours(caller);
    const int failed = has_begun && is_counted(call, caller) && fault(call, "memory") != FAULT_NONE;
    inside = 0;
    return failed;
}

/* The next definition, which is a sanitizer's where there is one. */
#define ALLOCATES(name, parameters, arguments)                                                                         \
    void *name parameters                                                                                              \
    {                                                                                                                  \
        static void *(*real)parameters;                                                                                \
        if (!real) {                                                                                                   \
            void *found = dlsym(RTLD_NEXT, #name);                                                                     \
            memcpy(&real, &found, sizeof real);                                                                        \
        }                                                                                                              \
        return fails(#name, __builtin_return_address(0)) ? NULL : real arguments;                                      \
    }

#ifndef ONLY_CORE_MEM /* a sanitizer allocates before it can be asked for its functions */
ALLOCATES(malloc, (size_t size), (size))
ALLOCATES(calloc, (size_t count, size_t size), (count, size))
ALLOCATES(realloc, (void *old, size_t size), (old, size))
#endif
ALLOCATES(aligned_alloc, (size_t alignment, size_t size), (alignment, size))
