package ike

import (
	"slices"

	"github.com/vpngw/vpngw/ipsec"
)

// Traffic is inner packets and octets that passed.
type Traffic struct{ Packets, Bytes uint64 }

func (t *Traffic) add(o Traffic) {
	t.Packets += o.Packets
	t.Bytes += o.Bytes
}

// passage sums what passes over the SAs of a connection, which come and go. It is
// under Server.mu; the Backend is asked outside of it. A sum never goes down: an SA
// counts with what was last seen of it, and what was seen before its removal is kept.
type passage struct {
	ended    [2]Traffic // over SAs that are gone, inbound and outbound
	standing []standingSA
}

type standingSA struct {
	id       ipsec.SAID
	outbound bool
	seen     Traffic
}

// sum returns what passed in and out.
func (p *passage) sum() (in, out Traffic) {
	sums := p.ended
	for i := range p.standing {
		sums[side(p.standing[i].outbound)].add(p.standing[i].seen)
	}
	return sums[0], sums[1]
}

func side(outbound bool) int {
	if outbound {
		return 1
	}
	return 0
}

func (p *passage) find(id ipsec.SAID) int {
	return slices.IndexFunc(p.standing, func(s standingSA) bool { return s.id == id })
}

// see takes over the counters of an SA that stands.
func (p *passage) see(id ipsec.SAID, state *ipsec.SAState) {
	if i := p.find(id); i >= 0 {
		seen := &p.standing[i].seen
		seen.Packets, seen.Bytes = max(seen.Packets, state.Packets), max(seen.Bytes, state.Bytes)
	}
}

// end takes an SA away, with what was last seen of it.
func (p *passage) end(id ipsec.SAID) {
	if i := p.find(id); i >= 0 {
		p.ended[side(p.standing[i].outbound)].add(p.standing[i].seen)
		p.standing = slices.Delete(p.standing, i, i+1)
	}
}

// passageOf calls f with that of the connection of the peer's machine, if there is
// one and it is configured.
func (p *peer) passageOf(f func(*passage)) {
	if p.machine == nil {
		return
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if c := p.s.conns[p.machine.Connection()]; c != nil {
		f(&c.passage)
	}
}
