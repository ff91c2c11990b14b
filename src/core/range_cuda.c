/* SPDX-License-Identifier: Apache-2.0 */
#include "core/range.h"

#include <nvtx3/nvToolsExt.h>

void fb_range_begin(const char *name)
{
    (void)nvtxRangePushA(name);
}

void fb_range_end(void)
{
    (void)nvtxRangePop();
}
