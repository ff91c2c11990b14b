/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/conv_choice.h"

#include "core/mem.h"

#include <stdio.h>
#include <string.h>

enum { NAME_CHARS = 192, LINE_CHARS = FB_CUDNN_CHOICE_CHARS + NAME_CHARS + 64, TIMES_CHARS = 96 };

static const char *const direction_names[FB_CONV_DIRECTIONS] = {"forward", "backward data", "backward weights"};
static const char *const precision_names[] = {"bf16", "bf16-gradient-f32", "tf32", "f32"};
static const char *const act_names[] = {"f32", "bf16"};

int fb_conv_allows_cudnn(const fb_conv_shape *shape)
{
    return shape->c_in != FB_IMAGE_CHANNELS && shape->c_out != FB_REGIONS && shape->c_in % 8 == 0 &&
           shape->c_out % 8 == 0;
}

fb_status fb_conv_choices_add(fb_conv_choices *choices, const fb_conv_choice *choice)
{
    if (choices->count == choices->capacity) {
        const int capacity = choices->capacity ? 2 * choices->capacity : 32;
        FB_TRY(fb_mem_resize(&choices->items, capacity, sizeof *choices->items, "choice of convolutions"));
        choices->capacity = capacity;
    }
    choices->items[choices->count++] = *choice;
    return FB_OK;
}

void fb_conv_choices_free(fb_conv_choices *choices)
{
    FB_FREE(choices->items);
    choices->count = choices->capacity = 0;
}

static int same_shape(const fb_conv_shape *a, const fb_conv_shape *b)
{
    return memcmp(a->in, b->in, sizeof a->in) == 0 && a->c_in == b->c_in && a->c_out == b->c_out &&
           a->kernel == b->kernel && a->stride == b->stride;
}

int fb_conv_choices_find(const fb_conv_choices *choices, const fb_conv_shape *shape, fb_cudnn_direction direction)
{
    for (int i = 0; i < choices->count; i++)
        if (choices->items[i].direction == direction && same_shape(&choices->items[i].shape, shape))
            return i;
    return -1;
}

/* --- printing -------------------------------------------------------------------------------------------------- */

void fb_conv_choice_name(const fb_conv_shape *s, fb_cudnn_direction direction, size_t chars, char *text)
{
    snprintf(text, chars, "%lld x %lld x %lld, %lld to %lld channels, kernel %d, stride %d, %s", (long long)s->in[0],
             (long long)s->in[1], (long long)s->in[2], (long long)s->c_in, (long long)s->c_out, s->kernel, s->stride,
             direction_names[direction]);
}

static void print_line(const fb_conv_choice *c, char line[LINE_CHARS])
{
    char name[NAME_CHARS], plan[FB_CUDNN_CHOICE_CHARS] = "";
    fb_conv_choice_name(&c->shape, c->direction, sizeof name, name);
    if (c->cudnn)
        fb_cudnn_choice_print(&c->plan, sizeof plan, plan);
    snprintf(line, LINE_CHARS, "conv %s: %s%s%s", name, c->cudnn ? precision_names[c->precision] : "own",
             c->cudnn ? " " : "", plan);
}

static void print_times(const fb_conv_choice *c, char text[TIMES_CHARS])
{
    text[0] = '\0';
    if (c->ms > 0.0 && c->cudnn && c->own_ms > 0.0)
        snprintf(text, TIMES_CHARS, " # %.4f ms, own %.4f ms", c->ms, c->own_ms);
    else if (c->ms > 0.0)
        snprintf(text, TIMES_CHARS, " # %.4f ms", c->ms);
}

static void print_title(fb_act_type act, size_t chars, char *text)
{
    snprintf(text, chars, "convolutions of fedbrats, format 1, %s", act_names[act]);
}

fb_status fb_conv_choices_print(const fb_conv_choices *choices, int with_times, char **text)
{
    char line[LINE_CHARS], times[TIMES_CHARS] = "";
    const size_t chars = (size_t)(choices->count + 1) * (LINE_CHARS + TIMES_CHARS);
    FB_TRY(fb_mem_alloc(text, (int64_t)chars, 1, "table of convolutions"));
    print_title(choices->act, sizeof line, line);
    size_t at = (size_t)snprintf(*text, chars, "%s\n", line);
    for (int i = 0; i < choices->count; i++) {
        print_line(&choices->items[i], line);
        if (with_times)
            print_times(&choices->items[i], times);
        at += (size_t)snprintf(*text + at, chars - at, "%s%s\n", line, times);
    }
    return FB_OK;
}

/* --- parsing --------------------------------------------------------------------------------------------------- */

/* The position of `word` among `count` names that *at begins with, followed by `end`; moves *at behind. -1: none. */
static int one_of(const char *const *names, int count, char end, const char **at)
{
    for (int i = 0; i < count; i++) {
        const size_t chars = strlen(names[i]);
        if (strncmp(*at, names[i], chars) == 0 && (*at)[chars] == end) {
            *at += chars + 1;
            return i;
        }
    }
    return -1;
}

static int allows_precision(fb_act_type act, const fb_conv_choice *c)
{
    if (act == FB_ACT_F32)
        return c->precision == FB_CUDNN_F32;
    return c->precision == FB_CUDNN_BF16 ||
           (c->precision == FB_CUDNN_BF16_GRADIENT_F32 && c->direction == FB_CUDNN_BACKWARD_WEIGHTS);
}

static fb_status parse_engine(const char *at, fb_act_type act, fb_conv_choice *c)
{
    if (strcmp(at, " own") == 0)
        return FB_OK;
    const char *plan = at + 1;
    const int precision = *at == ' ' ? one_of(precision_names, 4, ' ', &plan) : -1;
    if (precision < 0)
        return FB_FAIL("neither \"own\" nor a precision and a plan of cuDNN");
    c->cudnn = 1;
    c->precision = (fb_cudnn_precision)precision;
    if (!fb_conv_allows_cudnn(&c->shape))
        return FB_FAIL("this convolution has own kernels only");
    if (!allows_precision(act, c))
        return FB_FAIL("%s is not possible there with activations in %s", precision_names[precision], act_names[act]);
    return fb_cudnn_choice_parse(plan, &c->plan);
}

/* A line without its comment. What the numbers' parser lets through is found by printing it again. */
static fb_status parse_line(const char *line, fb_act_type act, fb_conv_choice *c)
{
    char again[LINE_CHARS];
    long long in[3], c_in = 0, c_out = 0;
    int end = 0;
    if (sscanf(line, "conv %18lld x %18lld x %18lld, %18lld to %18lld channels, kernel %9d, stride %9d, %n", &in[0],
               &in[1], &in[2], &c_in, &c_out, &c->shape.kernel, &c->shape.stride, &end) != 7 ||
        end == 0)
        return FB_FAIL("not of the form \"conv 64 x 64 x 64, 16 to 16 channels, kernel 3, stride 1, forward: own\"");
    for (int axis = 0; axis < 3; axis++)
        c->shape.in[axis] = in[axis];
    c->shape.c_in = c_in;
    c->shape.c_out = c_out;
    const char *at = line + end;
    const int direction = one_of(direction_names, FB_CONV_DIRECTIONS, ':', &at);
    if (direction < 0)
        return FB_FAIL("none of the directions forward, backward data, backward weights");
    c->direction = (fb_cudnn_direction)direction;
    FB_TRY(parse_engine(at, act, c));
    print_line(c, again);
    if (strcmp(again, line) != 0)
        return FB_FAIL("not as this program writes it, which would be \"%s\"", again);
    return FB_OK;
}

static fb_status add_line(const char *line, fb_conv_choices *out)
{
    fb_conv_choice c = {.shape = {.kernel = 0}};
    FB_TRY(parse_line(line, out->act, &c));
    if (fb_conv_choices_find(out, &c.shape, c.direction) >= 0)
        return FB_FAIL("a second line for the same convolution");
    return fb_conv_choices_add(out, &c);
}

static fb_status check_title(const char *line, fb_act_type act)
{
    char title[NAME_CHARS];
    print_title(act, sizeof title, title);
    if (strcmp(line, title) != 0)
        return FB_FAIL("expected \"%s\"", title);
    return FB_OK;
}

/* Line `number` of a text, which is cut at its comment. */
static fb_status take_line(const char *from, size_t chars, int number, fb_conv_choices *out)
{
    char line[LINE_CHARS + TIMES_CHARS];
    if (chars >= sizeof line)
        return FB_FAIL("line %d of the table of convolutions is longer than any can be: \"%.40s...\"", number, from);
    memcpy(line, from, chars);
    line[chars] = '\0';
    char *comment = strstr(line, " # ");
    if (comment)
        *comment = '\0';
    const fb_status status = number == 1 ? check_title(line, out->act) : add_line(line, out);
    return fb_error_context(status, "line %d of the table of convolutions, \"%s\"", number, line);
}

fb_status fb_conv_choices_parse(const char *text, fb_act_type act, fb_conv_choices *out)
{
    fb_status status = FB_OK;
    int number = 0;
    *out = (fb_conv_choices){.act = act};
    do {
        const size_t chars = strcspn(text, "\n");
        status = take_line(text, chars, ++number, out);
        text += chars + (text[chars] == '\n');
    } while (status == FB_OK && *text);
    if (status != FB_OK)
        fb_conv_choices_free(out);
    return status;
}
