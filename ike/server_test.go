package ike

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
)

func TestTunnelComesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		wantUp(t, "c", a, b)
		for _, g := range []*gateway{a, b} {
			if n := len(protects(g)); n != 2 {
				t.Errorf("%s: %d policies protect", g.addr, n)
			}
			if len(g.seen(sa.IKEUp)) != 1 || len(g.seen(sa.ChildUp)) != 1 || len(g.seen(sa.Failed)) != 0 {
				t.Errorf("%s: events %v", g.addr, g.events)
			}
		}
		a.cancel()
		settleFor(5 * time.Second)
		if c := b.connection(t, "c"); c.State != Down {
			t.Errorf("after a DELETE the peer is %s", c.State)
		}
		if len(b.seen(sa.IKEDown)) != 1 {
			t.Error("the peer was not told")
		}
	})
}

func TestBothEndsInitiate(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				drop := 0.0
				if seed%2 == 1 {
					drop = 0.2
				}
				n.setFate(lossy(seed, drop, 0.1))
				// So many repeats that no live SA is ever given up.
				opts := Options{Retransmit: sa.Retransmit{Initial: time.Second, Factor: 1.3, Tries: 14}}
				a, b := start(t, n, west, opts), start(t, n, east, opts)
				atWest, atEast := joined("c", 1, west, east)
				atWest.DPD, atEast.DPD = sa.DPD{}, sa.DPD{}
				apply(t, a, atWest)
				apply(t, b, atEast)
				settleFor(time.Minute)
				if drop > 0 {
					settleFor(30 * time.Second)
				}
				wantUp(t, "c", a, b)
				wantNoGap(t, a, 1)
				wantNoGap(t, b, 1)
			})
		})
	}
}

func TestLossyNetwork(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				n.setFate(lossy(seed, 0.3, 0.2))
				a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
				atWest, atEast := joined("c", 1, west, east)
				apply(t, a, atWest)
				apply(t, b, atEast)
				settleFor(2 * time.Hour) // several rekeys of both
				n.setFate(lossy(seed, 0, 0))
				settleFor(10 * time.Minute)
				wantUp(t, "c", a, b)
			})
		})
	}
}

func TestUnreachablePeerIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := start(t, n, west, Options{Retransmit: sa.Retransmit{Initial: time.Second, Factor: 2, Tries: 2}})
		atWest, atEast := joined("c", 1, west)
		apply(t, a, atWest)
		settleFor(10 * time.Minute)
		c := a.connection(t, "c")
		if c.Failure == nil || c.Failure.Count < 5 || c.Failure.Diagnosis.Reason != sa.ReasonMaxTransmit {
			t.Fatalf("got %+v", c.Failure)
		}
		if c.State == Up || len(protects(a)) != 0 || len(a.backend.Policies()) != 2 {
			t.Errorf("%s, policies %v", c.State, a.backend.Policies())
		}
		b := start(t, n, east, Options{})
		apply(t, b, atEast)
		settleFor(lastRetry + 10*time.Second)
		wantUp(t, "c", a, b)
	})
}

func TestWrongKeyIsDiagnosedAndMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		right := atWest.PSK
		atWest.PSK = []byte("another key of mine")
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Minute)
		for _, g := range []*gateway{a, b} {
			d := onlyDiagnosis(t, g, "c")
			if d.Reason != sa.ReasonAuthentication {
				t.Errorf("%s: %s", g.addr, d.String())
			}
			if f := g.connection(t, "c").Failure; f.Count < 3 {
				t.Errorf("%s: counted %d", g.addr, f.Count)
			}
		}
		d := onlyDiagnosis(t, b, "c")
		mustContain(t, d.String(), "pre-shared key")
		atWest.PSK = right
		apply(t, a, atWest)
		settleFor(3 * time.Second) // at once, whatever the delay had grown to
		wantUp(t, "c", a, b)
	})
}

func TestOneConnectionsChangeLeavesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		north := netip.MustParseAddr("192.0.2.3")
		a, b, c := start(t, n, west, Options{}), start(t, n, east, Options{}), start(t, n, north, Options{})
		atWest, atEast := joined("c", 1, west)
		other, atNorth := joined("d", 2, west)
		other.Remote, other.RemoteID = north, sa.AddressIdentity(north)
		atNorth.Local, atNorth.LocalID = north, sa.AddressIdentity(north)
		other.Children[0].Remote = []ipsec.TrafficSelector{prefix("10.3.0.0/16")}
		atNorth.Children[0].Local = []ipsec.TrafficSelector{prefix("10.3.0.0/16")}
		apply(t, b, atEast)
		apply(t, c, atNorth)
		apply(t, a, atWest, other)
		settleFor(5 * time.Second)
		wantUp(t, "c", a, b)
		wantUp(t, "d", a, c)

		calls, events := len(a.backend.Calls()), len(c.backend.Calls())
		apply(t, a, atWest, other)
		settleFor(time.Minute)
		if got := len(a.backend.Calls()); got != calls {
			t.Errorf("the same configuration changed the data plane: %v", a.backend.Calls()[calls:])
		}
		// The identity of one is another: it alone is negotiated anew.
		atWest.LocalID, atEast.RemoteID = sa.FQDNIdentity("west.example.org"), sa.FQDNIdentity("west.example.org")
		kept := a.connection(t, "d").IKE[0]
		apply(t, b, atEast)
		apply(t, a, atWest, other)
		settleFor(30 * time.Second)
		wantUp(t, "c", a, b)
		wantUp(t, "d", a, c)
		if got := a.connection(t, "d").IKE[0]; got.InitiatorSPI != kept.InitiatorSPI || len(c.backend.Calls()) != events {
			t.Error("the other connection was disturbed")
		}
		// Removing one leaves nothing of it.
		apply(t, a, other)
		settleFor(30 * time.Second)
		wantUp(t, "d", a, c)
		for _, p := range a.backend.Policies() {
			if p.ReqID == 1 || p.Remote == prefix("10.2.0.0/16") {
				t.Errorf("left: %+v", p)
			}
		}
		if got := b.connection(t, "c"); got.State != Down {
			t.Errorf("the peer of a removed connection is %s", got.State)
		}
	})
}

// Of several children only the one that changed is set up anew, and the
// policies under it follow.
func TestOneChildsChangeLeavesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		second := func(c *sa.Connection, local, remote string) {
			child := c.Children[0]
			child.Name, child.ReqID = "second", 2
			child.Local, child.Remote = []ipsec.TrafficSelector{prefix(local)}, []ipsec.TrafficSelector{prefix(remote)}
			c.Children = append(c.Children[:1:1], child)
		}
		second(&atWest, "10.11.0.0/16", "10.12.0.0/16")
		second(&atEast, "10.12.0.0/16", "10.11.0.0/16")
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		first, _ := a.backend.Outbound(1)
		other, _ := a.backend.Outbound(2)
		if first.SPI == 0 || other.SPI == 0 {
			t.Fatal("not both children are up")
		}
		second(&atWest, "10.13.0.0/16", "10.12.0.0/16")
		second(&atEast, "10.12.0.0/16", "10.13.0.0/16")
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(time.Minute)
		if got, _ := a.backend.Outbound(1); got.SPI != first.SPI {
			t.Error("the child that stayed the same was set up anew")
		}
		if got, _ := a.backend.Outbound(2); got.SPI == other.SPI || got.SPI == 0 {
			t.Errorf("the changed child is %s still", got.SPI)
		}
		wantNoGap(t, a, 1)
		for _, g := range []*gateway{a, b} {
			wantSameKeys(t, g, map[*gateway]*gateway{a: b, b: a}[g], 2)
			discarded, gone := 0, prefix("10.11.0.0/16")
			for _, p := range g.backend.Policies() {
				if p.Local == gone || p.Remote == gone {
					t.Errorf("%s: left: %s", g.addr, p)
				}
				if p.Action == ipsec.Discard {
					discarded++
				}
			}
			if discarded != 4 {
				t.Errorf("%s: %d policies discard", g.addr, discarded)
			}
		}
	})
}

// A repetition of an IKE_SA_INIT request reaches the machine that answered it,
// which gives the same answer; no second one is made.
func TestRepeatedInitRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		b := start(t, n, east, Options{})
		_, atEast := joined("c", 1)
		apply(t, b, atEast)
		answers := &recorder{}
		n.setFate(func(local, remote netip.AddrPort) (int, time.Duration) { return 0, 0 })
		b.opts.Transport = answers
		local, remote := netip.AddrPortFrom(east, 500), netip.AddrPortFrom(west, 500)
		request := initRequest(t, 1, nil)
		synctest.Wait()
		for range 3 {
			b.Deliver(local, remote, request)
			synctest.Wait()
		}
		sent := answers.take()
		if len(sent) != 3 || !slices.Equal(sent[0].Bytes, sent[1].Bytes) || !slices.Equal(sent[0].Bytes, sent[2].Bytes) {
			t.Fatalf("%d answers, not the same three times", len(sent))
		}
		// From another port it is another request.
		b.Deliver(local, netip.AddrPortFrom(west, 501), request)
		synctest.Wait()
		if sent = answers.take(); len(sent) != 1 {
			t.Fatalf("%d answers to another port", len(sent))
		}
		b.Server.mu.Lock()
		if len(b.peers) != 2 || b.open.total != 2 {
			t.Errorf("%d machines, %d half-open", len(b.peers), b.open.total)
		}
		b.Server.mu.Unlock()
		settleFor(DefaultLimits().HalfOpenTimeout + time.Second)
		b.Server.mu.Lock()
		defer b.Server.mu.Unlock()
		if len(b.peers)+len(b.byInit)+b.open.total != 0 {
			t.Errorf("%d machines are half-open still", len(b.peers))
		}
	})
}

// An end that lost its state begins anew; the other one has the old SA still.
func TestRestartAfterACrash(t *testing.T) {
	for _, initiates := range []netip.Addr{west, east} {
		t.Run(initiates.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				a, b := start(t, n, west, Options{}), start(t, n, east, Options{StopTimeout: time.Millisecond})
				atWest, atEast := joined("c", 1, initiates)
				apply(t, b, atEast)
				apply(t, a, atWest)
				settleFor(20 * time.Second)
				wantUp(t, "c", a, b)
				b.crash()
				again := start(t, n, east, Options{})
				apply(t, again, atEast)
				settleFor(5 * time.Minute)
				wantUp(t, "c", a, again)
				if got := len(a.backend.SAs()); got != 2 {
					t.Errorf("%d SAs", got)
				}
				if initiates == east {
					wantNoGap(t, a, 1)
				}
			})
		})
	}
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		old := a.connection(t, "c").IKE[0].InitiatorSPI
		for range 3 {
			if err := a.Reset("c"); err != nil {
				t.Fatal(err)
			}
		}
		settleFor(20 * time.Second)
		wantUp(t, "c", a, b)
		if got := a.connection(t, "c").IKE[0].InitiatorSPI; got == old {
			t.Error("the old IKE SA is still there")
		}
		// At the end that only responds it is the other one's turn.
		if err := b.Reset("c"); err != nil {
			t.Fatal(err)
		}
		settleFor(20 * time.Second)
		wantUp(t, "c", a, b)
	})
}

func TestBackendReportsReachTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		out, _ := a.backend.Outbound(1)
		a.backend.Report(ipsec.Event{Kind: ipsec.EventSoftExpire, SA: out.ID()})
		settleFor(20 * time.Second)
		wantUp(t, "c", a, b)
		if next, _ := a.backend.Outbound(1); next.SPI == out.SPI {
			t.Error("not rekeyed at the soft limit")
		}
		out, _ = a.backend.Outbound(1)
		a.backend.Report(ipsec.Event{Kind: ipsec.EventHardExpire, SA: out.ID()})
		settleFor(20 * time.Second)
		wantUp(t, "c", a, b)
		if next, _ := a.backend.Outbound(1); next.SPI == out.SPI {
			t.Error("still there after the hard limit")
		}
		// Reports on what is not ours are ignored.
		a.backend.Report(ipsec.Event{Kind: ipsec.EventAcquire, ReqID: 77})
		a.backend.Report(ipsec.Event{Kind: ipsec.EventMoved, SA: ipsec.SAID{Dst: west, SPI: 1000}})
		settleFor(time.Second)
		wantUp(t, "c", a, b)
	})
}

func TestDataPlaneThatRefusesAnSA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		a.backend.FailNext(ipsectest.OpAddSA, ipsec.ErrUnsupported)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(3 * time.Second)
		d := onlyDiagnosis(t, a, "c")
		if d.Reason != sa.ReasonDataPlane {
			t.Errorf("got %s", d.String())
		}
		settleFor(5 * time.Minute)
		wantUp(t, "c", a, b)
	})
}

func TestSilentPeerDoesNotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{StopTimeout: time.Millisecond})
		atWest, atEast := joined("c", 1, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		b.crash()
		began := time.Now()
		a.stopAndCheck(t)
		if took := time.Since(began); took > defaultStopTimeout+refusalHold {
			t.Errorf("took %s", took)
		}
		if err := a.Apply(nil); !errors.Is(err, ErrStopped) {
			t.Errorf("Apply after the end: %v", err)
		}
	})
}

// Forged requests from many addresses must not keep the peer out.
func TestFloodOfForgedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		anyPeer := testConnection("any", east, netip.Addr{}, 9)
		anyPeer.Children[0].Remote = []ipsec.TrafficSelector{prefix("10.9.0.0/16")}
		apply(t, b, atEast, anyPeer)
		local := netip.AddrPortFrom(east, 500)
		most := 0
		for i := range 2000 {
			b.Deliver(local, fromAddr(i), initRequest(t, uint64(i+1), nil))
			if i == 1000 {
				apply(t, a, atWest)
			}
			settleFor(10 * time.Millisecond)
			b.Server.mu.Lock()
			most = max(most, b.open.total)
			b.Server.mu.Unlock()
		}
		settleFor(time.Second)
		wantUp(t, "c", a, b)
		if limit := DefaultLimits().CookieTotal + 1; most > limit {
			t.Errorf("%d half-open", most)
		}
		// What was half-open is given up.
		settleFor(DefaultLimits().HalfOpenTimeout + time.Second)
		b.Server.mu.Lock()
		if b.open.total != 0 {
			t.Errorf("%d are half-open still", b.open.total)
		}
		b.Server.mu.Unlock()
	})
}

func TestWrongIdentityNamesBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		atWest.LocalID = sa.FQDNIdentity("other.example.org")
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(10 * time.Second)
		d := onlyDiagnosis(t, b, "c")
		if d.Reason != sa.ReasonConfigID {
			t.Errorf("got %s", d.String())
		}
		mustContain(t, d.String(), "other.example.org", west.String())
	})
}

// A refusal in IKE_SA_INIT belongs to the connection with the peer's address.
func TestNoCommonProposalNamesBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		atWest.Proposals[0].Transforms[0] = ipsec.Encryption(ipsec.EncryptionAESGCM16, 256)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(20 * time.Second)
		for _, g := range []*gateway{a, b} {
			d := onlyDiagnosis(t, g, "c")
			if d.Reason != sa.ReasonPhase1Proposal {
				t.Errorf("%s: %s", g.addr, d.String())
			}
		}
		d := onlyDiagnosis(t, b, "c")
		mustContain(t, d.String(), "AES-GCM-16-256", "AES-GCM-16-128")
	})
}

func TestManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 50
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		var all, peers []sa.Connection
		for i := range count {
			name := fmt.Sprintf("c%d", i)
			atWest, atEast := joined(name, uint32(i+1), west)
			id := sa.FQDNIdentity(name + ".example.org")
			atWest.LocalID, atEast.RemoteID = id, id
			net := prefix(fmt.Sprintf("10.%d.0.0/16", 10+i))
			atWest.Children[0].Local = []ipsec.TrafficSelector{net}
			atEast.Children[0].Remote = []ipsec.TrafficSelector{net}
			all, peers = append(all, atWest), append(peers, atEast)
		}
		apply(t, b, peers...)
		apply(t, a, all...)
		settleFor(time.Minute)
		for i := range count {
			wantUp(t, fmt.Sprintf("c%d", i), a, b)
		}
	})
}

func TestServerRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := start(t, newNetwork(), west, Options{})
		synctest.Wait()
		if err := a.Run(t.Context()); err == nil {
			t.Error("ran twice")
		}
	})
}

// olderPeer answers each request as an implementation that knows IKEv1 alone
// does: with a message of its own version and the initiator's SPI.
type olderPeer struct {
	deliver func(local, remote netip.AddrPort, datagram []byte)
}

func (p *olderPeer) SendIKE(local, remote netip.AddrPort, datagram []byte) error {
	h, err := wire.ParseHeader(datagram)
	if err != nil {
		return err
	}
	answer := wire.Header{InitiatorSPI: h.InitiatorSPI, MajorVersion: 1, Exchange: 5, Length: wire.HeaderLen}
	time.AfterFunc(10*time.Millisecond, func() { p.deliver(local, remote, answer.Append(nil)) })
	return nil
}

func TestPeerOfAnotherVersionIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := &olderPeer{}
		s := NewServer(Options{Transport: peer, Backend: ipsectest.NewBackend()})
		peer.deliver = s.Deliver
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		atWest, _ := joined("c", 1, west)
		if err := s.Apply([]sa.Connection{atWest}); err != nil {
			t.Fatal(err)
		}
		settleFor(30 * time.Second)
		f := s.Snapshot()[0].Failure
		if f == nil || f.Diagnosis.Reason != sa.ReasonVersion || f.Diagnosis.Ours != "2" || f.Diagnosis.Theirs != "1" {
			t.Errorf("got %+v", f)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The Backend takes the SA of a rekey at one end only: traffic goes on through
// the old one, and another rekey follows.
func TestDataPlaneThatRefusesARekey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
		atWest, atEast := joined("c", 1, west)
		apply(t, b, atEast)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		for _, g := range []*gateway{a, b} {
			before := sortedSPIs(a)
			g.backend.FailNext(ipsectest.OpAddSA, ipsec.ErrExists)
			out, _ := a.backend.Outbound(1)
			a.backend.Report(ipsec.Event{Kind: ipsec.EventSoftExpire, SA: out.ID()})
			settleFor(7 * time.Second)
			if after := sortedSPIs(a); !slices.Equal(before, after) {
				t.Errorf("SAs %v became %v", before, after)
			}
			settleFor(time.Minute)
			wantUp(t, "c", a, b)
			if after := sortedSPIs(a); slices.Equal(before, after) {
				t.Error("the child was not rekeyed in the end")
			}
		}
		wantNoGap(t, a, 1)
		wantNoGap(t, b, 1)
	})
}
