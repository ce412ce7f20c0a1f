package ike

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
)

func TestApplyRefusesInvalidConnections(t *testing.T) {
	tests := []struct {
		name string
		edit func(c *sa.Connection)
		want string
	}{
		{"name", func(c *sa.Connection) { c.Name = "" }, "name: empty"},
		{"local", func(c *sa.Connection) { c.Local = netip.IPv4Unspecified() }, "local: no address"},
		{"remote", func(c *sa.Connection) { c.Initiate = true; c.Remote = netip.Addr{} }, "remote: an address"},
		{"family", func(c *sa.Connection) { c.Remote = netip.MustParseAddr("2001:db8::1") }, "not of the family"},
		{"psk", func(c *sa.Connection) { c.PSK = nil }, "pre-shared key: empty"},
		{"id", func(c *sa.Connection) { c.RemoteID = sa.Identity{} }, "identities: both"},
		{"proposals", func(c *sa.Connection) { c.Proposals = nil }, "IKE proposals: 0"},
		{"children", func(c *sa.Connection) { c.Children = nil }, "children: at least one"},
		{"child name", func(c *sa.Connection) { c.Children = append(c.Children, c.Children[0]) }, "occurs twice"},
		{"child reqid", func(c *sa.Connection) { c.Children[0].ReqID = 0 }, "reqid: zero"},
		{"child proposals", func(c *sa.Connection) { c.Children[0].Proposals = nil }, "ESP proposals: 0"},
		{"child selectors", func(c *sa.Connection) { c.Children[0].Local = nil }, "selectors: 0"},
		{"child selector", func(c *sa.Connection) { c.Children[0].Remote = make([]ipsec.TrafficSelector, 1) }, "not valid"},
		{"name twice", func(c *sa.Connection) { c.Name, c.Children[0].ReqID = "good", 7 }, "two of that name"},
		{"reqid twice", func(c *sa.Connection) { c.Children[0].ReqID = 1 }, "reqid 1 is that of connection \"good\""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := ipsectest.NewBackend()
			s := NewServer(Options{Transport: &recorder{}, Backend: b})
			good := testConnection("good", gatewayAddr.Addr(), netip.Addr{}, 1)
			bad := testConnection("bad", gatewayAddr.Addr(), peerAddr.Addr(), 2)
			tt.edit(&bad)
			err := s.Apply([]sa.Connection{good, bad})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), string(good.PSK)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if all := s.Snapshot(); len(all) != 1 || all[0].Name != "good" || len(installed(t, b)) != 2 {
				t.Errorf("the good one is not there: %v", all)
			}
		})
	}
}

func TestApplyKeepsWhatAnInvalidChangeWouldReplace(t *testing.T) {
	b := ipsectest.NewBackend()
	s := NewServer(Options{Transport: &recorder{}, Backend: b})
	c := testConnection("c", gatewayAddr.Addr(), netip.Addr{}, 1)
	if err := s.Apply([]sa.Connection{c}); err != nil {
		t.Fatal(err)
	}
	before := installed(t, b)
	c.PSK = nil
	c.Children[0].Remote = []ipsec.TrafficSelector{prefix("10.9.0.0/16")}
	if err := s.Apply([]sa.Connection{c}); err == nil {
		t.Fatal("accepted")
	}
	if got := installed(t, b); len(got) != 2 || !slices.Equal(got, before) {
		t.Errorf("got %v, want %v", got, before)
	}
}

// Under every pair of selectors lies a Discard policy in both directions, and
// it follows the configuration.
// A connection whose next version is refused keeps its ReqIDs: they cannot go to
// another one, and not by a chain of refusals either.
func TestApplyKeepsReqIDs(t *testing.T) {
	b := ipsectest.NewBackend()
	s := NewServer(Options{Transport: &recorder{}, Backend: b})
	conn := func(name string, reqID uint32) sa.Connection {
		return testConnection(name, gatewayAddr.Addr(), peerAddr.Addr(), reqID)
	}
	if err := s.Apply([]sa.Connection{conn("a", 5), conn("b", 6)}); err != nil {
		t.Fatal(err)
	}
	bad := conn("a", 5)
	bad.PSK = nil
	// b is to take a's, and c what b leaves.
	err := s.Apply([]sa.Connection{conn("c", 6), conn("b", 5), bad})
	mustContain(t, fmt.Sprint(err), `connection "a": pre-shared key`, `connection "b": child "b": reqid 5 is that of connection "a"`,
		`connection "c": child "c": reqid 6 is that of connection "b"`)
	if len(s.conns) != 2 || s.conns["a"].cfg.Children[0].ReqID != 5 || s.conns["b"].cfg.Children[0].ReqID != 6 {
		t.Errorf("%d connections", len(s.conns))
	}
	// What is valid may swap.
	if err := s.Apply([]sa.Connection{conn("a", 6), conn("b", 5)}); err != nil {
		t.Error(err)
	}
}

func TestRemovedConnectionsKeyIsWiped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		wantUp(t, "c", a, b)
		for _, g := range []*gateway{a, b} {
			key := g.conns["c"].cfg.PSK
			if len(key) == 0 || !slices.Equal(key, atWest.PSK) {
				t.Fatalf("%s: another key", g.addr)
			}
			apply(t, g)
			settleFor(time.Minute)
			if !slices.Equal(key, make([]byte, len(key))) {
				t.Errorf("%s: the key is still there", g.addr)
			}
		}
		if slices.Equal(atWest.PSK, make([]byte, len(atWest.PSK))) {
			t.Error("the caller's key is wiped")
		}
	})
}

func TestApplyInstallsDiscards(t *testing.T) {
	b := ipsectest.NewBackend()
	s := NewServer(Options{Transport: &recorder{}, Backend: b})
	want := func(step string, texts ...string) {
		t.Helper()
		var got []string
		for _, p := range installed(t, b) {
			if p.Action != ipsec.Discard || p.Priority != ipsec.PriorityDiscard {
				t.Errorf("%s: got %+v", step, p)
			}
			got = append(got, p.String())
		}
		slices.Sort(got)
		texts = slices.Sorted(slices.Values(texts))
		if !slices.Equal(got, texts) {
			t.Errorf("%s:\ngot  %q\nwant %q", step, got, texts)
		}
	}
	one := testConnection("one", gatewayAddr.Addr(), netip.Addr{}, 1)
	one.Children[0].Remote = []ipsec.TrafficSelector{prefix("10.2.0.0/16"), prefix("10.3.0.0/16"), prefix("2001:db8::/32")}
	same := testConnection("same", gatewayAddr.Addr(), netip.Addr{}, 2)
	apply := func(conns ...sa.Connection) {
		t.Helper()
		if err := s.Apply(conns); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{
		"in 10.1.0.0/16 from 10.2.0.0/16", "out 10.1.0.0/16 to 10.2.0.0/16",
		"in 10.1.0.0/16 from 10.3.0.0/16", "out 10.1.0.0/16 to 10.3.0.0/16",
	}
	apply(one, same)
	want("both", all...)
	calls := len(b.Calls())
	apply(one, same)
	if n := len(b.Calls()); n != calls {
		t.Errorf("the same again made %d calls", n-calls)
	}
	apply(same)
	want("one removed", all[:2]...)
	one.Children[0].Remote = one.Children[0].Remote[1:2]
	apply(one)
	want("one back, the other removed", all[2:]...)
	apply()
	want("none")
}

func TestApplyReportsABackendThatRefuses(t *testing.T) {
	b := ipsectest.NewBackend()
	s := NewServer(Options{Transport: &recorder{}, Backend: b})
	full := errors.New("table full")
	b.FailNext(ipsectest.OpAddPolicy, full)
	c := testConnection("c", gatewayAddr.Addr(), netip.Addr{}, 1)
	if err := s.Apply([]sa.Connection{c}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if err := s.Apply([]sa.Connection{c}); err != nil {
		t.Errorf("again: %v", err)
	}
	if n := len(installed(t, b)); n != 2 {
		t.Errorf("%d policies", n)
	}
}

func TestResetUnknownConnection(t *testing.T) {
	s := NewServer(Options{Transport: &recorder{}, Backend: ipsectest.NewBackend()})
	if err := s.Reset("nobody"); !errors.Is(err, ErrUnknownConnection) {
		t.Errorf("got %v", err)
	}
}
