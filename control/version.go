package control

import (
	"cmp"
	"strconv"
	"strings"
)

// newerVersion tells whether a version is later than another one. Versions are
// what git describe prints for a release or a commit after it: 1.4.0,
// v1.4.0-rc1, v1.4.0-12-gabcdef. Those that cannot be compared, such as plain
// commits, are not newer than anything. No version at all is before all others.
func newerVersion(v, than string) bool {
	a, ok := versionFields(v)
	if !ok {
		return false
	}
	if than == "" {
		return true
	}
	b, ok := versionFields(than)
	return ok && compareVersions(a, b) > 0
}

// versionFields splits a version. The first field has to be a number.
func versionFields(v string) ([]string, bool) {
	fields := strings.FieldsFunc(strings.TrimPrefix(v, "v"), func(r rune) bool { return r == '.' || r == '-' || r == '+' })
	if len(fields) < 2 {
		return nil, false
	}
	_, err := strconv.ParseUint(fields[0], 10, 32)
	return fields, err == nil && strings.Contains(v, ".")
}

func compareVersions(a, b []string) int {
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			return -further(b[i])
		case i >= len(b):
			return further(a[i])
		}
		x, errX := strconv.ParseUint(a[i], 10, 32)
		y, errY := strconv.ParseUint(b[i], 10, 32)
		switch {
		case errX == nil && errY == nil && x != y:
			return cmp.Compare(x, y)
		case errX == nil && errY != nil:
			return 1
		case errX != nil && errY == nil:
			return -1
		case errX != nil && a[i] != b[i]:
			if strings.HasPrefix(a[i], "g") || strings.HasPrefix(b[i], "g") {
				return 0 // commits at the same distance from a release
			}
			return cmp.Compare(a[i], b[i])
		}
	}
	return 0
}

// further tells whether a version with one field more is later than one
// without: commits after a release are, candidates for it are not.
func further(field string) int {
	if _, err := strconv.ParseUint(field, 10, 32); err == nil {
		return 1
	}
	if field == "dirty" || strings.HasPrefix(field, "g") {
		return 0
	}
	return -1
}
