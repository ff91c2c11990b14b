#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The source rules find what they forbid.
exec "$(dirname "$0")/lint.sh" --self-test
