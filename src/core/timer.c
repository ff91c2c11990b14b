/* SPDX-License-Identifier: Apache-2.0 */
#include "core/timer.h"

#include <time.h>

double fb_time_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
