package ike

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
)

func installed(t *testing.T, b ipsec.Backend) []ipsec.Policy {
	t.Helper()
	inv, err := b.List()
	if err != nil {
		t.Fatal(err)
	}
	return inv.Policies
}

func prefix(s string) ipsec.TrafficSelector {
	return ipsec.SelectorFromPrefix(netip.MustParsePrefix(s))
}

func TestPolicyGoesWithItsLastHolder(t *testing.T) {
	b := ipsectest.NewBackend()
	table := policyTable{backend: b}
	id := ipsec.PolicyID{Direction: ipsec.Out, Local: prefix("10.1.0.0/16"), Remote: prefix("10.2.0.0/16"), Priority: ipsec.PriorityProtect}
	old := ipsec.Policy{
		PolicyID: id, Action: ipsec.Protect, ReqID: 1,
		TunnelLocal: netip.MustParseAddr("192.0.2.1"), TunnelRemote: netip.MustParseAddr("192.0.2.2"),
	}
	next := old
	next.TunnelRemote = netip.MustParseAddr("192.0.2.3")
	moved := old
	moved.TunnelRemote = netip.MustParseAddr("192.0.2.4")

	steps := []struct {
		name string
		do   func() error
		want []ipsec.Policy
	}{
		{"first", func() error { return table.add("a", "", old) }, []ipsec.Policy{old}},
		{"again", func() error { return table.add("a", "", old) }, []ipsec.Policy{old}},
		{"second wins", func() error { return table.add("b", "", next) }, []ipsec.Policy{next}},
		{"first changes behind it", func() error { return table.add("a", "", moved) }, []ipsec.Policy{next}},
		{"second leaves: back to the first", func() error { return table.remove("b", id) }, []ipsec.Policy{moved}},
		{"stranger leaves", func() error { return table.remove("c", id) }, []ipsec.Policy{moved}},
		{"second is back", func() error { return table.add("b", "", next) }, []ipsec.Policy{next}},
		{"first leaves", func() error { return table.remove("a", id) }, []ipsec.Policy{next}},
		{"last leaves", func() error { return table.remove("b", id) }, nil},
		{"and again", func() error { return table.remove("b", id) }, nil},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := installed(t, b); !slices.Equal(got, step.want) {
			t.Fatalf("%s: got %v, want %v", step.name, got, step.want)
		}
	}
}

func TestPolicyRefusedIsNotHeld(t *testing.T) {
	b := ipsectest.NewBackend()
	table := policyTable{backend: b}
	p := ipsec.Policy{
		PolicyID: ipsec.PolicyID{Direction: ipsec.In, Local: prefix("10.1.0.0/16"), Remote: prefix("10.2.0.0/16"), Priority: ipsec.PriorityDiscard},
		Action:   ipsec.Discard,
	}
	full := errors.New("full")
	b.FailNext(ipsectest.OpAddPolicy, full)
	if err := table.add("a", "", p); !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
	if err := table.add("a", "", p); err != nil {
		t.Fatal(err)
	}
	if got := installed(t, b); len(got) != 1 {
		t.Errorf("%d policies", len(got))
	}
	if held, err := table.release("a"); held != 1 || err != nil {
		t.Errorf("released %d, %v", held, err)
	}
	if got := installed(t, b); len(got) != 0 {
		t.Errorf("%d policies are left", len(got))
	}
}

// What one claimant protects is refused to another, as far as addresses go; its
// own it may have again.
func TestClaimants(t *testing.T) {
	table := policyTable{backend: ipsectest.NewBackend()}
	policy := func(ifID uint32, local, remote string) ipsec.Policy {
		return ipsec.Policy{
			PolicyID: ipsec.PolicyID{Direction: ipsec.In, Local: prefix(local), Remote: prefix(remote), Priority: ipsec.PriorityProtect, IfID: ifID},
			Action:   ipsec.Protect, ReqID: ifID,
			TunnelLocal: netip.MustParseAddr("192.0.2.1"), TunnelRemote: netip.MustParseAddr("192.0.2.2"),
		}
	}
	first := policy(1, "10.1.0.0/16", "10.2.1.0/24")
	if err := table.add("p", "a", first); err != nil {
		t.Fatal(err)
	}
	tcp := policy(2, "10.1.0.0/16", "10.2.1.0/24")
	tcp.Remote.Protocol = 6
	for _, tt := range []struct {
		name     string
		claimant string
		policy   ipsec.Policy
		refused  bool
	}{
		{"the same of another", "b", policy(2, "10.1.0.0/16", "10.2.1.0/24"), true},
		{"a wider one", "b", policy(2, "10.1.2.0/24", "10.2.0.0/16"), true},
		{"a narrower one", "b", policy(2, "10.1.0.0/16", "10.2.1.4/32"), true},
		{"another protocol, which routes do not know", "b", tcp, true},
		{"another network", "b", policy(2, "10.1.0.0/16", "10.2.2.0/24"), false},
		{"between other local networks", "b", policy(2, "10.3.0.0/16", "10.2.1.0/24"), false},
		{"its own, by another machine", "a", policy(3, "10.1.0.0/16", "10.2.1.0/25"), false},
		{"of a connection that claims nothing", "", policy(4, "10.1.0.0/16", "10.2.1.0/24"), false},
	} {
		if err := table.add(tt.name, tt.claimant, tt.policy); errors.Is(err, sa.ErrFlowConflict) != tt.refused || !tt.refused && err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for _, holder := range []string{"p", "its own, by another machine"} {
		if _, err := table.release(holder); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.add("q", "b", policy(2, "10.1.0.0/16", "10.2.1.0/24")); err != nil {
		t.Errorf("after the first has gone: %v", err)
	}
}

// What a connection is for by its configuration no other claimant gets, in any form.
func TestReservations(t *testing.T) {
	table := policyTable{backend: ipsectest.NewBackend()}
	flow := func(local, remote string) sa.Flow {
		return sa.Flow{Local: []ipsec.TrafficSelector{prefix(local)}, Remote: []ipsec.TrafficSelector{prefix(remote)}}
	}
	reserved := []reservation{{"static", sa.Reservation{Claimant: "a", Flows: []sa.Flow{
		flow("10.1.0.0/16", "10.2.1.0/24"), flow("fd00:1::/64", "fd00:2::/64"),
	}}}}
	if lost := table.reserve(reserved); len(lost) != 0 {
		t.Errorf("lost %v", lost)
	}
	policy := func(local, remote ipsec.TrafficSelector) ipsec.Policy {
		return ipsec.Policy{
			PolicyID: ipsec.PolicyID{Direction: ipsec.Out, Local: local, Remote: remote, Priority: ipsec.PriorityProtect, IfID: 7},
			Action:   ipsec.Protect, ReqID: 7,
		}
	}
	port := prefix("10.2.1.9/32")
	port.Protocol, port.StartPort, port.EndPort = 17, 53, 53
	across := prefix("10.2.0.0/24")
	across.End = netip.MustParseAddr("10.2.1.0")
	for name, tt := range map[string]struct {
		claimant      string
		local, remote ipsec.TrafficSelector
		refused       bool
	}{
		"the same":                {"b", prefix("10.1.0.0/16"), prefix("10.2.1.0/24"), true},
		"a host in it":            {"b", prefix("10.1.0.0/16"), prefix("10.2.1.77/32"), true},
		"from a host only":        {"b", prefix("10.1.3.3/32"), prefix("10.2.1.0/24"), true},
		"around it":               {"b", prefix("10.0.0.0/8"), prefix("10.0.0.0/8"), true},
		"narrow here, wide there": {"b", prefix("10.1.3.0/24"), prefix("10.2.0.0/16"), true},
		"a range across its edge": {"b", prefix("10.1.0.0/16"), across, true},
		"a port of a host":        {"b", prefix("10.1.0.0/16"), port, true},
		"of IPv6":                 {"b", prefix("fd00:1::/64"), prefix("fd00:2::1/128"), true},
		"beside it":               {"b", prefix("10.1.0.0/16"), prefix("10.2.2.0/24"), false},
		"from elsewhere":          {"b", prefix("10.3.0.0/16"), prefix("10.2.1.0/24"), false},
		"of the same peer":        {"a", prefix("10.1.0.0/16"), prefix("10.2.1.64/26"), false},
		"of one that is sure":     {"", prefix("10.1.0.0/16"), prefix("10.2.1.128/26"), false},
	} {
		err := table.add(name, tt.claimant, policy(tt.local, tt.remote))
		if errors.Is(err, sa.ErrFlowConflict) != tt.refused || !tt.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if tt.refused && !strings.Contains(err.Error(), "connection static") {
			t.Errorf("%s: who holds it is not told: %v", name, err)
		}
	}
	// What is reserved later is taken from whoever has it.
	later := append(reserved, reservation{"next", sa.Reservation{Claimant: "c", Flows: []sa.Flow{flow("10.1.0.0/16", "10.2.2.128/25")}}})
	lost := table.reserve(later)
	if len(lost) != 1 || len(lost["beside it"]) != 1 || !errors.Is(lost["beside it"][0].Err, sa.ErrFlowConflict) {
		t.Errorf("lost %v", lost)
	}
}
