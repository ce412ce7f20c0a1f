package sslvpn

import (
	"time"

	"github.com/vpngw/vpngw/dataplane/policer"
	"github.com/vpngw/vpngw/dataplane/tun"
)

// inbound takes packets of clients to the TUN.
type inbound struct {
	p      *plane
	joiner *tun.Coalescer
	header innerHeader

	// The destination that the packet before went to, and was allowed to.
	passed   ipNumber
	passedBy *accessSet

	packets, octets int // that go to the TUN
	now             int64
	limited         bool
	drawn           int64 // when, by policer.Now, if limited
	rekey, exit     bool
}

func newInbound(p *plane) *inbound {
	return &inbound{p: p, joiner: tun.NewCoalescer(p.dev.NewWriter())}
}

// receive takes DATA packets of the client as they came, in order: it opens
// them and checks for replay, source and destination, and writes what passes
// to the TUN. It returns how many were authentic and new.
//
// The packets are changed in place. 16 octets behind each are used for a
// moment, when the slice has the capacity.
func (c *client) receive(packets [][]byte) (authentic int) {
	p := c.plane.Load()
	if p == nil {
		return 0
	}
	in := p.inbounds.Get().(*inbound)
	in.start()
	var used *dataKey // the newest
	c.recv.Lock()
	for _, packet := range packets {
		key, ok := in.take(c, packet)
		if !ok {
			continue
		}
		authentic++
		if used == nil || key.serial > used.serial {
			used = key
		}
	}
	var (
		firstUse bool
		keyID    uint8
		serial   uint64
	)
	if used != nil {
		keyID, serial = used.id, used.serial
		firstUse = !used.heard
		used.heard = true
	}
	c.recv.Unlock()
	if lost, err := in.joiner.Flush(); err != nil {
		in.lost(lost)
	}
	c.inbound.add(in.packets, in.octets)
	rekey, exit := in.rekey, in.exit
	if authentic > 0 {
		c.received.Store(in.now)
	}
	p.inbounds.Put(in)
	if firstUse {
		c.heardKey(keyID, serial)
	}
	if rekey && c.onRekey != nil {
		c.onRekey()
	}
	if exit && c.onExit != nil {
		c.onExit()
	}
	return authentic
}

// heardKey moves sealing to a key that the client is known to have.
func (c *client) heardKey(keyID uint8, serial uint64) {
	c.send.Lock()
	key := c.keys[keyID]
	if key != nil && key.serial == serial && (c.sealing == nil || c.sealing.serial < serial) {
		c.sealing = key
	}
	c.send.Unlock()
	if c.onKey != nil {
		c.onKey(keyID)
	}
}

func (in *inbound) start() {
	in.passedBy = nil
	in.packets, in.octets = 0, 0
	in.rekey, in.exit = false, false
	in.now = time.Now().UnixNano()
	if in.limited = in.p.up.Limited(); in.limited {
		in.drawn = policer.Now()
	}
}

func (in *inbound) lost(n int) { in.p.drops.add(reasonWrite, n) }

// take treats one packet. ok says that it was authentic and new, whatever
// became of it then. The caller holds recv.
func (in *inbound) take(c *client, packet []byte) (key *dataKey, ok bool) {
	p := in.p
	if len(packet) == 0 {
		p.drops.add(reasonTruncated, 1)
		return nil, false
	}
	if key = c.keys[packet[0]&7]; key == nil {
		p.drops.add(reasonUnknownKey, 1)
		return nil, false
	}
	payload, rekey, why := key.openIn(packet)
	in.rekey = in.rekey || rekey
	if why != reasonNone {
		p.drops.add(why, 1)
		return nil, false
	}
	if why := in.deliver(c, payload); why != reasonNone {
		p.drops.add(why, 1)
	}
	return key, true
}

// deliver judges what was in a packet and hands it to the TUN.
func (in *inbound) deliver(c *client, payload []byte) reason {
	payload, why := c.unframe(payload)
	switch {
	case why != reasonNone:
		return why
	case isPing(payload):
		return reasonNone
	case isOCC(payload):
		in.exit = in.exit || isExit(payload)
		return reasonNone
	}
	h := &in.header
	if why := h.parse(payload); why != reasonNone {
		return why
	}
	packet := payload[:h.length]
	near := h.src
	if in.p.blocks == nil {
		near = h.dst
	}
	switch {
	case !near.is4() && c.address6.isZero():
		return reasonFamily
	case !c.has(near):
		return reasonSource
	case in.p.blocks != nil && h.routed:
		in.p.denied(c, h, reasonDenied)
		return reasonDenied
	}
	if access := c.access.Load(); access == nil || access != in.passedBy || h.dst != in.passed {
		if why := in.p.permits(c, h.dst, h, packet); why != reasonNone {
			in.p.denied(c, h, why)
			return why
		}
		if access.contains(h.dst) && !in.p.isServer(h.dst) { // of which not all is allowed
			in.passed, in.passedBy = h.dst, access
		}
	}
	if in.limited && !in.p.up.Allow(len(packet), in.drawn) {
		return reasonBandwidth
	}
	if limit := c.link.maxSegment(); limit != 0 && h.syn(packet) {
		clampMSS(packet, h, h.mss(limit))
	}
	if lost, err := in.joiner.Add(packet); err != nil {
		in.lost(lost)
	}
	in.packets++
	in.octets += len(packet)
	return reasonNone
}

// unframe removes the octets of compression framing.
func (c *client) unframe(payload []byte) ([]byte, reason) {
	if len(payload) == 0 {
		return nil, reasonMalformed
	}
	mark := payload[0]
	switch {
	case (mark == markLZO || mark == markLZ4) && (c.framing == framingCompLZO || c.address6.isZero()): // else it is a packet of IPv6
		return nil, reasonCompressed
	case mark == markStubV2:
		if len(payload) < 2 || payload[1] != 0 {
			return nil, reasonCompressed
		}
		return payload[2:], reasonNone
	case c.framing == framingCompLZO && mark == markPlain:
		return payload[1:], reasonNone
	}
	return payload, reasonNone
}
