/* SPDX-License-Identifier: Apache-2.0 */
#include "data/csv.h"

#include "core/file.h"
#include "core/mem.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { LIMIT_BYTES = 64 << 20, COLUMNS_MAX = 64 };

struct fb_csv {
    char path[FB_PATH_CHARS];
    char *text;   /* the file, commas and line ends replaced by '\0'; owned */
    char **field; /* (rows + 1, columns), the header first, into text; owned */
    int columns;
    int64_t rows;
};

/* Ends the line at *text and returns it; *text moves to the next one, NULL behind the last. */
static char *take_line(char **text)
{
    char *line = *text, *end = strchr(line, '\n');
    *text = end && end[1] != '\0' ? end + 1 : NULL;
    if (end)
        *end = '\0';
    const size_t chars = strlen(line);
    if (chars > 0 && line[chars - 1] == '\r')
        line[chars - 1] = '\0';
    return line;
}

static int count_columns(const char *line)
{
    int columns = 1;
    for (; *line && *line != '\n'; line++)
        columns += *line == ',';
    return columns;
}

static int has_control(const char *line)
{
    while (*line && ((unsigned char)*line >= ' ' && *line != '\x7f'))
        line++;
    return *line != '\0';
}

/* Cuts `line` into csv->columns fields. */
static fb_status cut_line(const fb_csv *csv, char *line, int64_t number, char **field)
{
    const int columns = count_columns(line);
    if (strchr(line, '"'))
        return FB_FAIL("%s:%lld: quotes are not supported; write the values plainly", csv->path, (long long)number);
    if (has_control(line))
        return FB_FAIL(
            "%s:%lld: a tab, a carriage return or another control character within the line; write the values "
            "plainly",
            csv->path, (long long)number);
    if (line[0] == '\0')
        return FB_FAIL("%s:%lld: empty line", csv->path, (long long)number);
    if (columns != csv->columns)
        return FB_FAIL("%s:%lld: %d fields where the header has %d", csv->path, (long long)number, columns,
                       csv->columns);
    for (int i = 0; i < columns; i++) {
        field[i] = line;
        line += strcspn(line, ",");
        if (line == field[i])
            return FB_FAIL("%s:%lld: field %d is empty", csv->path, (long long)number, i + 1);
        *line++ = '\0';
    }
    return FB_OK;
}

static fb_status check_header(const fb_csv *csv)
{
    for (int i = 0; i < csv->columns; i++)
        if (fb_csv_column(csv, csv->field[i]) != i)
            return FB_FAIL("%s:1: column \"%s\" occurs twice", csv->path, csv->field[i]);
    return FB_OK;
}

/* `text` is the table without byte order mark and without line ends at its end. */
static fb_status cut_table(fb_csv *csv, char *text)
{
    int64_t lines = 1, fields = 1, line = 0;
    for (const char *c = text; *c; c++) {
        lines += *c == '\n';
        fields += *c == '\n' || *c == ',';
    }
    csv->columns = count_columns(text);
    if (csv->columns > COLUMNS_MAX)
        return FB_FAIL("%s:1: %d columns exceed the limit of %d", csv->path, csv->columns, COLUMNS_MAX);
    /* Not lines * columns: of lines that turn out to be too short there may be many. */
    FB_TRY(FB_ALLOC(csv->field, fields, csv->path));
    for (; text; line++) {
        char *start = take_line(&text);
        FB_TRY(cut_line(csv, start, line + 1, csv->field + line * csv->columns));
    }
    csv->rows = lines - 1;
    return check_header(csv);
}

static fb_status read_table(fb_csv *csv)
{
    int64_t size_bytes = 0;
    FB_TRY(fb_file_read(csv->path, LIMIT_BYTES, &csv->text, &size_bytes));
    if (memchr(csv->text, '\0', (size_t)size_bytes))
        return FB_FAIL("%s: not a text file: it holds a zero byte", csv->path);
    while (size_bytes > 0 && strchr("\r\n", csv->text[size_bytes - 1]))
        csv->text[--size_bytes] = '\0';
    char *text = csv->text + (strncmp(csv->text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0);
    if (*text == '\0')
        return FB_FAIL("%s: the file is empty", csv->path);
    return cut_table(csv, text);
}

fb_status fb_csv_read(const char *path, fb_csv **out)
{
    fb_csv *csv = NULL;
    if (strlen(path) >= FB_PATH_CHARS)
        return FB_FAIL("%s: the path is longer than %d characters", path, FB_PATH_CHARS - 1);
    FB_TRY(FB_ALLOC(csv, 1, "table"));
    snprintf(csv->path, sizeof csv->path, "%s", path);
    fb_status status = read_table(csv);
    if (status != FB_OK)
        fb_csv_free(&csv);
    *out = csv;
    return status;
}

void fb_csv_free(fb_csv **csv)
{
    if (!*csv)
        return;
    FB_FREE((*csv)->text);
    FB_FREE((*csv)->field);
    FB_FREE(*csv);
}

int fb_csv_column(const fb_csv *csv, const char *name)
{
    for (int i = 0; i < csv->columns; i++)
        if (strcasecmp(csv->field[i], name) == 0)
            return i;
    return -1;
}

fb_status fb_csv_need(const fb_csv *csv, const char *name, int *column)
{
    *column = fb_csv_column(csv, name);
    return *column >= 0 ? FB_OK : FB_FAIL("%s:1: there is no column \"%s\"", csv->path, name);
}

int64_t fb_csv_rows(const fb_csv *csv)
{
    return csv->rows;
}

const char *fb_csv_get(const fb_csv *csv, int64_t row, int column)
{
    FB_ASSERT(row >= 0 && row < csv->rows && column >= 0 && column < csv->columns);
    return csv->field[(row + 1) * csv->columns + column];
}

int64_t fb_csv_line(int64_t row)
{
    return row + 2;
}
