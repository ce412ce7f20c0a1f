package control

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control/store"
)

func TestDivision(t *testing.T) {
	a, b, c := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("203.0.113.3")
	g := &Gateway{HAMode: ActiveStandby, EIPs: [2]EIPBinding{{Address: a}, {Address: b}}}
	g.ID = "g"
	both := &Gateway{HAMode: ActiveActive, EIPs: [2]EIPBinding{{Address: a}, {Address: b}}}
	both.ID = "both"
	nobodys := &Gateway{HAMode: ActiveActive, EIPs: [2]EIPBinding{{Address: c}, {Address: c}}}

	type answers struct{ serves1, serves2, tends1, tends2, carries, reports, reportsBoth, tendsNobodys, reportsNobodys bool }
	nodes := map[string]Node{"one": {Name: "one", Floating: []netip.Addr{a, b}}, "two": {Name: "two", Floating: []netip.Addr{a, b}}}
	owners := func(first, second string) map[netip.Addr]string {
		m := map[netip.Addr]string{}
		for address, node := range map[netip.Addr]string{a: first, b: second} {
			if node != "" {
				m[address] = node
			}
		}
		return m
	}
	for _, tt := range []struct {
		name string
		d    *Division
		want answers
	}{
		{"alone", nil, answers{true, true, true, true, true, true, true, true, true}},
		{
			"everything is here",
			&Division{Node: "one", Nodes: nodes, Owners: owners("one", "one"), Active: map[string]string{"g": "one"}, Steward: "one"},
			answers{true, true, true, true, true, true, true, true, true},
		},
		{
			"everything is elsewhere",
			&Division{Node: "one", Nodes: nodes, Owners: owners("two", "two"), Active: map[string]string{"g": "two"}, Steward: "two"},
			answers{},
		},
		{
			"one address each",
			&Division{Node: "two", Nodes: nodes, Owners: owners("one", "two"), Active: map[string]string{"g": "one"}, Steward: "one"},
			answers{serves2: true, tends2: true},
		},
		{
			"nobody has it yet, and the steward leaves it to those who can",
			&Division{Node: "one", Nodes: nodes, Steward: "one"},
			answers{tendsNobodys: true, reportsNobodys: true},
		},
		{
			"nobody can have it, and the steward answers",
			&Division{Node: "one", Nodes: map[string]Node{"one": {Name: "one"}}, Steward: "one"},
			answers{tends1: true, tends2: true, reports: true, reportsBoth: true, tendsNobodys: true, reportsNobodys: true},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have := answers{
				tt.d.Serves(a), tt.d.Serves(b), tt.d.Tends(g, Slot1), tt.d.Tends(g, Slot2), tt.d.Carries(g), tt.d.Reports(g),
				tt.d.Reports(both), tt.d.Tends(nobodys, Slot1), tt.d.Reports(nobodys),
			}
			if have != tt.want {
				t.Errorf("%+v, want %+v", have, tt.want)
			}
			if !tt.d.Carries(both) {
				t.Error("an active-active gateway is carried wherever its addresses are")
			}
		})
	}
}

// TestStatusOfNobody shows that what the last node left of a connection is over.
func TestStatusOfNobody(t *testing.T) {
	a := netip.MustParseAddr("203.0.113.1")
	g := &Gateway{EIPs: [2]EIPBinding{{Address: a}, {}}}
	left := ConnectionStatus{State: ConnectionActive, Node: "one", Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for _, tt := range []struct {
		name  string
		d     *Division
		state ConnectionState
	}{
		{"a node alone", nil, ConnectionActive},
		{"served", &Division{Node: "two", Owners: map[netip.Addr]string{a: "one"}}, ConnectionActive},
		{"served by nobody", &Division{Node: "two"}, ConnectionUnknown},
	} {
		if got := tt.d.current(left, g, Slot1); got.State != tt.state || (tt.state == ConnectionUnknown) != strings.Contains(got.Message, "one") {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// TestSealingKeyOfAFleet lets the nodes of one key in and no other.
func TestSealingKeyOfAFleet(t *testing.T) {
	s := store.NewMemory()
	load := func(name string) *SealingKey {
		key, err := LoadSealingKey(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first, second := load("a"), load("b")
	for range 2 {
		if err := CheckSealingKey(t.Context(), s, first); err != nil {
			t.Error(err)
		}
	}
	if err := CheckSealingKey(t.Context(), s, second); err == nil || !strings.Contains(err.Error(), "copy the key file") {
		t.Errorf("another key: %v", err)
	}
	for _, bad := range []string{"", "x"} {
		if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put(keySealingCheck, []byte(bad))}); err != nil {
			t.Fatal(err)
		}
		if err := CheckSealingKey(t.Context(), s, first); err == nil {
			t.Errorf("a damaged check of %d octets is taken", len(bad))
		}
	}
}
