#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Packs the programs with every library they need but the C library's and CUDA's into one archive that runs from any
# folder of another x86-64 Linux; called by make dist.
#   tools/make-dist.sh BINDIR STAGE ARCHIVE      STAGE is a folder of this script's own: emptied, filled and kept
# The same sources, compiler and Debian packages give the same bytes: files sorted, owned by 0, dated by
# SOURCE_DATE_EPOCH or the last commit. The libraries are Debian's bytes but for those with a search path of their own,
# which is removed: the programs' DT_RPATH ($ORIGIN/../lib) holds for all that they load, and before LD_LIBRARY_PATH, so
# that a cluster's modules do not change a run's libraries. The C++ library comes along: Debian's oneDNN needs that of
# GCC 12, machines without C++ have none and older ones lack its symbols.
set -eu
export LC_ALL=C
bin=$1 stage=$2 archive=$3
die()
{
    echo "dist: $*" >&2
    exit 1
}
for tool in dpkg-query patchelf strip objdump ompi_info; do
    command -v $tool > /dev/null || die "$tool was not found; on Debian: make deps"
done
name=$(basename "$archive" .tar.gz)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || stat -c %Y CHANGELOG.md)}
rm -rf "$stage"
root=$stage/$name
mkdir -p "$root/bin" "$root/lib" "$root/etc" "$root/share" "$root/LICENSES" "$root/partitions" "$(dirname "$archive")"

# --- what goes in ---------------------------------------------------------------------------------------------------

# Open MPI finds its parts below OPAL_PREFIX where they were below its own prefix.
mpi_path()
{
    ompi_info --path "$1" --parsable | sed -n "1s/^path:$1://p"
}
prefix=$(mpi_path prefix)
plugins=$(mpi_path pkglibdir) texts=$(mpi_path pkgdatadir) tools=$(mpi_path bindir)
case $plugins:$texts in
    "$prefix"/*:"$prefix"/share/openmpi) ;;
    *) die "Open MPI's folders $plugins and $texts are not below its prefix $prefix" ;;
esac

# One node: shared memory, TCP and every launcher that needs no library of a fabric or of a batch system. No MPI-IO
# (the results are serial HDF5), no OpenSHMEM, no UCX, libfabric, PSM or verbs.
components='allocator_.*|bml_r2|btl_(self|tcp|vader)|coll_(adapt|basic|han|inter|libnbc|self|sm|sync|tuned)|compress_.*
|errmgr_.*|ess_.*|filem_raw|grpcomm_direct|iof_.*|mpool_hugepage|odls_.*|oob_tcp|op_avx|osc_(rdma|sm)
|patcher_overwrite|plm_.*|pmix_(ext3x|isolated)|pml_ob1|pstat_linux|ras_slurm|rcache_grdma|reachable_weighted
|regx_.*|rmaps_.*|rml_oob|routed_.*|rtc_hwloc|schizo_(ompi|orte|slurm)|shmem_.*|state_.*|topo_.*'

# place FILE FOLDER [NAME]: copies it, remembers where it came from
origins=$stage/origins
place()
{
    mkdir -p "$root/$2"
    cp -L "$1" "$root/$2/${3:-$(basename "$1")}"
    printf '%s\t%s\n' "$2/${3:-$(basename "$1")}" "$(readlink -f "$1")" >> "$origins"
}

for program in fedbrats brats-phantom brats-split; do
    cp "$bin/$program" "$root/bin"
    # the build's identity hashes the debug information, which names the build folder
    strip -R .note.gnu.build-id "$root/bin/$program"
done
place "$tools/orterun" bin
place "$tools/orted" bin
module=${plugins#"$prefix"/}
for plugin in "$plugins"/mca_*.so; do
    ! basename "$plugin" | grep -qE "^mca_($(echo "$components" | tr -d '\n'))\.so\$" || place "$plugin" "$module"
done
[ -e "$root/$module/mca_btl_vader.so" ] || die "no Open MPI 4.1 plugins in $plugins"
mkdir "$root/etc/openmpi" "$root/share/openmpi"
echo 'btl_base_warn_component_unused = 0' > "$root/etc/openmpi/openmpi-mca-params.conf"
cp "$texts"/help-*.txt "$root/share/openmpi"

# Not in the bundle, but the target machine's: the C library, whose parts and loader must be of one version, and CUDA,
# which goes with the driver.
libc='^(ld-linux-x86-64|lib(c|m|mvec|dl|pthread|rt|resolv|util|nsl|anl|nss_[a-z]*))[.]so'
cuda='^lib(cuda|cudart|cudnn|cublas|cufft|curand|cusolver|cusparse|nccl|nvrtc|nvJitLink)[A-Za-z_0-9]*[.]so'

# needed FILE...: "name path" of every other library that these load
needed()
{
    for object; do
        ldd "$object"
    done | awk -v libc="$libc" -v cuda="$cuda" '$2 == "=>" && $1 !~ libc && $1 !~ cuda { print $1, $3 }'
}
needed "$bin/fedbrats" "$bin/brats-phantom" "$bin/brats-split" "$tools/orterun" "$tools/orted" \
    "$root/$module"/*.so > "$stage/needed"
pmix=$(awk '$1 ~ /^libpmix\.so/ { print $2; exit }' "$stage/needed")
if [ -n "$pmix" ]; then # its plugins and texts lie beside the library, wherever Debian's link leads
    pmix=$(dirname "$(readlink -f "$pmix")")
    for plugin in "$pmix"/pmix/pmix_mca_*.so; do
        place "$plugin" lib/pmix
    done
    mkdir "$root/share/pmix"
    cp "$pmix"/../share/pmix/help-*.txt "$root/share/pmix"
    needed "$root"/lib/pmix/*.so >> "$stage/needed"
fi
sort -u "$stage/needed" | while read -r soname path; do
    case $path in
        /*) place "$path" lib "$soname" ;;
        *) die "$soname is needed but was not found" ;;
    esac
done

find "$root/bin" -type f | while read -r program; do
    patchelf --force-rpath --set-rpath "\$ORIGIN/../lib" "$program"
done
find "$root/lib" -type f | while read -r library; do
    [ -z "$(patchelf --print-rpath "$library")" ] || patchelf --remove-rpath "$library"
done

# --- wrappers, texts, licences --------------------------------------------------------------------------------------

cat > "$root/bin/mpirun" << 'WRAPPER'
#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The bundle's own Open MPI, wherever the bundle lies; ranks on this machine. They inherit what is set here.
bundle=$(readlink -f "$0") && bundle=${bundle%/bin/*} || exit 1
export OPAL_PREFIX="$bundle" OPAL_SYSCONFDIR="$bundle/etc/openmpi"
export PMIX_PREFIX="$bundle" PMIX_LIBDIR="$bundle/lib" PMIX_PKGLIBDIR="$bundle/lib/pmix"
export PMIX_PKGDATADIR="$bundle/share/pmix" PMIX_SYSCONFDIR="$bundle/etc/openmpi"
# Without ssh Open MPI stops, although no other machine is used; without HOME and an entry in /etc/passwd PMIx crashes.
command -v ssh > /dev/null || command -v rsh > /dev/null || export OMPI_MCA_plm="${OMPI_MCA_plm-^rsh}"
export HOME="${HOME:-/}"
exec "$bundle/bin/orterun" "$@"
WRAPPER
chmod 755 "$root/bin/mpirun"
cp LICENSE CITATION.cff CHANGELOG.md "$root"
cp -R jobs "$root/jobs"
mkdir "$root/analysis"
cp analysis/*.py "$root/analysis"
cp data_split/partitions/*.csv "$root/partitions"

# "PACKAGE FILE" of what Debian's packages own; /lib and /usr/lib are the same folder
cut -f 2 "$origins" | sed 'p;s|^/usr||' | sort -u | xargs dpkg-query -S 2> /dev/null | grep -v '^diversion ' |
    sed 's/^\([^:,]*\)[^ ]* /\1 /;s| /lib/| /usr/lib/|' > "$stage/owners" || :
owners=$(cut -d ' ' -f 1 "$stage/owners" | sort -u)
# shellcheck disable=SC2086
dpkg-query -W -f '${Package} ${Version}\n' $owners | sort -u > "$stage/versions"
printf 'file\tpackage\tversion\tbytes\n' > "$root/MANIFEST.packages"
tab=$(printf '\t')
sort "$origins" | while IFS=$tab read -r file path; do
    owner=$(awk -v path="$path" '$2 == path { print $1; exit }' "$stage/owners")
    version=$(awk -v owner="$owner" '$1 == owner { print $2 }' "$stage/versions")
    cmp -s "$path" "$root/$file" && same='as installed' || same='search path changed'
    printf '%s\t%s\t%s\t%s\n' "$file" "${owner:--}" "${version:--}" "$same"
done >> "$root/MANIFEST.packages"
for owner in $owners; do
    cp -L "/usr/share/doc/$owner/copyright" "$root/LICENSES/$owner"
done
# the licences that those files only name
grep -ohE '/usr/share/common-licenses/[A-Za-z]+(-[0-9.]*[0-9])?' "$root/LICENSES"/* | sort -u | while read -r text; do
    [ ! -e "$text" ] || { mkdir -p "$root/LICENSES/common-licenses" && cp -L "$text" "$root/LICENSES/common-licenses"; }
done

glibc=$(find "$root/bin" "$root/lib" -type f ! -name mpirun -exec objdump -T {} + |
    sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -uV | tail -n 1)
gpu=$(ldd "$bin/fedbrats" | awk -v cuda="$cuda" '$1 ~ cuda { printf "%s ", $1 }')
march=$("$bin/fedbrats" info | sed -n 's/.* -march=\([^ ]*\).*/\1/p')
cat > "$root/README" << TEXT
FedBraTS $("$bin/fedbrats" --version | sed 's/^fedbrats //')
Federated training for 3-D brain-tumour segmentation, simulated on MPI ranks.

Needs x86-64 Linux with glibc $glibc or later and a processor that has $march; besides them sh and readlink.
CUDA libraries that this machine must have: ${gpu:-none, it computes on the CPU}
It runs from any folder and installs nothing. Keep bin/, lib/, etc/ and share/ together.

TEXT
cat >> "$root/README" << 'TEXT'
    bin/brats-phantom --output data/phantom --shape 32x32x32 --scale 0.25 --seed 1     # or a BraTS 2018 folder
    bin/brats-split   --input data/phantom --output data/shards
    bin/mpirun -n 2 bin/fedbrats train --data.shards=data/shards --run.output=results/run1 --data.patch=32x32x32
    bin/fedbrats --help
    jobs/demo.sh bin python3     # bash; the figure needs h5py, xarray, h5netcdf and matplotlib

bin/mpirun is the Open MPI in this bundle, with shared memory and TCP: made for the ranks of one machine. Another mpirun
does not fit the libraries here; as root it asks for OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1. One
process (no mpirun) plays all hospitals, with the same bits. In a Slurm allocation use bin/mpirun too, or, after
export OPAL_PREFIX=(this folder), srun --mpi=pmix. For many nodes and a cluster's own network build from source:
README.md of the repository.

sha256sum -c MANIFEST.sha256 checks every file. MANIFEST.packages names the Debian package and version of each library;
their licences are in LICENSES/, their sources at https://snapshot.debian.org.
TEXT

# --- the archive ----------------------------------------------------------------------------------------------------

(cd "$root" && find . -type f ! -name MANIFEST.sha256 | sed 's|^\./||' | sort | xargs -d '\n' sha256sum) > "$stage/sums"
mv "$stage/sums" "$root/MANIFEST.sha256"
tar -C "$stage" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' --format=gnu \
    -cf - "$name" | gzip -n > "$archive.tmp"
mv "$archive.tmp" "$archive"
echo "dist: $archive: $(($(stat -c %s "$archive") / 1000000)) MB, for $march and glibc $glibc or later"
