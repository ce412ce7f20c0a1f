#!/usr/bin/env bash
# fuzz.sh DURATION: runs every native fuzz target of the module for DURATION,
# one after the other. A crasher is left in testdata/fuzz of its package.
set -euo pipefail
duration=${1:?duration, such as 10s}

count=0
while read -r package target; do
  echo "fuzz $package $target"
  go test -run '^$' -fuzz "^$target\$" -fuzztime "$duration" "$package"
  count=$((count + 1))
done < <(grep -rhoE --include='*_test.go' --with-filename '^func Fuzz[A-Za-z0-9_]+' -- . |
  grep -v '^\./deploy/sdktest' |
  sed -E 's|^(.*)/[^/]*:func (Fuzz.*)$|\1 \2|' | sort -u)
[ "$count" -gt 0 ] || { echo "fuzz: no target found" >&2; exit 1; }
echo "fuzz: $count targets, $duration each"
