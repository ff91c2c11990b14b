#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes sure that everything FedBraTS needs is installed. On Debian: with everything present it does nothing and needs
# neither root nor network; otherwise root installs the missing packages, others get the exact command. Elsewhere it
# leaves the decision to the build's probes (make config).
set -eu
packages='gcc g++ libc6-dev make pkg-config
libopenmpi-dev openmpi-bin libhdf5-dev libdnnl-dev libinih-dev libsodium-dev zlib1g-dev libnifti-dev
librandom123-dev libcmocka-dev patchelf
python3 python3-h5py python3-xarray python3-h5netcdf python3-netcdf4 python3-matplotlib python3-nibabel'

if ! command -v dpkg-query > /dev/null; then
    echo 'deps: not a Debian system: install the equivalents of these packages, then run make config:' $packages
    exit 0
fi
missing=
for package in $packages; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null) in
        installed) ;;
        *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "deps: missing packages; install them with:" >&2
    echo "  sudo apt-get update && sudo apt-get install --no-install-recommends -y$missing" >&2
    exit 1
fi
echo "deps: installing, which takes one to five minutes:$missing"
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
if ! { apt-get update && apt-get install --no-install-recommends -y $missing; } > "$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "deps: apt-get failed (log: $log); try:" >&2
    echo "  apt-get update && apt-get install --no-install-recommends -y$missing" >&2
    exit 1
fi
rm -f "$log"
