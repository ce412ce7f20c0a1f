//go:build netns

package udp

import (
	"bytes"
	"errors"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread that has a network namespace of its own, with
// its loopback interface up; both end with f.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace: %v", err)
			return
		}
		ip(t, "link", "set", "lo", "up")
		f()
	}()
	<-done
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// waitLocal waits until the namespace takes what is for IPv6 addresses of its
// own: the kernel makes their routes from a work queue, some time after them.
func waitLocal(t *testing.T, addrs ...string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		out, err := exec.Command("ip", "-6", "route", "show", "table", "local").CombinedOutput()
		if err == nil && !slices.ContainsFunc(addrs, func(a string) bool { return !strings.Contains(string(out), "local "+a+" ") }) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%v are not local: %v: %s", addrs, err, out)
			return
		}
	}
}

// TestNetNSAllWays sends batches of ESP packets by UDP and as IP protocol 50,
// over IPv4 and IPv6.
func TestNetNSAllWays(t *testing.T) {
	inNamespace(t, func() {
		ip(t, "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad")
		ip(t, "addr", "add", "2001:db8::2/128", "dev", "lo", "nodad")
		waitLocal(t, "2001:db8::1", "2001:db8::2")
		a4, b4 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
		a6, b6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
		m := New(Options{})
		defer m.Close()
		c := &collector{all: make(chan got, 1000)}
		m.OnIKE(c.ike)
		m.OnESP(func() Receiver { return c })
		if err := m.SetAddresses([]netip.Addr{a4, b4, a6, b6}); err != nil {
			t.Error(err)
			return
		}
		for _, way := range []struct {
			name     string
			from, to netip.Addr
			encap    bool
		}{
			{"UDP over IPv4", a4, b4, true},
			{"UDP over IPv6", a6, b6, true},
			{"raw over IPv4", a4, b4, false},
			{"raw over IPv6", a6, b6, false},
		} {
			path, err := NewPath(netip.AddrPortFrom(way.from, PortNATT), netip.AddrPortFrom(way.to, PortNATT), way.encap)
			if err != nil {
				t.Error(err)
				return
			}
			const count, size, last = 64, 900, 500
			var data []byte
			for i := range count {
				data = append(data, bytes.Repeat([]byte{byte(i + 1)}, size)...)
			}
			data = data[:len(data)-size+last]
			const tos = 0x2a
			if failed, err := m.NewSender().Send(path, data, size, tos); failed != 0 || err != nil {
				t.Errorf("%s: %d failed: %v", way.name, failed, err)
				return
			}
			for i := range count {
				g := c.next(t)
				n := size
				if i == count-1 {
					n = last
				}
				if g.kind != "esp" || g.local != path.Remote || g.remote != path.Local || g.tos != tos ||
					g.data != strings.Repeat(string(rune(i+1)), n) {
					t.Errorf("%s: packet %d: %d octets from %s to %s, tos %02x", way.name, i, len(g.data), g.remote, g.local, g.tos)
					return
				}
			}
			c.empty(t)
			if err := m.SendIKE(netip.AddrPortFrom(way.from, PortIKE), netip.AddrPortFrom(way.to, PortIKE), []byte("message")); err != nil {
				t.Error(err)
			}
			if g := c.next(t); g.kind != "ike" || g.data != "message" {
				t.Errorf("%s: got %+v", way.name, g)
			}
		}
		if overhead := []int{
			mustPath(t, a4, b4, true).HeaderLen(), mustPath(t, a6, b6, true).HeaderLen(),
			mustPath(t, a4, b4, false).HeaderLen(), mustPath(t, a6, b6, false).HeaderLen(),
		}; overhead[0] != 28 || overhead[1] != 48 || overhead[2] != 20 || overhead[3] != 40 {
			t.Errorf("header lengths %v", overhead)
		}
	})
}

func mustPath(t *testing.T, from, to netip.Addr, encap bool) *Path {
	t.Helper()
	p, err := NewPath(netip.AddrPortFrom(from, 1), netip.AddrPortFrom(to, 1), encap)
	if err != nil {
		t.Error(err)
	}
	return p
}

// TestNetNSPathMTU makes a route narrower than its link.
func TestNetNSPathMTU(t *testing.T) {
	inNamespace(t, func() {
		ip(t, "link", "add", "wire", "type", "veth", "peer", "name", "far")
		ip(t, "link", "set", "far", "up")
		ip(t, "addr", "add", "198.51.100.1/24", "dev", "wire")
		ip(t, "link", "set", "wire", "up")
		local, remote := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1")
		m := New(Options{})
		defer m.Close()
		for _, tt := range []struct {
			mtu  string
			want int
		}{{"", 1500}, {"1400", 1400}} {
			route := []string{"route", "replace", "203.0.113.0/24", "dev", "wire"}
			if tt.mtu != "" {
				route = append(route, "mtu", tt.mtu)
			}
			ip(t, route...)
			if got, err := m.PathMTU(local, remote); err != nil || got != tt.want {
				t.Errorf("route with MTU %q: %d, %v", tt.mtu, got, err)
			}
		}

		// A train that is longer than that goes in fragments, and says so.
		if err := m.SetAddresses([]netip.Addr{local}); err != nil {
			t.Error(err)
			return
		}
		for _, encap := range []bool{true, false} {
			p, err := NewPath(netip.AddrPortFrom(local, PortNATT), netip.AddrPortFrom(remote, PortNATT), encap)
			if err != nil {
				t.Error(err)
				return
			}
			failed, err := m.NewSender().Send(p, make([]byte, 3*1450), 1450, 0)
			if failed != 0 || !errors.Is(err, ErrTooBig) {
				t.Errorf("in UDP %t: %d failed, %v", encap, failed, err)
			}
		}
	})
}

// TestNetNSRawTooBig: raw packets that are too long for the device or for what is
// known of the path go in fragments, among others that are not, and arrive whole.
func TestNetNSRawTooBig(t *testing.T) {
	inNamespace(t, func() {
		ip(t, "link", "set", "lo", "mtu", "1400")
		a, b := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
		m := New(Options{})
		defer m.Close()
		c := &collector{all: make(chan got, 1000)}
		m.OnESP(func() Receiver { return c })
		if err := m.SetAddresses([]netip.Addr{a, b}); err != nil {
			t.Error(err)
			return
		}
		path := mustPath(t, a, b, false)
		for _, p := range []*Path{path, path.Fragmentable()} {
			const size = 1450
			for _, packets := range []int{1, 5, MaxSegments / 2} {
				var data []byte
				for i := range packets {
					data = append(data, bytes.Repeat([]byte{byte(i + 1)}, size)...)
				}
				data = append(data, bytes.Repeat([]byte{byte(packets + 1)}, 100)...)
				if failed, err := m.NewSender().Send(p, data, size, 0); failed != 0 || !errors.Is(err, ErrTooBig) {
					t.Errorf("fragmentable %t: %d failed, %v", p.fragmentable, failed, err)
				}
				want := map[int]int{size: packets, 100: 1}
				for range packets + 1 {
					g := c.next(t)
					if g.kind != "esp" || g.data != strings.Repeat(g.data[:1], len(g.data)) {
						t.Errorf("%s of %d octets is broken", g.kind, len(g.data))
					}
					want[len(g.data)]--
				}
				if want[size] != 0 || want[100] != 0 {
					t.Errorf("fragmentable %t: missing %v", p.fragmentable, want)
				}
			}
		}
		c.empty(t)
	})
}

// TestNetNSRawHeader reads the headers of raw packets over IPv4 from the wire.
func TestNetNSRawHeader(t *testing.T) {
	inNamespace(t, func() {
		a, b := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
		m := New(Options{})
		defer m.Close()
		if err := m.SetAddresses([]netip.Addr{a}); err != nil {
			t.Error(err)
			return
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ESP)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		timeout := unix.NsecToTimeval(patience.Nanoseconds())
		if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
			unix.Bind(fd, sockaddr(netip.AddrPortFrom(b, 0)))); err != nil {
			t.Error(err)
			return
		}
		s, packet := m.NewSender(), bytes.Repeat([]byte{7}, 333)
		path := mustPath(t, a, b, false)
		for _, tt := range []struct {
			path *Path
			tos  uint8
			df   byte
		}{{path, 0, flagDF}, {path, 0xb9, flagDF}, {path.Fragmentable(), 3, 0}, {path, 1, flagDF}} {
			if failed, err := s.Send(tt.path, packet, len(packet), tt.tos); failed != 0 || err != nil {
				t.Errorf("%d failed: %v", failed, err)
			}
			data := make([]byte, 2000)
			n, err := unix.Read(fd, data)
			if err != nil || n != ipv4HeaderLen+len(packet) {
				t.Errorf("%d octets: %v", n, err)
				return
			}
			h := data[:ipv4HeaderLen]
			if h[0] != 0x45 || h[1] != tt.tos || h[6] != tt.df || h[7] != 0 || h[8] != 64 || h[9] != protocolESP ||
				netip.AddrFrom4([4]byte(h[12:])) != a || netip.AddrFrom4([4]byte(h[16:])) != b || !bytes.Equal(data[ipv4HeaderLen:n], packet) {
				t.Errorf("tos %02x: header %x", tt.tos, h)
			}
		}
	})
}
