package ike

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
)

func TestCookieBindsInitiator(t *testing.T) {
	var jar cookieJar
	now := time.Unix(1e9, 0)
	from, nonce := netip.MustParseAddr("192.0.2.1"), bytes.Repeat([]byte{1}, 32)
	cookie := jar.bake(now, from, 7, nonce)
	if !jar.check(now, cookie, from, 7, nonce) {
		t.Fatal("a fresh cookie is refused")
	}
	if !bytes.Equal(cookie, jar.bake(now.Add(time.Second), from, 7, nonce)) {
		t.Error("the same request gets another cookie")
	}
	flipped := bytes.Clone(cookie)
	flipped[len(flipped)-1] ^= 1
	tests := []struct {
		name   string
		cookie []byte
		from   netip.Addr
		spi    uint64
		nonce  []byte
	}{
		{"another address", cookie, netip.MustParseAddr("192.0.2.2"), 7, nonce},
		{"another SPI", cookie, from, 8, nonce},
		{"another nonce", cookie, from, 7, bytes.Repeat([]byte{2}, 32)},
		{"a flipped bit", flipped, from, 7, nonce},
		{"another version", append([]byte{0, 0, 0, 9}, cookie[4:]...), from, 7, nonce},
		{"the version before the first", append([]byte{0, 0, 0, 0}, cookie[4:]...), from, 7, nonce},
		{"short", cookie[:len(cookie)-1], from, 7, nonce},
		{"empty", nil, from, 7, nonce},
	}
	for _, tt := range tests {
		if jar.check(now, tt.cookie, tt.from, tt.spi, tt.nonce) {
			t.Errorf("%s: accepted", tt.name)
		}
	}
}

func TestCookieSecretsRotate(t *testing.T) {
	start := time.Unix(1e9, 0)
	from, nonce := netip.MustParseAddr("2001:db8::1"), bytes.Repeat([]byte{1}, 16)
	tests := []struct {
		name string
		uses []time.Duration // of the jar after the cookie was made; the last one checks it
		want bool
	}{
		{"at once", []time.Duration{0}, true},
		{"same secret", []time.Duration{cookieLifetime - 1}, true},
		{"previous secret", []time.Duration{cookieLifetime, 2*cookieLifetime - 1}, true},
		{"two secrets later", []time.Duration{cookieLifetime, 2 * cookieLifetime}, false},
		{"unused for long", []time.Duration{2 * cookieLifetime}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var jar cookieJar
			cookie := jar.bake(start, from, 1, nonce)
			var got bool
			for _, d := range tt.uses {
				got = jar.check(start.Add(d), cookie, from, 1, nonce)
			}
			if got != tt.want {
				t.Errorf("accepted = %v, want %v", got, tt.want)
			}
		})
	}
}
