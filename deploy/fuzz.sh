#!/usr/bin/env bash
# fuzz.sh DURATION: runs every native fuzz target of the module for DURATION,
# one after the other. A crasher is left in testdata/fuzz of its package.
set -euo pipefail
duration=${1:?duration, such as 10s}
output=$(mktemp)
trap 'rm -f "$output"' EXIT

crashers() { find "$1" -path "*/testdata/fuzz/$2/*" -type f | sort; }

# Before 1.27 Go can take the end of the time for a failure: it reaches the
# coordinator before it reaches what the coordinator compares it with
# (golang.org/issue/75804). Such a run has found nothing and may be repeated.
only_time_was_up() {
  [ "$(sed -n '/^--- FAIL: /,/^FAIL$/{//!p}' "$output")" = '    context deadline exceeded' ]
}

fuzz() {
  local package=$1 target=$2 before
  before=$(crashers "$package" "$target")
  for attempt in 1 2 3; do
    echo "fuzz $package $target"
    if go test -run '^$' -fuzz "^$target\$" -fuzztime "$duration" "$package" 2>&1 | tee "$output"; then
      return 0
    fi
    only_time_was_up && [ "$(crashers "$package" "$target")" = "$before" ] || return 1
    echo "fuzz $package $target: the time was up and nothing failed, attempt $attempt"
  done
  return 1
}

count=0
while read -r package target; do
  fuzz "$package" "$target" || exit 1
  count=$((count + 1))
done < <(grep -rhoE --include='*_test.go' --with-filename '^func Fuzz[A-Za-z0-9_]+' -- . |
  grep -vE '^\./(deploy/sdktest|fuzztest)/' |
  sed -E 's|^(.*)/[^/]*:func (Fuzz.*)$|\1 \2|' | sort -u)
[ "$count" -gt 0 ] || { echo "fuzz: no target found" >&2; exit 1; }
echo "fuzz: $count targets, $duration each"
