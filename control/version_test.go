package control

import "testing"

func TestNewerVersion(t *testing.T) {
	ascending := []string{"", "v0.9.12", "1.0.0-rc1", "v1.0.0-rc2", "1.0.0", "v1.0.0-3-gabcdef0", "1.0.0-12-g0123456", "1.0.1", "v1.2", "1.10.0"}
	for i, a := range ascending {
		for j, b := range ascending {
			if got := newerVersion(a, b); got != (i > j) {
				t.Errorf("%q newer than %q: %v", a, b, got)
			}
		}
	}
	for _, pair := range [][2]string{
		{"dev", "1.0.0"},
		{"1.0.0", "dev"},
		{"abc1234", "1.0.0"},
		{"1.0.0", "1.0.0-dirty"},
		{"1.0.0-dirty", "1.0.0"},
		{"1.0.0-3-gaaaaaaa", "1.0.0-3-gbbbbbbb"},
		{"1.0.0-3-gbbbbbbb", "1.0.0-3-gaaaaaaa"},
		{"1234567", "1.0"},
		{"v1.0.0", "1.0.0"},
	} {
		if newerVersion(pair[0], pair[1]) {
			t.Errorf("%q is newer than %q", pair[0], pair[1])
		}
	}
}
