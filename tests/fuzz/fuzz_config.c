/* SPDX-License-Identifier: Apache-2.0
 *
 * The configuration: lines that begin with "-" up to the first other line are the command line, the rest is the INI
 * file; "--help" shows the table. What is accepted is printed as the options used and read again to the same values.
 */
#include "fuzz.h"

#include "config/config.h"

enum { ARGS_MAX = 16, LIMIT_BYTES = 4 << 20, INI_LINE_MAX = 198 /* characters that libinih takes */ };

/* Cuts the arguments off `text` (0-terminated) and appends them to argv; returns the rest. */
static char *take_arguments(char *text, char *argv[ARGS_MAX], int *argc)
{
    while (text[0] == '-' && *argc < ARGS_MAX) {
        argv[(*argc)++] = text;
        text += strcspn(text, "\n");
        if (*text != '\0')
            *text++ = '\0';
    }
    return text;
}

static size_t longest_line(const char *text)
{
    size_t longest = 0;
    for (; *text; text += text[0] == '\n') {
        const size_t chars = strcspn(text, "\n");
        longest = chars > longest ? chars : longest;
        text += chars;
    }
    return longest;
}

/* Reads `used`, what fb_options_print_used printed for `config`. */
static void read_again(const fb_config *config, const char *used)
{
    fb_config again;
    fb_options *options = NULL;
    char name[] = "fuzz", path[FB_PATH_CHARS], was[FB_TEXT_CHARS], is[FB_TEXT_CHARS];
    snprintf(path, sizeof path, "%s", fuzz_file(used, strlen(used)));
    char *argv[] = {name, path, NULL};
    int count = 0;
    const fb_option *table = fb_config_table(&count);
    fuzz_must(fb_config_read_plan(2, argv, &again, &options));
    for (int i = 0; i < count; i++) {
        fb_config_text(config, table[i].section, table[i].key, was);
        fb_config_text(&again, table[i].section, table[i].key, is);
        FB_ASSERT(strcmp(was, is) == 0);
    }
    FB_ASSERT(memcmp(config, &again, sizeof again) == 0);
    fb_options_destroy(&options);
}

static void accepted(const fb_config *config, const fb_options *options)
{
    char *used = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&used, &size);
    FB_ASSERT(stream != NULL);
    fb_options_print_used(options, stream);
    FB_ASSERT(fclose(stream) == 0);
    if (longest_line(used) <= INI_LINE_MAX)
        read_again(config, used);
    free(used);
}

static void show_help(void)
{
    char *text = NULL;
    size_t size = 0;
    int count = 0;
    const fb_option *table = fb_config_table(&count);
    FILE *stream = open_memstream(&text, &size);
    FB_ASSERT(stream != NULL);
    fb_options_help(stream, table, count);
    FB_ASSERT(fclose(stream) == 0);
    for (int i = 0; i < count; i++)
        FB_ASSERT(strstr(text, table[i].key) != NULL && strstr(text, table[i].help) != NULL);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    fb_config config;
    fb_options *options = NULL;
    char text[FUZZ_INPUT_MAX + 1], path[FB_PATH_CHARS], name[] = "fuzz", *argv[ARGS_MAX + 1] = {name, path};
    int argc = 2;
    if (size > FUZZ_INPUT_MAX)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    char *ini = take_arguments(text, argv, &argc);
    snprintf(path, sizeof path, "%s", fuzz_file(ini, (size_t)(text + size - ini)));
    if (fb_options_wants(argc, argv, "--help"))
        show_help();
    const int zeros = memchr(ini, '\0', (size_t)(text + size - ini)) != NULL;
    fb_status status = fb_config_read(argc, argv, &config, &options);
    FB_ASSERT(status != FB_OK || !zeros);
    if (status != FB_OK) {
        FB_ASSERT(fb_error_exit_code(status) == FB_EXIT_USAGE && options == NULL);
        fuzz_refused(&status);
    } else {
        accepted(&config, options);
        fb_options_destroy(&options);
    }
    return fuzz_end(start, LIMIT_BYTES);
}
