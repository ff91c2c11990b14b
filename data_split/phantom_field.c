/* SPDX-License-Identifier: Apache-2.0 */
#include "phantom_field.h"

#include "core/mem.h"

#include <math.h>

static const double HALF_WIDTH_MM = 132.0; /* of the cube that a field covers; the field of view is +-120 mm */

fb_status fb_field_create(fb_field *field, fb_rng stream, uint32_t number, double cell_mm)
{
    const int64_t nodes = (int64_t)ceil(2.0 * HALF_WIDTH_MM / cell_mm) + 2;
    field->cell_mm = cell_mm;
    for (int axis = 0; axis < 3; axis++)
        field->nodes[axis] = nodes;
    FB_TRY(FB_ALLOC(field->value, nodes * nodes * nodes, "random field"));
    stream.round = number;
    for (int64_t i = 0; i < nodes * nodes * nodes; i++)
        field->value[i] = (float)fb_rng_normal(&stream, (uint32_t)i);
    return FB_OK;
}

void fb_field_destroy(fb_field *field)
{
    FB_FREE(field->value);
}

double fb_field_at(const fb_field *field, const double position_mm[3])
{
    int64_t first[3];
    double part[3];
    for (int axis = 0; axis < 3; axis++) {
        const double clamped = fmin(fmax(position_mm[axis], -HALF_WIDTH_MM), HALF_WIDTH_MM);
        const double node = (clamped + HALF_WIDTH_MM) / field->cell_mm;
        first[axis] = (int64_t)node;
        const double t = node - (double)first[axis];
        part[axis] = t * t * (3.0 - 2.0 * t); /* smooth across cells */
    }
    double sum = 0.0;
    for (int corner = 0; corner < 8; corner++) {
        const int64_t dx = corner & 1, dy = corner >> 1 & 1, dz = corner >> 2;
        const double weight =
            (dx ? part[0] : 1.0 - part[0]) * (dy ? part[1] : 1.0 - part[1]) * (dz ? part[2] : 1.0 - part[2]);
        sum +=
            weight *
            (double)field->value[((first[2] + dz) * field->nodes[1] + first[1] + dy) * field->nodes[0] + first[0] + dx];
    }
    return sum;
}
