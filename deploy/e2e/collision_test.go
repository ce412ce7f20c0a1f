//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
	"github.com/vpngw/vpngw/ike/wire"
)

// collision is a request of the gateway and one of strongSwan that cross, and
// what the network does with them.
type collision struct {
	peer    peerRequest
	network network
}

// peerRequest is what strongSwan asks for at the moment.
type peerRequest string

const (
	peerRekeysChild  peerRequest = "the peer rekeys the child"
	peerRekeysIKE    peerRequest = "the peer rekeys the IKE SA"
	peerDeletesChild peerRequest = "the peer deletes the child"
	peerDeletesIKE   peerRequest = "the peer deletes the IKE SA"
)

// deletes reports whether traffic has to stop for a while.
func (r peerRequest) deletes() bool { return r == peerDeletesChild || r == peerDeletesIKE }

// network is the fate of the two requests, which both are under way.
type network string

const (
	oursFirst     network = "ours arrives first"
	theirsFirst   network = "theirs arrives first"
	oneByOne      network = "theirs arrives after the answer to ours"
	oursLost      network = "ours is lost"
	theirsLost    network = "theirs is lost"
	answersLost   network = "both answers are lost"
	ourAnswerLost network = "our answer is lost"
	allTwice      network = "everything arrives twice"
)

// crossing holds the messages of one site.
type crossing struct {
	collision
	site int

	mu           sync.Mutex
	relay        *netlab.Relay
	ours, theirs *netlab.IKEPacket
	released     bool
	lose         map[bool]bool // an answer, by whether it is the gateway's
	twice        int           // messages that are yet to be repeated
	held         chan struct{} // a request has been held
	answered     chan struct{} // the request of ours is answered
	answerSeen   bool
}

// pass decides on a message of the site. Requests wait from the first one of the
// gateway that sets up an SA on, until release.
func (c *crossing) pass(p *netlab.IKEPacket, ours bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Exchange != wire.CreateChildSA && p.Exchange != wire.Informational {
		return true
	}
	if c.released {
		return c.passReleased(p, ours)
	}
	switch {
	case p.Response:
		return true
	case ours && c.ours == nil && p.Exchange == wire.CreateChildSA:
		c.ours = p
	case !ours && c.ours != nil && c.theirs == nil:
		c.theirs = p
	default:
		return c.ours == nil // what is repeated is not needed
	}
	c.held <- struct{}{}
	return false
}

func (c *crossing) passReleased(p *netlab.IKEPacket, ours bool) bool {
	if p.Response && !ours && !c.answerSeen && p.MessageID == c.ours.MessageID && p.InitiatorSPI == c.ours.InitiatorSPI {
		c.answerSeen = true
		close(c.answered)
	}
	if p.Response && c.lose[ours] {
		delete(c.lose, ours)
		return false
	}
	if c.twice > 0 {
		c.twice--
		_ = c.relay.Forward(p) // at worst it arrives once
	}
	return true
}

// release lets the two requests go.
func (c *crossing) release(ctx context.Context) error {
	c.mu.Lock()
	c.released = true
	order := []*netlab.IKEPacket{c.ours, c.theirs}
	switch c.network {
	case theirsFirst:
		order = []*netlab.IKEPacket{c.theirs, c.ours}
	case oursLost:
		order = order[1:]
	case theirsLost, oneByOne:
		order = order[:1]
	case answersLost:
		c.lose = map[bool]bool{true: true, false: true}
	case ourAnswerLost:
		c.lose = map[bool]bool{true: true}
	case allTwice:
		c.twice = 12
		order = append(order, order...)
	case oursFirst:
	}
	c.mu.Unlock()
	for _, p := range order {
		if err := c.relay.Forward(p); err != nil {
			return err
		}
	}
	if c.network != oneByOne {
		return nil
	}
	select {
	case <-c.answered:
		return c.relay.Forward(c.theirs)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A router on the way holds a rekey of the gateway until strongSwan, too, has
// asked for something, and then lets both go, loses or repeats them. Traffic goes on
// unless an SA was to be deleted, and in the end both sides have one of each.
func TestCollisions(t *testing.T) {
	t.Parallel()
	// A rekey comes at three quarters of a life; the last quarter is for repeats.
	const life = 60 * time.Second
	for _, test := range []struct {
		name       string
		options    netlab.DaemonOptions
		collisions []collision
	}{
		{"child rekey", netlab.DaemonOptions{ChildLifetime: life}, []collision{
			{peerRekeysChild, oursFirst},
			{peerRekeysChild, theirsFirst},
			{peerRekeysChild, oneByOne},
			{peerRekeysChild, oursLost},
			{peerRekeysChild, theirsLost},
			{peerRekeysChild, answersLost},
			{peerRekeysChild, allTwice},
			{peerRekeysIKE, oursFirst},
			{peerRekeysIKE, theirsLost},
			{peerDeletesChild, oursFirst},
			{peerDeletesChild, theirsFirst},
			{peerDeletesIKE, oursFirst},
		}},
		// Where strongSwan's answer is lost, too, and it deletes the IKE SA that both
		// replace, it alone knows what its answer has told of, for almost a minute.
		{"IKE rekey", netlab.DaemonOptions{Lifetime: life}, []collision{
			{peerRekeysIKE, oursFirst},
			{peerRekeysIKE, theirsFirst},
			{peerRekeysIKE, oneByOne},
			{peerRekeysIKE, oursLost},
			{peerRekeysIKE, theirsLost},
			{peerRekeysIKE, ourAnswerLost},
			{peerRekeysIKE, allTwice},
			{peerRekeysChild, oursFirst},
			{peerRekeysChild, theirsFirst},
			{peerDeletesChild, oursFirst},
			{peerDeletesIKE, theirsFirst},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			collide(t, test.options, test.collisions)
		})
	}
}

// collide runs one collision at each site of a world.
func collide(t *testing.T, options netlab.DaemonOptions, collisions []collision) {
	w := newWorld(t, 6*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, len(collisions))}, options)
	bySite := map[netip.Addr]*crossing{}
	var list []*crossing
	for i, c := range collisions {
		x := &crossing{collision: c, site: i, held: make(chan struct{}, 2), answered: make(chan struct{})}
		list, bySite[w.Sites[i].Public] = append(list, x), x
	}
	relay, err := w.StartRelay(w.ctx, func(p *netlab.IKEPacket) bool {
		if x := bySite[p.From.Addr()]; x != nil {
			return x.pass(p, false)
		}
		if x := bySite[p.To.Addr()]; x != nil {
			return x.pass(p, true)
		}
		return true
	})
	w.check(err)
	t.Cleanup(func() {
		if err := relay.Close(); err != nil {
			t.Error(err)
		}
	})
	settings := map[string]string{"delete_rekeyed_delay": "1"}
	var connections []declare.Connection
	for i, x := range list {
		x.relay = relay
		w.peer(i, settings, w.swan(i))
		connections = append(connections, w.connection(i))
	}
	w.apply(w.file(connections))
	var sites sync.WaitGroup
	for _, x := range list {
		sites.Go(func() { x.run(w) })
	}
	sites.Wait()
	w.expectNothingInClear()
}

// run takes one site through its collision.
func (c *crossing) run(w *world) {
	ping := w.ping(c.site)
	w.check(c.wait(w.ctx, "a rekey of ours"))
	asked := make(chan error, 1)
	go func() { asked <- c.ask(w) }()
	w.check(c.wait(w.ctx, "a request of the peer"))
	w.check(c.release(w.ctx))
	if err := <-asked; err != nil {
		w.t.Logf("site %d: %s, %s: strongSwan says: %v", c.site, c.peer, c.network, err)
	}
	w.goesOn(ping)
	w.expectOneSA(c.site, 1, patience)
	w.goesOn(ping)
	report, err := ping.Finish(w.ctx)
	w.check(err)
	w.t.Logf("site %d: %s, %s: %v", c.site, c.peer, c.network, report)
	if strings.Contains(w.peers[c.site].Log(), "CHILD_SA rekeying failed, trying again") {
		// Its request met a child that we had replaced, which we refuse (RFC 7296, section
		// 2.25.1). When our DELETE comes after that, strongSwan 5.9.8 sends on no SA until
		// the next rekey: it never installs the outbound half of the one that we made.
		w.t.Logf("site %d: the peer lost its outbound SA to the refusal", c.site)
		return
	}
	if overruns := w.overruns(); !c.peer.deletes() && len(report.Lost) > overruns {
		w.t.Errorf("site %d: %s, %s: packets are lost: %v, queues overran by %d packets", c.site, c.peer, c.network, report, overruns)
	}
}

// goesOn waits until some packets more are answered.
func (w *world) goesOn(p *netlab.Ping) {
	w.t.Helper()
	before := p.Received()
	w.check(netlab.Poll(w.ctx, 100*time.Millisecond, func() (bool, error) { return p.Received() > before+5, nil }))
}

func (c *crossing) wait(ctx context.Context, what string) error {
	select {
	case <-c.held:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", what, ctx.Err())
	}
}

// ask has strongSwan begin.
func (c *crossing) ask(w *world) error {
	peer := w.peers[c.site]
	switch c.peer {
	case peerRekeysChild:
		return peer.RekeyChild(w.ctx, "net")
	case peerRekeysIKE:
		return peer.RekeyIKE(w.ctx, "cloud")
	case peerDeletesChild:
		return peer.TerminateChild(w.ctx, "net")
	case peerDeletesIKE:
		return peer.TerminateIKE(w.ctx, "cloud")
	}
	return fmt.Errorf("no such request: %s", c.peer)
}
