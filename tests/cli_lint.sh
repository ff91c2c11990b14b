#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The source rules find what they forbid, and this tree keeps them.
lint=$(dirname "$0")/lint.sh
"$lint" --self-test
failed=$?
echo 1..1
if found=$("$lint"); then
    echo 'ok - this tree keeps the rules'
else
    echo 'not ok - this tree keeps the rules'
    echo "$found" | sed 's/^/# /'
    failed=1
fi
exit $failed
