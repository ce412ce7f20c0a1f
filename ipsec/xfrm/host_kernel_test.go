//go:build kernelesp

package xfrm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/dataplane"
	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
	"github.com/vpngw/vpngw/ipsec/xfrm"
)

// host is a network namespace without a name, which ends with the test.
type host struct {
	t         *testing.T
	namespace *os.File
	tooBig    chan []byte // ICMP errors that reach the protected side
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, tooBig: make(chan []byte, 16)}
	h.must(onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			h.namespace, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	}))
	t.Cleanup(func() { h.namespace.Close() })
	h.within(func() error {
		errs := []error{
			sysctl("ipv4/ip_forward", "1"), sysctl("ipv6/conf/all/forwarding", "1"),
			sysctl("ipv4/conf/all/rp_filter", "0"), sysctl("ipv4/conf/default/rp_filter", "0"),
			// No packets of the kernel's own.
			sysctl("ipv6/conf/default/addr_gen_mode", "1"), sysctl("ipv6/conf/default/accept_dad", "0"),
		}
		return errors.Join(append(errs, setUp("lo"))...)
	})
	return h
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// onThread calls a function on a thread of its own, which ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// within calls a function in the namespace.
func (h *host) within(f func() error) {
	h.t.Helper()
	h.must(onThread(func() error {
		if err := unix.Setns(int(h.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	}))
}

func sysctl(name, value string) error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func addAddress(link, prefix string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	a.Flags |= unix.IFA_F_NODAD
	return netlink.AddrAdd(l, a)
}

func addRoute(link, prefix string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK})
}

// The outer network, and the names of the devices in each host.
const (
	outerLink = "outer"
	innerLink = "inner"
)

// join lays a cable between two hosts.
func join(a, b *host) {
	a.t.Helper()
	a.within(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = outerLink
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: outerLink, PeerNamespace: netlink.NsFd(int(b.namespace.Fd()))})
	})
	for i, h := range []*host{a, b} {
		h.within(func() error {
			return errors.Join(setUp(outerLink), addAddress(outerLink, fmt.Sprintf("198.51.100.%d/24", i+1)),
				addAddress(outerLink, fmt.Sprintf("2001:db8:ffff::%d/64", i+1)))
		})
	}
}

// outerAddress is that of the first or second host of a pair.
func outerAddress(index int, six bool) netip.Addr {
	if six {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff::%d", index+1))
	}
	return netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", index+1))
}

var sites = [2][]string{{"10.1.0.0/16", "2001:db8:1::/48"}, {"10.9.0.0/16", "2001:db8:9::/48"}}

// backend opens a Backend in a host and runs it for the length of the test.
func (h *host) backend() *xfrm.Backend {
	h.t.Helper()
	var b *xfrm.Backend
	h.within(func() (err error) {
		b, err = xfrm.New(xfrm.Options{Logger: slog.New(slog.NewTextHandler(h.t.Output(), nil))})
		return err
	})
	h.t.Cleanup(func() { h.must(b.Close()) })
	h.run(b.Run)
	return b
}

// run runs a function for the length of the test.
func (h *host) run(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := f(ctx); err != nil {
			h.t.Error(err)
		}
	})
	h.t.Cleanup(func() {
		cancel()
		wait.Wait()
	})
}

// protectedSide opens a TUN device whose routes lead to the host's site, and
// returns how packets come and go there.
func (h *host) protectedSide(index int) (send func([]byte), receive func(time.Duration) []byte) {
	h.t.Helper()
	var f *os.File
	h.within(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		var request struct {
			name  [unix.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}
		copy(request.name[:], innerLink)
		request.flags = unix.IFF_TUN | unix.IFF_NO_PI
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		f = os.NewFile(uintptr(fd), "tun")
		if err := setUp(innerLink); err != nil {
			return err
		}
		for _, prefix := range sites[index] {
			if err := addRoute(innerLink, prefix); err != nil {
				return err
			}
		}
		return nil
	})
	arrived := make(chan []byte, 4096)
	h.run(func(ctx context.Context) error {
		buf := make([]byte, 65536)
		for {
			n, err := f.Read(buf)
			if err != nil {
				return nil // closed at the end of the test
			}
			switch packet := append([]byte(nil), buf[:n]...); {
			case isOfTest(packet):
				select {
				case arrived <- packet:
				case <-ctx.Done():
				}
			case isTooBig(packet):
				select {
				case h.tooBig <- packet:
				default: // which nobody waits for
				}
			}
		}
	})
	h.t.Cleanup(func() { f.Close() }) // before the one of run
	send = func(packet []byte) {
		if _, err := f.Write(packet); err != nil {
			h.t.Error(err)
		}
	}
	receive = func(wait time.Duration) []byte {
		select {
		case packet := <-arrived:
			return packet
		default: // or one that is there would lose to a short wait
		}
		select {
		case packet := <-arrived:
			return packet
		case <-time.After(wait):
			return nil
		}
	}
	return send, receive
}

// isOfTest tells a packet of a test, with UDP or TCP, from the kernel's own errors.
func isOfTest(packet []byte) bool {
	switch packet[0] >> 4 {
	case 4:
		return len(packet) > 20 && (packet[9] == unix.IPPROTO_UDP || packet[9] == unix.IPPROTO_TCP)
	case 6:
		return len(packet) > 40 && (packet[6] == unix.IPPROTO_UDP || packet[6] == unix.IPPROTO_TCP)
	}
	return false
}

// isTooBig tells the error that a packet is too long for its path (RFC 792, RFC
// 4443, section 3.2).
func isTooBig(packet []byte) bool {
	switch packet[0] >> 4 {
	case 4:
		return len(packet) > 28 && packet[9] == unix.IPPROTO_ICMP && packet[20] == 3 && packet[21] == 4
	case 6:
		return len(packet) > 48 && packet[6] == unix.IPPROTO_ICMPV6 && packet[40] == 2
	}
	return false
}

// natTraversal opens UDP 4500 with the kernel's decapsulation for one peer.
func (h *host) natTraversal(local, remote netip.AddrPort) {
	h.t.Helper()
	h.within(func() error {
		mux := udp.New(udp.Options{NoRawESP: true, Decapsulation: true})
		h.t.Cleanup(func() { h.must(mux.Close()) })
		return errors.Join(mux.SetAddresses([]netip.Addr{local.Addr()}), mux.Decapsulate(local, remote, true))
	})
}

// shape is how the Ends of a pair are connected.
type shape struct {
	encap, six bool
	device     bool // a tunnel is a device: XFRM interface or VTI
	userspace  [2]bool
}

const (
	nattPort = 4500
	ifID     = 77
	device   = "vpngw0000004d"
)

// pair returns a function for Options.Pair.
func (s shape) pair(t *testing.T) (a, b ipsectest.End) {
	hosts := [2]*host{newHost(t), newHost(t)}
	join(hosts[0], hosts[1])
	var ends [2]ipsectest.End
	for i, h := range hosts {
		outer := netip.AddrPortFrom(outerAddress(i, s.six), 0)
		if s.encap {
			outer = netip.AddrPortFrom(outer.Addr(), nattPort)
		}
		if s.userspace[i] {
			ends[i] = h.userspaceEnd(outer)
			continue
		}
		ends[i] = h.kernelEnd(i, outer, s.device)
	}
	return ends[0], ends[1]
}

func (h *host) kernelEnd(index int, outer netip.AddrPort, tunnel bool) ipsectest.End {
	h.t.Helper()
	backend := h.backend()
	end := ipsectest.End{Backend: backend, Outer: outer}
	end.Send, end.Receive = h.protectedSide(index)
	if outer.Port() != 0 {
		h.natTraversal(outer, netip.AddrPortFrom(outerAddress(1-index, outer.Addr().Is6()), nattPort))
	}
	link := outerLink
	if tunnel {
		link = device
		h.must(backend.SetInterfaces([]ipsec.Interface{{IfID: ifID, Name: device}}))
		end.Backend = routeBased{backend}
	}
	h.within(func() error {
		for _, prefix := range sites[1-index] {
			if err := addRoute(link, prefix); err != nil {
				return err
			}
		}
		return nil
	})
	return end
}

// userspaceEnd is the data plane of package dataplane behind real sockets.
func (h *host) userspaceEnd(outer netip.AddrPort) ipsectest.End {
	h.t.Helper()
	inner := tun.NewChannel(innerLink, 1, 4096)
	var engine *dataplane.Engine
	h.within(func() (err error) {
		mux := udp.New(udp.Options{})
		engine, err = dataplane.New(dataplane.Options{
			Mux: mux, Name: innerLink, Queues: 1,
			OpenTUN: func(_ string, _, mtu int) (tun.Device, error) { return inner, inner.SetMTU(mtu) },
		})
		if err != nil {
			return err
		}
		h.t.Cleanup(func() { h.must(errors.Join(engine.Close(), mux.Close())) })
		return mux.SetAddresses([]netip.Addr{outer.Addr()})
	})
	h.run(engine.Run)
	return ipsectest.End{
		Backend: engine, Outer: outer, Send: inner.SendPacket,
		Receive: func(wait time.Duration) []byte {
			select {
			case frame := <-inner.Received():
				return frame[tun.HeaderLen:]
			case <-time.After(wait):
				return nil
			}
		},
	}
}

// routeBased puts all SAs and policies on one device.
type routeBased struct{ *xfrm.Backend }

func (b routeBased) AddSA(sa ipsec.SA) error {
	sa.IfID = ifID
	return b.Backend.AddSA(sa)
}

func (b routeBased) AddPolicy(p ipsec.Policy) error {
	p.IfID = ifID
	return b.Backend.AddPolicy(p)
}

func (b routeBased) DeletePolicy(id ipsec.PolicyID) error {
	id.IfID = ifID
	return b.Backend.DeletePolicy(id)
}
