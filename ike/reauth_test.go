package ike

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// Reauthentication at the wish of either end: the new IKE SA and its children are
// up before the old ones go, and neither end takes the new one for a stray.
func TestReauthenticate(t *testing.T) {
	tests := []struct {
		name    string
		asks    netip.Addr    // who is told to
		after   time.Duration // from the start
		within  time.Duration
		version uint8
		edit    func(atWest, atEast *sa.Connection)
	}{
		{name: "by the initiator", asks: west, after: 5 * time.Second, within: 10 * time.Second},
		{name: "by the initiator, late", asks: west, after: 10 * time.Minute, within: 10 * time.Second},
		{name: "by the responder", asks: east, after: 10 * time.Minute, within: 10 * time.Second},
		{name: "by the responder, soon", asks: east, after: 5 * time.Second, within: 45 * time.Second},
		{
			name: "by a responder that has no address", asks: east, after: 5 * time.Second, within: 10 * time.Second,
			edit: func(_, atEast *sa.Connection) { atEast.Remote = netip.Addr{} },
		},
		{name: "of IKEv1", asks: west, after: time.Minute, within: 20 * time.Second, version: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
				atWest, atEast := joined("c", 1, west)
				if tt.version == 1 {
					atWest, atEast = joinedV1("c", 1, false, west)
				}
				if tt.edit != nil {
					tt.edit(&atWest, &atEast)
				}
				apply(t, b, atEast)
				apply(t, a, atWest)
				settleFor(tt.after)
				wantUp(t, "c", a, b)
				first := a.connection(t, "c").IKE[0].InitiatorSPI
				asked := a
				if tt.asks == east {
					asked = b
				}
				if err := asked.Reauthenticate("c"); err != nil {
					t.Fatal(err)
				}
				settleFor(tt.within)
				wantUp(t, "c", a, b)
				if a.connection(t, "c").IKE[0].InitiatorSPI == first {
					t.Error("the IKE SA is the old one")
				}
				for _, g := range []*gateway{a, b} {
					wantNoGap(t, g, 1)
					if len(g.seen(sa.Failed)) != 0 {
						t.Errorf("%s: events %v", g.addr, g.events)
					}
					if up := g.seen(sa.IKEUp); tt.version != 1 && (len(up) != 2 || up[1].InitialContact) {
						t.Errorf("%s: %d IKE SAs, INITIAL_CONTACT %v", g.addr, len(up), up[len(up)-1].InitialContact)
					}
				}
				settleFor(10 * time.Minute) // it stays the only one
				wantUp(t, "c", a, b)
				if up := b.seen(sa.IKEUp); tt.version != 1 && len(up) != 2 {
					t.Errorf("%d IKE SAs in all", len(up))
				}
			})
		})
	}
}

// TestPeerEndsTheOldIKESAFirst: the peer ends the old IKE SA as soon as it has the new
// one, before it has shown by anything that it has it. Its child sends before the old
// one goes, and what is under way on the old one still arrives.
func TestPeerEndsTheOldIKESAFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(time.Minute)
		wantUp(t, "c", a, b)
		first := a.connection(t, "c").IKE[0].InitiatorSPI
		sign := false // of life, under the new IKE SA
		n.setTap(func(d sa.Datagram) {
			h, err := wire.ParseHeader(d.Bytes)
			sign = err == nil && h.Exchange == wire.Informational && h.InitiatorSPI != first
		})
		n.setFate(func(_, _ netip.AddrPort) (int, time.Duration) {
			if sign {
				return 0, 0
			}
			return 1, 10 * time.Millisecond
		})
		if err := a.Reauthenticate("c"); err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			if len(a.seen(sa.IKEUp)) == 2 {
				break
			}
			settleFor(time.Millisecond)
		}
		outbound, ok := b.backend.Outbound(1)
		if !ok || !slices.ContainsFunc(b.connection(t, "c").Children, func(c ChildStatus) bool { return c.State == sa.Connecting }) {
			t.Fatal("the responder has no child that waits")
		}
		a.Server.mu.Lock()
		a.conns["c"].peers[0].terminateLocked(sa.ReasonIKEReplaced)
		a.Server.mu.Unlock()
		settleFor(20 * time.Millisecond)
		wantNoGap(t, b, 1)
		if now, ok := b.backend.Outbound(1); !ok || now.SPI == outbound.SPI {
			t.Error("the responder does not send on the new child")
		}
		if n := len(b.backend.SAs()); n != 4 {
			t.Errorf("%d SAs while packets are under way on the old ones, want 4", n)
		}
		n.setTap(nil)
		n.setFate(func(_, _ netip.AddrPort) (int, time.Duration) { return 1, 10 * time.Millisecond })
		settleFor(time.Minute)
		wantUp(t, "c", a, b)
		wantNoGap(t, b, 1)
	})
}

// A change of the configuration ends an attempt, whose answer may be under way: it is
// made again, and the peer keeps nothing of it.
func TestChangeWhileReauthenticating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(time.Minute)
		first := a.connection(t, "c").IKE[0].InitiatorSPI
		n.setFate(func(_, _ netip.AddrPort) (int, time.Duration) { return 1, time.Second })
		if err := a.Reauthenticate("c"); err != nil {
			t.Fatal(err)
		}
		settleFor(2500 * time.Millisecond) // IKE_AUTH is under way
		atWest.DPD.Interval += time.Second
		apply(t, a, atWest)
		settleFor(time.Minute)
		wantUp(t, "c", a, b)
		for _, g := range []*gateway{a, b} {
			wantNoGap(t, g, 1)
			if c := g.connection(t, "c"); len(c.IKE) != 1 || c.IKE[0].InitiatorSPI == first {
				t.Errorf("%s: the IKE SAs %+v", g.addr, c.IKE)
			}
		}
	})
}

// An authentication has an end: it is renewed in time, as either end wants it.
func TestAuthenticationLifetime(t *testing.T) {
	const life = 10 * time.Minute
	for _, tt := range []struct {
		name         string
		atWest, east time.Duration // lifetimes of the initiator, the responder
	}{
		{"of the initiator", life, 0},
		{"of the responder", 0, life},
		{"of both", 2 * life, life},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
				atWest, atEast := joined("c", 1, west)
				atWest.AuthLifetime, atEast.AuthLifetime = tt.atWest, tt.east
				apply(t, b, atEast)
				apply(t, a, atWest)
				settleFor(5*life + time.Minute)
				wantUp(t, "c", a, b)
				wantNoGap(t, a, 1)
				wantNoGap(t, b, 1)
				up := a.seen(sa.IKEUp)
				if len(up) < 6 || len(up) > 8 {
					t.Errorf("%d IKE SAs in %v", len(up), 5*life)
				}
				for _, e := range up {
					if !e.Initiator {
						t.Error("the responder began one")
					}
				}
			})
		})
	}
}

// What a peer does not renew ends with its lifetime: here its key is another one
// by then, and reauthentication fails.
func TestAuthenticationRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		atEast.AuthLifetime = 10 * time.Minute
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		atEast.PSK = []byte("a key that the peer has not")
		apply(t, b, atEast)
		settleFor(9*time.Minute + 30*time.Second)
		wantUp(t, "c", a, b) // a failed attempt leaves what stands
		wantNoGap(t, a, 1)
		if len(a.seen(sa.Failed)) == 0 {
			t.Error("no attempt was made")
		}
		settleFor(time.Minute)
		down := b.seen(sa.IKEDown)
		if len(down) == 0 || down[len(down)-1].Reason != sa.ReasonReauthTimeout {
			t.Errorf("events %v", b.events)
		}
		if c := b.connection(t, "c"); c.State == Up {
			t.Error("it goes on without authentication")
		}
	})
}

// All children come along, and the old IKE SA waits for the last of them.
func TestReauthenticateKeepsAllChildren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.setFate(lossy(7, 0.2, 0.1))
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		for i := range 4 {
			id := uint32(i + 2)
			ours := []ipsec.TrafficSelector{prefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(id), 0}), 24).String())}
			theirs := []ipsec.TrafficSelector{prefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(id), 0}), 24).String())}
			child := atWest.Children[0]
			child.Name, child.ReqID, child.Local, child.Remote = string(rune('p'+i)), id, ours, theirs
			atWest.Children = append(atWest.Children, child)
			child.Local, child.Remote = theirs, ours
			atEast.Children = append(atEast.Children, child)
		}
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Minute)
		before := sortedSPIs(a)
		if err := a.Reauthenticate("c"); err != nil {
			t.Fatal(err)
		}
		settleFor(5 * time.Minute)
		if got := a.connection(t, "c"); len(got.IKE) != 1 || len(got.Children) != 5 {
			t.Fatalf("%d IKE SAs, %d children", len(got.IKE), len(got.Children))
		}
		for _, spi := range sortedSPIs(a) {
			if slices.Contains(before, spi) {
				t.Errorf("SA %s is an old one", spi)
			}
		}
		for id := range uint32(5) {
			wantNoGap(t, a, id+1)
			wantNoGap(t, b, id+1)
		}
	})
}

func TestReauthenticateUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := start(t, n, west, Options{})
		if err := a.Reauthenticate("none"); !errors.Is(err, ErrUnknownConnection) {
			t.Errorf("got %v", err)
		}
	})
}

// INITIAL_CONTACT is about one connection: another one with the same peer stays,
// and so does that of another identity.
func TestInitialContactIsOfOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		other, atOther := joined("d", 2, west)
		other.LocalID, atOther.RemoteID = sa.FQDNIdentity("other.example"), sa.FQDNIdentity("other.example")
		other.Children[0].Local = []ipsec.TrafficSelector{prefix("10.3.0.0/16")}
		atOther.Children[0].Remote = []ipsec.TrafficSelector{prefix("10.3.0.0/16")}
		apply(t, b, atEast, atOther)
		apply(t, a, atWest, other)
		settleFor(5 * time.Second)
		wantUp(t, "c", a, b)
		wantUp(t, "d", a, b)
		kept := b.connection(t, "d").IKE[0].InitiatorSPI

		// The initiator loses one connection and comes back with INITIAL_CONTACT.
		a.crash()
		c := start(t, n, west, Options{})
		apply(t, c, atWest)
		settleFor(time.Minute)
		if up := b.seen(sa.IKEUp); !up[len(up)-1].InitialContact {
			t.Error("the initiator did not say that it knows of no other")
		}
		wantUp(t, "c", c, b)
		if d := b.connection(t, "d"); len(d.IKE) != 1 || d.IKE[0].InitiatorSPI != kept {
			t.Errorf("the other connection has %+v", d.IKE)
		}
	})
}
