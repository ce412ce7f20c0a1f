package ike

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// joinedV1 is joined in IKEv1.
func joinedV1(name string, reqID uint32, aggressive bool, initiate ...netip.Addr) (atWest, atEast sa.Connection) {
	atWest, atEast = joined(name, reqID, initiate...)
	for _, c := range []*sa.Connection{&atWest, &atEast} {
		c.Version, c.Aggressive = 1, aggressive
		c.Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
			ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128),
			ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupECP256),
		}}}
		c.Children[0].Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{
			ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.Group(ipsec.GroupECP256),
		}}}
	}
	return atWest, atEast
}

func TestIKEv1ComesUp(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		t.Run(fmt.Sprint(aggressive), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
				atWest, atEast := joinedV1("c", 1, aggressive, west)
				apply(t, b, atEast)
				apply(t, a, atWest)
				settleFor(5 * time.Second)
				wantUp(t, "c", a, b)
				if v := a.connection(t, "c").IKE[0].Version; v != 1 {
					t.Errorf("it is of version %d", v)
				}
				settleFor(3 * time.Hour) // several rekeys of both phases
				wantUpV1(t, "c", a, b)
				wantNoGap(t, a, 1)
				wantNoGap(t, b, 1)
				if len(a.seen(sa.IKERekeyed)) < 2 || len(a.seen(sa.ChildRekeyed)) < 4 || len(a.seen(sa.IKEDown))+len(b.seen(sa.IKEDown)) != 0 {
					t.Errorf("%d and %d rekeys", len(a.seen(sa.IKERekeyed)), len(a.seen(sa.ChildRekeyed)))
				}
				a.cancel()
				settleFor(5 * time.Second)
				if c := b.connection(t, "c"); c.State != Down {
					t.Errorf("after a DELETE the peer is %s", c.State)
				}
			})
		})
	}
}

// wantUpV1 is wantUp, once rekeys that may be under way are over.
func wantUpV1(t *testing.T, name string, a, b *gateway) {
	t.Helper()
	for range 400 {
		ca, cb := a.connection(t, name), b.connection(t, name)
		if len(ca.IKE) == 1 && len(cb.IKE) == 1 && len(ca.Children) == 1 && len(cb.Children) == 1 {
			break
		}
		settleFor(time.Second)
	}
	wantUp(t, name, a, b)
}

// Both ends begin: the ISAKMP SAs of one connection become one machine's, and one
// of them is left in the end.
func TestIKEv1BothEndsInitiate(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				drop := 0.0
				if seed%2 == 1 {
					drop = 0.2
				}
				n.setFate(lossy(seed, drop, 0.1))
				a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
				atWest, atEast := joinedV1("c", 1, seed%3 == 0, west, east)
				apply(t, a, atWest)
				apply(t, b, atEast)
				settleFor(5 * time.Minute)
				n.setFate(lossy(seed, 0, 0))
				wantUpV1(t, "c", a, b)
				if seed%2 == 0 && len(a.seen(sa.ChildUp)) != 1 {
					t.Errorf("the child came up %d times", len(a.seen(sa.ChildUp)))
				}
			})
		})
	}
}

func TestIKEv1LossyNetwork(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				n.setFate(lossy(seed, 0.3, 0.2))
				a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
				atWest, atEast := joinedV1("c", 1, seed%2 == 0, west, east)
				apply(t, a, atWest)
				apply(t, b, atEast)
				settleFor(2 * time.Hour)
				n.setFate(lossy(seed, 0, 0))
				settleFor(10 * time.Minute)
				wantUpV1(t, "c", a, b)
			})
		})
	}
}

// A peer that has lost everything says so with INITIAL_CONTACT, or is found out by
// the liveness check.
func TestIKEv1Restart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joinedV1("c", 1, false, west, east)
		apply(t, a, atWest)
		apply(t, b, atEast)
		settleFor(5 * time.Minute)
		wantUpV1(t, "c", a, b)
		b.crash()
		settleFor(time.Second)
		again := start(t, n, east, Options{})
		apply(t, again, atEast)
		settleFor(2 * time.Minute)
		wantUpV1(t, "c", a, again)
	})
}

// A change of version, mode or key takes effect, and a peer with another version
// is told of.
func TestIKEv1Changes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joinedV1("c", 1, false, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		wantUp(t, "c", a, b)
		v2West, v2East := joined("c", 1, west)
		apply(t, a, v2West)
		settleFor(30 * time.Second)
		d := onlyDiagnosis(t, b, "c")
		if d.Reason != sa.ReasonVersion || d.Ours != "1" || d.Theirs != "2" {
			t.Errorf("IKEv2 to a connection of IKEv1: %s", d.String())
		}
		apply(t, a, atWest)
		apply(t, b, v2East)
		if err := a.Reset("c"); err != nil { // else what stands goes on
			t.Fatal(err)
		}
		settleFor(30 * time.Second)
		if d := onlyDiagnosis(t, b, "c"); d.Reason != sa.ReasonVersion || d.Ours != "2" || d.Theirs != "1" {
			t.Errorf("IKEv1 to a connection of IKEv2: %s", d.String())
		}
		apply(t, a, v2West)
		settleFor(time.Minute)
		wantUp(t, "c", a, b)
		atWest, atEast = joinedV1("c", 1, true, west)
		apply(t, a, atWest)
		apply(t, b, atEast)
		settleFor(2 * time.Minute)
		wantUp(t, "c", a, b)
	})
}

// mainMode1 returns a message 1 of main mode that is answered.
func mainMode1(t *testing.T, spi uint64) []byte {
	t.Helper()
	offer := &isakmp.SA{Proposals: []isakmp.Proposal{{Number: 1, Protocol: ipsec.ProtocolIKE, Transforms: []isakmp.Transform{{
		Number: 1, ID: 1, Attributes: []isakmp.Attribute{
			isakmp.Number(isakmp.Phase1Encryption, 7), isakmp.Number(isakmp.Phase1KeyLength, 128), isakmp.Number(isakmp.Phase1Hash, 4),
			isakmp.Number(isakmp.Phase1AuthMethod, 1), isakmp.Number(isakmp.Phase1Group, 19),
		},
	}}}}}
	m := isakmp.Message{Header: isakmp.Header{InitiatorSPI: spi, Exchange: isakmp.IdentityProtection}, Payloads: []isakmp.Payload{offer}}
	b, err := m.Encode(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Somebody sends first messages in a peer's name all the time: the peer itself
// comes up all the same.
func TestIKEv1FloodInAPeersName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joinedV1("c", 1, false, east)
		apply(t, a, atWest)
		settleFor(time.Second)
		flood := func(from, count int) {
			for i := range count {
				a.Deliver(netip.AddrPortFrom(west, 500), netip.AddrPortFrom(east, 500), mainMode1(t, uint64(from+i)))
				settleFor(20 * time.Millisecond)
			}
		}
		flood(1, 400)
		apply(t, b, atEast)
		flood(401, 200)
		wantUp(t, "c", a, b)
		settleFor(DefaultLimits().HalfOpenTimeout + time.Second)
		a.Server.mu.Lock()
		peers, left := len(a.peers), a.openV1.total+len(a.openV1.byAddr)+len(a.mainModes)
		a.Server.mu.Unlock()
		if peers != 1 || left != 0 {
			t.Errorf("%d peers and %d entries are left", peers, left)
		}
	})
}

// First messages from all over the world, for a connection that takes peers from
// anywhere, leave room for a peer whose address is known.
func TestIKEv1FloodFromEverywhere(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork()
			a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
			atWest, atEast := joinedV1("c", 1, false, east)
			anyone, _ := joinedV1("anyone", 2, false)
			anyone.Remote, anyone.RemoteID = netip.Addr{}, sa.FQDNIdentity("anyone.example")
			atWest.Aggressive, atEast.Aggressive = aggressive, aggressive
			apply(t, a, atWest, anyone)
			settleFor(time.Second)
			limits := DefaultLimits()
			for i := range limits.HalfOpenV1Total + 100 {
				from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
				a.Deliver(netip.AddrPortFrom(west, 500), netip.AddrPortFrom(from, 500), mainMode1(t, uint64(i+1)))
				synctest.Wait()
			}
			a.Server.mu.Lock()
			full := a.openV1.total
			a.Server.mu.Unlock()
			if full != limits.HalfOpenV1Total {
				t.Fatalf("%d half-open", full)
			}
			apply(t, b, atEast)
			settleFor(time.Second)
			wantUp(t, "c", a, b)
		})
	}
}

// First messages of IKEv1 that nobody goes on with cost bounded state, are
// forgotten, and are no hindrance to IKEv2.
func TestIKEv1Flood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		g := start(t, n, west, Options{})
		atWest, _ := joinedV1("c", 1, false)
		apply(t, g, atWest)
		settleFor(time.Second)
		limits := DefaultLimits()
		for i := range 10 * limits.HalfOpenV1Address {
			g.Deliver(netip.AddrPortFrom(west, 500), netip.AddrPortFrom(east, 500), mainMode1(t, uint64(i+1)))
			synctest.Wait()
		}
		g.Server.mu.Lock()
		peers, v1, v2 := len(g.peers), g.openV1.total, g.open.total
		g.Server.mu.Unlock()
		if peers != limits.HalfOpenV1Address || v1 != peers || v2 != 0 {
			t.Errorf("%d peers, %d and %d half-open", peers, v1, v2)
		}
		if dropped := g.DropCounts()[dropHalfOpen]; dropped+g.DropCounts()[dropDisplaced] != uint64(9*limits.HalfOpenV1Address) || dropped == 0 {
			t.Errorf("%d dropped", dropped)
		}
		settleFor(limits.HalfOpenTimeout + time.Second)
		g.Server.mu.Lock()
		peers, v1 = len(g.peers), g.openV1.total+len(g.openV1.byAddr)+len(g.byInit)
		g.Server.mu.Unlock()
		if peers != 0 || v1 != 0 {
			t.Errorf("%d peers and %d entries are left", peers, v1)
		}
	})
}
