package planes

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
)

// sockets remembers what it was asked for.
type sockets struct {
	decapsulated map[path]bool
	raw          bool
	err          error
}

func (s *sockets) Decapsulate(local, remote netip.AddrPort, on bool) error {
	if s.err != nil {
		return s.err
	}
	if on {
		s.decapsulated[path{local, remote}] = true
	} else {
		delete(s.decapsulated, path{local, remote})
	}
	return nil
}

func (s *sockets) SetRawESP(on bool) error {
	s.raw = on
	return nil
}

func (s *sockets) paths() []path { return slices.Collect(maps.Keys(s.decapsulated)) }

type fixture struct {
	*Backend
	inKernel, inUserspace *ipsectest.Backend
	sockets               *sockets
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureOver(t, ipsectest.NewBackend())
}

func newFixtureOver(t *testing.T, kernel *ipsectest.Backend) *fixture {
	t.Helper()
	f := &fixture{inKernel: kernel, inUserspace: ipsectest.NewBackend(), sockets: &sockets{decapsulated: map[path]bool{}, raw: true}}
	var err error
	if f.Backend, err = New(f.inKernel, f.inUserspace, f.sockets, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestConformance(t *testing.T) {
	ipsectest.Run(t, func(t *testing.T) ipsec.Backend { return newFixture(t) }, ipsectest.Options{})
}

var (
	local = netip.MustParseAddr("127.0.0.1")
	peer  = netip.MustParseAddr("192.0.2.77")
	moved = netip.MustParseAddrPort("192.0.2.77:61000")

	whole = ipsec.SelectorFromPrefix(netip.MustParsePrefix("0.0.0.0/0"))
	usual = path{netip.AddrPortFrom(local, 4500), netip.AddrPortFrom(peer, 4500)}
)

func inbound(spi ipsec.SPI, ifID uint32) ipsec.SA {
	return ipsec.SA{
		SPI: spi, Direction: ipsec.In, Src: peer, Dst: local, Encap: true, SrcPort: 4500, DstPort: 4500, ReqID: ifID, IfID: ifID,
		Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), EncryptionKey: make([]byte, 20), ReplayWindow: 64,
		Local: []ipsec.TrafficSelector{whole}, Remote: []ipsec.TrafficSelector{whole},
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTunnelsFollowTheirDevice(t *testing.T) {
	f := newFixture(t)
	check(t, f.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one", Plane: ipsec.PlaneKernel}}))
	if f.sockets.raw {
		t.Error("raw sockets are open while the kernel serves all")
	}
	check(t, f.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one", Plane: ipsec.PlaneKernel}, {IfID: 2, Name: "two"}}))
	if !f.sockets.raw {
		t.Error("raw sockets are closed while user space serves some")
	}
	check(t, f.AddSA(inbound(0x1001, 1)))
	check(t, f.AddSA(inbound(0x1002, 2)))
	if k, u := f.inKernel.SAs(), f.inUserspace.SAs(); len(k) != 1 || k[0].SPI != 0x1001 || len(u) != 1 || u[0].SPI != 0x1002 {
		t.Errorf("SAs in the kernel %v, in user space %v", k, u)
	}
	policy := ipsec.Policy{
		PolicyID: ipsec.PolicyID{Direction: ipsec.Out, Local: whole, Remote: whole, Priority: 1, IfID: 1},
		Action:   ipsec.Protect, ReqID: 1, TunnelLocal: local, TunnelRemote: peer,
	}
	check(t, f.AddPolicy(policy))
	if len(f.inKernel.Policies()) != 1 {
		t.Error("the policy is not in the kernel")
	}

	// The tunnel changes over: what comes next is served by the other.
	check(t, f.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one"}, {IfID: 2, Name: "two"}}))
	check(t, f.AddSA(inbound(0x1003, 1)))
	check(t, f.AddPolicy(policy))
	if len(f.inKernel.Policies()) != 0 || len(f.inUserspace.Policies()) != 1 || len(f.inUserspace.SAs()) != 2 {
		t.Error("the tunnel did not change over")
	}
	first := inbound(0x1001, 1)
	check(t, f.DeleteSA(first.ID()))
	check(t, f.DeletePolicy(policy.PolicyID))
	if len(f.inKernel.SAs()) != 0 || len(f.sockets.paths()) != 0 {
		t.Errorf("left in the kernel: %v, sockets %v", f.inKernel.SAs(), f.sockets.paths())
	}
}

func TestSocketsFollowTheSAs(t *testing.T) {
	f := newFixture(t)
	check(t, f.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one", Plane: ipsec.PlaneKernel}}))
	first, second := inbound(0x1001, 1), inbound(0x1002, 1)
	check(t, f.AddSA(first))
	check(t, f.AddSA(second))
	check(t, f.DeleteSA(first.ID()))
	if got := f.sockets.paths(); !slices.Equal(got, []path{usual}) {
		t.Errorf("one SA of two is left, sockets %v", got)
	}

	// Its packets come from another port.
	if !f.Stray(second.ID(), usual.local, moved) {
		t.Error("an SA of the kernel is not known")
	}
	if !f.sockets.decapsulated[path{usual.local, moved}] {
		t.Error("no socket for where the packets come from")
	}
	if f.Stray(second.ID(), usual.local, netip.MustParseAddrPort("192.0.2.78:1")); len(f.sockets.paths()) != 2 {
		t.Errorf("sockets %v: one more at once", f.sockets.paths())
	}
	if f.Stray(first.ID(), usual.local, moved) {
		t.Error("an SA that is gone is known")
	}
	// The key exchange follows.
	check(t, f.UpdateSA(second.ID(), ipsec.SAUpdate{Src: peer, Dst: local, Encap: true, SrcPort: moved.Port(), DstPort: 4500}))
	if got := f.sockets.paths(); !slices.Equal(got, []path{{usual.local, moved}}) {
		t.Errorf("after the move: sockets %v", got)
	}
	check(t, f.DeleteSA(second.ID()))
	if got := f.sockets.paths(); len(got) != 0 {
		t.Errorf("without SAs: sockets %v", got)
	}

	f.sockets.err = errors.New("refused")
	if err := f.AddSA(first); !errors.Is(err, f.sockets.err) || len(f.inKernel.SAs()) != 0 {
		t.Errorf("AddSA without a socket: %v, in the kernel %v", err, f.inKernel.SAs())
	}
}

func TestTakesOverFromTheKernel(t *testing.T) {
	kernel := ipsectest.NewBackend()
	check(t, kernel.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one"}}))
	left := inbound(0x1001, 1)
	check(t, kernel.AddSA(left))
	f := newFixtureOver(t, kernel)
	if got := f.sockets.paths(); !slices.Equal(got, []path{usual}) || f.sockets.raw {
		t.Errorf("sockets %v, raw %t", got, f.sockets.raw)
	}
	_, err := f.QuerySA(left.ID())
	check(t, err)
	inventory, err := f.List()
	check(t, err)
	if len(inventory.Interfaces) != 1 || inventory.Interfaces[0].Plane != ipsec.PlaneKernel {
		t.Errorf("interfaces %+v", inventory.Interfaces)
	}
}

// TestStrayTakesNoOthersPath: who knows the SPI of an SA of the kernel, as its own
// peer does, sends a packet with the address of a peer that user space serves. That
// one's traffic must go on to reach user space.
func TestStrayTakesNoOthersPath(t *testing.T) {
	f := newFixture(t)
	check(t, f.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one", Plane: ipsec.PlaneKernel}, {IfID: 2, Name: "two"}}))
	mine := inbound(0x1001, 1)
	check(t, f.AddSA(mine))
	victim := inbound(0x2001, 2)
	victim.Src = netip.MustParseAddr("192.0.2.78")
	victimAt := path{usual.local, netip.AddrPortFrom(victim.Src, 4500)}

	// Before the other peer has an SA, nothing is wrong with it.
	f.Stray(mine.ID(), victimAt.local, victimAt.remote)
	if !f.sockets.decapsulated[victimAt] {
		t.Fatal("no socket for where the packets come from")
	}
	check(t, f.AddSA(victim))
	if f.sockets.decapsulated[victimAt] {
		t.Error("the kernel keeps the packets of an SA of user space")
	}
	f.mu.Lock()
	f.sas[mine.ID()].strayed = time.Time{}
	f.mu.Unlock()
	if !f.Stray(mine.ID(), victimAt.local, victimAt.remote) {
		t.Error("an SA of the kernel is not known")
	}
	if got := f.sockets.paths(); !slices.Equal(got, []path{usual}) {
		t.Errorf("sockets %v, want only that of the SA", got)
	}

	// So it is when the SA moves, and no longer when it is gone.
	to := ipsec.SAUpdate{Src: victim.Src, Dst: local, Encap: true, SrcPort: moved.Port(), DstPort: 4500}
	check(t, f.UpdateSA(victim.ID(), to))
	f.sas[mine.ID()].strayed = time.Time{}
	f.Stray(mine.ID(), usual.local, netip.AddrPortFrom(victim.Src, moved.Port()))
	if got := f.sockets.paths(); !slices.Equal(got, []path{usual}) {
		t.Errorf("after the move: sockets %v", got)
	}
	check(t, f.DeleteSA(victim.ID()))
	check(t, f.DeleteSA(mine.ID()))
	if got := f.sockets.paths(); len(got) != 0 {
		t.Errorf("without SAs: sockets %v", got)
	}
}

// keeper is a kernel's data plane that keeps what comes before its SA.
type keeper struct {
	*ipsectest.Backend
	held map[ipsec.SAID]bool
}

func (k keeper) Hold(id ipsec.SAID)    { k.held[id] = true }
func (k keeper) Release(id ipsec.SAID) { delete(k.held, id) }

// What comes by a new SPI is kept while the kernel may be the one that needs it.
func TestEarlyPacketsAreKeptForTheKernel(t *testing.T) {
	k := keeper{ipsectest.NewBackend(), map[ipsec.SAID]bool{}}
	b, err := New(k, ipsectest.NewBackend(), &sockets{decapsulated: map[path]bool{}}, slog.New(slog.DiscardHandler))
	check(t, err)
	alloc := func() ipsec.SPI {
		t.Helper()
		spi, err := b.AllocSPI(local)
		check(t, err)
		return spi
	}
	check(t, b.SetInterfaces([]ipsec.Interface{{IfID: 2, Name: "two"}}))
	if alloc(); len(k.held) != 0 {
		t.Error("packets are kept though user space serves all")
	}
	check(t, b.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one", Plane: ipsec.PlaneKernel}, {IfID: 2, Name: "two"}}))
	ours, theirs := alloc(), alloc()
	if len(k.held) != 2 {
		t.Fatalf("kept for %v, want two SPIs", k.held)
	}
	check(t, b.AddSA(inbound(ours, 1)))
	check(t, b.AddSA(inbound(theirs, 2)))
	if id := (ipsec.SAID{Dst: local, SPI: ours}); len(k.held) != 1 || !k.held[id] {
		t.Errorf("kept for %v, want %v, which is the kernel's own to end", k.held, id)
	}
}
