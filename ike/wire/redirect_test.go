package wire

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

func TestRedirectData(t *testing.T) {
	for _, c := range []struct {
		g     GatewayIdentity
		nonce string
		want  string
	}{
		{GatewayIdentity{Addr: netip.MustParseAddr("192.0.2.1")}, "", "\x01\x04\xc0\x00\x02\x01"},
		{GatewayIdentity{Addr: netip.MustParseAddr("::ffff:192.0.2.1")}, "nonce", "\x01\x04\xc0\x00\x02\x01nonce"},
		{GatewayIdentity{Addr: netip.MustParseAddr("2001:db8::1")}, "n", "\x02\x10\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01n"},
		{GatewayIdentity{FQDN: "gw.example"}, "", "\x03\x0agw.example"},
	} {
		got, err := RedirectData(c.g, []byte(c.nonce))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %x, %v, want %x", c.g, got, err, c.want)
		}
		g, nonce, err := ParseRedirect(got)
		if err != nil || g.String() != (GatewayIdentity{c.g.Addr.Unmap(), c.g.FQDN}).String() || string(nonce) != c.nonce {
			t.Errorf("%s reads as %s with nonce %q, %v", c.g, g, nonce, err)
		}
	}
	for _, g := range []GatewayIdentity{{}, {FQDN: strings.Repeat("a", 256)}} {
		if _, err := RedirectData(g, nil); err == nil {
			t.Errorf("%s is written", g)
		}
	}
	for _, bad := range []string{"", "\x01", "\x01\x04\x01\x02\x03", "\x01\x00", "\x01\x10" + strings.Repeat("a", 16), "\x02\x04abcd", "\x04\x01a", "\x01\x05abcde"} {
		if g, _, err := ParseRedirect([]byte(bad)); err == nil {
			t.Errorf("%x reads as %s", bad, g)
		}
	}
}

func FuzzRedirect(f *testing.F) {
	target := fuzztest.New(f)
	target.Add([]byte("\x01\x04\xc0\x00\x02\x01nonce"))
	target.Add([]byte("\x02\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"))
	target.Add([]byte("\x03\x0agw.example"))
	target.Fuzz(func(t *testing.T, b []byte) {
		g, nonce, err := ParseRedirect(b)
		if err != nil {
			return
		}
		again, err := RedirectData(g, nonce)
		if err != nil {
			t.Fatal(err)
		}
		// An IPv4 address in IPv6 form is written as an IPv4 one.
		if !bytes.Equal(again, b) && !g.Addr.Is4In6() {
			t.Errorf("%x is written as %x", b, again)
		}
	})
}
