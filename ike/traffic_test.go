package ike

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// What passed over a connection is summed over all its SAs, to the last packet of
// those that a rekey or the end of the IKE SA removes, whether or not anybody looked
// before, and whether the peer or this end removes them.
func TestTrafficIsSummedOverRekeys(t *testing.T) {
	for _, version := range []uint8{2, 1} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork()
			a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
			atWest, atEast := joined("c", 1, west)
			if version == 1 {
				atWest, atEast = joinedV1("c", 1, false, west)
			}
			apply(t, b, atEast)
			apply(t, a, atWest)
			settleFor(5 * time.Second)
			if len(a.backend.SAs()) != 2 || len(b.backend.SAs()) != 2 {
				t.Fatalf("v%d: the tunnel is not up", version)
			}

			// pass makes 10 packets in and 3 out pass over every SA, of 100 octets each.
			pass := func(g *gateway) (in, out Traffic) {
				for _, s := range g.backend.SAs() {
					state, err := g.backend.QuerySA(s.ID())
					if err != nil {
						t.Fatal(err)
					}
					count, sum := uint64(10), &in
					if s.Direction == ipsec.Out {
						count, sum = 3, &out
					}
					state.Packets, state.Bytes = state.Packets+count, state.Bytes+100*count
					if err := g.backend.SetState(s.ID(), state); err != nil {
						t.Fatal(err)
					}
					sum.add(Traffic{count, 100 * count})
				}
				return in, out
			}
			var wantIn, wantOut [2]Traffic
			for round := range 6 {
				for i, g := range []*gateway{a, b} {
					in, out := pass(g)
					wantIn[i].add(in)
					wantOut[i].add(out)
					if round%2 == 0 {
						if c := g.connection(t, "c"); c.In != wantIn[i] || c.Out != wantOut[i] {
							t.Errorf("v%d, round %d, %s: %v in and %v out, want %v and %v", version, round, g.addr, c.In, c.Out, wantIn[i], wantOut[i])
						}
					}
				}
				asked := []*gateway{a, b}[round/2%2]
				out, _ := asked.backend.Outbound(1)
				asked.backend.Report(ipsec.Event{Kind: ipsec.EventSoftExpire, SA: out.ID()})
				settleFor(time.Minute)
			}
			if len(a.seen(sa.ChildRekeyed))+len(b.seen(sa.ChildRekeyed)) == 0 {
				t.Error("nothing was rekeyed")
			}
			a.Reset("c")
			settleFor(time.Minute)
			for i, g := range []*gateway{a, b} {
				if c := g.connection(t, "c"); c.In != wantIn[i] || c.Out != wantOut[i] {
					t.Errorf("v%d, at the end, %s: %v in and %v out, want %v and %v", version, g.addr, c.In, c.Out, wantIn[i], wantOut[i])
				}
			}
		})
	}
}
