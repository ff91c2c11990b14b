/* SPDX-License-Identifier: Apache-2.0
 *
 * The format (huggingface/safetensors, README): the header's length as u64, a JSON header, possibly padded with spaces,
 * then the data: {"name": {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...}, offsets relative to the
 * data, which they cover without holes or overlaps; "__metadata__" maps text to text. All little-endian.
 */
#include "io/safetensors.h"

#include "core/mem.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors are little-endian");

enum { LENGTH_BYTES = 8, HEADER_BYTES_MAX = 1 << 24, TEXT_MAX = 256, AXES_MAX = 5 };

/* --- writing --- */

static void print_json_text(FILE *stream, const char *text)
{
    fputc('"', stream);
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(stream, "\\%c", c);
        else if (c < 0x20)
            fprintf(stream, "\\u%04x", c);
        else
            fputc(c, stream);
    }
    fputc('"', stream);
}

static void print_header(FILE *stream, const fb_params *params, const char *const *metadata, int metadata_count)
{
    fprintf(stream, "{\"__metadata__\":{\"format\":\"pt\"");
    for (int i = 0; i < metadata_count; i++) {
        fputc(',', stream);
        print_json_text(stream, metadata[2 * i]);
        fputc(':', stream);
        print_json_text(stream, metadata[2 * i + 1]);
    }
    fputc('}', stream);
    for (int t = 0; t < params->tensor_count; t++) {
        const fb_tensor_info *tensor = &params->tensors[t];
        fputc(',', stream);
        print_json_text(stream, tensor->name);
        fprintf(stream, ":{\"dtype\":\"F32\",\"shape\":[");
        for (int k = 0; k < tensor->rank; k++)
            fprintf(stream, "%s%lld", k ? "," : "", (long long)tensor->shape[k]);
        fprintf(stream, "],\"data_offsets\":[%lld,%lld]}", (long long)tensor->offset * 4,
                (long long)(tensor->offset + tensor->count) * 4);
    }
    fputc('}', stream);
}

/* The header as text, padded to a multiple of 8. *text is malloc's: free(). */
static fb_status make_header(const fb_params *params, const char *const *metadata, int metadata_count, char **text,
                             size_t *size_bytes)
{
    FILE *stream = open_memstream(text, size_bytes);
    if (!stream)
        return FB_FAIL("header of a safetensors file: %s", strerror(errno));
    print_header(stream, params, metadata, metadata_count);
    for (long position = ftell(stream); position % LENGTH_BYTES != 0; position++)
        fputc(' ', stream);
    return fb_text_close(stream, text, "header of a safetensors file");
}

fb_status fb_safetensors_write(const char *path, const fb_params *params, const float *w, const char *const *metadata,
                               int metadata_count, char sha256[FB_SHA256_CHARS])
{
    char *header = NULL, *bytes = NULL;
    size_t header_bytes = 0;
    const int64_t data_bytes = params->count * 4;
    FB_TRY(make_header(params, metadata, metadata_count, &header, &header_bytes));
    const int64_t size_bytes = LENGTH_BYTES + (int64_t)header_bytes + data_bytes;
    fb_status status = fb_mem_alloc(&bytes, size_bytes, 1, path);
    if (status == FB_OK) {
        const uint64_t length = header_bytes;
        memcpy(bytes, &length, LENGTH_BYTES);
        memcpy(bytes + LENGTH_BYTES, header, header_bytes);
        memcpy(bytes + LENGTH_BYTES + header_bytes, w, (size_t)data_bytes);
        status = fb_file_write_atomic(path, bytes, size_bytes);
    }
    if (status == FB_OK && sha256)
        fb_sha256(w, data_bytes, sha256);
    FB_FREE(bytes);
    free(header);
    return status;
}

/* --- reading: a JSON reader for exactly this format --- */

typedef struct reader {
    const char *path;
    const char *start, *at, *end; /* the header */
} reader;

static void skip_space(reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
        r->at++;
}

static fb_status malformed(const reader *r, const char *expected)
{
    return FB_FAIL("%s: the header is not that of a safetensors file: expected %s at byte %lld", r->path, expected,
                   (long long)(r->at - r->start) + LENGTH_BYTES);
}

/* 1 and moves on when the next character is c. */
static int accept(reader *r, char c)
{
    skip_space(r);
    if (r->at == r->end || *r->at != c)
        return 0;
    r->at++;
    return 1;
}

static fb_status expect(reader *r, char c)
{
    const char expected[] = {'\'', c, '\'', '\0'};
    return accept(r, c) ? FB_OK : malformed(r, expected);
}

/* A text of at most TEXT_MAX - 1 bytes without escapes: names of tensors and keys. */
static fb_status read_name(reader *r, char name[TEXT_MAX])
{
    int chars = 0;
    FB_TRY(expect(r, '"'));
    while (r->at < r->end && *r->at != '"') {
        if (*r->at == '\\' || (unsigned char)*r->at < 0x20 || chars == TEXT_MAX - 1)
            return malformed(r, "a name of less than 256 plain characters");
        name[chars++] = *r->at++;
    }
    name[chars] = '\0';
    return expect(r, '"');
}

/* A text whose contents do not matter. */
static fb_status skip_text(reader *r)
{
    FB_TRY(expect(r, '"'));
    while (r->at < r->end && *r->at != '"') {
        if ((unsigned char)*r->at < 0x20)
            return malformed(r, "text without control characters");
        r->at += *r->at == '\\' && r->end - r->at > 1 ? 2 : 1;
    }
    return expect(r, '"');
}

static fb_status read_count(reader *r, int64_t *value)
{
    int64_t n = 0;
    int digits = 0;
    skip_space(r);
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9' && digits < 18; r->at++, digits++)
        n = n * 10 + (*r->at - '0');
    if (digits == 0 || (r->at < r->end && *r->at >= '0' && *r->at <= '9'))
        return malformed(r, "a number of 1 to 18 digits");
    *value = n;
    return FB_OK;
}

/* [n, n, ...] of at most AXES_MAX numbers */
static fb_status read_counts(reader *r, int64_t values[AXES_MAX], int *count)
{
    *count = 0;
    FB_TRY(expect(r, '['));
    if (accept(r, ']'))
        return FB_OK;
    do {
        if (*count == AXES_MAX)
            return malformed(r, "at most 5 numbers");
        FB_TRY(read_count(r, &values[(*count)++]));
    } while (accept(r, ','));
    return expect(r, ']');
}

typedef struct entry {
    char dtype[TEXT_MAX];
    int64_t shape[AXES_MAX], span[AXES_MAX]; /* span: begin and end of the data in bytes */
    int rank, span_count;
} entry;

/* {"dtype": ..., "shape": ..., "data_offsets": ...}, each once, in any order */
static fb_status read_entry(reader *r, entry *e)
{
    int have_dtype = 0, have_shape = 0, have_span = 0;
    FB_TRY(expect(r, '{'));
    do {
        char key[TEXT_MAX];
        FB_TRY(read_name(r, key));
        FB_TRY(expect(r, ':'));
        if (strcmp(key, "dtype") == 0 && !have_dtype++)
            FB_TRY(read_name(r, e->dtype));
        else if (strcmp(key, "shape") == 0 && !have_shape++)
            FB_TRY(read_counts(r, e->shape, &e->rank));
        else if (strcmp(key, "data_offsets") == 0 && !have_span++)
            FB_TRY(read_counts(r, e->span, &e->span_count));
        else
            return malformed(r, "dtype, shape and data_offsets, each once,");
    } while (accept(r, ','));
    FB_TRY(expect(r, '}'));
    if (!have_dtype || !have_shape || !have_span || e->span_count != 2)
        return malformed(r, "dtype, shape and two data_offsets before here");
    return FB_OK;
}

static fb_status skip_metadata(reader *r)
{
    FB_TRY(expect(r, '{'));
    if (accept(r, '}'))
        return FB_OK;
    do {
        FB_TRY(skip_text(r));
        FB_TRY(expect(r, ':'));
        FB_TRY(skip_text(r));
    } while (accept(r, ','));
    return expect(r, '}');
}

/* --- reading: the tensors --- */

static void print_shape(char text[TEXT_MAX], const int64_t *shape, int rank)
{
    int chars = snprintf(text, TEXT_MAX, "(");
    for (int k = 0; k < rank; k++)
        chars += snprintf(text + chars, (size_t)(TEXT_MAX - chars), "%s%lld", k ? ", " : "", (long long)shape[k]);
    snprintf(text + chars, (size_t)(TEXT_MAX - chars), ")");
}

static fb_status check_entry(const char *path, const fb_tensor_info *tensor, const entry *e, int64_t data_bytes)
{
    if (strcmp(e->dtype, "F32") != 0)
        return FB_FAIL("%s: tensor %s: dtype %s instead of F32; save the model in float32", path, tensor->name,
                       e->dtype);
    if (e->rank != tensor->rank || memcmp(e->shape, tensor->shape, (size_t)e->rank * sizeof *e->shape) != 0) {
        char found[TEXT_MAX], expected[TEXT_MAX];
        print_shape(found, e->shape, e->rank);
        print_shape(expected, tensor->shape, tensor->rank);
        return FB_FAIL("%s: tensor %s: shape %s, but the network has %s; check [model]", path, tensor->name, found,
                       expected);
    }
    if (e->span[1] - e->span[0] != tensor->count * 4 || e->span[1] > data_bytes)
        return FB_FAIL("%s: tensor %s: data_offsets %lld to %lld are not %lld bytes within the data of %lld bytes",
                       path, tensor->name, (long long)e->span[0], (long long)e->span[1], (long long)tensor->count * 4,
                       (long long)data_bytes);
    return FB_OK;
}

/* begin[t]: where the data of tensor t begins in the file's data; -1 until its entry was read */
static fb_status read_tensor(reader *r, const char *name, const fb_params *params, int64_t data_bytes, int64_t *begin)
{
    entry e = {.rank = 0};
    int t = 0;
    FB_TRY(read_entry(r, &e));
    while (t < params->tensor_count && strcmp(params->tensors[t].name, name) != 0)
        t++;
    if (t == params->tensor_count)
        return FB_FAIL("%s: tensor %s is not one of this network's %d; check [model]", r->path, name,
                       params->tensor_count);
    if (begin[t] >= 0)
        return FB_FAIL("%s: tensor %s is there twice", r->path, name);
    FB_TRY(check_entry(r->path, &params->tensors[t], &e, data_bytes));
    begin[t] = e.span[0];
    return FB_OK;
}

static fb_status read_header(reader *r, const fb_params *params, int64_t data_bytes, int64_t *begin)
{
    int have_metadata = 0;
    if (r->at == r->end || *r->at != '{')
        return malformed(r, "'{'");
    r->at++;
    do {
        char name[TEXT_MAX];
        FB_TRY(read_name(r, name));
        FB_TRY(expect(r, ':'));
        if (strcmp(name, "__metadata__") != 0)
            FB_TRY(read_tensor(r, name, params, data_bytes, begin));
        else if (have_metadata++)
            return FB_FAIL("%s: __metadata__ is there twice", r->path);
        else
            FB_TRY(skip_metadata(r));
    } while (accept(r, ','));
    FB_TRY(expect(r, '}'));
    skip_space(r);
    return r->at == r->end ? FB_OK : malformed(r, "nothing more");
}

/* All tensors are there, do not overlap, and add up to the data: so there is no hole either. */
static fb_status check_cover(const char *path, const fb_params *params, int64_t data_bytes, const int64_t *begin)
{
    int64_t sum_bytes = 0;
    for (int t = 0; t < params->tensor_count; t++) {
        const int64_t size_bytes = params->tensors[t].count * 4;
        if (begin[t] < 0)
            return FB_FAIL("%s: tensor %s is missing; check [model]", path, params->tensors[t].name);
        for (int u = 0; u < t; u++)
            if (begin[t] < begin[u] + params->tensors[u].count * 4 && begin[u] < begin[t] + size_bytes)
                return FB_FAIL("%s: the data of tensors %s and %s overlap", path, params->tensors[u].name,
                               params->tensors[t].name);
        sum_bytes += size_bytes;
    }
    if (sum_bytes != data_bytes)
        return FB_FAIL(
            "%s: %lld bytes of data for tensors of %lld bytes; the file is cut off or has something appended", path,
            (long long)data_bytes, (long long)sum_bytes);
    return FB_OK;
}

static fb_status check_finite(const char *path, const fb_params *params, const char *data, const int64_t *begin)
{
    for (int t = 0; t < params->tensor_count; t++) {
        for (int64_t i = 0; i < params->tensors[t].count; i++) {
            float value;
            memcpy(&value, data + begin[t] + i * 4, sizeof value);
            if (!isfinite(value))
                return FB_FAIL("%s: tensor %s: weight %lld is %g; the model is broken", path, params->tensors[t].name,
                               (long long)i, (double)value);
        }
    }
    return FB_OK;
}

/* bytes (size_bytes): the file */
static fb_status read_bytes(const char *path, const fb_params *params, const char *bytes, int64_t size_bytes,
                            int64_t *begin, float *w)
{
    uint64_t length = 0;
    if (size_bytes < LENGTH_BYTES)
        return FB_FAIL("%s: %lld bytes are too few for a safetensors file", path, (long long)size_bytes);
    memcpy(&length, bytes, LENGTH_BYTES);
    if (length > HEADER_BYTES_MAX || (int64_t)length > size_bytes - LENGTH_BYTES)
        return FB_FAIL("%s: a header of %llu bytes in a file of %lld: cut off, or not a safetensors file", path,
                       (unsigned long long)length, (long long)size_bytes);
    const char *header = bytes + LENGTH_BYTES, *data = header + length;
    const int64_t data_bytes = size_bytes - LENGTH_BYTES - (int64_t)length;
    reader r = {.path = path, .start = header, .at = header, .end = data};
    FB_TRY(read_header(&r, params, data_bytes, begin));
    FB_TRY(check_cover(path, params, data_bytes, begin));
    FB_TRY(check_finite(path, params, data, begin));
    for (int t = 0; t < params->tensor_count; t++)
        memcpy(w + params->tensors[t].offset, data + begin[t], (size_t)params->tensors[t].count * 4);
    return FB_OK;
}

fb_status fb_safetensors_read(const char *path, const fb_params *params, float *w)
{
    char *bytes = NULL;
    int64_t *begin = NULL; /* (tensor_count) */
    int64_t size_bytes = 0;
    FB_TRY(fb_file_read(path, LENGTH_BYTES + HEADER_BYTES_MAX + params->count * 4, &bytes, &size_bytes));
    fb_status status = FB_ALLOC(begin, params->tensor_count, "tensors of a safetensors file");
    for (int t = 0; t < params->tensor_count && status == FB_OK; t++)
        begin[t] = -1;
    if (status == FB_OK)
        status = read_bytes(path, params, bytes, size_bytes, begin, w);
    FB_FREE(begin);
    FB_FREE(bytes);
    return status;
}
