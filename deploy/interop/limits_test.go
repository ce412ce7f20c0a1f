//go:build e2e

package interop

import (
	"os"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// What the page says that libreswan does not speak it refuses, in the words that
// are there.
func TestLibreswanLimits(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		proposal string
		options  []string
		words    string
	}{
		{"ike=aes128-sha1-modp768", []string{"-v1"}, "DH algorithm 'modp768' is not supported"},
		{"ike=aes128-sha1-modp1024", []string{"-v1"}, "DH algorithm 'modp1024' is not supported"},
		{"ike=aes128-sha1-modp1024", []string{"-v2"}, "DH algorithm 'modp1024' is not supported"},
		{"esp=aes128-sha1;dh19", []string{"-v1", "-pfs=yes"}, "ESP DH algorithm 'dh19' is not supported by IKEv1"},
		{"esp=aes128-sha1;dh20", []string{"-v1", "-pfs=yes"}, "ESP DH algorithm 'dh20' is not supported by IKEv1"},
		{"esp=aes128-sha1;dh21", []string{"-v1", "-pfs=yes"}, "ESP DH algorithm 'dh21' is not supported by IKEv1"},
	} {
		err := netlab.LibreswanParses(t.Context(), test.proposal, test.options...)
		if err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s %q: %v, want %q", test.proposal, test.options, err, test.words)
		}
	}
	for _, words := range []string{"`DH algorithm 'modp768' is not supported`", "`DH algorithm 'modp1024' is not supported`", "`ESP DH algorithm 'dh19' is not supported by IKEv1`"} {
		if !strings.Contains(string(page), words) {
			t.Errorf("the page lacks %s", words)
		}
	}
}
