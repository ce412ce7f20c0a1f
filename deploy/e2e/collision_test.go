//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
	"github.com/vpngw/vpngw/ike/wire"
)

// collision is a request of the gateway and one of strongSwan that cross, and
// what the network does with them.
type collision struct {
	ours    gatewayRequest
	peer    peerRequest
	network network
}

// gatewayRequest is what the gateway asks for.
type gatewayRequest string

const (
	weRekeyChild     gatewayRequest = "we rekey the child"
	weRekeyIKE       gatewayRequest = "we rekey the IKE SA"
	weDeleteChild    gatewayRequest = "we delete a second child"
	weDeleteIKE      gatewayRequest = "we delete the IKE SA"
	weReauthenticate gatewayRequest = "we reauthenticate"
	weProbe          gatewayRequest = "we probe"
)

// exchange is what the request comes in.
func (r gatewayRequest) exchange() wire.ExchangeType {
	switch r {
	case weRekeyChild, weRekeyIKE:
		return wire.CreateChildSA
	case weReauthenticate:
		return wire.IKESAInit
	case weDeleteChild, weDeleteIKE, weProbe:
	}
	return wire.Informational
}

// meets returns collisions of the request.
func (r gatewayRequest) meets(list ...collision) []collision {
	for i := range list {
		list[i].ours = r
	}
	return list
}

// peerRequest is what strongSwan asks for at the moment.
type peerRequest string

const (
	peerRekeysChild     peerRequest = "the peer rekeys the child"
	peerRekeysIKE       peerRequest = "the peer rekeys the IKE SA"
	peerDeletesChild    peerRequest = "the peer deletes the child"
	peerDeletesIKE      peerRequest = "the peer deletes the IKE SA"
	peerReauthenticates peerRequest = "the peer reauthenticates"
	peerProbes          peerRequest = "the peer probes"
)

// stops reports whether traffic has to stop for a while. It goes through the first child.
func (c *collision) stops() bool {
	return c.ours == weDeleteIKE || c.peer == peerDeletesIKE || c.peer == peerDeletesChild && c.ours != weDeleteChild
}

// child names the one that the peer's request is about.
func (c *collision) child() string {
	if c.ours == weDeleteChild {
		return "second"
	}
	return "net"
}

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
	armed        bool // the request of ours is the next one of its exchange
	ours, theirs *netlab.IKEPacket
	released     bool
	lose         map[bool]bool // an answer, by whether it is the gateway's
	twice        int           // messages that are yet to be repeated
	held         chan struct{} // a request has been held
	answered     chan struct{} // the request of ours is answered
	answerSeen   bool
}

// pass decides on a message of the site. Requests wait from the one of the gateway on, until
// release.
func (c *crossing) pass(p *netlab.IKEPacket, ours bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed || p.Exchange == wire.IKEAuth {
		return true
	}
	if c.released {
		return c.passReleased(p, ours)
	}
	switch {
	case p.Response:
		return true
	case ours && c.ours == nil && p.Exchange == c.collision.ours.exchange():
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

// A router on the way holds a request of the gateway until strongSwan, too, has
// asked for something, and then lets both go, loses or repeats them. Traffic goes on
// unless an SA was to be deleted, and in the end both sides have one of each.
func TestCollisions(t *testing.T) {
	t.Parallel()
	// A rekey, or a reauthentication, comes at three quarters of a life; the last quarter
	// is for repeats.
	const life = 60 * time.Second
	for _, test := range []struct {
		name       string
		options    netlab.DaemonOptions
		collisions []collision
	}{
		{"child rekey", netlab.DaemonOptions{ChildLifetime: life}, weRekeyChild.meets(
			collision{peer: peerRekeysChild, network: oursFirst},
			collision{peer: peerRekeysChild, network: theirsFirst},
			collision{peer: peerRekeysChild, network: oneByOne},
			collision{peer: peerRekeysChild, network: oursLost},
			collision{peer: peerRekeysChild, network: theirsLost},
			collision{peer: peerRekeysChild, network: answersLost},
			collision{peer: peerRekeysChild, network: allTwice},
			collision{peer: peerRekeysIKE, network: oursFirst},
			collision{peer: peerRekeysIKE, network: theirsLost},
			collision{peer: peerDeletesChild, network: oursFirst},
			collision{peer: peerDeletesChild, network: theirsFirst},
			collision{peer: peerDeletesIKE, network: oursFirst},
			collision{peer: peerReauthenticates, network: oursFirst},
		)},
		// Where strongSwan's answer is lost, too, and it deletes the IKE SA that both
		// replace, it alone knows what its answer has told of, for almost a minute.
		{"IKE rekey", netlab.DaemonOptions{Lifetime: life}, weRekeyIKE.meets(
			collision{peer: peerRekeysIKE, network: oursFirst},
			collision{peer: peerRekeysIKE, network: theirsFirst},
			collision{peer: peerRekeysIKE, network: oneByOne},
			collision{peer: peerRekeysIKE, network: oursLost},
			collision{peer: peerRekeysIKE, network: theirsLost},
			collision{peer: peerRekeysIKE, network: ourAnswerLost},
			collision{peer: peerRekeysIKE, network: allTwice},
			collision{peer: peerRekeysChild, network: oursFirst},
			collision{peer: peerRekeysChild, network: theirsFirst},
			collision{peer: peerDeletesChild, network: oursFirst},
			collision{peer: peerDeletesIKE, network: theirsFirst},
			collision{peer: peerReauthenticates, network: theirsFirst},
		)},
		{"reauthentication", netlab.DaemonOptions{ShortTrust: life}, weReauthenticate.meets(
			collision{peer: peerReauthenticates, network: oursFirst},
			collision{peer: peerReauthenticates, network: theirsFirst},
			collision{peer: peerReauthenticates, network: answersLost},
			collision{peer: peerRekeysChild, network: theirsFirst},
			collision{peer: peerRekeysIKE, network: oursFirst},
			collision{peer: peerDeletesIKE, network: oursFirst},
		)},
		{"delete and probe", netlab.DaemonOptions{}, slices.Concat(
			weDeleteChild.meets(
				collision{peer: peerRekeysChild, network: oursFirst},
				collision{peer: peerRekeysChild, network: theirsFirst},
				collision{peer: peerRekeysIKE, network: theirsFirst},
				collision{peer: peerDeletesChild, network: oursLost},
			),
			weDeleteIKE.meets(
				collision{peer: peerRekeysIKE, network: theirsFirst},
				collision{peer: peerRekeysChild, network: oursFirst},
				collision{peer: peerDeletesIKE, network: oursFirst},
				collision{peer: peerReauthenticates, network: oursLost},
			),
			weProbe.meets(
				collision{peer: peerProbes, network: oursFirst},
				collision{peer: peerProbes, network: answersLost},
				collision{peer: peerRekeysIKE, network: theirsFirst},
				collision{peer: peerReauthenticates, network: allTwice},
			),
		)},
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
	settings := map[string]string{"delete_rekeyed_delay": "1", "make_before_break": "yes"}
	var connections []declare.Connection
	for i, x := range list {
		x.relay = relay
		w.peer(i, settings, w.swan(i, func(c *netlab.SwanConnection) { x.configurePeer(w, c) }))
		connections = append(connections, w.connection(i, func(c *declare.Connection) { x.configure(w, c) }))
	}
	w.apply(w.file(connections))
	var sites sync.WaitGroup
	for _, x := range list {
		sites.Go(func() { x.run(w) })
	}
	sites.Wait()
	w.expectNothingInClear()
}

const (
	// probeInterval is how long the gateway hears nothing before it probes: the least.
	probeInterval = 10 * time.Second
	// theirProbeInterval is later than that.
	theirProbeInterval = 12 * time.Second
)

// configure makes a connection one that can be in the collision.
func (c *crossing) configure(w *world, connection *declare.Connection) {
	switch c.collision.ours {
	case weDeleteChild:
		second := connection.PolicyRules[0]
		second.Source = w.CloudSubnets[1].String()
		connection.PolicyRules = append(connection.PolicyRules, second)
	case weProbe:
		interval := int(probeInterval / time.Second)
		connection.IKEPolicy.DPD = &declare.DPD{Interval: &interval}
	default:
	}
}

// configurePeer does the same to strongSwan.
func (c *crossing) configurePeer(w *world, swan *netlab.SwanConnection) {
	if c.collision.ours == weDeleteChild {
		second := swan.Children[0]
		second.Name, second.Remote = "second", w.CloudSubnets[1:]
		swan.Children = append(swan.Children, second)
	}
	if c.peer == peerProbes {
		swan.DPD = theirProbeInterval
	}
	if c.collision.ours == weReauthenticate {
		// It is told of the lifetime and begins so long before its end, by default longer.
		swan.OverTime = 3 * time.Second
	}
}

// begin has the gateway ask, where it does not so by itself.
func (c *crossing) begin(w *world) error {
	id := w.id(connectionName(c.site))
	switch c.collision.ours {
	case weDeleteChild:
		rules := w.connection(c.site).PolicyRules
		_, err := w.api.Update(w.ctx, client.Connections, id, client.Object{"policy_rules": rules})
		return err
	case weDeleteIKE:
		return w.api.Reset(w.ctx, id)
	default: // at the end of a lifetime, or of a silence
		return nil
	}
}

// run takes one site through its collision.
func (c *crossing) run(w *world) {
	children := 1
	if c.collision.ours == weDeleteChild {
		children = 2
	}
	var ping *netlab.Ping // that silence would end with
	if c.collision.ours == weProbe {
		w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[c.site].Addresses[0])
	} else {
		ping = w.ping(c.site)
	}
	w.expectOneSA(c.site, children, patience) // or what comes next may be part of the beginning
	c.mu.Lock()
	c.armed = true
	c.mu.Unlock()
	w.check(c.begin(w))
	w.check(c.wait(w.ctx, "a request of ours"))
	asked := make(chan error, 1)
	go func() { asked <- c.ask(w) }()
	w.check(c.wait(w.ctx, "a request of the peer"))
	w.check(c.release(w.ctx))
	if err := <-asked; err != nil {
		w.t.Logf("site %d: %s, %s, %s: strongSwan says: %v", c.site, c.collision.ours, c.peer, c.network, err)
	}
	if ping == nil {
		ping = w.ping(c.site)
	}
	w.goesOn(ping)
	w.expectOneSA(c.site, 1, patience)
	w.goesOn(ping)
	report, err := ping.Finish(w.ctx)
	w.check(err)
	w.t.Logf("site %d: %s, %s, %s: %v", c.site, c.collision.ours, c.peer, c.network, report)
	if strings.Contains(w.peers[c.site].Log(), "CHILD_SA rekeying failed, trying again") {
		// Its request met a child that we had replaced, which we refuse (RFC 7296, section
		// 2.25.1). When our DELETE comes after that, strongSwan 5.9.8 sends on no SA until
		// the next rekey: it never installs the outbound half of the one that we made.
		w.t.Logf("site %d: the peer lost its outbound SA to the refusal", c.site)
		return
	}
	if overruns := w.overruns(); !c.stops() && len(report.Lost) > overruns {
		w.t.Errorf("site %d: %s, %s, %s: packets are lost: %v, queues overran by %d packets", c.site, c.collision.ours, c.peer, c.network, report, overruns)
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
		return peer.RekeyChild(w.ctx, c.child())
	case peerRekeysIKE:
		return peer.RekeyIKE(w.ctx, "cloud")
	case peerDeletesChild:
		return peer.TerminateChild(w.ctx, c.child())
	case peerDeletesIKE:
		return peer.TerminateIKE(w.ctx, "cloud")
	case peerReauthenticates:
		return peer.Reauthenticate(w.ctx, "cloud")
	case peerProbes: // by itself
		return nil
	}
	return fmt.Errorf("no such request: %s", c.peer)
}
