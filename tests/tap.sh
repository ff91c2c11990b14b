# SPDX-License-Identifier: Apache-2.0
# For cli_*.sh, which source it: counts results, and the script ends with `exit $failed`.
number=0 failed=0

# report STATUS NAME: one TAP line; STATUS 0 is ok, anything else shows the end of the files "${logs[@]}"
report()
{
    number=$((number + 1))
    if [ "$1" = 0 ]; then
        echo "ok $number - $2"
    else
        echo "not ok $number - $2"
        tail -q -n 5 "${logs[@]}" | sed 's/^/# /'
        failed=1
    fi
}
