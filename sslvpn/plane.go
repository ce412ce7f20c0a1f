package sslvpn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/dataplane/policer"
	"github.com/vpngw/vpngw/dataplane/tun"
)

// plane is the data path of one endpoint: its TUN device and the clients
// behind it. Packets from the TUN are sealed for the client whose virtual
// address they go to; packets from clients are opened by client.receive.
//
// Both directions enforce the same rule: the far end is a destination that the
// client's access set allows, and the near end is the client's virtual
// address. Whatever the set says, between a client and the server's own address
// there is only ICMP, and source routes (RFC 791, RFC 5095) lead nowhere. Beyond the set
// pass ICMP errors about packets of a client that were allowed.
// Nothing passes from client to client.
type plane struct {
	dev     tun.Device
	log     *slog.Logger
	prefix  netip.Prefix
	pool    addressRange
	pool6   addressRange // likewise, of IPv6; the zero value: there is none
	blocks  []atomic.Pointer[client]
	peer    atomic.Pointer[client] // the server, at a client's own end
	drops   drops
	logRate *rate.Limiter

	down, up policer.Policer // to the clients and from them

	outbounds sync.Pool // of *outbound
	inbounds  sync.Pool // of *inbound
}

// planeOptions are what a plane can do without.
type planeOptions struct {
	// pool6 is the clients' network of IPv6; the zero value: they have none.
	pool6 netip.Prefix
	log   *slog.Logger // nil: no log
	// bandwidthMbps limits what all clients carry together, for each direction;
	// 0 is no limit.
	bandwidthMbps int
}

// Limits of the log lines about denied packets.
const denialsPerSecond, denialsAtOnce = 1, 10

// newPlane returns a plane without clients for a pool as addressPool rules it.
// The plane owns the device from run on.
func newPlane(dev tun.Device, pool netip.Prefix, o planeOptions) (*plane, error) {
	if err := checkPool(pool); err != nil {
		return nil, err
	}
	p := makePlane(dev, o)
	p.prefix, p.pool = pool, rangeOf(pool)
	if o.pool6.IsValid() {
		if err := checkPool6(o.pool6, pool); err != nil {
			return nil, err
		}
		p.pool6 = rangeOf(o.pool6)
	}
	p.blocks = make([]atomic.Pointer[client], 1<<(30-pool.Bits()))
	return p, nil
}

// newPeerPlane returns the data path of a client's own end: all that the TUN
// gives goes to the server, which attachServer sets, and what comes from there
// has to be for the client's virtual address.
func newPeerPlane(dev tun.Device, o planeOptions) *plane { return makePlane(dev, o) }

func makePlane(dev tun.Device, o planeOptions) *plane {
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	p := &plane{dev: dev, log: o.log, logRate: rate.NewLimiter(denialsPerSecond, denialsAtOnce)}
	p.setBandwidth(o.bandwidthMbps)
	p.outbounds.New = func() any { return newOutbound(p) }
	p.inbounds.New = func() any { return newInbound(p) }
	return p
}

// attachServer sets where a client's own end sends to: the server under the
// client's peer id and virtual address. It takes the place of another.
func (p *plane) attachServer(c *client) {
	c.plane.Store(p)
	if old := p.peer.Swap(c); old != nil && old != c {
		old.retireAll()
	}
}

// setBandwidth changes the limit of each direction, in megabits per second.
func (p *plane) setBandwidth(mbps int) {
	p.down.Set(mbps)
	p.up.Set(mbps)
}

// attach makes a client visible for packets from the TUN. It fails when the
// virtual address is not a client's, or taken.
func (p *plane) attach(c *client) error {
	i, ok := p.block(c.address)
	if !ok || i == 0 {
		return fmt.Errorf("virtual address %s: must be the first host of a block of %s", c.virtualIP, p.prefix)
	}
	c.plane.Store(p)
	if !p.blocks[i].CompareAndSwap(nil, c) {
		return fmt.Errorf("virtual address %s: is in use", c.virtualIP)
	}
	return nil
}

// detach ends the traffic of a client and wipes its keys. Detaching a client
// that is not attached does no more than the latter.
func (p *plane) detach(c *client) {
	p.peer.CompareAndSwap(c, nil)
	if i, ok := p.block(c.address); ok {
		p.blocks[i].CompareAndSwap(c, nil)
	}
	c.allow(nil)
	c.retireAll()
}

// inPool reports whether an address is of the clients' networks.
func (p *plane) inPool(a ipNumber) bool {
	if a.is4() {
		return p.pool.contains(a)
	}
	return !p.pool6.last.isZero() && p.pool6.contains(a)
}

// offset returns how far an address is from the beginning of its pool: a
// client's addresses of both families have the same.
func (p *plane) offset(a ipNumber) (n uint64, ok bool) {
	if p.blocks == nil || !p.inPool(a) {
		return 0, false
	}
	n = a.low - p.pool6.first.low
	if a.is4() {
		n = a.low - p.pool.first.low
	}
	return n, n < uint64(len(p.blocks))*blockSize
}

// block returns the block whose first host an address is.
func (p *plane) block(a ipNumber) (i int, ok bool) {
	n, ok := p.offset(a)
	return int(n / blockSize), ok && n%blockSize == 1
}

// isServer reports whether an address is the server's own.
func (p *plane) isServer(a ipNumber) bool {
	n, ok := p.offset(a)
	return ok && n == 1
}

// lookup returns the client that has a virtual address, or nil.
func (p *plane) lookup(a ipNumber) *client {
	if p.blocks == nil {
		return p.peer.Load()
	}
	if i, ok := p.block(a); ok {
		return p.blocks[i].Load()
	}
	return nil
}

// permits judges a packet of a client by its far end: the destination of what
// the client sends, the source of what is sent to it.
func (p *plane) permits(c *client, far ipNumber, h *innerHeader, packet []byte) reason {
	switch {
	case p.blocks == nil: // the server judges
		return reasonNone
	case p.isServer(far):
		if h.echoOrError(packet) {
			return reasonNone
		}
		return reasonDenied
	case special(far):
		return reasonDenied
	case p.inPool(far):
		return reasonIsolated
	}
	access := c.access.Load()
	if access.contains(far) {
		return reasonNone
	}
	// A router on the way reports about a packet that the client may send.
	if c.has(h.dst) {
		if src, dst, ok := h.about(packet); ok && c.has(src) && !p.inPool(dst) && access.contains(dst) {
			return reasonNone
		}
	}
	return reasonDenied
}

// denied logs a packet that the policies stopped, if not too many were.
func (p *plane) denied(c *client, h *innerHeader, why reason) {
	if p.logRate.Allow() {
		p.log.Info("packet denied", "reason", why, "user", c.name, "virtual_ip", c.virtualIP,
			"source", h.src.addr(), "destination", h.dst.addr(), "protocol", h.protocol)
	}
}

// run carries packets from the TUN to the clients until the context ends, then
// closes the device. The error says what the device failed with.
func (p *plane) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.dev.Close() })
	defer stop()
	var (
		done   sync.WaitGroup
		mu     sync.Mutex
		failed error
	)
	for _, q := range p.dev.Queues() {
		done.Go(func() {
			err := p.runQueue(q)
			mu.Lock()
			failed = errors.Join(failed, err)
			mu.Unlock()
			_ = p.dev.Close() // one queue alone is no device
		})
	}
	done.Wait()
	if ctx.Err() != nil {
		return nil
	}
	if failed == nil {
		failed = tun.ErrClosed
	}
	return fmt.Errorf("device %s: %w", p.dev.Name(), failed)
}
