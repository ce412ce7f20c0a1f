package ike

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
)

// speak plays an initiator against a gateway, whose answers it takes from
// answers, for a few rounds.
func speak(s *Server, from netip.AddrPort, c *sa.Connection, spi ipsec.SPI, answers func() []sa.Datagram) {
	to := netip.AddrPortFrom(c.Remote, from.Port())
	env := &sa.Env{Host: &sa.Host{Rand: rand.Reader, AllocSPI: func(netip.Addr) (ipsec.SPI, error) { return spi, nil }}}
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

// recorded is a running Server with the log that it writes.
func recorded(t *testing.T, limits Limits, conns ...sa.Connection) (*Server, *recorder, *strings.Builder) {
	t.Helper()
	transport, text := &recorder{}, &strings.Builder{}
	s := NewServer(Options{
		Transport: transport, Backend: ipsectest.NewBackend(), Limits: limits,
		Logger: slog.New(slog.NewTextHandler(text, nil)),
	})
	if err := s.Apply(conns); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	synctest.Wait()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(refusalHold)
	})
	return s, transport, text
}

// Each IKE_AUTH that fails keeps its machine for the repetitions of it. Those
// count as half-open, or one address could have any number.
func TestFailedAuthCountsAsHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 20
		s, transport, text := recorded(t, Limits{HalfOpenAddress: most}, testConnection("any", gatewayAddr.Addr(), netip.Addr{}, 1))
		for i := range 100 {
			c := testConnection("stranger", peerAddr.Addr(), gatewayAddr.Addr(), 7)
			c.LocalID, c.RemoteID = sa.FQDNIdentity(fmt.Sprintf("id%d.example", i)), sa.AddressIdentity(gatewayAddr.Addr())
			speak(s, peerAddr, &c, 4096, transport.take)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.peers) != most || s.open.total != most {
			t.Errorf("%d machines, %d half-open, want %d", len(s.peers), s.open.total, most)
		}
		if lines := strings.Count(text.String(), "\n"); lines > noticesOfAddress {
			t.Errorf("%d lines of log", lines)
		}
	})
}

// proposing is an IKE_SA_INIT request that no connection agrees with, and that
// is like no other.
func proposing(t *testing.T, i int) []byte {
	t.Helper()
	p := ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		{Type: ipsec.TransformEncryption, ID: uint16(1000 + i)}, ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupCurve25519),
	}}
	m := wire.Message{Header: wire.Header{InitiatorSPI: uint64(i + 1), Exchange: wire.IKESAInit, Initiator: true}, Payloads: []wire.Payload{
		&wire.SA{Proposals: []ipsec.Proposal{p}}, &wire.KE{Group: ipsec.GroupCurve25519, Data: make([]byte, 32)}, &wire.Nonce{Data: make([]byte, 32)},
	}}
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Requests that differ in what they propose, from no address or from that of a
// peer, neither fill the log nor the channel of events. What belongs to the
// connection is told at once, and in it the values of the latest.
func TestUnprovenFailuresAreTold(t *testing.T) {
	for name, tc := range map[string]struct {
		from  func(i int) netip.AddrPort
		conns []sa.Connection
		of    string // connection
	}{
		"strangers":       {fromAddr, []sa.Connection{testConnection("any", gatewayAddr.Addr(), netip.Addr{}, 1)}, ""},
		"a peer":          {func(int) netip.AddrPort { return peerAddr }, []sa.Connection{testConnection("c", gatewayAddr.Addr(), peerAddr.Addr(), 1)}, "c"},
		"one of two":      {func(int) netip.AddrPort { return peerAddr }, []sa.Connection{testConnection("c", gatewayAddr.Addr(), peerAddr.Addr(), 1), testConnection("d", gatewayAddr.Addr(), peerAddr.Addr(), 2)}, ""},
		"peer or another": {func(int) netip.AddrPort { return peerAddr }, []sa.Connection{testConnection("any", gatewayAddr.Addr(), netip.Addr{}, 1), testConnection("c", gatewayAddr.Addr(), peerAddr.Addr(), 2)}, "c"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const requests = 1000
				s, transport, text := recorded(t, Limits{CookieTotal: 1 << 20, CookieAddress: 1 << 20, HalfOpenAddress: 1 << 20}, tc.conns...)
				began := time.Now()
				for i := range requests {
					s.Deliver(gatewayAddr, tc.from(i), proposing(t, i))
					synctest.Wait()
					time.Sleep(50 * time.Millisecond)
				}
				took := time.Since(began)
				transport.take()
				least, most := noticesBurst, noticesBurst+int(took.Seconds())+1
				if tc.of != "" || name == "one of two" {
					least, most = noticesOfAddress, unprovenBurst+int(took/unprovenEvery)+1
				}
				lines := strings.Count(text.String(), "\n")
				if lines < least || lines > most || len(s.events) != lines {
					t.Errorf("%d lines of log and %d events in %s, want %d to %d", lines, len(s.events), took, least, most)
				}
				for _, c := range s.Snapshot() {
					if f := c.Failure; (f != nil) != (c.Name == tc.of) {
						t.Errorf("%s: failure %v", c.Name, f)
					} else if f != nil && f.Count < requests/2 {
						t.Errorf("%s: %d failures", c.Name, f.Count)
					}
				}
				if tc.of != "" {
					mustContain(t, strings.SplitN(text.String(), "\n", 2)[0], "connection="+tc.of, "ours [AES-GCM-16-128]", "theirs [encryption algorithm 1000]")
				}
			})
		})
	}
}

// A peer that is set to IKEv1 gets no answer, but its connection says why.
func TestPeerThatBeginsWithIKEv1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, transport, text := recorded(t, Limits{}, testConnection("c", gatewayAddr.Addr(), peerAddr.Addr(), 1))
		for i := range 100 {
			b := initRequest(t, uint64(i+1), nil)
			b[17], b[18] = 0x10, 2 // version 1.0, identity protection (main mode)
			for _, from := range []netip.AddrPort{peerAddr, fromAddr(i)} {
				s.Deliver(gatewayAddr, from, b)
			}
		}
		if sent := transport.take(); len(sent) != 0 {
			t.Errorf("%d answers", len(sent))
		}
		f := s.Snapshot()[0].Failure
		if f == nil || f.Diagnosis.Reason != sa.ReasonVersion || f.Count != 100 {
			t.Fatalf("failure %+v", f)
		}
		mustContain(t, text.String(), "connection=c", "ours [2], theirs [1]")
		if lines := strings.Count(text.String(), "\n"); lines > unprovenBurst+noticesBurst {
			t.Errorf("%d lines of log", lines)
		}
	})
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

// TestProofsAreBounded: what unauthenticated initiators make us do with public keys is
// bounded by address and in all, and a flood locks no peer out that is configured.
func TestProofsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := start(t, n, west, Options{})
		atWest, _ := joined("c", 1)
		apply(t, a, atWest)
		passed, one := 0, 0
		for i := range 5000 {
			if a.allowProof(west, netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})) {
				passed++
			}
		}
		if passed > int(proofsOfAll) {
			t.Errorf("%d of strangers pass", passed)
		}
		for range 1000 {
			if a.allowProof(west, east) {
				one++
			}
		}
		if one != proofsBurst {
			t.Errorf("%d of a peer pass in a flood", one)
		}
		time.Sleep(time.Second)
		if !a.allowProof(west, east) || len(a.proofs.byAddr) > quotaAddresses {
			t.Errorf("a second later it does not pass, or %d addresses are kept", len(a.proofs.byAddr))
		}
	})
}

// TestInitiatorThatWentSilentIsNoFailureOfWhatStands: where both ends began at once,
// the peer leaves the one that it has begun, which is no story of the connection.
func TestInitiatorThatWentSilentIsNoFailureOfWhatStands(t *testing.T) {
	for _, stands := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork()
			a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
			atWest, atEast := joinedV1("c", 1, false, east)
			apply(t, a, atWest)
			if stands {
				apply(t, b, atEast)
				settleFor(10 * time.Second)
				wantUp(t, "c", a, b)
			}
			a.hand(sa.Event{
				Kind: sa.Failed, Connection: "c", Version: 1, Reason: sa.ReasonExchangeTimeout,
				Diagnosis: &sa.Diagnosis{Reason: sa.ReasonExchangeTimeout, Exchange: "main mode", Parameter: "message 3"},
			})
			synctest.Wait()
			if told := len(a.seen(sa.Failed)) > 0; told == stands || (a.connection(t, "c").Failure != nil) == stands {
				t.Errorf("stands %t: told %t, failure %v", stands, told, a.connection(t, "c").Failure)
			}
		})
	}
}
