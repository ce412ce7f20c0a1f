package ike

import (
	"crypto/rand"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// speak plays an initiator against a gateway, whose answers it takes from
// answers, for a few rounds.
func speak(s *Server, from netip.AddrPort, c *sa.Connection, spi ipsec.SPI, answers func() []sa.Datagram) {
	to := netip.AddrPortFrom(c.Remote, from.Port())
	env := &sa.Env{Rand: rand.Reader, AllocSPI: func(netip.Addr) (ipsec.SPI, error) { return spi, nil }}
	m, out := sa.Initiate(time.Now(), env, c)
	for range 6 {
		for _, a := range out {
			if send, ok := a.(sa.Send); ok {
				s.Deliver(to, from, send.Datagram)
			}
		}
		out = nil
		synctest.Wait()
		for _, d := range answers() {
			out = append(out, m.Handle(time.Now(), sa.Datagram{Local: d.Remote, Remote: d.Local, Bytes: d.Bytes})...)
		}
	}
}

// Two devices behind one NAT choose the same SPI for their inbound SAs. The
// second one's is refused, and its end must leave the first one's alone.
func TestRefusedSANamesAnothersSA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("first", 1, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		first, _ := b.backend.Outbound(1)

		second, secondAtEast := joined("second", 2, west)
		second.LocalID, secondAtEast.RemoteID = sa.FQDNIdentity("second"), sa.FQDNIdentity("second")
		second.Children[0].Local = []ipsec.TrafficSelector{prefix("10.9.0.0/16")}
		secondAtEast.Children[0].Remote = second.Children[0].Local
		apply(t, b, atEast, secondAtEast)
		var answers []sa.Datagram
		n.setTap(func(d sa.Datagram) {
			if d.Remote.Addr() == west {
				answers = append(answers, sa.Datagram{Local: d.Local, Remote: d.Remote, Bytes: slices.Clone(d.Bytes)})
			}
		})
		speak(b.Server, netip.AddrPortFrom(west, 500), &second, first.SPI, func() []sa.Datagram {
			n.mu.Lock()
			defer n.mu.Unlock()
			taken := answers
			answers = nil
			return taken
		})
		n.setTap(nil)
		if f := b.connection(t, "second").Failure; f == nil || f.Diagnosis.Reason != sa.ReasonDataPlane {
			t.Errorf("the second device's SA was not refused: %v", f)
		}
		wantUp(t, "first", a, b)
	})
}

// An SA whose move is refused does not stay behind, and its name at the new
// address is not the peer's to delete.
func TestRefusedMove(t *testing.T) {
	s, _ := idleServer(t, Limits{})
	backend := s.opts.Backend
	add := func(dst netip.Addr) ipsec.SA {
		c := testConnection("x", gatewayAddr.Addr(), dst, 1)
		out := ipsec.SA{
			SPI: 4096, Direction: ipsec.Out, Src: c.Local, Dst: dst, ReqID: 1,
			Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), EncryptionKey: make([]byte, 20),
			Local: c.Children[0].Local, Remote: c.Children[0].Remote,
		}
		return out
	}
	here, there := add(peerAddr.Addr()), add(netip.MustParseAddr("192.0.2.77"))
	one, other := s.newPeer(time.Now()), s.newPeer(time.Now())
	if refused := append(one.perform([]sa.Action{sa.AddSA{SA: here}}), other.perform([]sa.Action{sa.AddSA{SA: there}})...); refused != nil {
		t.Fatal(refused)
	}
	refused := one.perform([]sa.Action{
		sa.UpdateSA{ID: here.ID(), To: ipsec.SAUpdate{Src: here.Src, Dst: there.Dst}},
		sa.DeleteSA{ID: there.ID()},
	})
	if len(refused) != 1 {
		t.Errorf("refusals: %v", refused)
	}
	if _, err := backend.QuerySA(here.ID()); err == nil {
		t.Error("the SA that could not move stays")
	}
	if _, err := backend.QuerySA(there.ID()); err != nil {
		t.Errorf("the other peer's SA: %v", err)
	}
}
