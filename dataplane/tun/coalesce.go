package tun

import (
	"bytes"
	"encoding/binary"
)

const (
	maxGroups     = 8  // flows that are joined at the same time
	maxUDPSegment = 64 // UDP_MAX_SEGMENTS of older kernels
	maxTCPSegment = 128
)

// Coalescer joins neighbouring packets of a TCP or UDP flow into super-packets
// and writes them. Packets of a flow keep their order. It serves one
// goroutine.
//
// A packet joins only when its checksum, and that of the first of its group,
// is right: the kernel trusts the checksum of a super-packet.
type Coalescer struct {
	w      Writer
	alone  [2][]byte // the frame of a packet that is not joined
	groups [maxGroups]group
	used   [maxGroups]*group // the open groups, the latest first
	n      int
}

// group is the packets of one flow that become one write.
type group struct {
	flow      flow
	frame     [][]byte // virtio header, first packet, payloads of the others
	packets   int
	size      int    // payload octets of the first packet
	octets    int    // of the super-packet
	sequence  uint32 // TCP: of the next octet
	lastFlags uint8  // TCP flags of the last packet
	verified  bool   // the first packet's checksum is right
	closed    bool   // takes no more
	virtio    [HeaderLen]byte
}

// flow says where a packet's parts are and which flow it is of.
type flow struct {
	packet    []byte
	transport int // offset of the TCP or UDP header
	hdrLen    int // offset of the payload
	tcp       bool
}

// NewCoalescer returns a Coalescer that writes to a Writer.
func NewCoalescer(w Writer) *Coalescer {
	c := &Coalescer{w: w}
	c.alone[0] = make([]byte, HeaderLen)
	for i := range c.groups {
		c.groups[i].frame = make([][]byte, 0, maxTCPSegment+1)
		c.used[i] = &c.groups[i]
	}
	return c
}

// Reset makes the Coalescer write to another Writer. It must hold no packets: after
// NewCoalescer or Flush.
func (c *Coalescer) Reset(w Writer) { c.w = w }

// Add takes an IP packet whose length is that in its own header. The packet
// belongs to the Coalescer until Flush returns. The error is the first of the
// writes that Add had to make; failed counts the packets that they lost.
func (c *Coalescer) Add(packet []byte) (failed int, err error) {
	f, ok := parseFlow(packet)
	if !ok || !f.tcp && !c.w.USO() {
		return c.writeAlone(packet, f)
	}
	at := -1
	for i := range c.n {
		if c.used[i].flow.same(&f) {
			at = i
			break
		}
	}
	joinable := f.joinable()
	if at >= 0 {
		g := c.used[at]
		if joinable && g.join(&f) {
			c.toFront(at)
			return 0, nil
		}
		failed, err = c.write(at)
	}
	if !joinable {
		n, alone := c.writeAlone(packet, f)
		return failed + n, firstError(err, alone)
	}
	if c.n == maxGroups {
		n, evict := c.write(c.n - 1)
		failed, err = failed+n, firstError(err, evict)
	}
	c.used[c.n].start(&f)
	c.n++
	c.toFront(c.n - 1)
	return failed, err
}

// Flush writes what is left. Packets given to Add are the caller's again.
func (c *Coalescer) Flush() (failed int, err error) {
	for c.n > 0 {
		n, e := c.write(c.n - 1) // the oldest first
		failed, err = failed+n, firstError(err, e)
	}
	return failed, err
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (c *Coalescer) toFront(at int) {
	if at == 0 {
		return
	}
	g := c.used[at]
	copy(c.used[1:at+1], c.used[:at])
	c.used[0] = g
}

// write writes a group and frees its place.
func (c *Coalescer) write(at int) (failed int, err error) {
	g := c.used[at]
	copy(c.used[at:c.n-1], c.used[at+1:c.n])
	c.n--
	c.used[c.n] = g
	g.finish()
	if err := c.w.Write(g.flow.hash(), g.frame); err != nil {
		return g.packets, err
	}
	return 0, nil
}

func (c *Coalescer) writeAlone(packet []byte, f flow) (failed int, err error) {
	c.alone[1] = packet
	err = c.w.Write(f.hash(), c.alone[:])
	c.alone[1] = nil
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// parseFlow finds the headers of a TCP or UDP packet that is no fragment and
// has no IP options or extension headers.
func parseFlow(packet []byte) (f flow, ok bool) {
	f.packet = packet
	if len(packet) < ipv4HeaderLen+udpHeaderLen {
		return f, false
	}
	var protocol uint8
	switch {
	case packet[0] == 0x45:
		if packet[6]&0x3f != 0 || packet[7] != 0 {
			return f, false // a fragment
		}
		protocol, f.transport = packet[9], ipv4HeaderLen
	case packet[0]>>4 == 6 && len(packet) >= ipv6HeaderLen+udpHeaderLen:
		protocol, f.transport = packet[6], ipv6HeaderLen
	default:
		return f, false
	}
	switch protocol {
	case protocolTCP:
		if len(packet) < f.transport+20 {
			return flow{packet: packet}, false
		}
		f.tcp = true
		f.hdrLen = f.transport + int(packet[f.transport+12]>>4)*4
		if f.hdrLen < f.transport+20 || f.hdrLen > len(packet) {
			return flow{packet: packet}, false
		}
	case protocolUDP:
		f.hdrLen = f.transport + udpHeaderLen
	default:
		return flow{packet: packet}, false
	}
	return f, true
}

func (f *flow) addresses() []byte {
	if f.transport == ipv4HeaderLen {
		return f.packet[12:20]
	}
	return f.packet[8:40]
}

// ports are the source and the destination port.
func (f *flow) ports() uint32 { return binary.NativeEndian.Uint32(f.packet[f.transport:]) }

// same reports whether addresses, protocol and ports are equal.
func (f *flow) same(g *flow) bool {
	return f.tcp == g.tcp && f.transport == g.transport && f.ports() == g.ports() &&
		bytes.Equal(f.addresses(), g.addresses())
}

// hash numbers the flow; packets without ports share the number zero.
func (f *flow) hash() uint32 {
	if f.transport == 0 {
		return 0
	}
	h := f.ports()
	for a := f.addresses(); len(a) >= 4; a = a[4:] {
		h = (h ^ binary.NativeEndian.Uint32(a)) * 0x9e3779b1
	}
	return h ^ h>>15
}

// joinable reports whether a packet may be part of a group at all: it has a
// payload and nothing unusual.
func (f *flow) joinable() bool {
	p := f.packet
	if len(p) <= f.hdrLen {
		return false
	}
	if f.tcp {
		return p[f.transport+13]&^tcpPSH == tcpACK
	}
	// The length of UDP has to agree, and zero means no checksum.
	return int(binary.BigEndian.Uint16(p[f.transport+4:])) == len(p)-f.transport &&
		(p[f.transport+6] != 0 || p[f.transport+7] != 0)
}

// checksumRight verifies the checksums of the IPv4 header and of the transport
// protocol.
func (f *flow) checksumRight() bool {
	if f.transport == ipv4HeaderLen && fold(addSum(0, f.packet[:ipv4HeaderLen])) != 0xffff {
		return false
	}
	protocol := uint8(protocolUDP)
	if f.tcp {
		protocol = protocolTCP
	}
	segment := f.packet[f.transport:]
	sum := pseudoSum(f.addresses(), protocol) + native(uint16(len(segment)))
	return fold(addSum(sum, segment)) == 0xffff
}

// start makes a packet the first of the group.
func (g *group) start(f *flow) {
	g.flow = *f
	g.size = len(f.packet) - f.hdrLen
	g.octets = len(f.packet)
	g.packets = 1
	g.verified = false
	g.closed = false
	g.frame = append(g.frame[:0], g.virtio[:], f.packet)
	if f.tcp {
		g.sequence = binary.BigEndian.Uint32(f.packet[f.transport+4:]) + uint32(g.size)
		g.lastFlags = f.packet[f.transport+13]
		g.closed = g.lastFlags&tcpPSH != 0
	}
}

// join adds a packet that continues the group.
func (g *group) join(f *flow) bool {
	payload := len(f.packet) - f.hdrLen
	limit := maxUDPSegment
	if f.tcp {
		limit = maxTCPSegment
	}
	if g.closed || payload > g.size || g.packets == limit || g.octets+payload > MaxPacket ||
		!g.sameHeaders(f) || !f.checksumRight() {
		return false
	}
	if !g.verified {
		if !g.flow.checksumRight() {
			return false
		}
		g.verified = true
	}
	g.frame = append(g.frame, f.packet[f.hdrLen:])
	g.packets++
	g.octets += payload
	g.closed = payload < g.size
	if f.tcp {
		g.sequence += uint32(payload)
		g.lastFlags = f.packet[f.transport+13]
		g.closed = g.closed || g.lastFlags&tcpPSH != 0
	}
	return true
}

// sameHeaders reports whether a packet of the group's flow has the headers
// that cutting the super-packet would give it.
func (g *group) sameHeaders(f *flow) bool {
	a, b := g.flow.packet, f.packet
	if g.flow.hdrLen != f.hdrLen {
		return false
	}
	if f.transport == ipv4HeaderLen {
		// Type of service, flags, time to live.
		if a[1] != b[1] || a[6] != b[6] || a[8] != b[8] {
			return false
		}
		const dontFragment = 0x40
		id := binary.BigEndian.Uint16(a[4:]) + uint16(g.packets)
		if a[6]&dontFragment == 0 && binary.BigEndian.Uint16(b[4:]) != id {
			return false
		}
	} else if !bytes.Equal(a[:4], b[:4]) || a[7] != b[7] {
		return false // traffic class, flow label, hop limit
	}
	if !f.tcp {
		return true
	}
	x, y := a[f.transport:], b[f.transport:]
	return binary.BigEndian.Uint32(y[4:]) == g.sequence && bytes.Equal(x[8:13], y[8:13]) && // ack, reserved bits
		bytes.Equal(x[14:16], y[14:16]) && // window
		bytes.Equal(x[20:f.hdrLen-f.transport], y[20:f.hdrLen-f.transport])
}

// finish writes the virtio header, and for a super-packet the lengths and the
// sum of the pseudo-header.
func (g *group) finish() {
	if g.packets == 1 {
		clear(g.virtio[:])
		return
	}
	p, t := g.flow.packet, g.flow.transport
	h := virtioHeader{
		flags: virtioNeedsCsum, hdrLen: uint16(g.flow.hdrLen), gsoSize: uint16(g.size),
		csumStart: uint16(t),
	}
	protocol := uint8(protocolTCP)
	switch {
	case !g.flow.tcp:
		protocol, h.gsoType, h.csumOffset = protocolUDP, gsoUDP, 6
		binary.BigEndian.PutUint16(p[t+4:], uint16(g.octets-t))
	case t == ipv4HeaderLen:
		h.gsoType, h.csumOffset = gsoTCPv4, 16
		p[t+13] = g.lastFlags
	default:
		h.gsoType, h.csumOffset = gsoTCPv6, 16
		p[t+13] = g.lastFlags
	}
	if t == ipv4HeaderLen {
		binary.BigEndian.PutUint16(p[2:], uint16(g.octets))
		p[10], p[11] = 0, 0
		putChecksum(p[10:], addSum(0, p[:ipv4HeaderLen]))
	} else {
		binary.BigEndian.PutUint16(p[4:], uint16(g.octets-ipv6HeaderLen))
	}
	// The kernel completes the checksum: the field holds the sum so far.
	sum := pseudoSum(g.flow.addresses(), protocol) + native(uint16(g.octets-t))
	binary.NativeEndian.PutUint16(p[t+int(h.csumOffset):], fold(sum))
	h.put(g.virtio[:])
}
