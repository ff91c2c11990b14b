#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes sure that everything FedBraTS needs is installed. On Debian: with everything present it does nothing and needs
# neither root nor network; otherwise root installs the missing packages, others get the exact command. Elsewhere it
# leaves the decision to the build's probes (make config).
#   tools/install-deps.sh [--tests]
# --tests: what only tests/cli_slurm.sh uses, a Slurm to start and end with the test. It is optional: where it cannot be
# installed, the test is skipped and says so. Its services are neither started nor enabled.
set -eu
packages='gcc g++ libc6-dev make pkg-config
libopenmpi-dev openmpi-bin libhdf5-dev libdnnl-dev libinih-dev libsodium-dev zlib1g-dev libnifti-dev
librandom123-dev libcmocka-dev patchelf
python3 python3-h5py python3-xarray python3-h5netcdf python3-netcdf4 python3-matplotlib python3-nibabel'

if ! command -v dpkg-query > /dev/null; then
    echo 'deps: not a Debian system: install the equivalents of these packages, then run make config:' $packages
    exit 0
fi
# absent PACKAGE...: those that are not installed
absent()
{
    for package in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null) in
            installed) ;;
            *) printf ' %s' "$package" ;;
        esac
    done
}

# install PACKAGE...: quietly; the end of apt's messages when it fails
install()
{
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get update && apt-get install --no-install-recommends -y "$@"; } > "$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "deps: apt-get failed (log: $log); try:" >&2
        echo "  apt-get update && apt-get install --no-install-recommends -y $*" >&2
        return 1
    fi
    rm -f "$log"
}

if [ "${1:-}" = --tests ]; then
    missing=$(absent slurm-wlm munge)
    if [ -z "$missing" ] || [ "$(id -u)" != 0 ] || command -v sbatch > /dev/null; then
        exit 0 # only root can start one; a Slurm of other origin is left alone
    fi
    echo "deps: installing for the tests:$missing"
    policy=/usr/sbin/policy-rc.d # keeps services from starting
    [ ! -e $policy ] || policy=
    if [ -n "$policy" ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod 755 $policy
    fi
    # shellcheck disable=SC2086
    install $missing || echo "deps: without them the tests on Slurm are skipped" >&2
    ! command -v systemctl > /dev/null || systemctl -q disable munge slurmd slurmctld 2> /dev/null || :
    exit 0
fi

# shellcheck disable=SC2086
missing=$(absent $packages)
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "deps: missing packages; install them with:" >&2
    echo "  sudo apt-get update && sudo apt-get install --no-install-recommends -y$missing" >&2
    exit 1
fi
echo "deps: installing, which takes one to five minutes:$missing"
# shellcheck disable=SC2086
install $missing
