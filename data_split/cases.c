/* SPDX-License-Identifier: Apache-2.0 */
#include "cases.h"

#include "core/mem.h"
#include "nifti.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- listing
 * ----------------------------------------------------------------------------------------------------------- */

static const char *file_kind(int file)
{
    return file < FB_MODALITIES ? fb_modality_name[file] : "seg";
}

/* Copies the site of Brats18_<site>_<case>_1, or "NA". */
static void read_site(const char *subject, char site[FB_SUBJECT_CHARS])
{
    static const char prefix[] = "Brats18_";
    const char *start = subject + sizeof prefix - 1, *end = NULL;
    if (strncmp(subject, prefix, sizeof prefix - 1) == 0)
        end = strchr(start, '_');
    if (end && end > start && strchr(end + 1, '_'))
        snprintf(site, FB_SUBJECT_CHARS, "%.*s", (int)(end - start), start);
    else
        snprintf(site, FB_SUBJECT_CHARS, "NA");
}

/* Which of the five files `name` is, -1 for another name. */
static int classify(const char *subject, const char *name, int *compressed)
{
    char expected[FB_SUBJECT_CHARS + 32];
    for (int file = 0; file < FB_CASE_FILES; file++)
        for (*compressed = 0; *compressed < 2; ++*compressed) {
            snprintf(expected, sizeof expected, "%s_%s.nii%s", subject, file_kind(file), *compressed ? ".gz" : "");
            if (strcmp(name, expected) == 0)
                return file;
        }
    return -1;
}

static fb_status look_at(fb_case *item, const char *name, int found[FB_CASE_FILES])
{
    int compressed = 0;
    const int file = classify(item->subject, name, &compressed);
    if (file < 0)
        return FB_FAIL(
            "%s: unexpected %s; a case folder holds %s_{t1ce,t1,t2,flair,seg}.nii or .nii.gz and nothing else",
            item->folder, name, item->subject);
    if (found[file]++)
        return FB_FAIL("%s: both %s.nii and %s.nii.gz; remove one", item->folder, file_kind(file), file_kind(file));
    item->compressed[file] = compressed;
    return FB_OK;
}

/* FB_OK when the folder holds exactly the five files. */
static fb_status look_into(fb_case *item)
{
    int found[FB_CASE_FILES] = {0};
    fb_status status = FB_OK;
    DIR *folder = opendir(item->folder);
    if (!folder)
        return FB_FAIL("%s: cannot open: %s", item->folder, strerror(errno));
    for (struct dirent *entry; status == FB_OK && (entry = readdir(folder));)
        if (entry->d_name[0] != '.')
            status = look_at(item, entry->d_name, found);
    closedir(folder);
    for (int file = 0; status == FB_OK && file < FB_CASE_FILES; file++)
        if (!found[file])
            status = FB_FAIL("%s: %s_%s.nii.gz is missing", item->folder, item->subject, file_kind(file));
    return status;
}

static fb_status add_case(fb_cases *cases, const char *folder, const char *subject, const char *grade)
{
    if (strlen(subject) >= FB_SUBJECT_CHARS)
        return FB_FAIL("%s/%s: the name is longer than %d characters", folder, subject, FB_SUBJECT_CHARS - 1);
    if (strpbrk(subject, ",\"\r\n"))
        return FB_FAIL("%s/%s: a comma, quote or line end in the name; rename the folder", folder, subject);
    if ((cases->count & (cases->count - 1)) == 0) /* full at 0, 1, 2, 4, 8, ... */
        FB_TRY(fb_mem_resize(&cases->list, 2 * cases->count + (cases->count == 0), sizeof *cases->list, "cases"));
    fb_case *item = &cases->list[cases->count];
    snprintf(item->subject, sizeof item->subject, "%s", subject);
    snprintf(item->grade, sizeof item->grade, "%s", grade);
    read_site(subject, item->site);
    FB_TRY(fb_path_join(item->folder, folder, subject));
    cases->count++;
    return FB_OK;
}

/* Adds every folder in `folder`. */
static fb_status add_folder(fb_cases *cases, const char *folder, const char *grade)
{
    char path[FB_PATH_CHARS];
    fb_status status = FB_OK;
    DIR *stream = opendir(folder);
    if (!stream)
        return FB_FAIL("%s: cannot open the cohort: %s", folder, strerror(errno));
    for (struct dirent *entry; status == FB_OK && (entry = readdir(stream));) {
        if (entry->d_name[0] == '.')
            continue;
        status = fb_path_join(path, folder, entry->d_name);
        if (status == FB_OK && fb_folder_exists(path))
            status = add_case(cases, folder, entry->d_name, grade);
    }
    closedir(stream);
    return status;
}

static int compare_subjects(const void *a, const void *b)
{
    return strcmp(((const fb_case *)a)->subject, ((const fb_case *)b)->subject);
}

static fb_status check_list(fb_cases *cases, const char *folder)
{
    if (cases->count == 0)
        return FB_FAIL("%s: there is no case in it; expected %s/HGG/<subject>/ and %s/LGG/<subject>/, or %s/<subject>/",
                       folder, folder, folder, folder);
    qsort(cases->list, (size_t)cases->count, sizeof *cases->list, compare_subjects);
    for (int64_t i = 1; i < cases->count; i++)
        if (compare_subjects(&cases->list[i - 1], &cases->list[i]) == 0)
            return FB_FAIL("%s and %s are the same subject", cases->list[i - 1].folder, cases->list[i].folder);
    for (int64_t i = 0; i < cases->count; i++)
        cases->list[i].fault = look_into(&cases->list[i]);
    return FB_OK;
}

/* Beside HGG and LGG there must be no other folder: its cases would be left out. */
static fb_status check_grades(const char *folder)
{
    fb_cases top = {0};
    fb_status status = add_folder(&top, folder, "NA");
    for (int64_t i = 0; status == FB_OK && i < top.count; i++)
        if (strcmp(top.list[i].subject, "HGG") != 0 && strcmp(top.list[i].subject, "LGG") != 0)
            status = FB_FAIL("%s: unexpected folder beside HGG and LGG; move or remove it", top.list[i].folder);
    FB_FREE(top.list);
    return status;
}

static fb_status find(const char *folder, fb_cases *cases)
{
    static const char *const grades[] = {"HGG", "LGG"};
    char path[2][FB_PATH_CHARS];
    for (int i = 0; i < 2; i++)
        FB_TRY(fb_path_join(path[i], folder, grades[i]));
    if (!fb_folder_exists(path[0]) && !fb_folder_exists(path[1])) {
        FB_TRY(add_folder(cases, folder, "NA"));
        return check_list(cases, folder);
    }
    FB_TRY(check_grades(folder));
    for (int i = 0; i < 2; i++)
        if (fb_folder_exists(path[i]))
            FB_TRY(add_folder(cases, path[i], grades[i]));
    return check_list(cases, folder);
}

fb_status fb_cases_find(const char *folder, fb_cases **out)
{
    fb_cases *cases = NULL;
    FB_TRY(FB_ALLOC(cases, 1, "cohort"));
    fb_status status = find(folder, cases);
    if (status != FB_OK)
        fb_cases_free(&cases);
    *out = cases;
    return status;
}

void fb_cases_free(fb_cases **cases)
{
    if (!*cases)
        return;
    for (int64_t i = 0; i < (*cases)->count; i++)
        fb_error_free(&(*cases)->list[i].fault);
    FB_FREE((*cases)->list);
    FB_FREE(*cases);
}

/* --- reading
 * ----------------------------------------------------------------------------------------------------------- */

typedef struct file_set {
    char path[FB_CASE_FILES][FB_PATH_CHARS];
    fb_nifti *nifti[FB_CASE_FILES]; /* owned */
} file_set;

static fb_status read_files(const fb_case *item, file_set *files)
{
    fb_status result[FB_CASE_FILES] = {FB_OK}, status = FB_OK;
    for (int i = 0; i < FB_CASE_FILES; i++) {
        char name[FB_SUBJECT_CHARS + 32];
        snprintf(name, sizeof name, "%s_%s.nii%s", item->subject, file_kind(i), item->compressed[i] ? ".gz" : "");
        FB_TRY(fb_path_join(files->path[i], item->folder, name));
    }
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 0; i < FB_CASE_FILES; i++)
        result[i] = fb_nifti_read(files->path[i], &files->nifti[i]);
    for (int i = 0; i < FB_CASE_FILES; i++)
        status = fb_error_first(status, result[i]);
    return status;
}

static fb_status check_geometry(const file_set *files, int file)
{
    const double tolerance = 1e-3; /* mm, the spread that registration tools leave */
    const fb_nifti *first = files->nifti[0], *other = files->nifti[file];
    const int64_t *a = first->shape, *b = other->shape;
    if (memcmp(a, b, sizeof first->shape) != 0)
        return FB_FAIL("%s: shape %lldx%lldx%lld, but %s has %lldx%lldx%lld", files->path[file], (long long)b[0],
                       (long long)b[1], (long long)b[2], file_kind(0), (long long)a[0], (long long)a[1],
                       (long long)a[2]);
    for (int row = 0; row < 3; row++)
        for (int column = 0; column < 4; column++)
            if (fabs(first->affine[row][column] - other->affine[row][column]) > tolerance)
                return FB_FAIL("%s: affine[%d][%d] is %g, that of %s %g; they may differ by %g; register the files",
                               files->path[file], row, column, other->affine[row][column], file_kind(0),
                               first->affine[row][column], tolerance);
    return FB_OK;
}

/* Copies one modality into its channel of volume->image. */
static fb_status copy_modality(const file_set *files, int file, fb_volume *volume)
{
    const float *data = files->nifti[file]->data;
    const int64_t voxels = fb_volume_voxels(volume->shape);
    int brain = 0;
    for (int64_t i = 0; i < voxels; i++) {
        volume->image[i * FB_MODALITIES + file] = data[i];
        brain |= data[i] != 0.0f;
    }
    return brain ? FB_OK : FB_FAIL("%s: empty: every voxel is 0", files->path[file]);
}

static fb_status copy_label(const file_set *files, fb_volume *volume)
{
    const float *data = files->nifti[FB_MODALITIES]->data;
    const int64_t voxels = fb_volume_voxels(volume->shape);
    for (int64_t i = 0; i < voxels; i++) {
        if (!(data[i] == 0.0f || data[i] == 1.0f || data[i] == 2.0f || data[i] == 4.0f))
            return FB_FAIL("%s: label %g at voxel %lld is not 0, 1, 2 or 4%s", files->path[FB_MODALITIES],
                           (double)data[i], (long long)i,
                           data[i] == 3.0f ? "; BraTS 2023 writes enhancing tumour as 3: convert it to 4" : "");
        volume->label[i] = (uint8_t)data[i];
    }
    return FB_OK;
}

static fb_status assemble(const fb_case *item, const file_set *files, fb_volume **out)
{
    fb_volume *volume = NULL;
    fb_status status = FB_OK;
    for (int i = 1; i < FB_CASE_FILES; i++)
        FB_TRY(check_geometry(files, i));
    FB_TRY(fb_volume_create(item->subject, files->nifti[0]->shape, &volume));
    for (int i = 0; i < FB_MODALITIES; i++)
        FB_TRY_GOTO(status, copy_modality(files, i, volume), failed);
    FB_TRY_GOTO(status, copy_label(files, volume), failed);
    *out = volume;
    return FB_OK;
failed:
    fb_volume_destroy(&volume);
    return status;
}

fb_status fb_case_read(const fb_case *item, fb_volume **out)
{
    file_set files = {0};
    *out = NULL;
    fb_status status = read_files(item, &files);
    if (status == FB_OK)
        status = assemble(item, &files, out);
    for (int i = 0; i < FB_CASE_FILES; i++)
        fb_nifti_free(&files.nifti[i]);
    return status;
}
