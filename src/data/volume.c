/* SPDX-License-Identifier: Apache-2.0 */
#include "data/volume.h"

#include "core/mem.h"

#include <stdio.h>
#include <string.h>

const char *const fb_modality_name[FB_MODALITIES] = {"t1ce", "t1", "t2", "flair"};

fb_status fb_volume_create(const char *subject, const int64_t shape[3], fb_volume **out)
{
    fb_volume *volume = NULL;
    const int64_t voxels = fb_volume_voxels(shape);
    if (strlen(subject) >= FB_SUBJECT_CHARS)
        return FB_FAIL("%s: the subject's name is longer than %d characters", subject, FB_SUBJECT_CHARS - 1);
    FB_TRY(FB_ALLOC(volume, 1, "volume"));
    snprintf(volume->subject, sizeof volume->subject, "%s", subject);
    memcpy(volume->shape, shape, sizeof volume->shape);
    fb_status status = FB_ALLOC(volume->image, voxels * FB_MODALITIES, subject);
    if (status == FB_OK)
        status = FB_ALLOC(volume->label, voxels, subject);
    if (status != FB_OK) {
        fb_volume_destroy(&volume);
        return status;
    }
    *out = volume;
    return FB_OK;
}

void fb_volume_destroy(fb_volume **volume)
{
    if (!*volume)
        return;
    FB_FREE((*volume)->image);
    FB_FREE((*volume)->label);
    FB_FREE(*volume);
}

int64_t fb_volume_voxels(const int64_t shape[3])
{
    const int64_t limit = 1 << 16; /* of an axis: no overflow below */
    for (int axis = 0; axis < 3; axis++)
        FB_ASSERT(shape[axis] > 0 && shape[axis] < limit);
    return shape[0] * shape[1] * shape[2];
}
