//go:build netns

package netlab_test

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// Programs of the newer Debian run, and the host keeps its own.
func TestNetNSNewerDebian(t *testing.T) {
	version := func(ctx context.Context, form string, args ...string) float64 {
		t.Helper()
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		found := regexp.MustCompile(form).FindSubmatch(out)
		if found == nil {
			t.Fatalf("%q has not %s: %v: %s", args, form, err, out)
		}
		v, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range []struct {
		form  string
		args  []string
		least float64
	}{
		{`^OpenVPN (\d\.\d+)`, []string{"openvpn", "--version"}, 2.7},
		{`strongSwan (\d\.\d+)`, []string{"swanctl", "--version", "--raw"}, 6.0},
	} {
		host := version(t.Context(), tt.form, tt.args...)
		newer := version(t.Context(), tt.form, netlab.NewerDebian(tt.args...)...)
		if after := version(t.Context(), tt.form, tt.args...); newer < tt.least || after != host {
			t.Errorf("%q is %v, want at least %v; that of the host is %v and then %v", tt.args, newer, tt.least, host, after)
		}
	}
}
