/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

double fb_time_s(void); /* monotonic seconds since an arbitrary start */
