package dataplane

import (
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/udp"
)

// TestClockSetBack: what was last reported at a time that the clock has not reached
// again is reported all the same.
func TestClockSetBack(t *testing.T) {
	_, in, g := loops(t)
	later := time.Now().Add(time.Hour).UnixNano()
	for _, a := range g.sas {
		if a.in == nil {
			continue
		}
		a.request.acquired.Store(later)
		a.movedAt.Store(later)
		g.acquire(a.request)
		in.moved(a, &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true})
		if a.request.acquired.Load() == later {
			t.Error("no SA is asked for")
		}
		if a.path.Load().Encap && a.movedAt.Load() == later {
			t.Error("a move of the peer is not reported")
		}
	}
}
