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

	"github.com/vpngw/vpngw/dataplane/tun"
)

// plane is the data path of one endpoint: its TUN device and the clients
// behind it. Packets from the TUN are sealed for the client whose virtual
// address they go to; packets from clients are opened by client.receive.
//
// Both directions enforce the same rule: the far end is a destination that the
// client's access set allows, and the near end is the client's virtual
// address. Whatever the set says, between a client and the server's own address
// there is only ICMP, and source routes (RFC 791) lead nowhere. Beyond the set
// pass ICMP errors about packets of a client that were allowed.
// Nothing passes from client to client.
type plane struct {
	dev     tun.Device
	log     *slog.Logger
	prefix  netip.Prefix
	first   uint32 // of the pool
	last    uint32
	server  uint32 // virtual address
	blocks  []atomic.Pointer[client]
	peer    atomic.Pointer[client] // the server, at a client's own end
	drops   drops
	logRate *rate.Limiter

	down, up bandwidth // to the clients and from them

	outbounds sync.Pool // of *outbound
	inbounds  sync.Pool // of *inbound
}

// planeOptions are what a plane can do without.
type planeOptions struct {
	log *slog.Logger // nil: no log
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
	p.prefix = pool
	p.first = addressNumber(pool.Addr())
	p.last = p.first | uint32(1<<(32-pool.Bits())-1)
	p.server = p.first + 1
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
	p.down.mbps.Store(int64(mbps))
	p.up.mbps.Store(int64(mbps))
}

// attach makes a client visible for packets from the TUN. It fails when the
// virtual address is not a client's, or taken.
func (p *plane) attach(c *client) error {
	i := int(c.address-p.first) / blockSize
	if !p.inPool(c.address) || i == 0 || c.address%blockSize != 1 {
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
	if p.inPool(c.address) {
		p.blocks[int(c.address-p.first)/blockSize].CompareAndSwap(c, nil)
	}
	c.allow(nil)
	c.retireAll()
}

func (p *plane) inPool(address uint32) bool {
	return p.blocks != nil && address >= p.first && address <= p.last
}

// lookup returns the client that has a virtual address, or nil.
func (p *plane) lookup(address uint32) *client {
	if p.blocks == nil {
		return p.peer.Load()
	}
	if !p.inPool(address) || address%blockSize != 1 {
		return nil
	}
	return p.blocks[(address-p.first)/blockSize].Load()
}

// permits judges a packet of a client by its far end: the destination of what
// the client sends, the source of what is sent to it.
func (p *plane) permits(c *client, far uint32, h *innerHeader, packet []byte) reason {
	switch {
	case p.blocks == nil: // the server judges
		return reasonNone
	case far == p.server && h.protocol == protocolICMP:
		return reasonNone
	case far == p.server, special(far):
		return reasonDenied
	case p.inPool(far):
		return reasonIsolated
	}
	access := c.access.Load()
	if access.contains(far) {
		return reasonNone
	}
	// A router on the way reports about a packet that the client may send.
	if h.dst == c.address {
		if src, dst, ok := h.about(packet); ok && src == c.address && !p.inPool(dst) && access.contains(dst) {
			return reasonNone
		}
	}
	return reasonDenied
}

// denied logs a packet that the policies stopped, if not too many were.
func (p *plane) denied(c *client, h *innerHeader, why reason) {
	if p.logRate.Allow() {
		p.log.Info("packet denied", "reason", why, "user", c.name, "virtual_ip", c.virtualIP,
			"source", numberAddress(h.src), "destination", numberAddress(h.dst), "protocol", h.protocol)
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
