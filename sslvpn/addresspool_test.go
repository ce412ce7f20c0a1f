package sslvpn

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func newPool(t *testing.T, prefix string) *addressPool {
	t.Helper()
	p, err := newAddressPool(netip.MustParsePrefix(prefix))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func acquire(t *testing.T, p *addressPool, user string) string {
	t.Helper()
	a, err := p.acquire(user)
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

func TestPoolOfWrongShape(t *testing.T) {
	for prefix, want := range map[string]string{
		"10.8.0.1/24":   "must be a network address, such as 10.8.0.0/24",
		"10.0.0.0/8":    "must be of /14 to /29",
		"10.8.0.0/30":   "must be of /14 to /29",
		"2001:db8::/64": "must be an IPv4 network",
	} {
		if _, err := newAddressPool(netip.MustParsePrefix(prefix)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", prefix, err)
		}
	}
	if _, err := newAddressPool(netip.Prefix{}); err == nil {
		t.Error("no prefix: no error")
	}
}

func TestPoolLendsFirstHosts(t *testing.T) {
	p := newPool(t, "10.8.0.0/28") // four blocks, one of the server
	if p.server().String() != "10.8.0.1" {
		t.Errorf("server %s", p.server())
	}
	for i, want := range []string{"10.8.0.5", "10.8.0.9", "10.8.0.13"} {
		got := acquire(t, p, string(rune('a'+i)))
		if got != want {
			t.Errorf("lent %s, want %s", got, want)
		}
	}
	if _, err := p.acquire("d"); !errors.Is(err, errPoolExhausted) {
		t.Errorf("exhausted: %v", err)
	}
	p.release(netip.MustParseAddr("10.8.0.9"))
	p.release(netip.MustParseAddr("10.8.0.9"))
	p.release(netip.MustParseAddr("192.0.2.1"))
	if got := acquire(t, p, "d"); got != "10.8.0.9" {
		t.Errorf("lent %s", got)
	}
	if peer := peerOf(netip.MustParseAddr("10.8.0.9")); peer.String() != "10.8.0.10" {
		t.Errorf("peer %s", peer)
	}
}

// TestPoolIsSticky: who comes back has the address of the last time, as long as
// others could be given one that nobody had.
func TestPoolIsSticky(t *testing.T) {
	p := newPool(t, "10.8.0.0/27") // seven clients
	alice := acquire(t, p, "alice")
	p.release(netip.MustParseAddr(alice))
	for _, user := range []string{"b", "c", "d", "e", "f", "g"} {
		if got := acquire(t, p, user); got == alice {
			t.Errorf("%s has been given alice's %s", user, got)
		}
	}
	if got := acquire(t, p, "alice"); got != alice {
		t.Errorf("alice came back to %s, had %s", got, alice)
	}
	p.release(netip.MustParseAddr(alice))
	if got := acquire(t, p, "late"); got != alice {
		t.Errorf("the last address was not lent: %s", got)
	}
	if _, err := p.acquire("alice"); !errors.Is(err, errPoolExhausted) {
		t.Errorf("exhausted: %v", err)
	}
	if len(p.last) > len(p.blocks) {
		t.Errorf("%d users are remembered for %d blocks", len(p.last), len(p.blocks))
	}
}

func TestPoolForgetsWhoMovedOn(t *testing.T) {
	p := newPool(t, "10.8.0.0/24")
	for i := range 10_000 {
		user := strings.Repeat("x", i%200) + string(rune('a'+i%26))
		p.release(netip.MustParseAddr(acquire(t, p, user)))
	}
	if len(p.last) > len(p.blocks) {
		t.Errorf("%d users are remembered for %d blocks", len(p.last), len(p.blocks))
	}
}

func TestPoolTwoSessionsOfOneUser(t *testing.T) {
	p := newPool(t, "10.8.0.0/27")
	first, second := acquire(t, p, "alice"), acquire(t, p, "alice")
	if first == second {
		t.Errorf("both sessions have %s", first)
	}
}

func TestPoolStaticAddresses(t *testing.T) {
	p := newPool(t, "10.8.0.0/28")
	static := netip.MustParseAddr("10.8.0.5")
	if err := p.reserve([]netip.Addr{static}); err != nil {
		t.Fatal(err)
	}
	if got := acquire(t, p, "b"); got != "10.8.0.9" {
		t.Errorf("lent %s", got)
	}
	if err := p.acquireStatic("alice", static); err != nil {
		t.Error(err)
	}
	if err := p.acquireStatic("alice", static); err == nil || !strings.Contains(err.Error(), "is in use") || strings.Contains(err.Error(), "alice") {
		t.Errorf("twice: %v", err)
	}
	p.release(static)
	acquire(t, p, "c")
	if _, err := p.acquire("d"); !errors.Is(err, errPoolExhausted) {
		t.Errorf("a static address was lent: %v", err)
	}
	for a, want := range map[string]string{
		"10.8.0.6":  "must be the first host of a /30 block, such as 10.8.0.5",
		"10.8.0.1":  "must not be of the first block",
		"10.8.0.17": "must be in the pool 10.8.0.0/28",
		"::1":       "must be in the pool",
	} {
		if err := p.reserve([]netip.Addr{netip.MustParseAddr(a)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("reserve %s: %v", a, err)
		}
		if err := p.acquireStatic("x", netip.MustParseAddr(a)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("acquire %s: %v", a, err)
		}
	}
	if !p.reserved[1] || len(p.reserved) != 1 {
		t.Errorf("a refused change has changed %v", p.reserved)
	}
}
