package ipsectest

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// Options is what the suite has to know of a Backend.
type Options struct {
	// Outer is an outer address of the host for SAs that never carry traffic.
	// The zero value stands for 127.0.0.1.
	Outer netip.Addr
	// Pair makes two Backends that reach each other, for the tests with real
	// packets, and removes them by t.Cleanup. It is nil only for a Backend
	// that passes none.
	Pair func(t *testing.T) (a, b End)
}

// Run is the conformance suite of ipsec.Backend. newBackend returns an empty
// one, and removes it at the end of the test by t.Cleanup.
func Run(t *testing.T, newBackend func(t *testing.T) ipsec.Backend, opts Options) {
	if !opts.Outer.IsValid() {
		opts.Outer = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	tests := []struct {
		name string
		test func(t *testing.T, b ipsec.Backend, outer netip.Addr)
	}{
		{"AllocSPI", testAllocSPI},
		{"SA", testSA},
		{"SAUnsupported", testSAUnsupported},
		{"SAKeepsNoReference", testSAKeepsNoReference},
		{"UpdateSA", testUpdateSA},
		{"Policy", testPolicy},
		{"Interfaces", testInterfaces},
		{"List", testList},
		{"Events", testEvents},
		{"Concurrent", testConcurrent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, newBackend(t), opts.Outer) })
	}
	if opts.Pair != nil {
		t.Run("Traffic", func(t *testing.T) { RunTraffic(t, opts.Pair) })
	}
}

// peer is an address of documentation (RFC 5737): nothing is ever sent there.
var peer = netip.AddrFrom4([4]byte{192, 0, 2, 77})

func selector(prefix string) ipsec.TrafficSelector {
	return ipsec.SelectorFromPrefix(netip.MustParsePrefix(prefix))
}

// counting returns n octets first, first+1, …
func counting(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// testSAOf returns an SA with AES-128-GCM in UDP.
func testSAOf(direction ipsec.Direction, spi ipsec.SPI, outer netip.Addr) ipsec.SA {
	sa := ipsec.SA{
		SPI: spi, Direction: direction, Src: outer, Dst: peer,
		Encap: true, SrcPort: 4500, DstPort: 4500, ReqID: 7,
		Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), EncryptionKey: counting(byte(spi), 20),
		ESN: true, ReplayWindow: 1024,
		Local:  []ipsec.TrafficSelector{selector("10.1.0.0/16"), selector("10.2.0.0/24")},
		Remote: []ipsec.TrafficSelector{selector("10.9.0.0/16")},
	}
	if direction == ipsec.In {
		sa.Src, sa.Dst = sa.Dst, sa.Src
	}
	return sa
}

func mustAddSA(t *testing.T, b ipsec.Backend, sa ipsec.SA) ipsec.SAID {
	t.Helper()
	if err := b.AddSA(sa); err != nil {
		t.Fatalf("AddSA(%s): %v", sa.ID(), err)
	}
	return sa.ID()
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func list(t *testing.T, b ipsec.Backend) ipsec.Inventory {
	t.Helper()
	inv, err := b.List()
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	slices.SortFunc(inv.SAs, func(p, q ipsec.SA) int { return int(p.SPI) - int(q.SPI) })
	return inv
}

func testAllocSPI(t *testing.T, b ipsec.Backend, outer netip.Addr) {
	const count = 512
	live := map[ipsec.SPI]bool{}
	var ors, ands ipsec.SPI = 0, ^ipsec.SPI(0)
	for range count {
		spi, err := b.AllocSPI(outer)
		if err != nil {
			t.Fatal(err)
		}
		if spi < 256 || live[spi] {
			t.Fatalf("%s is reserved or was given out before", spi)
		}
		live[spi] = true
		ors, ands = ors|spi, ands&spi
	}
	// Of 512 random values, a bit that never changes has a chance of 2^-507.
	if ors != ^ipsec.SPI(0) || ands != 0 {
		t.Errorf("bits that are always clear: %s, always set: %s: the values are not random", ^ors, ands)
	}
	for spi := range live {
		sa := testSAOf(ipsec.In, spi, outer)
		mustAddSA(t, b, sa)
		if next, err := b.AllocSPI(outer); err != nil || live[next] {
			t.Fatalf("with an SA installed: %s, %v", next, err)
		}
		if err := b.DeleteSA(sa.ID()); err != nil {
			t.Fatal(err)
		}
		break
	}
}

func testSA(t *testing.T, b ipsec.Backend, outer netip.Addr) {
	in, out := testSAOf(ipsec.In, 0x1001, outer), testSAOf(ipsec.Out, 0x1002, outer)
	unknown := ipsec.SAID{Dst: peer, SPI: 0x1099}
	mustAddSA(t, b, in)
	mustAddSA(t, b, out)
	wantErr(t, "AddSA of an inbound SA twice", b.AddSA(in), ipsec.ErrExists)
	wantErr(t, "AddSA of an outbound SA twice", b.AddSA(out), ipsec.ErrExists)

	// Two gateways may hand out the same SPI.
	sameSPI := testSAOf(ipsec.Out, 0x1001, outer)
	mustAddSA(t, b, sameSPI)

	state, err := b.QuerySA(in.ID())
	if err != nil || state.Bytes != 0 || state.Packets != 0 || state.Sequence != 0 || !state.LastUsed.IsZero() {
		t.Errorf("QuerySA of a new SA: %+v, %v", state, err)
	}
	_, err = b.QuerySA(unknown)
	wantErr(t, "QuerySA of none", err, ipsec.ErrNotFound)
	wantErr(t, "DeleteSA of none", b.DeleteSA(unknown), ipsec.ErrNotFound)

	wantErr(t, "DeleteSA", b.DeleteSA(in.ID()), nil)
	wantErr(t, "DeleteSA twice", b.DeleteSA(in.ID()), ipsec.ErrNotFound)
	_, err = b.QuerySA(in.ID())
	wantErr(t, "QuerySA of a deleted one", err, ipsec.ErrNotFound)
	for _, left := range []ipsec.SA{out, sameSPI} {
		_, err = b.QuerySA(left.ID())
		wantErr(t, "QuerySA of what was left alone", err, nil)
	}
	wantErr(t, "AddSA of a deleted one", b.AddSA(in), nil)
}

func testSAUnsupported(t *testing.T, b ipsec.Backend, outer netip.Addr) {
	sa := testSAOf(ipsec.Out, 0x1003, outer)
	sa.Encryption = ipsec.Encryption(9999, 0)
	wantErr(t, "AddSA with an unknown cipher", b.AddSA(sa), ipsec.ErrUnsupported)
	short := testSAOf(ipsec.Out, 0x1004, outer)
	short.EncryptionKey = short.EncryptionKey[:19]
	if err := b.AddSA(short); err == nil {
		t.Error("AddSA with a short key: accepted")
	}
	if inv := list(t, b); len(inv.SAs) != 0 {
		t.Errorf("%d SAs are installed", len(inv.SAs))
	}
}

// testSAKeepsNoReference clears what was handed over, as the key exchange does.
func testSAKeepsNoReference(t *testing.T, b ipsec.Backend, outer netip.Addr) {
	sa := testSAOf(ipsec.Out, 0x1005, outer)
	want := slices.Clone(sa.Local)
	mustAddSA(t, b, sa)
	clear(sa.EncryptionKey)
	clear(sa.Local)
	inv := list(t, b)
	if len(inv.SAs) != 1 || !slices.Equal(inv.SAs[0].Local, want) {
		t.Errorf("the SA changed with its caller's slices: %+v", inv.SAs)
	}
}

func testUpdateSA(t *testing.T, b ipsec.Backend, outer netip.Addr) {
	in, out := testSAOf(ipsec.In, 0x1006, outer), testSAOf(ipsec.Out, 0x1007, outer)
	mustAddSA(t, b, in)
	mustAddSA(t, b, out)
	moved := peer.Next()

	// A NAT has given the peer another port.
	update := ipsec.SAUpdate{Src: outer, Dst: peer, Encap: true, SrcPort: 4500, DstPort: 61000}
	wantErr(t, "UpdateSA of the port", b.UpdateSA(out.ID(), update), nil)
	// Then it moves to another address; the SA is found under the new one.
	update.Dst = moved
	wantErr(t, "UpdateSA of the address", b.UpdateSA(out.ID(), update), nil)
	wantErr(t, "UpdateSA of the inbound SA", b.UpdateSA(in.ID(),
		ipsec.SAUpdate{Src: moved, Dst: outer, Encap: true, SrcPort: 61000, DstPort: 4500}), nil)

	newID := ipsec.SAID{Dst: moved, SPI: out.SPI}
	_, err := b.QuerySA(out.ID())
	wantErr(t, "QuerySA under the old address", err, ipsec.ErrNotFound)
	_, err = b.QuerySA(newID)
	wantErr(t, "QuerySA under the new address", err, nil)
	wantErr(t, "UpdateSA of none", b.UpdateSA(out.ID(), update), ipsec.ErrNotFound)

	for _, sa := range list(t, b).SAs {
		theirs, ours, port := sa.Src, sa.Dst, sa.SrcPort
		if sa.Direction == ipsec.Out {
			theirs, ours, port = sa.Dst, sa.Src, sa.DstPort
		}
		if theirs != moved || ours != outer || port != 61000 || !sa.Encap {
			t.Errorf("%s: after the move: src %s dst %s ports %d %d", sa.ID(), sa.Src, sa.Dst, sa.SrcPort, sa.DstPort)
		}
	}

	blocker := testSAOf(ipsec.Out, 0x1007, outer)
	mustAddSA(t, b, blocker)
	update.Dst = peer
	wantErr(t, "UpdateSA onto another SA", b.UpdateSA(newID, update), ipsec.ErrExists)
	wantErr(t, "DeleteSA under the new address", b.DeleteSA(newID), nil)
}

func testPolicy(t *testing.T, b ipsec.Backend, outer netip.Addr) {
	protect := ipsec.Policy{
		PolicyID: ipsec.PolicyID{
			Direction: ipsec.Out, Local: selector("10.1.0.0/16"), Remote: selector("10.9.0.0/16"),
			Priority: ipsec.PriorityProtect,
		},
		Action: ipsec.Protect, ReqID: 7, TunnelLocal: outer, TunnelRemote: peer,
	}
	inbound := protect
	inbound.Direction = ipsec.In
	discard := ipsec.Policy{PolicyID: protect.PolicyID, Action: ipsec.Discard}
	discard.Priority = ipsec.PriorityDiscard
	all := []ipsec.Policy{protect, inbound, discard}
	for _, p := range all {
		wantErr(t, "AddPolicy", b.AddPolicy(p), nil)
	}
	wantErr(t, "AddPolicy again", b.AddPolicy(protect), nil)
	checkPolicies(t, b, all)

	// The same entry for other SAs.
	all[0].ReqID, all[0].TunnelRemote = 8, peer.Next()
	wantErr(t, "AddPolicy that replaces", b.AddPolicy(all[0]), nil)
	checkPolicies(t, b, all)

	wantErr(t, "DeletePolicy", b.DeletePolicy(inbound.PolicyID), nil)
	wantErr(t, "DeletePolicy twice", b.DeletePolicy(inbound.PolicyID), ipsec.ErrNotFound)
	checkPolicies(t, b, []ipsec.Policy{all[0], all[2]})

	bad := protect
	bad.Local = ipsec.TrafficSelector{}
	if err := b.AddPolicy(bad); err == nil {
		t.Error("AddPolicy without a local selector: accepted")
	}
}

func checkPolicies(t *testing.T, b ipsec.Backend, want []ipsec.Policy) {
	t.Helper()
	got := list(t, b).Policies
	if len(got) != len(want) {
		t.Errorf("%d policies, want %d: %v", len(got), len(want), got)
	}
	for _, p := range want {
		if !slices.Contains(got, p) {
			t.Errorf("policy missing: %+v\ninstalled: %+v", p, got)
		}
	}
}

func testInterfaces(t *testing.T, b ipsec.Backend, _ netip.Addr) {
	one := ipsec.Interface{IfID: 901, Name: "vpnconf1", MTU: 1400}
	two := ipsec.Interface{IfID: 902, Name: "vpnconf2", MTU: 1380}
	set := func(want ...ipsec.Interface) {
		t.Helper()
		wantErr(t, "SetInterfaces", b.SetInterfaces(want), nil)
		got := list(t, b).Interfaces
		slices.SortFunc(got, func(p, q ipsec.Interface) int { return int(p.IfID) - int(q.IfID) })
		if !slices.Equal(got, want) {
			t.Errorf("interfaces %+v, want %+v", got, want)
		}
	}
	set(one)
	set(one) // idempotent
	set(one, two)
	two.MTU = 1300
	set(one, two)
	set(two)
	if err := b.SetInterfaces([]ipsec.Interface{two, {IfID: 903, Name: "a-name-that-is-too-long"}, one}); err == nil {
		t.Error("a name of more than 15 octets: accepted")
	}
	// The others are made all the same.
	if got := list(t, b).Interfaces; len(got) != 2 {
		t.Errorf("after one that fails: %+v", got)
	}
	set()
}

func testList(t *testing.T, b ipsec.Backend, outer netip.Addr) {
	if inv := list(t, b); len(inv.SAs) != 0 || len(inv.Policies) != 0 || len(inv.Interfaces) != 0 {
		t.Errorf("a new Backend has %+v", inv)
	}
	in, out := testSAOf(ipsec.In, 0x1008, outer), testSAOf(ipsec.Out, 0x1009, outer)
	out.Encryption, out.EncryptionKey = ipsec.Encryption(ipsec.EncryptionAESCBC, 256), counting(0x31, 32)
	out.Integrity, out.IntegrityKey = ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), counting(0x51, 32)
	out.ESN = false
	mustAddSA(t, b, in)
	mustAddSA(t, b, out)
	got := list(t, b).SAs
	for i := range got {
		if len(got[i].EncryptionKey) != 0 || len(got[i].IntegrityKey) != 0 {
			t.Errorf("%s: List shows keys", got[i].ID())
		}
		if text := fmt.Sprintf("%+v", got[i]); bytes.Contains([]byte(text), counting(0x31, 8)) {
			t.Errorf("%s: List shows keys", got[i].ID())
		}
		got[i].EncryptionKey, got[i].IntegrityKey = nil, nil
	}
	want := []ipsec.SA{in, out}
	for i := range want {
		want[i].EncryptionKey, want[i].IntegrityKey = nil, nil
	}
	if len(got) != 2 {
		t.Fatalf("%d SAs, want 2", len(got))
	}
	for i := range want {
		if got[i].Direction == ipsec.Out {
			got[i].ReplayWindow = want[i].ReplayWindow // has a meaning inbound only
		}
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("List returned\n%+v, want\n%+v", got[i], want[i])
		}
	}
}

func testEvents(t *testing.T, b ipsec.Backend, _ netip.Addr) {
	events := b.Events()
	if events == nil || b.Events() != events {
		t.Fatal("Events is not one channel for the Backend's life")
	}
	select {
	case e, ok := <-events:
		t.Errorf("a new Backend reports %+v, open %t", e, ok)
	default:
	}
}

// testConcurrent is for the race detector.
func testConcurrent(t *testing.T, b ipsec.Backend, outer netip.Addr) {
	const workers, rounds = 4, 20
	failures := make(chan error, workers)
	for worker := range workers {
		go func() {
			failures <- func() error {
				for round := range rounds {
					spi, err := b.AllocSPI(outer)
					if err != nil {
						return err
					}
					in, out := testSAOf(ipsec.In, spi, outer), testSAOf(ipsec.Out, ipsec.SPI(0x2000+worker*rounds+round), outer)
					policy := ipsec.Policy{
						PolicyID: ipsec.PolicyID{
							Direction: ipsec.Out, Local: selector("10.1.0.0/16"),
							Remote: selector(fmt.Sprintf("10.9.%d.0/24", worker)), Priority: ipsec.PriorityProtect,
						},
						Action: ipsec.Protect, ReqID: uint32(worker + 1), TunnelLocal: outer, TunnelRemote: peer,
					}
					_, listErr := b.List()
					_, queryErr := b.QuerySA(ipsec.SAID{Dst: peer, SPI: 0x1fff})
					if errors.Is(queryErr, ipsec.ErrNotFound) {
						queryErr = nil
					}
					err = errors.Join(b.AddSA(in), b.AddSA(out), b.AddPolicy(policy), listErr, queryErr,
						b.DeletePolicy(policy.PolicyID), b.DeleteSA(in.ID()), b.DeleteSA(out.ID()))
					if err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range workers {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	if inv := list(t, b); len(inv.SAs) != 0 || len(inv.Policies) != 0 {
		t.Errorf("left behind: %+v", inv)
	}
}
