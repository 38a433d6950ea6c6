#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Make ./configure from a checkout.
set -e
cd "$(dirname "$0")"
for tool in autoreconf automake pkg-config; do
    command -v $tool >/dev/null || { echo "autogen.sh: $tool is missing: run scripts/deps" >&2; exit 1; }
done
exec autoreconf -fi "$@"
