# SPDX-License-Identifier: Apache-2.0
# The rules of tests/lint.sh, in POSIX awk: one pass over all files, one finding a line.

function found(line, text)
{
    printf "%s:%d: %s\n", FILENAME, line, text
    count++
}

# The line without comments, its strings and characters emptied; `in_comment` lasts over lines.
function code_of(line, code, token)
{
    code = ""
    while (line != "") {
        if (in_comment) {
            if (!(token = index(line, "*/")))
                return code
            line = substr(line, token + 2)
            in_comment = 0
        } else if (match(line, /"([^"\\]|\\.)*"|'(\\[^']+|[^'\\])'|\/\*|\/\//)) {
            token = substr(line, RSTART, RLENGTH)
            code = code substr(line, 1, RSTART - 1)
            line = substr(line, RSTART + RLENGTH)
            if (token == "//")
                return code
            if (token == "/*")
                in_comment = 1
            else
                code = code "\"\""
        } else {
            return code line
        }
    }
    return code
}

# The layer of an include path or of a file's own path; 0 when there is none.
function layer_of(path, parts)
{
    sub(/^src\//, "", path)
    if (path == "main.c")
        return 10
    split(path, parts, "/")
    return parts[1] in layer ? layer[parts[1]] : 0
}

function check_include(line, path, mine)
{
    if (line ~ /<mpi\.h>/ && FILENAME !~ /^src\/(comm\/comm_mpi|main)\.c$/)
        found(FNR, "MPI belongs in src/comm/comm_mpi.c and src/main.c only")
    if (line ~ /<nccl\.h>/ && FILENAME != "src/comm/comm_nccl_link.c")
        found(FNR, "NCCL belongs in src/comm/comm_nccl_link.c only")
    if (line ~ /<(cuda|cudnn)[a-z0-9_]*\.h>/ &&
        FILENAME !~ /(_cuda\.[ch]|\.cuh?|cudnn[a-z_]*\.[ch]|nccl[a-z_]*\.[ch]|fake_cuda\.h|\.cc)$/)
        found(FNR, "CUDA belongs in files named *_cuda, *cudnn*, *nccl* and *.cu only")
    if (line ~ /[<"\/]dnnl[a-z_]*\.h/ && FILENAME != "src/nn/op_dnnl.c")
        found(FNR, "oneDNN belongs in src/nn/op_dnnl.c only")
    if (line !~ /"[^"]*\/[^"]*"/)
        return
    path = line
    sub(/^[^"]*"/, "", path)
    sub(/".*/, "", path)
    mine = FILENAME ~ /^data_split\// ? layer["data"] : layer_of(FILENAME)
    if (!layer_of(path) || layer_of(path) > mine)
        found(FNR, "may not include " path ": core < config < data < nn < privacy < codec < comm < io < fed < main")
}

function check_calls(code, pattern, why, name)
{
    while (match(code, "(^|[^A-Za-z0-9_.>])(" pattern ")[ ]*\\(")) {
        name = substr(code, RSTART, RLENGTH)
        gsub(/[^a-z_]/, "", name)
        found(FNR, name " is banned: " why)
        code = substr(code, RSTART + RLENGTH)
    }
}

# A statement at file scope, or a static one in a function, up to its first of ; { =
function check_mutable(s, head)
{
    gsub(/[ \t]+/, " ", s)
    sub(/^ ?(__extension__ )?/, "", s)
    if (s ~ /^(typedef|_Static_assert|extern ""|[;{}]|$)/ || s ~ /^(struct|union|enum)( [A-Za-z0-9_]+)? ?[;{]/)
        return
    head = s
    sub(/ ?[={;].*/, "", head)
    if (head ~ /\(/ && head !~ /^[^(]*\(\*[ A-Za-z0-9_]*\)/)
        return # a function
    if (head ~ /sig_atomic_t/)
        return # all that a signal handler may touch
    if (head ~ /\*/ ? head ~ /\* ?const[^*]*$/ : head ~ /(^| )const /)
        return
    if (head ~ /[A-Za-z0-9_] ?[*( ]/)
        found(FNR, "mutable variable that outlives a call: pass a context instead")
}

function check_scope(code, opened, closed)
{
    if (depth == 0 && stated == 0)
        statement = statement " " code
    if (depth == 0 && stated == 0 && statement ~ /[;{=]/) {
        check_mutable(statement)
        stated = 1
    } else if (depth > 0 && code ~ /^ *static /) {
        check_mutable(code)
    }
    opened = gsub(/\{/, "{", code)
    closed = gsub(/\}/, "}", code)
    depth += opened - closed
    if (depth <= 0 && code ~ /[;}] *$/) {
        depth = 0
        stated = 0
        statement = ""
    }
}

function finish_file()
{
    if (lines > 600)
        printf "%s:%d: the file is longer than 600 lines: split it\n", file, lines
    if (!licensed)
        printf "%s:1: no SPDX licence line among the first three\n", file
    if (lines > 600 || !licensed)
        count++
}

BEGIN {
    split("core config data nn privacy codec comm io fed", order, " ")
    for (i in order)
        layer[order[i]] = i + 0
    strings = "v?sprintf|strcpy|strcat|ato(i|l|ll|f)|strtok|gets|s?rand"
    memory = "malloc|calloc|realloc|free|aligned_alloc"
    unfinished = "TO" "DO|FIX" "ME"
}

FNR == 1 {
    if (NR > 1)
        finish_file()
    file = FILENAME
    licensed = stream = in_comment = depth = stated = function_line = continued = 0
    statement = ""
    c_file = FILENAME ~ /\.[ch]$/
    ours = c_file && FILENAME ~ /^(src|data_split)\//
    # One log, one memory count, one place of work, one wish to stop a process, and the error of last resort.
    stateful = FILENAME ~ /^src\/core\/(log|mem|progress|status|stop)\.c$/
}

{
    lines = FNR
    if (FNR <= 3 && /SPDX-License-Identifier: Apache-2\.0/)
        licensed = 1
    if (/[ \t\r]$/)
        found(FNR, /\t$/ ? "tab at the end" : "trailing space")
    else if (/\t/ && FILENAME != "Makefile")
        found(FNR, "tab: indent with four spaces")
    if (length($0) > 120 && FILENAME !~ /(^Makefile|\.def)$/)
        found(FNR, "longer than 120 characters")
    if ($0 ~ unfinished)
        found(FNR, "unfinished: do it or drop it")
}

c_file {
    code = code_of($0)
    if (ours && code ~ /^ *# *include/)
        check_include($0)
    check_calls(code, strings, "use the bounded or checked form")
    if (code ~ /open_memstream/)
        stream = 1 # its text is the C library's, for free()
    if (ours && FILENAME !~ /^src\/core\//)
        check_calls(code, stream ? "malloc|calloc|realloc" : memory, "use core/mem.h, which counts")
    if (code ~ /^\{$/)
        function_line = FNR
    if (code ~ /^\}/ && function_line) {
        if (FNR - function_line - 1 > 79)
            found(function_line - 1, "function longer than 80 lines")
        function_line = 0
    }
    if (ours && !stateful && code !~ /^ *#/ && !continued)
        check_scope(code)
    continued = /\\$/
}

END {
    finish_file()
    exit count > 0
}
