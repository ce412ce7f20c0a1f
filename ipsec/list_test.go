package ipsec

import (
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	groups := make([]Transform, 3*maxListed)
	for i := range groups {
		groups[i] = Group(uint16(1000 + i))
	}
	for _, tc := range []struct {
		n         int
		ends      string
		separator int
	}{
		{0, "none", 0},
		{1, "1000", 0},
		{2, "1001", 1},
		{maxListed, "1031", maxListed - 1},
		{maxListed + 1, ", and 1 more", maxListed},
		{3 * maxListed, ", and 64 more", maxListed},
	} {
		got := TransformList(groups[:tc.n])
		if !strings.HasSuffix(got, tc.ends) || strings.Count(got, ", ") != tc.separator {
			t.Errorf("%d: %s", tc.n, got)
		}
	}
}
