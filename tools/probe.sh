#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compile-and-link probes, one line each on standard output. Called by the Makefile with CC, CPPFLAGS and *_LIBS set.
# Stops with status 1 when something needed is absent, naming it, the Debian package and the compiler's first complaint.
set -u
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

# probe NAME PACKAGE LIBS SOURCE: compiles, links and runs SOURCE; its output is the version shown
probe()
{
    printf '%s\n' "$4" > "$dir/probe.c"
    # shellcheck disable=SC2086
    if $CC $CPPFLAGS "$dir/probe.c" $3 -o "$dir/probe" 2> "$dir/log" && version=$("$dir/probe"); then
        printf '%-10s%s\n' "$1" "$version"
        return
    fi
    {
        echo "config: $1 was not found: it does not compile, link or run with '$CC'"
        sed -n 1,3p "$dir/log"
        echo "config: on Debian: apt-get install $2 (or: make deps)"
        echo "config: elsewhere set $(echo "$1" | tr a-z A-Z)_CFLAGS and $(echo "$1" | tr a-z A-Z)_LIBS"
    } >&2
    exit 1
}

if ! command -v "${CC%% *}" > /dev/null; then
    echo "config: no compiler: '$CC' was not found; on Debian: apt-get install gcc libc6-dev (or: make deps)" >&2
    exit 1
fi
probe mpi libopenmpi-dev "$MPI_LIBS" '#include <mpi.h>
#include <stdio.h>
int main(void) { char v[MPI_MAX_LIBRARY_VERSION_STRING]; int n; MPI_Get_library_version(v, &n);
  for (char *c = v; *c; c++) if (*c == 44) *c = 0; puts(v); return 0; }'
probe hdf5 libhdf5-dev "$HDF5_LIBS" '#include <hdf5.h>
#include <hdf5_hl.h>
#include <stdio.h>
int main(void) { unsigned a, b, c; H5get_libversion(&a, &b, &c); printf("%u.%u.%u\n", a, b, c);
  return H5DSis_scale(-1) > 0; }' 2> /dev/null
probe dnnl libdnnl-dev "$DNNL_LIBS" '#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
int main(void) { const dnnl_version_t *v = dnnl_version(); printf("%d.%d.%d\n", v->major, v->minor, v->patch);
  return 0; }'
probe inih libinih-dev "$INIH_LIBS" '#include <ini.h>
#include <stdio.h>
int main(void) { puts("found"); return ini_parse("/nonexistent", 0, 0) != -1; }'
probe sodium libsodium-dev "$SODIUM_LIBS" '#include <sodium.h>
#include <stdio.h>
int main(void) { puts(sodium_version_string()); return sodium_init() < 0; }'
probe zlib zlib1g-dev "$ZLIB_LIBS" '#include <zlib.h>
#include <stdio.h>
int main(void) { puts(zlibVersion()); return 0; }'
probe nifti libnifti-dev "" '#include <nifti1.h>
#include <stdio.h>
int main(void) { puts("header found"); return sizeof(nifti_1_header) != 348; }'
probe random123 librandom123-dev "" '#include <Random123/philox.h>
#include <stdio.h>
int main(void) { puts("header found"); return 0; }'
probe cmocka libcmocka-dev "$CMOCKA_LIBS" '#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
int main(void) { puts("found"); cmocka_set_message_output(CM_OUTPUT_TAP); return 0; }'
if "$PYTHON" -c 'import h5py, xarray, h5netcdf, matplotlib' 2> "$dir/log"; then
    printf '%-10s%s with h5py, xarray, h5netcdf, matplotlib\n' python "$("$PYTHON" --version 2>&1)"
else
    printf '%-10s%s: %s (analysis and figures will not work)\n' python "$PYTHON" "$(tail -n 1 "$dir/log")"
fi
