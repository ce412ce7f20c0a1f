package udp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/fuzztest"
	"golang.org/x/sys/unix"
)

const (
	testIKE  = 20500
	testNATT = 24500
	patience = time.Minute
)

// nextHost gives each test an address of its own in 127.0.0.0/8.
var nextHost atomic.Uint32

func nextAddr() netip.Addr {
	n := nextHost.Add(1)
	return netip.AddrFrom4([4]byte{127, 78, byte(n >> 8), byte(n)})
}

// got is what a handler was given.
type got struct {
	kind          string // "ike" or "esp"
	local, remote netip.AddrPort
	tos           uint8
	data          string
}

// collector is the handler of IKE messages and the Receiver of every socket.
type collector struct {
	all     chan got
	flushes atomic.Uint32
	closed  atomic.Uint32
}

func (c *collector) ike(local, remote netip.AddrPort, datagram []byte) {
	c.all <- got{"ike", local, remote, 0, string(datagram)}
}

func (c *collector) ReceiveESP(from *Origin, packet []byte) {
	c.all <- got{"esp", from.Local, from.Remote, from.TOS, string(packet)}
	clear(packet) // as opening in place may do
}
func (c *collector) FlushESP() { c.flushes.Add(1) }
func (c *collector) Close()    { c.closed.Add(1) }

func (c *collector) next(t *testing.T) got {
	t.Helper()
	select {
	case g := <-c.all:
		return g
	case <-time.After(patience):
		t.Fatal("nothing arrived")
		return got{}
	}
}

func (c *collector) empty(t *testing.T) {
	t.Helper()
	select {
	case g := <-c.all:
		t.Fatalf("unexpected %+v", g)
	default:
	}
}

func newMux(t *testing.T, addrs ...netip.Addr) (*Mux, *collector) {
	t.Helper()
	m := New(Options{NoRawESP: true, IKEPort: testIKE, NATTPort: testNATT})
	c := &collector{all: make(chan got, 1000)}
	m.OnIKE(c.ike)
	m.OnESP(func() Receiver { return c })
	if err := m.SetAddresses(addrs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, c
}

// dial opens a peer's socket.
func dial(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func write(t *testing.T, conn *net.UDPConn, data string) {
	t.Helper()
	if _, err := conn.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
}

func TestDemux(t *testing.T) {
	addr := nextAddr()
	m, c := newMux(t, addr)
	ike, natt := netip.AddrPortFrom(addr, testIKE), netip.AddrPortFrom(addr, testNATT)
	message := strings.Repeat("i", 28)
	tests := []struct {
		name string
		to   netip.AddrPort
		data string
		kind string // empty: nothing comes out
		want string
		stat func(Stats) uint64
	}{
		{"IKE on 500", ike, message, "ike", message, func(s Stats) uint64 { return s.IKEReceived }},
		{"zeros on 500 are no marker", ike, "\x00\x00\x00\x00" + message, "ike", "\x00\x00\x00\x00" + message, nil},
		{"IKE on 4500", natt, "\x00\x00\x00\x00" + message, "ike", message, nil},
		{"ESP on 4500", natt, "\x00\x00\x10\x01\x00\x00\x00\x01rest", "esp", "\x00\x00\x10\x01\x00\x00\x00\x01rest", nil},
		{"keepalive", natt, "\xff", "", "", func(s Stats) uint64 { return s.Keepalives }},
		{"two octets 0xff are no keepalive", natt, "\xff\xff", "", "", func(s Stats) uint64 { return s.Short }},
		{"empty", natt, "", "", "", func(s Stats) uint64 { return s.Short }},
		{"marker only", natt, "\x00\x00\x00\x00", "", "", func(s Stats) uint64 { return s.Short }},
		{"ESP cut", natt, "\x00\x00\x10\x01\x00\x00\x00", "", "", func(s Stats) uint64 { return s.Short }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := m.Stats()
			conn := dial(t, tt.to)
			write(t, conn, tt.data)
			if tt.kind != "" {
				g := c.next(t)
				if g.kind != tt.kind || g.data != tt.want || g.local != tt.to ||
					g.remote != conn.LocalAddr().(*net.UDPAddr).AddrPort() {
					t.Errorf("got %+v", g)
				}
			}
			if tt.stat != nil {
				deadline := time.Now().Add(patience)
				for tt.stat(m.Stats()) != tt.stat(before)+1 {
					if time.Now().After(deadline) {
						t.Fatalf("counts %+v", m.Stats())
					}
					time.Sleep(time.Millisecond)
				}
			}
			c.empty(t)
		})
	}
	if c.flushes.Load() == 0 {
		t.Error("no flush after the packets")
	}
}

// TestIKEDatagramIsKept checks that a later datagram does not overwrite one
// that the handler holds.
func TestIKEDatagramIsKept(t *testing.T) {
	addr := nextAddr()
	m := New(Options{NoRawESP: true, IKEPort: testIKE, NATTPort: testNATT})
	defer m.Close()
	kept := make(chan []byte, 2)
	m.OnIKE(func(_, _ netip.AddrPort, d []byte) { kept <- d })
	if err := m.SetAddresses([]netip.Addr{addr}); err != nil {
		t.Fatal(err)
	}
	conn := dial(t, netip.AddrPortFrom(addr, testIKE))
	write(t, conn, "first message")
	first := <-kept
	write(t, conn, "SECOND MESSAGE")
	<-kept
	if string(first) != "first message" {
		t.Errorf("the first became %q", first)
	}
}

func TestSendIKE(t *testing.T) {
	addr := nextAddr()
	m, _ := newMux(t, addr)
	peer, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(nextAddr(), 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	remote := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	tests := []struct {
		name string
		port uint16
		data string
		want string
	}{
		{"port 500", testIKE, "message", "message"},
		{"port 4500", testNATT, "message", "\x00\x00\x00\x00message"},
		{"keepalive", testNATT, "\xff", "\xff"},
		{"large, in fragments", testIKE, strings.Repeat("x", 40000), strings.Repeat("x", 40000)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			local := netip.AddrPortFrom(addr, tt.port)
			if err := m.SendIKE(local, remote, []byte(tt.data)); err != nil {
				t.Fatal(err)
			}
			if err := peer.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 65535)
			n, from, err := peer.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			if string(buf[:n]) != tt.want || from != local {
				t.Errorf("got %d octets %.20q from %s", n, buf[:n], from)
			}
		})
	}
	var none *NoSocketError
	if err := m.SendIKE(netip.AddrPortFrom(nextAddr(), testIKE), remote, []byte("x")); !errors.As(err, &none) {
		t.Errorf("from an address that is not ours: %v", err)
	}
	if err := m.SendIKE(netip.AddrPortFrom(addr, testIKE), netip.MustParseAddrPort("[2001:db8::1]:500"), []byte("x")); err == nil {
		t.Error("IPv4 to IPv6: no error")
	}
}

func TestSetAddresses(t *testing.T) {
	a, b := nextAddr(), nextAddr()
	m, c := newMux(t, a)
	kept := (*m.table.Load())[netip.AddrPortFrom(a, testNATT)][0]

	foreign := netip.MustParseAddr("198.51.100.77")
	err := m.SetAddresses([]netip.Addr{foreign, a, b, netip.IPv4Unspecified()})
	if err == nil || !strings.Contains(err.Error(), foreign.String()) || !strings.Contains(err.Error(), "0.0.0.0") {
		t.Errorf("error %v, want both addresses named", err)
	}
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("error %v, want EADDRNOTAVAIL inside", err)
	}
	if got := m.Addresses(); !slices.Equal(got, []netip.Addr{a, b}) {
		t.Errorf("addresses %v", got)
	}
	if now := (*m.table.Load())[netip.AddrPortFrom(a, testNATT)][0]; now != kept {
		t.Error("the socket of an address that stays was replaced")
	}
	write(t, dial(t, netip.AddrPortFrom(b, testNATT)), "\x01\x02\x03\x04----")
	if g := c.next(t); g.local.Addr() != b {
		t.Errorf("got %+v", g)
	}

	if err := m.SetAddresses([]netip.Addr{a}); err != nil {
		t.Fatal(err)
	}
	// The port is free again at once.
	other, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b, testNATT)))
	if err != nil {
		t.Fatalf("the socket of an address that went is still there: %v", err)
	}
	other.Close()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if c.closed.Load() == 0 {
		t.Error("no Receiver was closed")
	}
	if err := m.SetAddresses([]netip.Addr{a}); err == nil {
		t.Error("addresses after Close: no error")
	}
}

// TestRefusedPeer checks that ICMP errors end nothing.
func TestRefusedPeer(t *testing.T) {
	addr := nextAddr()
	m, c := newMux(t, addr)
	local := netip.AddrPortFrom(addr, testNATT)
	closed := netip.AddrPortFrom(nextAddr(), 9)
	for range 20 {
		if err := m.SendIKE(local, closed, []byte("anybody there?")); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dial(t, local), "\x01\x02\x03\x04----")
	c.next(t)
}

func TestSendESP(t *testing.T) {
	a, b := nextAddr(), nextAddr()
	m, c := newMux(t, a, b)
	path, err := NewPath(netip.AddrPortFrom(a, testNATT), netip.AddrPortFrom(b, testNATT), true)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name        string
		count, size int
		last        int
		tos         uint8
		noGSO       bool
	}{
		{"one", 1, 100, 100, 0, false},
		{"two", 2, 100, 100, 0xb8, false},
		{"a full train", 44, 1472, 1472, 0, false},
		{"64 with a short last one", 64, 200, 33, 0x02, false},
		{"without UDP_SEGMENT", 64, 200, 33, 0x2a, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var data []byte
			var want []string
			for i := range tt.count {
				n := tt.size
				if i == tt.count-1 {
					n = tt.last
				}
				packet := bytes.Repeat([]byte{byte(i + 1)}, n)
				data = append(data, packet...)
				want = append(want, string(packet))
			}
			setNoGSO(&(*m.table.Load())[path.Local][0].noGSO, tt.noGSO)
			if failed, err := m.NewSender().Send(path, data, tt.size, tt.tos); failed != 0 || err != nil {
				t.Fatalf("%d failed: %v", failed, err)
			}
			for i := range want {
				g := c.next(t)
				if g.data != want[i] || g.kind != "esp" || g.local != path.Remote || g.remote != path.Local || g.tos != tt.tos {
					t.Fatalf("packet %d: %s %d octets, from %s to %s, tos %02x", i, g.kind, len(g.data), g.remote, g.local, g.tos)
				}
			}
			c.empty(t)
		})
	}
}

func TestSendErrors(t *testing.T) {
	a := nextAddr()
	m, _ := newMux(t, a)
	here := netip.AddrPortFrom(a, testNATT)
	gone, err := NewPath(netip.AddrPortFrom(nextAddr(), testNATT), here, true)
	if err != nil {
		t.Fatal(err)
	}
	var none *NoSocketError
	if failed, err := m.NewSender().Send(gone, make([]byte, 250), 100, 0); failed != 3 || !errors.As(err, &none) {
		t.Errorf("no socket: %d failed, %v", failed, err)
	}
	// Broadcast is refused by the kernel, message by message.
	refused, err := NewPath(here, netip.AddrPortFrom(netip.MustParseAddr("127.255.255.255"), 9), true)
	if err != nil {
		t.Fatal(err)
	}
	if failed, err := m.NewSender().Send(refused, make([]byte, 250), 100, 0); failed != 3 || !errors.Is(err, unix.EACCES) {
		t.Errorf("refused: %d failed, %v", failed, err)
	}
	for _, bad := range []struct {
		name          string
		local, remote netip.AddrPort
	}{
		{"families", here, netip.MustParseAddrPort("[::1]:4500")},
		{"no port", here, netip.AddrPortFrom(a, 0)},
		{"no address", here, netip.AddrPort{}},
	} {
		if _, err := NewPath(bad.local, bad.remote, true); err == nil {
			t.Errorf("%s: no error", bad.name)
		}
	}
}

// TestManySenders has goroutines send and the sockets change at the same time.
func TestManySenders(t *testing.T) {
	a, b, other := nextAddr(), nextAddr(), nextAddr()
	m := New(Options{NoRawESP: true, IKEPort: testIKE, NATTPort: testNATT, Sockets: 3})
	var received atomic.Int64
	m.OnESP(func() Receiver { return counter{&received} })
	if err := m.SetAddresses([]netip.Addr{a, b}); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			path, err := NewPath(netip.AddrPortFrom(a, testNATT), netip.AddrPortFrom(b, testNATT), true)
			if err != nil {
				t.Error(err)
				return
			}
			s := m.NewSender()
			for range 50 {
				if _, err := s.Send(path, make([]byte, 100*(i+1)), 100, 0); err == nil {
					continue
				}
			}
		})
	}
	wait.Go(func() {
		for i := range 20 {
			list := []netip.Addr{a, b}
			if i%2 == 0 {
				list = append(list, other)
			}
			if err := m.SetAddresses(list); err != nil {
				t.Error(err)
			}
		}
	})
	wait.Wait()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

type counter struct{ n *atomic.Int64 }

func (c counter) ReceiveESP(*Origin, []byte) { c.n.Add(1) }
func (c counter) FlushESP()                  {}
func (c counter) Close()                     {}

func TestSendAllocatesNothing(t *testing.T) {
	a, b := nextAddr(), nextAddr()
	m := New(Options{NoRawESP: true, IKEPort: testIKE, NATTPort: testNATT})
	defer m.Close()
	var received atomic.Int64
	m.OnESP(func() Receiver { return counter{&received} })
	if err := m.SetAddresses([]netip.Addr{a, b}); err != nil {
		t.Fatal(err)
	}
	path, err := NewPath(netip.AddrPortFrom(a, testNATT), netip.AddrPortFrom(b, testNATT), true)
	if err != nil {
		t.Fatal(err)
	}
	s, data := m.NewSender(), bytes.Repeat([]byte{1}, 32*1000)
	for _, noGSO := range []bool{false, true} {
		setNoGSO(&(*m.table.Load())[path.Local][0].noGSO, noGSO)
		// What the receiving goroutine allocates is counted, too.
		if n := testing.AllocsPerRun(200, func() {
			if _, err := s.Send(path, data, 1000, 2); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("noGSO=%t: %v allocations for a batch", noGSO, n)
		}
	}
	if received.Load() == 0 {
		t.Error("nothing arrived")
	}
}

// TestGuard checks that nothing passes an address while it may not be used, in
// either direction, and that the other addresses do not notice.
func TestGuard(t *testing.T) {
	guarded, free := nextAddr(), nextAddr()
	var mayUse atomic.Bool
	m := New(Options{NoRawESP: true, IKEPort: testIKE, NATTPort: testNATT, Guard: func(local netip.Addr) bool {
		return local == free || mayUse.Load()
	}})
	t.Cleanup(func() { _ = m.Close() })
	c := &collector{all: make(chan got, 1000)}
	m.OnIKE(c.ike)
	m.OnESP(func() Receiver { return c })
	if err := m.SetAddresses([]netip.Addr{guarded, free}); err != nil {
		t.Fatal(err)
	}
	esp := "\x00\x00\x10\x01\x00\x00\x00\x01rest"
	peers := map[netip.Addr]*net.UDPConn{}
	for _, a := range []netip.Addr{guarded, free} {
		peers[a] = dial(t, netip.AddrPortFrom(a, testNATT))
	}
	pass := func(a netip.Addr) error {
		write(t, peers[a], esp)
		remote := peers[a].LocalAddr().(*net.UDPAddr).AddrPort()
		p, err := NewPath(netip.AddrPortFrom(a, testNATT), remote, true)
		if err != nil {
			t.Fatal(err)
		}
		_, sendErr := m.NewSender().Send(p, []byte(esp), len(esp), 0)
		return errors.Join(sendErr, m.SendIKE(p.Local, remote, []byte("message")))
	}
	for _, open := range []bool{true, false, true} {
		mayUse.Store(open)
		before := m.Stats().Fenced
		for _, a := range []netip.Addr{guarded, free} {
			err := pass(a)
			if a == guarded && !open {
				if !errors.Is(err, ErrFenced) {
					t.Errorf("sent from %s: %v, want ErrFenced", a, err)
				}
				waitUntil(t, "one in and two out are dropped", func() bool { return m.Stats().Fenced-before == 3 })
				continue
			}
			if err != nil {
				t.Errorf("sent from %s: %v", a, err)
			}
			if g := c.next(t); g.local.Addr() != a {
				t.Errorf("%+v arrived, want something on %s", g, a)
			}
		}
		c.empty(t)
	}
}

// waitUntil polls a condition.
func waitUntil(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for start := time.Now(); !holds(); time.Sleep(time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("never: %s", what)
		}
	}
}

// What the kernel drops since a buffer is full is counted, also when the socket is
// gone.
func TestOverflow(t *testing.T) {
	m := New(Options{})
	local := netip.MustParseAddr("127.0.0.1")
	s, err := openSocket(m, kindDatagram, netip.AddrPortFrom(local, 0)) // without its goroutine
	if err != nil {
		t.Fatal(err)
	}
	m.hosts[local] = []*socket{s}
	conn, err := net.Dial("udp", s.local.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 * 2 * socketBuffer / 60000 { // the kernel doubles a buffer's size
		if _, err := conn.Write(make([]byte, 60000)); err != nil {
			t.Fatal(err)
		}
	}
	before := m.Stats().Overflow
	if before == 0 {
		t.Error("nothing was dropped")
	}
	if err := m.SetAddresses(nil); err != nil {
		t.Error(err)
	}
	if after := m.Stats().Overflow; after != before {
		t.Errorf("%d were dropped, and %d after the socket was closed", before, after)
	}
}

func TestPathMTU(t *testing.T) {
	m := New(Options{})
	local := netip.MustParseAddr("127.0.0.1")
	mtu, err := m.PathMTU(local, netip.MustParseAddr("127.0.0.2"))
	if err != nil || mtu < 16436 {
		t.Errorf("loopback: %d, %v", mtu, err)
	}
	if _, err := m.PathMTU(netip.MustParseAddr("198.51.100.77"), local); err == nil || !strings.Contains(err.Error(), "198.51.100.77") {
		t.Errorf("foreign address: %v", err)
	}
}

func FuzzMessage(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(uint8(kindNATT), false, uint16(20), []byte("\x00\x00\x00\x00some IKE message, long enough"))
	target.Add(uint8(kindNATT), false, uint16(9), []byte("\x01\x00\x00\x00-----\x01\x00\x00\x00-----\xff"))
	target.Add(uint8(kindRaw), false, uint16(0), []byte("E\x00\x00\x20aaaabbbbccccddddeeee\x01\x02\x03\x04\x05\x06\x07\x08"))
	target.Add(uint8(kindIKE), true, uint16(0), []byte{})
	c := &collector{all: make(chan got, 10000)}
	m := New(Options{})
	m.OnIKE(c.ike)
	m.OnESP(func() Receiver { return c })
	type sort struct {
		kind socketKind
		v6   bool
	}
	readers := map[sort]*reader{}
	for kind := kindIKE; kind <= kindRaw; kind++ {
		for _, v6 := range []bool{false, true} {
			readers[sort{kind, v6}] = newReader(&socket{mux: m, kind: kind, v6: v6})
		}
	}
	target.Fuzz(func(t *testing.T, kind uint8, v6 bool, segment uint16, data []byte) {
		r := readers[sort{socketKind(kind), v6}]
		if r == nil || len(data) > 9000 {
			return
		}
		r.msgs[0].n = uint32(copy(r.bufs[0], data))
		at := 0
		if segment != 0 {
			at = r.ctrls[0].put(0, unix.IPPROTO_UDP, unix.UDP_GRO, []byte{byte(segment), byte(segment >> 8), 0, 0})
		}
		r.msgs[0].hdr.SetControllen(at)
		r.message(0)
		total := 0
		for len(c.all) > 0 {
			g := <-c.all
			total += len(g.data)
			if g.kind == "esp" && len(g.data) < minESP {
				t.Fatalf("ESP of %d octets", len(g.data))
			}
		}
		if total > len(data) {
			t.Fatalf("%d octets out of %d", total, len(data))
		}
	})
}

func BenchmarkSend(b *testing.B) {
	for _, noGSO := range []bool{false, true} {
		b.Run(fmt.Sprintf("noGSO=%t", noGSO), func(b *testing.B) {
			x, y := nextAddr(), nextAddr()
			m := New(Options{NoRawESP: true, IKEPort: testIKE, NATTPort: testNATT})
			defer m.Close()
			m.OnESP(func() Receiver { return counter{new(atomic.Int64)} })
			if err := m.SetAddresses([]netip.Addr{x, y}); err != nil {
				b.Fatal(err)
			}
			setNoGSO(&(*m.table.Load())[netip.AddrPortFrom(x, testNATT)][0].noGSO, noGSO)
			path, err := NewPath(netip.AddrPortFrom(x, testNATT), netip.AddrPortFrom(y, testNATT), true)
			if err != nil {
				b.Fatal(err)
			}
			s, data := m.NewSender(), bytes.Repeat([]byte{1}, 44*1472)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Send(path, data, 1472, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func setNoGSO(g *gsoState, off bool) {
	g.until.Store(0)
	if off {
		g.pause()
	}
}

func TestGSOIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gsoState
		if g.off() {
			t.Error("off at first")
		}
		g.pause()
		time.Sleep(gsoPause - time.Second)
		if !g.off() {
			t.Error("tried again too early")
		}
		time.Sleep(time.Second)
		if g.off() {
			t.Error("never tried again")
		}
	})
}
