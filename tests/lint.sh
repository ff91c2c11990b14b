#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The source rules that no compiler checks (CONTRIBUTING.md). Quiet when all hold; otherwise prints file:line: rule.
#   tests/lint.sh [FOLDER]        checks the tree at FOLDER, by default this one
#   tests/lint.sh --self-test     plants a fault of each kind and expects each to be found; prints TAP
set -u
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)

lint()
{
    ( cd "$1" && find . \( -name '.git' -o -name '__pycache__' -o -path './build*' -o -path './bin' -o -path './dist' \
        -o -path './results' -o -path './data' \) -prune -o -type f \( -name '*.[ch]' -o -name '*.cu' \
        -o -name '*.cuh' -o -name '*.cc' -o -name '*.def' \
        -o -name '*.sh' -o -name '*.awk' -o -name '*.py' -o -name 'Makefile' \
        -o -path './.ci/*' -o -path './jobs/*' -o -path './tools/*' \) -print |
        sed 's|^\./||' | sort | xargs awk -f "$here/lint.awk" )
}

# --- self-test ------------------------------------------------------------------------------------------------------

number=0 failed=0
# report OK NAME: one TAP line
report()
{
    number=$((number + 1))
    if [ "$1" = 1 ]; then
        echo "ok $number - $2"
    else
        echo "not ok $number - $2"
        sed 's/^/# /' "$work/found"
        failed=1
    fi
}

# tree FILE BODY: a tree of one file, with the licence as its first line
tree()
{
    rm -rf "$work/tree"
    mkdir -p "$work/tree/$(dirname "$1")"
    printf '/* SPDX-License-Identifier: Apache-2.0 */\n%s\n' "$2" > "$work/tree/$1"
}

# plant RULE FILE LINE BODY: expects "FILE:LINE: ...RULE..." and no other finding; the licence is line 1
plant()
{
    tree "$2" "$4"
    ok=0
    lint "$work/tree" > "$work/found" || ok=1
    [ "$(wc -l < "$work/found")" = 1 ] && grep -q "^$2:$3: .*$1" "$work/found" || ok=0
    report $ok "finds $1 in $2"
}

# accept NAME FILE BODY: expects no finding
accept()
{
    tree "$2" "$3"
    ok=0
    lint "$work/tree" > "$work/found" && [ ! -s "$work/found" ] && ok=1
    report $ok "accepts $1"
}

lines() # lines COUNT TEXT
{
    awk -v count="$1" -v text="$2" 'BEGIN { for (i = 0; i < count; i++) print text }'
}

self_test()
{
    work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/tree/src/core"
    printf 'int x(void);\n' > "$work/tree/src/core/x.h"
    ok=0
    lint "$work/tree" > "$work/found" || ok=1
    grep -q '^src/core/x.h:1: .*licence' "$work/found" || ok=0
    report $ok 'finds a missing licence line'

    plant 'may not include' src/core/x.c 2 '#include "config/options.h"'
    plant 'may not include' src/nn/x.c 2 '#include "io/results.h"'
    plant 'may not include' src/comm/x.h 2 '#include "fed/run.h"'
    plant 'may not include' data_split/x.c 2 '#include "nn/op.h"'
    plant 'may not include' src/fed/x.c 2 '#include "nowhere/op.h"'
    plant 'MPI' src/fed/x.c 2 '#include <mpi.h>'
    plant 'NCCL' src/comm/comm_nccl.c 2 '#include <nccl.h>'
    plant 'CUDA' src/nn/op_ref.c 2 '#include <cuda_runtime.h>'
    plant 'CUDA' src/fed/x.c 2 '#include <cudnn_graph.h>'
    plant 'oneDNN' src/nn/op_ref.c 2 '#include <oneapi/dnnl/dnnl.h>'
    for name in sprintf vsprintf strcpy strcat atoi atol atoll atof strtok gets rand srand; do
        plant "$name is banned" src/core/x.c 4 "$(printf 'int f(void)\n{\n    return (int)%s(x);\n}' $name)"
    done
    for name in malloc calloc realloc free aligned_alloc; do
        plant "$name is banned" src/fed/x.c 4 "$(printf 'int f(void)\n{\n    %s(x);\n}' $name)"
    done
    plant 'tab' src/core/x.h 2 "$(printf '\tint x;' | sed 's/int x;/int f(void);/')"
    plant 'tab at the end' src/core/x.h 2 "$(printf 'int f(void);\t')"
    plant 'trailing space' src/core/x.h 2 'int f(void); '
    plant 'trailing space' analysis/x.py 2 'x = 1 '
    plant '120' src/core/x.c 2 "/* $(lines 120 x | tr -d '\n') */"
    plant '600' src/core/x.c 601 "$(lines 600 '/* */')"
    plant '80 lines' src/core/x.c 2 "$(echo 'int f(void)' && echo '{' && lines 80 '    g();' && echo '}')"
    plant 'unfinished' src/core/x.c 2 "/* TO""DO: later */"
    plant 'unfinished' jobs/site 2 "# FIX""ME"
    for line in 'static int calls;' 'int calls = 0;' 'static const char *name;' 'static char name[8] = {0};' \
        'static struct {' 'extern int calls;' 'static void (*handler)(int);' 'static fb_log *log = NULL;' \
        'struct point origin = {0};' '_Thread_local int calls;'; do
        plant 'mutable' src/fed/x.c 2 "$line"
    done
    plant 'mutable' src/fed/x.c 4 "$(printf 'int f(void)\n{\n    static int calls;\n    return calls++;\n}')"

    accept 'comments, strings, members, constants, prototypes and definitions' src/fed/x.c "$(cat << 'CLEAN'
/* malloc(x) and sprintf( in a comment,
 * also free( on a second line; "/* in a string */
#include "fed/x.h"

#include "core/mem.h"
#include "io/results.h"

#include <stdint.h>
#define TWO(x) \
    static int x
__extension__ typedef __int128 wide;
typedef struct pair {
    int a, b;
} pair;
struct fb_x {
    int *count; /* owned */
};
enum { LIMIT = 3 };
static const int limits[] = {1, 2,
                             3};
static const char *const names[] = {
    "free(x)", "sprintf(\"%d\")", "// no comment",
};
static const char *const long_name =
    "malloc(";
extern const fb_ops fb_ops_ref;
static volatile sig_atomic_t stop_requested;
static int helper(int a, int b);
struct fb_y;
fb_status fb_x_run(fb_x *x, const int64_t shape[3],
                   int count) FB_MUST_USE;
int f(int (*g)(int))
{
    static const char quote = '"', brace = '{';
    return table.free(x) + table->malloc(x) + fb_free(x) + snprintf(x) + '\0' + strtof(x);
}
CLEAN
)"
    accept 'a wide table of options' src/config/x.def "$(lines 200 x | tr -d '\n')"
    accept 'the counters of core/mem.c' src/core/mem.c 'static int live_blocks;'
    accept 'the text of a memory stream' src/fed/x.c \
        "$(printf 'int f(void)\n{\n    open_memstream(a);\n    free(a);\n}')"
    accept 'MPI in comm_mpi.c' src/comm/comm_mpi.c '#include <mpi.h>'
    accept 'NCCL in comm_nccl_link.c' src/comm/comm_nccl_link.c '#include <nccl.h>'
    accept 'data in data_split' data_split/x.c '#include "data/shard.h"'
    accept 'a function of 80 lines' src/core/x.c \
        "$(echo 'int f(void)' && echo '{' && lines 79 '    g();' && echo '}')"
    accept 'a file of 600 lines' src/core/x.c "$(lines 599 '/* */')"
    echo "1..$number"
    exit $failed
}

case ${1:-} in
    --self-test) self_test ;;
    *) lint "${1:-$here/..}" ;;
esac
