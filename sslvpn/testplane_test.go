package sslvpn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
)

// testLink keeps what is sent to a client.
type testLink struct {
	stream  bool
	mss     uint16
	isFull  bool
	mu      sync.Mutex
	packets [][]byte // guarded by mu, as all below
	trains  int
	flushes int
}

func (l *testLink) sendControl([]byte) error { return errors.New("no control channel") }
func (l *testLink) framed() bool             { return l.stream }
func (l *testLink) maxSegment() uint16       { return l.mss }
func (l *testLink) full() bool               { return l.isFull }

func (l *testLink) sendData(t *train) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trains++
	for octets := t.octets; len(octets) > 0; {
		n := min(t.size, len(octets))
		if l.stream {
			n = int(binary.BigEndian.Uint16(octets))
			octets = octets[frameLen:]
		}
		l.packets = append(l.packets, bytes.Clone(octets[:n]))
		octets = octets[n:]
	}
	t.release()
}

func (l *testLink) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushes++
}

func (l *testLink) take() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.packets
	l.packets = nil
	return p
}

// testPeer is a client and what is at its own end.
type testPeer struct {
	*client
	link *testLink
	key  *dataKey // of the far end
}

var testPool = netip.MustParsePrefix("10.8.0.0/24")

func newTestPlane(t testing.TB, o planeOptions) (*plane, *tun.Channel) {
	t.Helper()
	dev := tun.NewChannel("test0", 1, 64)
	p, err := newPlane(dev, testPool, o)
	if err != nil {
		t.Fatal(err)
	}
	return p, dev
}

func (p *plane) testPeer(t testing.TB, address string, reaches ...string) *testPeer {
	t.Helper()
	l := &testLink{stream: true}
	c := newClient(7, netip.MustParseAddr(address), l)
	c.name = "user of " + address
	k := dataKeys{AES128GCM, sequence(0, 16), sequence(60, 16), sequence(1, 8), sequence(9, 8), false}
	if err := c.installKey(0, k); err != nil {
		t.Fatal(err)
	}
	c.allow(newAccessSet(prefixes(reaches...)))
	if !p.pool6.last.isZero() {
		c.address6 = p.pool6.first
		c.address6.low += c.address.low - p.pool.first.low
	}
	if err := p.attach(c); err != nil {
		t.Fatal(err)
	}
	return &testPeer{c, l, farKey(t, 0, k)}
}

// farKey returns the key of the other end.
func farKey(t testing.TB, id uint8, k dataKeys) *dataKey {
	t.Helper()
	far, err := newDataKey(id, 7, dataKeys{k.cipher, k.recvKey, k.sendKey, k.recvIV, k.sendIV, k.epoch})
	if err != nil {
		t.Fatal(err)
	}
	return far
}

// sends gives the client's packets to the plane, as they would come.
func (c *testPeer) sends(t testing.TB, packets ...[]byte) (authentic int) {
	t.Helper()
	var sealed [][]byte
	for _, p := range packets {
		sealed = append(sealed, mustSeal(t, c.key, p))
	}
	return c.receive(sealed)
}

// gets opens what was sent to the client.
func (c *testPeer) gets(t testing.TB) (packets [][]byte) {
	t.Helper()
	for _, sealed := range c.link.take() {
		packet, _, why := c.key.openIn(sealed)
		if why != reasonNone {
			t.Fatalf("what was sent to the client: %s", why)
		}
		packets = append(packets, packet)
	}
	return packets
}

// ipv4 returns a packet with a right header.
func ipv4(protocol byte, src, dst string, payload []byte) []byte {
	p := make([]byte, ipv4HeaderLen, ipv4HeaderLen+len(payload))
	p[0], p[8], p[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(ipv4HeaderLen+len(payload)))
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(p, payload...)
}

// ip6 returns a packet of IPv6 whose next header is of a protocol.
func ip6(protocol byte, src, dst string, payload []byte) []byte {
	p := make([]byte, ipv6HeaderLen, ipv6HeaderLen+len(payload))
	p[0], p[6], p[7] = 0x60, protocol, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	s, d := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
	copy(p[8:], s[:])
	copy(p[24:], d[:])
	return append(p, payload...)
}

// ip6UDP returns a datagram; its checksum is not right.
func ip6UDP(src, dst string, octets int) []byte {
	return ip6(17, src, dst, ipUDP("0.0.0.0", "0.0.0.0", octets)[ipv4HeaderLen:])
}

func icmp6(kind byte, src, dst string, rest []byte) []byte {
	return ip6(protocolICMPv6, src, dst, append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, rest...))
}

// withOptions puts options, of a multiple of 4 octets, into the header of a
// packet that has none.
func withOptions(packet []byte, options ...byte) []byte {
	p := slices.Concat(packet[:ipv4HeaderLen], options, packet[ipv4HeaderLen:])
	p[0] += byte(len(options) / 4)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	clear(p[10:12])
	binary.BigEndian.PutUint16(p[10:], checksum(p[:ipv4HeaderLen+len(options)]))
	return p
}

func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ipUDP returns a datagram without a checksum.
func ipUDP(src, dst string, octets int) []byte {
	d := make([]byte, 8+octets)
	binary.BigEndian.PutUint16(d, 4000)
	binary.BigEndian.PutUint16(d[2:], 53)
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)))
	return ipv4(17, src, dst, d)
}

func icmp(kind byte, src, dst string, rest []byte) []byte {
	return ipv4(protocolICMP, src, dst, append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, rest...))
}

// received returns the next packet that came out of the TUN, nil when there is
// none.
func received(dev *tun.Channel) []byte {
	select {
	case frame := <-dev.Received():
		return frame[tun.HeaderLen:]
	default:
		return nil
	}
}

const (
	host, outside   = "10.1.0.9", "10.2.0.9"
	host6, outside6 = "2001:db8:1::9", "2001:db8:2::9"
)

var testPool6 = netip.MustParsePrefix("fd00:8::/64")

// superPacket returns the frame that the kernel hands over for n octets of one
// TCP flow, to be cut into packets of size payload octets.
func superPacket(src, dst string, n, size int) []byte {
	segment := append(make([]byte, tcpHeaderLen), sequence(0, n)...)
	segment[12], segment[13] = 5<<4, 0x10
	packet := ipv4(protocolTCP, src, dst, segment)
	pseudo := append(bytes.Clone(packet[12:20]), 0, protocolTCP, byte(len(segment)>>8), byte(len(segment)))
	binary.BigEndian.PutUint16(packet[20+16:], ^checksum(pseudo))
	frame := make([]byte, tun.HeaderLen)
	frame[0], frame[1] = 1, 1 // checksum needed, TCP over IPv4
	binary.NativeEndian.PutUint16(frame[2:], 40)
	binary.NativeEndian.PutUint16(frame[4:], uint16(size))
	binary.NativeEndian.PutUint16(frame[6:], 20)
	binary.NativeEndian.PutUint16(frame[8:], 16)
	return append(frame, packet...)
}
