package sslvpn

import (
	"errors"
	"slices"
	"time"

	"github.com/vpngw/vpngw/dataplane/policer"
	"github.com/vpngw/vpngw/dataplane/tun"
)

// outbound takes packets from one TUN queue to the clients. An idle queue
// holds none.
type outbound struct {
	p        *plane
	segments tun.Segments
	header   innerHeader
	frame    []byte    // what the TUN was read into
	touched  []*client // those with packets that are not on their way yet
}

func newOutbound(p *plane) *outbound {
	return &outbound{p: p, frame: make([]byte, tun.HeaderLen+tun.MaxPacket)}
}

// runQueue serves one TUN queue until the device is closed.
func (p *plane) runQueue(q tun.Queue) error {
	for {
		err := q.Wait()
		if err == nil {
			o := p.outbounds.Get().(*outbound)
			err = o.drain(q)
			p.outbounds.Put(o)
		}
		switch {
		case err == nil:
		case errors.Is(err, tun.ErrClosed):
			return nil
		default:
			return err
		}
	}
}

// Bounds of how long the first of several clients waits for its packets while
// others get theirs.
const maxTouched, maxFrames = 16, 64

// drain takes frames from a queue until it is empty.
func (o *outbound) drain(q tun.Queue) error {
	for frames := 1; ; frames++ {
		n, err := q.Read(o.frame)
		if err != nil {
			o.flush()
			if errors.Is(err, tun.ErrWouldBlock) {
				return nil
			}
			return err
		}
		c, worth := o.process(o.frame[:n])
		if c != nil && !slices.Contains(o.touched, c) {
			o.touched = append(o.touched, c)
		}
		if worth || len(o.touched) >= maxTouched || frames%maxFrames == 0 {
			o.flush()
		}
	}
}

// flush sends what is ready.
func (o *outbound) flush() {
	if len(o.touched) == 0 {
		return
	}
	now := time.Now().UnixNano()
	for i, c := range o.touched {
		c.send.Lock()
		c.push()
		c.send.Unlock()
		c.link.flush()
		c.lastSent.Store(now)
		o.touched[i] = nil
	}
	o.touched = o.touched[:0]
}

// process takes one frame. All its packets are of one flow, so that what holds
// for the first holds for all. It returns the client that has got some, and
// whether there is enough to be sent at once.
func (o *outbound) process(frame []byte) (c *client, worth bool) {
	p := o.p
	if err := o.segments.Reset(frame); err != nil {
		p.drops.add(reasonMalformed, 1)
		return nil, false
	}
	packet := o.segments.Next()
	h := &o.header
	if why := h.parse(packet); why != reasonNone {
		p.drops.add(why, 1)
		return nil, false
	}
	c = p.lookup(h.dst)
	var why reason
	switch {
	case c == nil:
		why = reasonNoClient
	case c.link.full():
		why = reasonQueueFull
	default:
		if why = p.permits(c, h.src, h, packet); why != reasonNone {
			p.denied(c, h, why)
		}
	}
	if why != reasonNone {
		n := 0
		for ; packet != nil; packet = o.segments.Next() {
			n++
		}
		p.drops.add(why, n)
		return nil, false
	}
	if limit := c.link.maxSegment(); limit != 0 && h.syn(packet) {
		clampMSS(packet, h, h.mss(limit))
	}
	return c, o.seal(c, packet[:h.length])
}

// seal adds the packets of a frame to the client's train.
func (o *outbound) seal(c *client, packet []byte) (worth bool) {
	p := o.p
	var now int64
	limited := p.down.Limited()
	if limited {
		now = policer.Now()
	}
	rekey, packets, octets := false, 0, 0
	c.send.Lock()
	for ; packet != nil; packet = o.segments.Next() {
		if limited && !p.down.Allow(len(packet), now) {
			p.drops.add(reasonBandwidth, 1)
			continue
		}
		due, why := c.seal(packet)
		rekey = rekey || due
		if why != reasonNone {
			p.drops.add(why, 1)
			continue
		}
		packets++
		octets += len(packet)
	}
	worth = c.open != nil && len(c.open.octets) >= trainWorth
	c.send.Unlock()
	c.outbound.add(packets, octets)
	if rekey && c.onRekey != nil {
		c.onRekey()
	}
	return worth
}
