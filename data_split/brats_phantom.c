/* SPDX-License-Identifier: Apache-2.0
 *
 * brats-phantom: writes a synthetic cohort in the folder layout of BraTS 2018.
 */
#include "config/options.h"
#include "core/build_info.h"
#include "core/cpu.h"
#include "core/file.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/timer.h"
#include "nifti.h"
#include "phantom.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUBJECTS_MAX = 10000, GZIP_LEVEL = 1 /* noise hardly shrinks: higher levels are slow and gain 3 % */ };

typedef struct phantom_settings {
    char output[FB_TEXT_CHARS];
    int64_t shape[3];
    double scale;
    int64_t seed;
} phantom_settings;

#define FIELD(name) offsetof(phantom_settings, name)

static const fb_option table[] = {
    {"", "output", FB_OPTION_TEXT, "", NULL, 0, 0, NULL, "folder to make; must not exist or be empty", FIELD(output)},
    {"", "shape", FB_OPTION_SHAPE, "voxels", "155x240x240", FB_PHANTOM_EXTENT_MIN, FB_PHANTOM_EXTENT_MAX, NULL,
     "D x H x W (z, y, x) of a volume; it covers 155 x 240 x 240 mm at every shape", FIELD(shape)},
    {"", "scale", FB_OPTION_REAL, "", "1", 0.001, 1e6, NULL,
     "subjects per site, relative to the paper's 285; rounded up, at least 2 per site", FIELD(scale)},
    {"", "seed", FB_OPTION_INT, "", "1", 0, 9007199254740992.0, NULL, "of all random numbers", FIELD(seed)},
};
enum { TABLE_COUNT = sizeof table / sizeof *table };

typedef struct subject {
    int site;
    int64_t number;
} subject;

static void print_help(void)
{
    printf(
        "brats-phantom: writes a synthetic cohort in the folder layout of BraTS 2018, with the 13 sites of Li et al.\n"
        "2019, their relative sizes and grades, and a scanner of its own for each site.\n\n"
        "  brats-phantom --output DIR [--shape DxHxW] [--scale S] [--seed N]\n\n");
    fb_options_help(stdout, table, TABLE_COUNT);
    printf(
        "\nWrites HGG|LGG/Brats18_<site>_P<number>_1/..._{t1,t1ce,t2,flair,seg}.nii.gz; real cases have no P, so the\n"
        "two cannot be mixed up. A subject depends on seed, site, number and shape only, not on scale or threads.\n"
        "OMP_NUM_THREADS subjects are made at a time, 26 bytes of memory per voxel each.\n");
}

static fb_status read_settings(int argc, char **argv, phantom_settings *settings)
{
    fb_options *options = NULL;
    int extra_count = 0;
    FB_TRY(fb_options_create(table, TABLE_COUNT, settings, &options));
    fb_status status = fb_options_read_args(options, argc, argv, NULL, 0, &extra_count);
    if (status == FB_OK)
        status = fb_options_complete(options);
    fb_options_destroy(&options);
    FB_TRY(status);
    for (size_t n = strlen(settings->output); n > 1 && settings->output[n - 1] == '/'; n--)
        settings->output[n - 1] = '\0';
    return settings->output[0] ? FB_OK : FB_USAGE("output is empty; name a folder");
}

static fb_status list_subjects(double scale, subject **out, int64_t *count)
{
    *count = 0;
    for (int site = 0; site < FB_PHANTOM_SITES; site++)
        *count += fb_phantom_count(site, scale);
    if (*count > SUBJECTS_MAX)
        return FB_USAGE("scale %g makes %lld subjects; the limit is %d", scale, (long long)*count, SUBJECTS_MAX);
    FB_TRY(FB_ALLOC(*out, *count, "list of subjects"));
    int64_t next = 0;
    for (int site = 0; site < FB_PHANTOM_SITES; site++) {
        for (int64_t number = 0; number < fb_phantom_count(site, scale); number++)
            (*out)[next++] = (subject){site, number};
    }
    return FB_OK;
}

/* The cohort is written beside its final place and renamed when it is complete. */
static fb_status prepare_output(const char *output, char work[FB_PATH_CHARS])
{
    DIR *folder = opendir(output);
    int entries = 0;
    if (!folder && errno != ENOENT)
        return FB_FAIL("%s: cannot make the folder: %s", output, strerror(errno));
    while (folder && readdir(folder))
        entries++;
    if (folder)
        closedir(folder);
    if (entries > 2) /* . and .. */
        return FB_FAIL("%s: is not empty; name another folder or empty it", output);
    snprintf(work, FB_PATH_CHARS, "%s.tmp", output);
    if (access(work, F_OK) == 0)
        return FB_FAIL("%s: was left by an interrupted run, or another one is writing it; remove it when none is",
                       work);
    return fb_folder_make(work);
}

static fb_status write_file(const char *folder, const char *name, const char *kind, const fb_phantom *phantom,
                            fb_nifti_type type, const void *data)
{
    char file[FB_TEXT_CHARS], path[FB_PATH_CHARS];
    snprintf(file, sizeof file, "%s_%s.nii.gz", name, kind);
    FB_TRY(fb_path_join(path, folder, file));
    return fb_nifti_write(path, phantom->shape, (const double(*)[4])phantom->affine, type, data, GZIP_LEVEL);
}

static fb_status write_files(const char *work, const subject *s, const fb_phantom *phantom)
{
    static const char *const kinds[FB_MODALITIES] = {"t1", "t1ce", "t2", "flair"};
    char name[64], grade_name[80], folder[FB_PATH_CHARS];
    snprintf(name, sizeof name, "Brats18_%s_P%04lld_1", fb_phantom_sites[s->site].name, (long long)s->number);
    snprintf(grade_name, sizeof grade_name, "%s/%s", fb_phantom_high_grade(s->site, s->number) ? "HGG" : "LGG", name);
    FB_TRY(fb_path_join(folder, work, grade_name));
    FB_TRY(fb_folder_make(folder));
    for (int m = 0; m < FB_MODALITIES; m++)
        FB_TRY(write_file(folder, name, kinds[m], phantom, FB_NIFTI_INT16, phantom->image[m]));
    return write_file(folder, name, "seg", phantom, FB_NIFTI_UINT8, phantom->label);
}

static fb_status make_subject(const phantom_settings *settings, const char *work, const subject *s)
{
    fb_phantom *phantom = NULL;
    FB_TRY(fb_phantom_create((uint64_t)settings->seed, s->site, s->number, settings->shape, &phantom));
    fb_status status = write_files(work, s, phantom);
    fb_phantom_destroy(&phantom);
    return status;
}

static fb_status make_cohort(const phantom_settings *settings, const char *work, const subject *list, int64_t count)
{
    const double start_s = fb_time_s();
    fb_status first = FB_OK;
    int64_t done = 0;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < count; i++) {
        int failed;
#pragma omp critical(phantom)
        failed = first != FB_OK;
        if (failed)
            continue;
        fb_status status = make_subject(settings, work, &list[i]);
#pragma omp critical(phantom)
        {
            first = fb_error_first(first, status);
            fb_log_progress("subjects", ++done, count, start_s);
        }
    }
    return first;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *position)
{
    (void)info;
    (void)kind;
    (void)position;
    return remove(path);
}

static fb_status run(const phantom_settings *settings)
{
    char work[FB_PATH_CHARS];
    subject *list = NULL;
    int64_t count = 0;
    FB_TRY(list_subjects(settings->scale, &list, &count));
    fb_status status = prepare_output(settings->output, work);
    if (status == FB_OK) {
        status = make_cohort(settings, work, list, count);
        if (status == FB_OK)
            status = fb_file_commit(work, settings->output);
        if (status != FB_OK && nftw(work, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0)
            fb_log_warn("%s: cannot remove what is incomplete: %s", work, strerror(errno));
    }
    FB_FREE(list);
    if (status == FB_OK)
        printf("%s: %lld subjects of %d sites, %lld x %lld x %lld voxels, seed %lld\n", settings->output,
               (long long)count, FB_PHANTOM_SITES, (long long)settings->shape[0], (long long)settings->shape[1],
               (long long)settings->shape[2], (long long)settings->seed);
    return status;
}

int main(int argc, char **argv)
{
    if (!fb_cpu_suffices("brats-phantom"))
        return FB_EXIT_FAILED;
    phantom_settings settings = {0};
    if (fb_options_wants(argc, argv, "--help")) {
        print_help();
        return FB_EXIT_OK;
    }
    if (fb_options_wants(argc, argv, "--version")) {
        printf("brats-phantom %s (%s)\n", fb_build_version(), fb_build_revision());
        return FB_EXIT_OK;
    }
    fb_status status = read_settings(argc, argv, &settings);
    if (status == FB_OK)
        status = run(&settings);
    const int exit_code = fb_error_exit_code(status);
    if (status != FB_OK)
        fb_log_error("%s", fb_error_message(status));
    fb_error_free(&status);
    return exit_code;
}
