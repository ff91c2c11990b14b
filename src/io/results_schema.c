/* SPDX-License-Identifier: Apache-2.0 */
#include "io/results_schema.h"

#include "core/mem.h"
#include "nn/loss.h"

#include <hdf5_hl.h>
#include <math.h>
#include <stddef.h>

#define RECORD(field) offsetof(fb_round_record, field)

/* name, shape, diagnostic, integer, units, long_name, field. Units are UDUNITS symbols: "seconds" would make xarray
 * turn a variable into timedelta64. */
const fb_result_variable fb_result_variables[FB_RESULT_VARIABLES] = {
    {"dice", FB_PER_REGION, 0, 0, "1", "Dice coefficient of the global model on the common test shard", RECORD(dice)},
    {"dice_mean", FB_PER_ROUND, 0, 0, "1", "mean Dice coefficient over regions and cases of the common test shard",
     RECORD(dice_mean)},
    {"dice_validation", FB_PER_REGION, 0, 0, "1",
     "Dice coefficient of the global model on all hospitals' validation cases", RECORD(dice_validation)},
    {"dice_validation_mean", FB_PER_ROUND, 0, 0, "1",
     "mean Dice coefficient over regions and all hospitals' validation cases", RECORD(dice_validation_mean)},
    {"dice_cases", FB_PER_REGION, 0, 1, "1", "test cases in which the region exists, over which dice is the mean",
     RECORD(dice_cases)},
    {"comm_seconds", FB_PER_ROUND, 0, 0, "s",
     "time of the round beside training, privacy and evaluation: messages, aggregation, waiting", RECORD(comm_seconds)},
    {"eval_seconds", FB_PER_ROUND, 0, 0, "s", "time in evaluation", RECORD(eval_seconds)},
    {"train_seconds_max", FB_PER_ROUND, 0, 0, "s", "training time of the slowest rank, over the hospitals it plays",
     RECORD(train_seconds_max)},
    {"round_seconds", FB_PER_ROUND, 0, 0, "s", "wall time of the round", RECORD(round_seconds)},
    {"simulated_seconds", FB_PER_ROUND, 0, 0, "s",
     "time of the round with one rank per hospital: slowest hospital and communication", RECORD(simulated_seconds)},
    {"bytes_dense", FB_PER_ROUND, 0, 1, "byte", "size of an uncompressed float32 update of all trained parameters",
     RECORD(bytes_dense)},
    {"steps", FB_PER_HOSPITAL, 0, 1, "1", "local training steps", RECORD(steps)},
    {"participated", FB_PER_HOSPITAL, 0, 1, "1", "1 when the hospital took part in the round", RECORD(participated)},
    {"bytes_sent", FB_PER_HOSPITAL, 0, 1, "byte",
     "size of the update message as sent; of public width where it has no noise yet", RECORD(bytes_sent)},
    {"shared_fraction_achieved", FB_PER_HOSPITAL, 0, 0, "1", "fraction of the update's values that was sent",
     RECORD(shared_fraction_achieved)},
    {"epsilon_round", FB_PER_HOSPITAL, 0, 0, "1", "privacy budget spent in the round", RECORD(epsilon_round)},
    {"epsilon_total", FB_PER_HOSPITAL, 0, 0, "1", "privacy budget spent since the start of the run",
     RECORD(epsilon_total)},
    {"epsilon_per_parameter", FB_PER_HOSPITAL, 0, 0, "1",
     "epsilon_round over the number of values sent: the axis of Li et al. 2019, not a guarantee",
     RECORD(epsilon_per_parameter)},
    {"update_cosine", FB_PER_HOSPITAL, 1, 0, "1", "cosine of the released and the true update", RECORD(update_cosine)},
    {"update_snr", FB_PER_HOSPITAL, 1, 0, "1", "signal-to-noise ratio of the released update", RECORD(update_snr)},
    {"clip_rate", FB_PER_HOSPITAL, 1, 0, "1", "fraction of the values, with dpsgd of the gradients, that were clipped",
     RECORD(clip_rate)},
    {"selection_overlap", FB_PER_HOSPITAL, 1, 0, "1",
     "share of the largest |dW| among the values sent, as many as were sent", RECORD(selection_overlap)},
    {"norm_scale", FB_PER_HOSPITAL, 1, 0, "1", "factor of the clip to an L2 norm; 1: the norm was within it",
     RECORD(norm_scale)},
    {"train_loss", FB_PER_HOSPITAL, 1, 0, "1", "mean training loss", RECORD(train_loss)},
    {"train_seconds", FB_PER_HOSPITAL, 1, 0, "s", "training time", RECORD(train_seconds)},
    {"privacy_seconds", FB_PER_HOSPITAL, 1, 0, "s", "time to select, clip and add noise", RECORD(privacy_seconds)},
    {"sum_cosine", FB_PER_ROUND, 1, 0, "1", "cosine of the noised and the clean sum of the updates, trust = central",
     RECORD(sum_cosine)},
    {"svt_tests", FB_PER_HOSPITAL, 1, 1, "1", "threshold tests of the sparse vector technique", RECORD(svt_tests)},
};

const fb_result_variable fb_result_rounds_committed = {
    "rounds_committed", FB_PER_RUN, 0, 1, "1", "rounds that are completely written; values of later ones are void", 0};

/* --- axes --- */

enum { AXIS_ROUND = 7, AXIS_HOSPITAL, AXIS_REGION, AXES };

typedef enum axis_type { AXIS_REAL, AXIS_INTEGER, AXIS_TEXT } axis_type;

typedef struct result_axis {
    const char *name, *long_name;
    axis_type type;
    hsize_t count;
    const void *values; /* borrowed, (count) double, int64_t or const char * */
} result_axis;

static const char *const region_names[FB_REGIONS] = {
    [FB_REGION_TC] = "TC", [FB_REGION_WT] = "WT", [FB_REGION_ET] = "ET"};

/* round_numbers (rounds) is borrowed by the axes. */
static void describe_axes(const fb_results_spec *spec, const int64_t *round_numbers, result_axis axes[AXES])
{
    const result_axis all[AXES] = {
        {"share_fraction", "fraction of the update's values to share", AXIS_REAL, 1, &spec->share_fraction},
        {"epsilon", "configured privacy budget of a hospital over the whole run; inf: none", AXIS_REAL, 1,
         &spec->epsilon},
        {"seed", "seed of the random numbers", AXIS_INTEGER, 1, &spec->seed},
        {"select", "rule that selects the values to share", AXIS_TEXT, 1, &spec->select},
        {"mechanism", "privacy mechanism", AXIS_TEXT, 1, &spec->mechanism},
        {"algorithm", "federated algorithm", AXIS_TEXT, 1, &spec->algorithm},
        {"mode", "kind of training", AXIS_TEXT, 1, &spec->mode},
        {"round", "number of the round, from 0", AXIS_INTEGER, (hsize_t)spec->rounds, round_numbers},
        {"hospital", "hospital", AXIS_TEXT, (hsize_t)spec->hospital_count, spec->hospital_names},
        {"region", "tumour region: core, whole, enhancing", AXIS_TEXT, FB_REGIONS, region_names},
    };
    for (int i = 0; i < AXES; i++)
        axes[i] = all[i];
}

/* Axis number `k` of a variable of this shape; -1 behind the last. */
static int axis_of(fb_result_shape shape, int k)
{
    static const int further[][2] = {[FB_PER_RUN] = {-1, -1},
                                     [FB_PER_ROUND] = {AXIS_ROUND, -1},
                                     [FB_PER_REGION] = {AXIS_ROUND, AXIS_REGION},
                                     [FB_PER_HOSPITAL] = {AXIS_ROUND, AXIS_HOSPITAL}};
    if (k < AXIS_ROUND)
        return k;
    return k < FB_RESULT_AXES_MAX ? further[shape][k - AXIS_ROUND] : -1;
}

int fb_result_extent(const fb_result_variable *variable, int64_t rounds, int hospital_count,
                     hsize_t extent[FB_RESULT_AXES_MAX])
{
    int axes = 0;
    for (int a; (a = axis_of(variable->shape, axes)) >= 0; axes++)
        extent[axes] = a == AXIS_ROUND      ? (hsize_t)rounds
                       : a == AXIS_HOSPITAL ? (hsize_t)hospital_count
                       : a == AXIS_REGION   ? FB_REGIONS
                                            : 1;
    return axes;
}

hid_t fb_result_type(const fb_result_variable *variable)
{
    return variable->integer ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE;
}

/* --- making --- */

/* Contiguous, allocated early, filled on allocation; no time stamps, so that equal contents give equal files. */
static int set_preallocated(hid_t creation, hid_t type, const void *fill)
{
    return creation >= 0 && H5Pset_layout(creation, H5D_CONTIGUOUS) >= 0 &&
           H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
           H5Pset_fill_time(creation, H5D_FILL_TIME_ALLOC) >= 0 && H5Pset_obj_track_times(creation, 0) >= 0 &&
           H5Pset_attr_creation_order(creation, FB_H5_ORDERED) >= 0 &&
           (!fill || H5Pset_fill_value(creation, type, fill) >= 0);
}

/* Wholly allocated and filled with *fill now (NULL: zeros). */
static fb_status make_dataset(hid_t group, const char *name, hid_t type, int axes, const hsize_t *extent,
                              const void *fill, hid_t *dataset)
{
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    const int set = set_preallocated(creation, type, fill);
    fb_status status = fb_h5_check(set ? 0 : -1, group, name, "describe the dataset");
    if (status == FB_OK)
        status = fb_h5_dataset_create(group, name, type, axes, extent, creation, dataset);
    fb_h5_close(&creation);
    return status;
}

static fb_status make_group(hid_t file, const char *name, hid_t *group)
{
    return fb_h5_group_create(file, name, FB_H5_ORDERED, FB_H5_ORDERED, group);
}

static fb_status describe(hid_t dataset, const char *units, const char *long_name)
{
    FB_TRY(fb_h5_attribute_text(dataset, "long_name", long_name));
    return fb_h5_attribute_text(dataset, "units", units);
}

static fb_status make_scale(hid_t group, const result_axis *axis, hid_t text_type, hid_t *scale)
{
    const hid_t type = axis->type == AXIS_REAL      ? H5T_NATIVE_DOUBLE
                       : axis->type == AXIS_INTEGER ? H5T_NATIVE_INT64
                                                    : text_type;
    FB_TRY(make_dataset(group, axis->name, type, 1, &axis->count, NULL, scale));
    FB_TRY(fb_h5_check(H5DSset_scale(*scale, axis->name), *scale, NULL, "become a dimension scale"));
    FB_TRY(describe(*scale, "1", axis->long_name));
    return fb_h5_check(H5Dwrite(*scale, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, axis->values), *scale, NULL, "write");
}

static fb_status attach(hid_t dataset, hid_t scale, int axis)
{
    return fb_h5_check(H5DSattach_scale(dataset, scale, (unsigned)axis), dataset, NULL, "get its dimension scale");
}

/* _FillValue tells every netCDF reader what "not written yet" is. */
static fb_status make_variable(hid_t group, const fb_result_variable *variable, const fb_results_spec *spec,
                               const hid_t scales[AXES])
{
    static const int64_t no_integer = -1;
    static const int64_t none_committed = 0;
    static const double no_real = NAN;
    const void *fill = variable->integer ? (const void *)&no_integer : &no_real;
    const int is_count = variable == &fb_result_rounds_committed;
    hsize_t extent[FB_RESULT_AXES_MAX];
    hid_t dataset = 0;
    const int axes = fb_result_extent(variable, spec->rounds, spec->hospital_count, extent);
    const hid_t type = fb_result_type(variable);
    fb_status status = FB_OK;
    FB_TRY(make_dataset(group, variable->name, type, axes, extent, is_count ? &none_committed : fill, &dataset));
    FB_TRY_GOTO(status, describe(dataset, variable->units, variable->long_name), done);
    if (!is_count)
        FB_TRY_GOTO(status, fb_h5_attribute_value(dataset, "_FillValue", type, fill), done);
    for (int k = 0; k < axes; k++)
        FB_TRY_GOTO(status, attach(dataset, scales[axis_of(variable->shape, k)], k), done);
done:
    fb_h5_close(&dataset);
    return status;
}

/* Coordinates and variables of one group. /diagnostics has coordinates of its own: xarray opens a group by itself. */
static fb_status fill_group(hid_t group, int diagnostic, const fb_results_spec *spec, const result_axis axes[AXES])
{
    hid_t scales[AXES] = {0}, text_type = 0;
    fb_status status = FB_OK;
    FB_TRY(fb_h5_text_type(group, NULL, H5T_VARIABLE,
                           &text_type)); /* netCDF4-python crashes on coordinates of fixed length */
    for (int i = 0; i < AXES; i++)
        if (!(diagnostic && i == AXIS_REGION)) /* no diagnostic is per region */
            FB_TRY_GOTO(status, make_scale(group, &axes[i], text_type, &scales[i]), done);
    for (int v = 0; v < FB_RESULT_VARIABLES; v++)
        if (fb_result_variables[v].diagnostic == diagnostic)
            FB_TRY_GOTO(status, make_variable(group, &fb_result_variables[v], spec, scales), done);
    if (!diagnostic)
        status = make_variable(group, &fb_result_rounds_committed, spec, scales);
done:
    for (int i = 0; i < AXES; i++)
        fb_h5_close(&scales[i]);
    fb_h5_close(&text_type);
    return status;
}

static fb_status make_diagnostics(hid_t file, const fb_results_spec *spec, const result_axis axes[AXES])
{
    hid_t group = 0;
    FB_TRY(make_group(file, "diagnostics", &group));
    fb_status status = fb_h5_attribute_text(group, "note",
                                            "the simulator's own view, computed from data that hospitals would not "
                                            "release; no privacy guarantee covers it");
    if (status == FB_OK)
        status = fill_group(group, 1, spec, axes);
    fb_h5_close(&group);
    return status;
}

static fb_status make_attributes(hid_t file, const char *name, const fb_attribute *attributes, int count)
{
    hid_t group = 0;
    fb_status status = FB_OK;
    FB_TRY(make_group(file, name, &group));
    for (int i = 0; i < count && status == FB_OK; i++)
        status = fb_h5_attribute_text(group, attributes[i].name, attributes[i].text);
    fb_h5_close(&group);
    return status;
}

fb_status fb_result_make_structure(hid_t file, const fb_results_spec *spec)
{
    result_axis axes[AXES];
    int64_t *round_numbers = NULL; /* (rounds) */
    fb_status status = FB_OK;
    FB_TRY(FB_ALLOC(round_numbers, spec->rounds, "round numbers"));
    for (int64_t r = 0; r < spec->rounds; r++)
        round_numbers[r] = r;
    describe_axes(spec, round_numbers, axes);
    FB_TRY_GOTO(status, fb_h5_attribute_text(file, "title", "FedBraTS run"), done);
    FB_TRY_GOTO(status, fb_h5_attribute_text(file, "schema_version", "1"), done);
    FB_TRY_GOTO(status, fill_group(file, 0, spec, axes), done);
    FB_TRY_GOTO(status, make_diagnostics(file, spec, axes), done);
    FB_TRY_GOTO(status, make_attributes(file, "config", spec->config, spec->config_count), done);
    FB_TRY_GOTO(status, make_attributes(file, "provenance", spec->provenance, spec->provenance_count), done);
done:
    FB_FREE(round_numbers);
    return status;
}
