#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The bundle of make dist: runs from another folder in a root that holds nothing but the C library, a shell and the
# bundle, with the same bits at one and two ranks; takes no library from outside even where there are others; its
# manifests are true. FB_LONG=1: a second build, of a copy of the tree elsewhere, gives the same bytes.
# About 10 s after the first build.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
logs=("$work/log")
. "$(dirname "$0")/tap.sh"

skip() # NAME REASON
{
    number=$((number + 1))
    echo "ok $number - $1 # SKIP $2"
}

[ -z "${FB_SAN:-}" ] || { echo "sanitizers' libraries are not for a bundle"; exit 77; }
command -v dpkg-query > /dev/null || { echo "make dist needs Debian's packages"; exit 77; }
[ "$(uname -m)" = x86_64 ] || { echo "the bundle is for x86-64"; exit 77; }

# dist TREE: builds it; what the make that runs this test was given does not count
dist()
{
    (cd "$1" && env -u MAKEFLAGS -u MAKEOVERRIDES -u MARCH -u DEBUG make -s dist CUDA=0 NCCL=0 DISTDIR="$2") \
        >> "$work/log" 2>&1
}
dist . "$work/first"
report $? "make dist"
archive=$(ls "$work"/first/fedbrats-*-x86_64.tar.gz) || exit 1
[ "$(stat -c %s "$archive")" -lt 60000000 ]
report $? "smaller than 60 MB"

root=$work/root # of the chroot; the bundle lies in a folder with a space
home="/any where/$(basename "$archive" .tar.gz)"
mkdir -p "$root/any where" && tar -C "$root/any where" -xzf "$archive"
report $? "unpacks"
bundle=$root$home
(cd "$bundle" && sha256sum --quiet -c MANIFEST.sha256 > "$work/log" 2>&1 &&
    [ "$(find . -type f | wc -l)" = $(($(wc -l < MANIFEST.sha256) + 1)) ])
report $? "MANIFEST.sha256 names every file with its hash"
awk -F '\t' 'NR > 1 && ($2 == "-" || $3 == "-" || NF != 4)' "$bundle/MANIFEST.packages" > "$work/log"
libraries=$(find "$bundle"/lib "$bundle"/bin/orte* -type f | wc -l)
[ ! -s "$work/log" ] && [ $((libraries + 1)) = "$(wc -l < "$bundle/MANIFEST.packages")" ] &&
    awk -F '\t' 'NR > 1 { print $2 }' "$bundle/MANIFEST.packages" | sort -u | (cd "$bundle/LICENSES" && xargs ls) \
        > "$work/log" 2>&1
report $? "MANIFEST.packages names the package and version of every library; each has its licence"

# outside PROGRAM: what the loader takes for it and every plugin from elsewhere than the bundle (the current folder),
# the C library's excepted
outside()
{
    LD_PRELOAD=$(find ./lib -name '*mca_*.so' -printf '%p ') /lib64/ld-linux-x86-64.so.2 --list "$1" 2>&1 |
        grep -Ev "=> $bundle/|^[[:space:]]*(\./lib/|linux-vdso|/lib64/ld-linux)" |
        grep -Ev '^[[:space:]]*lib(c|m|dl|pthread|rt|resolv)\.so\.[0-9]+ => /'
}
other=/usr/lib/x86_64-linux-gnu # Debian's copies of the same libraries
for program in fedbrats brats-phantom brats-split orterun orted; do
    (cd "$bundle" && LD_LIBRARY_PATH=$other outside "$bundle/bin/$program")
done > "$work/log"
[ ! -s "$work/log" ]
report $? "no library from outside, even where LD_LIBRARY_PATH leads to others"
mv "$bundle/lib/libsodium.so.23" "$work/" && (cd "$bundle" && outside "$bundle/bin/fedbrats") | grep -q libsodium
report $? "a library that is not in the bundle is seen"
mv "$work/libsodium.so.23" "$bundle/lib"

# --- in the bare root -----------------------------------------------------------------------------------------------

# /proc is where the loader learns the program's folder; the mounts go with the namespace.
cat > "$work/enter" << 'SH'
mkdir -p "$1/proc" "$1/dev" "$1/sys" && mount --rbind /proc "$1/proc" && mount --rbind /dev "$1/dev" &&
    mount --rbind /sys "$1/sys" && exec chroot "$@"
SH
mkdir -p "$root/bin" "$root/lib/x86_64-linux-gnu" "$root/lib64" "$root/tmp" "$root/usr"
cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64"
for name in c m dl pthread rt resolv; do
    cp -L "/lib/x86_64-linux-gnu/lib$name.so".* "$root/lib/x86_64-linux-gnu"
done
cp "$(command -v dash)" "$root/bin/sh" && cp "$(command -v readlink)" "$root/bin"
enter=()
for namespace in "unshare -m" "unshare -r -m"; do
    if $namespace sh "$work/enter" "$root" /bin/sh -c : > "$work/log" 2>&1; then
        enter=($namespace sh "$work/enter" "$root")
        break
    fi
done

# inside PROGRAM ARGUMENT...: in the bare root, with a bare environment
inside()
{
    env -i PATH=/bin:/usr/bin:/sbin:/usr/sbin OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 \
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mca_base_component_show_load_errors=1 \
        OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 \
        timeout 120 "${enter[@]}" "$@" 2>> "$work/log"
}
train() # RUN COMMAND...: one tiny run; prints its model's hash
{
    local run=$1
    shift
    inside "$@" train --data.shards=/tmp/shards --run.output="/tmp/$run" --run.seed=5 --privacy.key=seed \
        --data.patch=16x16x16 --model.blocks_down=1,1 --model.blocks_up=1 --federation.rounds=1 --run.verbosity=0 \
        > "$work/$run" && sed -n 's/.*model_sha256=\([0-9a-f]*\).*/\1/p' "$work/$run" | grep .
}
if [ ${#enter[@]} = 0 ]; then
    skip "in a bare root" "neither root nor user namespaces: $(tail -n 1 "$work/log")"
else
    : > "$work/log"
    inside "$home/bin/fedbrats" info > "$work/info" && grep -q 'march=x86-64-v3 ' "$work/info"
    report $? "bare root: fedbrats info; the portable instruction set"
    inside "$home/bin/brats-phantom" --output /tmp/cohort --shape 32x32x32 --scale 0.04 --seed 3 > "$work/out" &&
        inside "$home/bin/brats-split" --input /tmp/cohort --output /tmp/shards --seed 3 >> "$work/out"
    report $? "bare root: brats-phantom and brats-split"
    : > "$work/log"
    one=$(train one "$home/bin/fedbrats")
    report $? "bare root: fedbrats train without MPI"
    two=$(train two "$home/bin/mpirun" -n 2 "$home/bin/fedbrats")
    [ -n "$one" ] && [ "$one" = "$two" ]
    report $? "bare root: two ranks under the bundle's mpirun give the same model"
    ln -s "$home/bin/mpirun" "$root/bin/mpirun"
    two=$(train link /bin/mpirun -n 2 "$home/bin/fedbrats")
    [ -n "$one" ] && [ "$one" = "$two" ]
    report $? "bare root: mpirun by a link from elsewhere"
    [ ! -s "$work/log" ]
    report $? "bare root: no plugin fails to load, no warning"
fi

if [ -n "${FB_LONG:-}" ]; then
    mkdir "$work/tree" && tar --exclude=./build --exclude=./bin --exclude=./dist --exclude=./results --exclude=./data \
        -cf - . | tar -C "$work/tree" -xf - && dist "$work/tree" "$work/second" &&
        cmp "$archive" "$work/second/$(basename "$archive")" > "$work/log" 2>&1
    report $? "built again elsewhere: the same bytes"
fi
echo "1..$number"
exit $failed
