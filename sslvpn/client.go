package sslvpn

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// link is how packets leave towards one client. Its methods may be called by
// several goroutines.
type link interface {
	// sendControl sends one packet of the control channel, before data that
	// waits. The packet is the caller's again.
	sendControl(packet []byte) error
	// framed reports whether each packet has its length before it (TCP).
	framed() bool
	// maxSegment is the maximum segment size that TCP inside should keep to, in
	// octets; 0 is any.
	maxSegment() uint16
	// full reports whether data would have to wait longer than is good.
	full() bool
	// sendData takes over a train of data packets. The caller keeps trains in
	// order. flush is called after one or several of them, in no order. What
	// cannot be sent is counted as dropped.
	sendData(t *train)
	flush()
}

// framing is the octets between encryption and the inner packet. Nothing is
// ever compressed.
type framing uint8

const (
	framingNone    framing = iota // also stub-v2, which marks no IP packet
	framingCompLZO                // "comp-lzo no": an octet before each packet
)

// Marks of packets with compression framing.
const (
	markPlain  = 0xfa // comp-lzo: not compressed
	markStubV2 = 0x50 // stub-v2 and lz4-v2: another octet says how
	markLZO    = 0x66
	markLZ4    = 0x69
)

// client is one client in the data path.
type client struct {
	id        uint32 // peer id, 24 bits
	name      string // for the log
	virtualIP netip.Addr
	address   ipNumber // the same
	address6  ipNumber // of IPv6 beside it; the zero value: none
	link      link
	framing   framing
	access    atomic.Pointer[accessSet]

	// Set before attach; called by the data path, which they must not hold up.
	onRekey func()            // new keys are due
	onKey   func(keyID uint8) // the first packet under a key has come
	onExit  func()            // the client says that it leaves

	plane atomic.Pointer[plane] // from attach on

	send    sync.Mutex
	sealing *dataKey // guarded by send
	open    *train   // guarded by send: has room for more
	marked  []byte   // guarded by send: a packet with compression framing

	recv   sync.Mutex
	keys   [keyIDs]*dataKey // guarded by recv and send together; either is enough to read
	serial uint64           // guarded like keys

	inbound, outbound  counter
	received, lastSent atomic.Int64 // Unix nanoseconds
}

type counter struct{ packets, octets atomic.Uint64 }

func (c *counter) add(packets, octets int) {
	c.packets.Add(uint64(packets))
	c.octets.Add(uint64(octets))
}

func (c *counter) load() Traffic { return Traffic{c.packets.Load(), c.octets.Load()} }

// newClient returns a client without keys that reaches nothing.
func newClient(id uint32, virtualIP netip.Addr, l link) *client {
	return &client{id: id, virtualIP: virtualIP, address: addressNumber(virtualIP), link: l}
}

// has reports whether an address is one of the client's.
func (c *client) has(a ipNumber) bool {
	return a == c.address || a == c.address6 && !a.isZero()
}

// both locks both directions.
func (c *client) both() (unlock func()) {
	c.send.Lock()
	c.recv.Lock()
	return func() {
		c.recv.Unlock()
		c.send.Unlock()
	}
}

// installKey adds a key, in place of one of the same key id. Packets under it
// are taken from now on; sealing moves to it with the first of them, or with
// activateKey. The first key of a client seals at once. k is the caller's to
// wipe.
func (c *client) installKey(keyID uint8, k dataKeys) error {
	key, err := newDataKey(keyID, c.id, k)
	if err != nil {
		return err
	}
	defer c.both()()
	c.serial++
	key.serial = c.serial
	old := c.keys[keyID]
	c.keys[keyID] = key
	if c.sealing == nil || c.sealing == old {
		c.sealing = key
	}
	if old != nil {
		old.wipe()
	}
	return nil
}

// activateKey moves sealing to an installed key.
func (c *client) activateKey(keyID uint8) {
	c.send.Lock()
	defer c.send.Unlock()
	if key := c.keys[keyID%keyIDs]; key != nil {
		c.sealing = key
	}
}

// retireKey removes a key and wipes it.
func (c *client) retireKey(keyID uint8) {
	defer c.both()()
	key := c.keys[keyID%keyIDs]
	if key == nil {
		return
	}
	c.keys[key.id] = nil
	if c.sealing == key {
		c.sealing = nil
	}
	key.wipe()
}

// retireAll removes and wipes every key.
func (c *client) retireAll() {
	for id := range uint8(keyIDs) {
		c.retireKey(id)
	}
}

// allow sets what the client reaches, from the next packet on.
func (c *client) allow(set *accessSet) { c.access.Store(set) }

// traffic returns the inner packets from the client and to it, pings apart.
func (c *client) traffic() (in, out Traffic) { return c.inbound.load(), c.outbound.load() }

// lastReceived is when an authentic packet came last, or a renegotiation ended; the zero Time
// before.
func (c *client) lastReceived() time.Time {
	ns := c.received.Load()
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// renewed notes that a renegotiation has ended well: a sign of life, as a packet under
// a key is. A peer that negotiates often may have no time for pings.
func (c *client) renewed(now time.Time) { c.received.Store(now.UnixNano()) }

// keepAlive sends a ping when no data was sent for a time.
func (c *client) keepAlive(now time.Time, every time.Duration) error {
	if now.UnixNano()-c.lastSent.Load() < int64(every) {
		return nil
	}
	return c.sendPing()
}

// sendPing sends a keepalive on the data channel.
func (c *client) sendPing() error {
	c.send.Lock()
	_, why := c.seal(pingPacket)
	c.push()
	c.send.Unlock()
	if why != reasonNone {
		return fmt.Errorf("send ping: %s", why)
	}
	c.link.flush()
	c.lastSent.Store(time.Now().UnixNano())
	return nil
}

// seal adds a packet to the open train. The caller holds send.
func (c *client) seal(packet []byte) (rekey bool, why reason) {
	if c.sealing == nil {
		return false, reasonNoKey
	}
	if c.framing == framingCompLZO {
		c.marked = append(append(c.marked[:0], markPlain), packet...)
		packet = c.marked
	}
	framed, sealed := c.link.framed(), c.sealing.sealedLen(len(packet))
	if c.open != nil && !c.open.takes(sealed, framed) {
		c.push()
	}
	if c.open == nil {
		c.open = newTrain()
		if !c.open.takes(sealed, framed) {
			return false, reasonMalformed
		}
	}
	rekey, ok := c.open.seal(c.sealing, packet, framed)
	if !ok {
		return rekey, reasonExhausted
	}
	return rekey, reasonNone
}

// push gives the open train to the link. The caller holds send.
func (c *client) push() {
	if t := c.open; t != nil {
		c.open = nil
		if t.packets == 0 {
			t.release()
			return
		}
		c.link.sendData(t)
	}
}
