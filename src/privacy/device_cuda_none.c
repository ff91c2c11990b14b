/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/device.h"

fb_status fb_privacy_device_create(const fb_ops *ops, const fb_release_spec *spec, const fb_budget *budget,
                                   fb_privacy_device **out)
{
    (void)ops;
    (void)spec;
    (void)budget;
    *out = NULL;
    return FB_OK;
}

void fb_privacy_device_destroy(fb_privacy_device **device)
{
    (void)device;
}

fb_status fb_privacy_device_release(fb_privacy_device *device, const fb_release_spec *spec, const fb_budget *budget,
                                    const fb_release_input *in, fb_update *out, fb_release_report *report, int *done)
{
    (void)device;
    (void)spec;
    (void)budget;
    (void)in;
    (void)out;
    (void)report;
    *done = 0;
    return FB_OK;
}
