/* SPDX-License-Identifier: Apache-2.0
 *
 * FB_VERSION, FB_REVISION and FB_FLAGS come from the Makefile. */
#include "core/build_info.h"

const char *fb_build_version(void)
{
    return FB_VERSION;
}

const char *fb_build_revision(void)
{
    return FB_REVISION;
}

const char *fb_build_compiler(void)
{
#ifdef __clang__
    return __VERSION__;
#else
    return "gcc " __VERSION__;
#endif
}

const char *fb_build_flags(void)
{
    return FB_FLAGS;
}
