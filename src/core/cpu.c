/* SPDX-License-Identifier: Apache-2.0
 *
 * The compiler defines __AVX2__ as 1 where it may use AVX2. BUILT(__AVX2__) sees that without an #ifdef: a macro that
 * is not defined stays its own name. */
#include "core/cpu.h"

#include "core/build_info.h"

#include <stdio.h>

#define TEXT_OF(x) #x
#define BUILT(macro) (TEXT_OF(macro)[0] == '1')

#if defined(__x86_64__)

#define RETURN_IF_LACKING(macro, feature)                                                                              \
    if (BUILT(macro) && !__builtin_cpu_supports(feature))                                                              \
    return feature

/* Itself in the instructions that every x86-64 has. */
__attribute__((target("arch=x86-64"))) static const char *lacking(void)
{
    __builtin_cpu_init();
    RETURN_IF_LACKING(__SSE3__, "sse3");
    RETURN_IF_LACKING(__SSSE3__, "ssse3");
    RETURN_IF_LACKING(__SSE4_1__, "sse4.1");
    RETURN_IF_LACKING(__SSE4_2__, "sse4.2");
    RETURN_IF_LACKING(__POPCNT__, "popcnt");
    RETURN_IF_LACKING(__AVX__, "avx");
    RETURN_IF_LACKING(__AVX2__, "avx2");
    RETURN_IF_LACKING(__FMA__, "fma");
    RETURN_IF_LACKING(__FMA4__, "fma4");
    RETURN_IF_LACKING(__BMI__, "bmi");
    RETURN_IF_LACKING(__BMI2__, "bmi2");
    RETURN_IF_LACKING(__AVX512F__, "avx512f");
    RETURN_IF_LACKING(__AVX512CD__, "avx512cd");
    RETURN_IF_LACKING(__AVX512BW__, "avx512bw");
    RETURN_IF_LACKING(__AVX512DQ__, "avx512dq");
    RETURN_IF_LACKING(__AVX512VL__, "avx512vl");
    RETURN_IF_LACKING(__AVX512VBMI__, "avx512vbmi");
    RETURN_IF_LACKING(__AVX512VBMI2__, "avx512vbmi2");
    RETURN_IF_LACKING(__AVX512IFMA__, "avx512ifma");
    RETURN_IF_LACKING(__AVX512VNNI__, "avx512vnni");
    RETURN_IF_LACKING(__AVX512BITALG__, "avx512bitalg");
    RETURN_IF_LACKING(__AVX512VPOPCNTDQ__, "avx512vpopcntdq");
    return NULL;
}

#else

static const char *lacking(void)
{
    return NULL; /* nowhere else is a build for one processor run on others */
}

#endif

int fb_cpu_suffices(const char *program)
{
    const char *feature = lacking();
    if (feature)
        fprintf(stderr,
                "%s: this processor lacks %s, which the program was built to use (%s): build it on this machine, or "
                "for it with an older MARCH, such as MARCH=x86-64-v2\n",
                program, feature, fb_build_flags());
    return !feature;
}
