package sslvpn

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

func TestThrottle(t *testing.T) {
	var th throttle
	now := time.Unix(100000, 0)
	from := netip.MustParseAddr("192.0.2.1")
	for range freeByUser {
		th.failed(now, "alice", from)
	}
	if w := th.wait(now, "alice", from); w != 0 {
		t.Errorf("after the free failures: %s", w)
	}
	want := []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute}
	for _, w := range want {
		th.failed(now, "alice", from)
		if got := th.wait(now, "alice", netip.MustParseAddr("192.0.2.9")); got != w {
			t.Errorf("waits %s, want %s", got, w)
		}
	}
	if w := th.wait(now, "bob", from); w != 0 {
		t.Errorf("another user waits %s", w)
	}
	if w := th.wait(now.Add(time.Minute), "alice", from); w != 0 {
		t.Errorf("a minute later: %s", w)
	}
	th.succeeded(now, "alice", netip.MustParseAddr("192.0.2.9"))
	th.failed(now, "alice", from)
	if w := th.wait(now, "alice", from); w != 0 {
		t.Errorf("after a success: %s", w)
	}
	for i := range freeByAddress {
		th.failed(now, fmt.Sprint("user", i), from)
	}
	if w := th.wait(now, "carol", from); w == 0 {
		t.Error("an address may guess for any number of users")
	}
	if w := th.wait(now.Add(forgiveAfter), "carol", from); w != 0 {
		t.Errorf("not forgiven: %s", w)
	}
}

// Wrong passwords from elsewhere do not keep a user out at home, and being at
// home does not make guessing free.
func TestThrottleAtHome(t *testing.T) {
	var th throttle
	now := time.Unix(100000, 0)
	at, elsewhere, third := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1")
	th.succeeded(now, "alice", at)
	for i := range 30 {
		th.failed(now, "alice", netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
	}
	if w := th.wait(now, "alice", at); w != 0 {
		t.Errorf("at home: %s", w)
	}
	if w := th.wait(now, "alice", third); w != maxWaitByUser {
		t.Errorf("elsewhere: %s", w)
	}
	th.succeeded(now, "alice", at)
	if w := th.wait(now, "alice", elsewhere); w != maxWaitByUser {
		t.Errorf("a login at home lets those elsewhere guess on: %s", w)
	}
	for range freeByUser + 2 {
		th.failed(now, "alice", at)
	}
	if w := th.wait(now, "alice", at); w != 2*firstWait {
		t.Errorf("guessing at home: %s", w)
	}
	if w := th.wait(now, "bob", at); w != 0 {
		t.Errorf("another user: %s", w)
	}
	if w := th.wait(now.Add(homeFor), "alice", at); w != 0 || th.isHome(now.Add(homeFor), home{"alice", at}) {
		t.Errorf("a home for ever: %s", w)
	}
}

func TestThrottleByNetwork(t *testing.T) {
	var th throttle
	now := time.Unix(100000, 0)
	for i := range freeByAddress + 1 {
		th.failed(now, fmt.Sprint("user", i), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)))
	}
	if w := th.wait(now, "x", netip.MustParseAddr("2001:db8::ffff")); w == 0 {
		t.Error("another address of the same /64 is free")
	}
	if w := th.wait(now, "x", netip.MustParseAddr("2001:db8:0:1::1")); w != 0 {
		t.Errorf("the next /64 waits %s", w)
	}
}

func TestThrottleIsBounded(t *testing.T) {
	var th throttle
	now := time.Unix(100000, 0)
	for i := range maxThrottled + 100 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		th.failed(now, fmt.Sprint("user", i), a)
		th.succeeded(now, "alice", a)
		th.failed(now, "alice", a)
	}
	if u, a, h, w := len(th.byUser), len(th.byAddr), len(th.homes), len(th.byHome); max(u, a, h, w) > maxThrottled {
		t.Errorf("%d users, %d addresses, %d homes and %d failures there are kept", u, a, h, w)
	}
}

func TestTokens(t *testing.T) {
	k := &tokenKey{1, 2, 3}
	now := time.Unix(1_700_000_000, 0)
	alice := &User{ID: "u1", Name: "alice", PasswordHash: "h"}
	token := k.issue(now, now.Add(-time.Hour), "ep1", alice)
	if !strings.HasPrefix(token, "SESS_ID_AT_") || len(token) > 200 {
		t.Errorf("token %q", token)
	}
	if first, ok := k.check(now.Add(tokenLifetime-time.Second), token, "ep1", alice); !ok || !first.Equal(now.Add(-time.Hour)) {
		t.Errorf("a token of the lifetime's last second: %t, first login %s", ok, first)
	}
	valid := func(k *tokenKey, now time.Time, token, endpoint string, u *User) bool {
		_, ok := k.check(now, token, endpoint, u)
		return ok
	}
	flip := []byte(token)
	flip[len(flip)-3] ^= 1
	for name, ok := range map[string]bool{
		"expired":           valid(k, now.Add(tokenLifetime), token, "ep1", alice),
		"from the future":   valid(k, now.Add(-time.Second), token, "ep1", alice),
		"another endpoint":  valid(k, now, token, "ep2", alice),
		"another user":      valid(k, now, token, "ep1", &User{ID: "u2", Name: "bob", PasswordHash: "h"}),
		"another password":  valid(k, now, token, "ep1", &User{ID: "u1", Name: "alice", PasswordHash: "i"}),
		"shifted fields":    valid(k, now, token, "ep1", &User{ID: "u1a", Name: "lice", PasswordHash: "h"}),
		"another key":       valid(&tokenKey{9}, now, token, "ep1", alice),
		"short":             valid(k, now, token[:len(token)-4], "ep1", alice),
		"prefix alone":      valid(k, now, tokenPrefix, "ep1", alice),
		"long":              valid(k, now, token+"AAAA", "ep1", alice),
		"changed":           valid(k, now, string(flip), "ep1", alice),
		"no base64":         valid(k, now, tokenPrefix+strings.Repeat("!", 80), "ep1", alice),
		"without a prefix":  valid(k, now, token[len(tokenPrefix):], "ep1", alice),
		"prefix of another": valid(k, now, "X"+token, "ep1", alice),
	} {
		if ok {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCookies(t *testing.T) {
	k := newCookieKey()
	now := time.Unix(1_700_000_000, 0)
	local, remote := netip.MustParseAddrPort("192.0.2.1:1194"), netip.MustParseAddrPort("198.51.100.7:40000")
	client := wire.SessionID{1, 2, 3}
	cookie := k.bake(now, local, remote, client)
	if cookie == (wire.SessionID{}) {
		t.Error("zero")
	}
	for _, age := range []time.Duration{0, time.Second, 2 * cookieSlot} {
		if !k.check(now.Add(age), cookie, local, remote, client) {
			t.Errorf("turned down %s later", age)
		}
	}
	future := k.bake(now.Add(cookieSlot), local, remote, client)
	flip := cookie
	flip[7] ^= 1
	for name, ok := range map[string]bool{
		"old":             k.check(now.Add(3*cookieSlot), cookie, local, remote, client),
		"from the future": k.check(now, future, local, remote, client),
		"another address": k.check(now, cookie, local, netip.MustParseAddrPort("198.51.100.8:40000"), client),
		"another port":    k.check(now, cookie, local, netip.MustParseAddrPort("198.51.100.7:40001"), client),
		"another server":  k.check(now, cookie, netip.MustParseAddrPort("192.0.2.1:1195"), remote, client),
		"another client":  k.check(now, cookie, local, remote, wire.SessionID{1, 2, 4}),
		"changed":         k.check(now, flip, local, remote, client),
		"another key":     newCookieKey().check(now, cookie, local, remote, client),
		"zero":            k.check(now, wire.SessionID{}, local, remote, client),
	} {
		if ok {
			t.Errorf("%s: accepted", name)
		}
	}
}
