#!/usr/bin/env bash
# Fails when a generated file differs from what its source generates now.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t files < <(git ls-files '*.gen.go' docs/edits.md)
[ ${#files[@]} -gt 0 ] || { echo "check-generated: no generated file found" >&2; exit 1; }
before=$(sha256sum "${files[@]}")
go generate ./...
after=$(sha256sum "${files[@]}")
if [ "$before" != "$after" ]; then
  echo "generated files are stale: run 'make generate' and commit" >&2
  diff <(echo "$before") <(echo "$after") >&2 || true
  exit 1
fi
