#!/bin/bash
# The same commit gives the same bytes, wherever it is built: two clones in directories of different
# length, one with its build directory elsewhere.
set -u

top=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
unset MAKEFLAGS MFLAGS MAKELEVEL
mkdir -p "$dir/somewhere/else"
git clone -q "$top" "$dir/a" && git clone -q "$top" "$dir/somewhere/else/b" || exit 1
make -s -C "$dir/a" -j"$(nproc)" >/dev/null || exit 1
make -s -C "$dir/somewhere/else/b" -j"$(nproc)" B="$dir/out" >/dev/null || exit 1
if ! cmp "$dir/a/build/agent" "$dir/out/agent"; then
    echo "FAIL reproducible: two builds of one commit differ"
    exit 1
fi
echo "ok   reproducible: $(sha256sum <"$dir/out/agent" | cut -c1-16)"
