//go:build e2e

package e2e

import (
	"net/netip"
	"strings"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// streams are 1,000 datagrams a second between the cloud host and a site's, in each
// direction, while something is done.
type streams struct {
	w       *world
	out, in *netlab.Stream
	before  int // packets that queues had dropped
	marks   []streamMark
}

// streamMark is what begins when so many datagrams were sent.
type streamMark struct {
	what    string
	out, in int
}

func (w *world) startStreams(site int, cloud, office netip.Addr) *streams {
	w.t.Helper()
	host := w.Sites[site].Host
	return &streams{
		w: w, before: w.overruns(),
		out: must(netlab.StartStream(w.CloudHost, host, cloud, office, 7001, 1000))(w.t),
		in:  must(netlab.StartStream(host, w.CloudHost, office, cloud, 7002, 1000))(w.t),
	}
}

// next says what is done from now on.
func (s *streams) next(what string) {
	s.marks = append(s.marks, streamMark{what, s.out.Sent(), s.in.Sent()})
}

// finish ends the streams. Queues must have counted what is lost.
func (s *streams) finish() {
	w, t := s.w, s.w.t
	t.Helper()
	steps := len(s.marks)
	s.next("the end")
	sentOut, lostOut := s.out.Finish()
	sentIn, lostIn := s.in.Finish()
	overruns := w.overruns() - s.before
	t.Logf("%d edits: %d of %d datagrams to the site and %d of %d from it lost; queues overran by %d packets", steps, len(lostOut), sentOut, len(lostIn), sentIn, overruns)
	for i := range steps {
		a, b := s.marks[i], s.marks[i+1]
		lostTo, lostFrom := s.out.Lost(a.out, b.out), s.in.Lost(a.in, b.in)
		if len(lostTo)+len(lostFrom) > 0 {
			t.Logf("%s: lost to the site %v, from it %v", a.what, lostTo, lostFrom)
		}
	}
	if len(lostOut)+len(lostIn) > overruns {
		t.Errorf("%d datagrams are lost, queues overran by %d packets only", len(lostOut)+len(lostIn), overruns)
	}
	if sentOut < 50*steps || sentIn < 50*steps {
		t.Errorf("the streams stood still: %d and %d datagrams", sentOut, sentIn)
	}
	page, err := w.daemon.Metrics(w.ctx)
	w.check(err)
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "vpngw_dataplane_dropped_packets_total{") {
			t.Logf("dropped: %s", line)
		}
	}
}
