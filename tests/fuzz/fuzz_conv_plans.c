/* SPDX-License-Identifier: Apache-2.0
 *
 * conv-plans.txt: the table of convolutions, read for activations in float32 and in bfloat16. What is accepted is
 * printed as it was but for comments, with and without times, and read again to the same.
 */
#include "fuzz.h"

#include "nn/conv_choice.h"

enum { LIMIT_BYTES = 16 << 20 };

/* Lines end alike, but for the last. */
static int same_text(const char *a, const char *b)
{
    const size_t a_chars = strlen(a), b_chars = strlen(b), less = a_chars < b_chars ? a_chars : b_chars;
    const size_t more = a_chars + b_chars - less;
    return strncmp(a, b, less) == 0 &&
           (more == less || (more == less + 1 && (a_chars > b_chars ? a : b)[less] == '\n'));
}

static void print_and_read(const fb_conv_choices *choices, const char *from)
{
    fb_conv_choices again;
    char *text = NULL, *timed = NULL, *twice = NULL;
    fuzz_must(fb_conv_choices_print(choices, 0, &text));
    FB_ASSERT(strstr(from, " # ") != NULL || same_text(text, from));
    fuzz_must(fb_conv_choices_print(choices, 1, &timed));
    fuzz_must(fb_conv_choices_parse(timed, choices->act, &again));
    fuzz_must(fb_conv_choices_print(&again, 0, &twice));
    FB_ASSERT(again.count == choices->count && strcmp(text, twice) == 0);
    for (int i = 0; i < choices->count; i++) {
        const fb_conv_choice *item = &choices->items[i];
        FB_ASSERT(fb_conv_choices_find(&again, &item->shape, item->direction) == i);
        FB_ASSERT(fb_cudnn_choice_equal(&again.items[i].plan, &item->plan));
    }
    fb_conv_choices_free(&again);
    FB_FREE(text);
    FB_FREE(timed);
    FB_FREE(twice);
}

static void read_as(const char *text, fb_act_type act)
{
    fb_conv_choices choices;
    fb_status status = fb_conv_choices_parse(text, act, &choices);
    if (status != FB_OK) {
        FB_ASSERT(choices.items == NULL && choices.count == 0);
        fuzz_refused(&status);
        return;
    }
    for (int i = 0; i < choices.count; i++)
        choices.items[i].ms = choices.items[i].own_ms = 0.25;
    print_and_read(&choices, text);
    fb_conv_choices_free(&choices);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    char *text = NULL;
    if (size > FUZZ_INPUT_MAX)
        return 0;
    fuzz_must(FB_ALLOC(text, (int64_t)size + 1, "table")); /* ends with '\0' */
    memcpy(text, data, size);
    read_as(text, FB_ACT_F32);
    read_as(text, FB_ACT_BF16);
    FB_FREE(text);
    return fuzz_end(start, LIMIT_BYTES);
}
