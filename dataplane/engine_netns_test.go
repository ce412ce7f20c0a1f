//go:build netns

package dataplane

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/deploy/netlab"
	"github.com/vpngw/vpngw/ipsec"
)

// site is a gateway in a namespace, with one inner address of each family.
type site struct {
	*Engine
	t      *testing.T
	lab    *netlab.Lab
	ns     *netlab.Namespace
	mux    *udp.Mux
	outer  netip.Addr
	inner  [2]netip.Addr
	prefix [2]netip.Prefix
	df     OuterDF
}

// within runs f on a thread inside the site's namespace; sockets and
// interfaces that f makes stay there.
func (s *site) within(f func() error) {
	s.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(filepath.Join("/run/netns", s.ns.Name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) ip(lines ...string) {
	s.t.Helper()
	if err := s.ns.IP(s.t.Context(), lines...); err != nil {
		s.t.Fatal(err)
	}
}

// open makes the Engine and its sockets.
func (s *site) open() {
	s.t.Helper()
	s.within(func() error {
		s.mux = udp.New(udp.Options{})
		var err error
		if s.Engine, err = New(Options{Mux: s.mux, Name: sharedName, Logger: slog.New(slog.DiscardHandler), OuterDF: s.df}); err != nil {
			return err
		}
		return s.mux.SetAddresses([]netip.Addr{s.outer})
	})
}

func (s *site) close() {
	s.t.Helper()
	if err := errors.Join(s.Close(), s.mux.Close()); err != nil {
		s.t.Error(err)
	}
}

// sites makes two namespaces with a wire between.
func sites(t *testing.T, outerV6 bool) (a, b *site) {
	t.Helper()
	lab, err := netlab.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	list := make([]*site, 2)
	for i := range list {
		s := &site{t: t, lab: lab}
		s.outer = netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)})
		if outerV6 {
			s.outer = netip.MustParseAddr(fmt.Sprintf("2001:db8:f::%d", i+1))
		}
		s.prefix[0] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i + 1), 0, 0}), 24)
		s.prefix[1] = netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::/48", i+1))
		s.inner = [2]netip.Addr{s.prefix[0].Addr().Next(), s.prefix[1].Addr().Next()}
		if s.ns, err = lab.Namespace(t.Context(), fmt.Sprint("site", i)); err != nil {
			t.Fatal(err)
		}
		// No link-local addresses: the kernel takes seconds to be sure of them.
		if err := s.ns.Sysctl(t.Context(), "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0",
			"net.ipv6.conf.default.addr_gen_mode=1", "net.ipv6.conf.default.accept_dad=0"); err != nil {
			t.Fatal(err)
		}
		list[i] = s
	}
	if err := list[0].ns.Link(t.Context(), "wire", list[1].ns, "wire", 1500); err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		bits := 24
		if outerV6 {
			bits = 64
		}
		s.ip(fmt.Sprintf("addr add %s/%d dev wire nodad", s.outer, bits),
			fmt.Sprintf("addr add %s/32 dev lo", s.inner[0]),
			fmt.Sprintf("addr add %s/128 dev lo nodad", s.inner[1]))
	}
	return list[0], list[1]
}

// join installs an SA in each direction, policies and routes.
func join(t *testing.T, a, b *site, encap bool, enc, integ ipsec.Transform) {
	t.Helper()
	for i, way := range []struct{ from, to *site }{{a, b}, {b, a}} {
		out := ipsec.SA{
			SPI: ipsec.SPI(0x1001 + i), Direction: ipsec.Out, Src: way.from.outer, Dst: way.to.outer,
			Encap: encap, SrcPort: udp.PortNATT, DstPort: udp.PortNATT, ReqID: 1, ESN: true,
			Encryption: enc, EncryptionKey: make([]byte, 20), Integrity: integ,
		}
		if !enc.IsAEAD() {
			out.EncryptionKey, out.IntegrityKey = make([]byte, 32), make([]byte, 32)
		}
		rand.Read(out.EncryptionKey)
		for f := range 2 {
			out.Local = append(out.Local, ipsec.SelectorFromPrefix(way.from.prefix[f]))
			out.Remote = append(out.Remote, ipsec.SelectorFromPrefix(way.to.prefix[f]))
		}
		in := out
		in.Direction, in.Local, in.Remote = ipsec.In, out.Remote, out.Local
		way.from.within(func() error { return way.from.AddSA(out) })
		way.to.within(func() error { return way.to.AddSA(in) })
		for f := range 2 {
			if err := way.from.AddPolicy(outPolicy(way.from.prefix[f], way.to.prefix[f])); err != nil {
				t.Fatal(err)
			}
			way.from.ip(fmt.Sprintf("route add %s dev %s src %s", way.to.prefix[f], sharedName, way.from.inner[f]))
		}
	}
}

// transfer sends octets over one TCP connection and compares what arrives.
func transfer(t *testing.T, from, to *site, family, octets int) {
	t.Helper()
	target := netip.AddrPortFrom(to.inner[family], 7000)
	var listener net.Listener
	to.within(func() (err error) {
		listener, err = net.Listen("tcp", target.String())
		return err
	})
	defer listener.Close()
	type result struct {
		sum [sha256.Size]byte
		n   int64
		err error
	}
	received := make(chan result, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			received <- result{err: err}
			return
		}
		defer conn.Close()
		h := sha256.New()
		n, err := io.Copy(h, conn)
		received <- result{[sha256.Size]byte(h.Sum(nil)), n, err}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := from.ns.DialContext(ctx, "tcp", target.String())
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, octets)
	rand.Read(data)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write(data)
	if err := errors.Join(err, conn.Close()); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-received:
		if r.err != nil || r.n != int64(octets) || r.sum != sha256.Sum256(data) {
			t.Errorf("%d of %d octets arrived, the same: %t, %v", r.n, octets, r.sum == sha256.Sum256(data), r.err)
		}
	case <-ctx.Done():
		t.Error("the transfer does not end")
	}
}

// TestNetNSTransfers sends a stream each way, IPv4 and IPv6, through every kind
// of outer path.
func TestNetNSTransfers(t *testing.T) {
	none := ipsec.Transform{}
	cbc, sha := ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128)
	for _, tt := range []struct {
		name       string
		outerV6    bool
		encap      bool
		enc, integ ipsec.Transform
	}{
		{"ESP in UDP", false, true, gcm, none},
		{"raw ESP", false, false, gcm, none},
		{"ESP in UDP over IPv6", true, true, gcm, none},
		{"raw ESP over IPv6", true, false, gcm, none},
		{"AES-CBC in UDP", false, true, cbc, sha},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := sites(t, tt.outerV6)
			a.open()
			defer a.close()
			b.open()
			defer b.close()
			join(t, a, b, tt.encap, tt.enc, tt.integ)
			for family := range 2 {
				transfer(t, a, b, family, 20<<20)
				transfer(t, b, a, family, 5<<20)
			}
			for _, s := range []*site{a, b} {
				for why, n := range s.Drops() {
					t.Errorf("%d packets dropped for %q", n, why)
				}
			}
		})
	}
}

// TestNetNSNarrowPath narrows the route to the peer under a standing tunnel.
func TestNetNSNarrowPath(t *testing.T) {
	a, b := sites(t, false)
	a.open()
	defer a.close()
	b.open()
	defer b.close()
	join(t, a, b, true, gcm, ipsec.Transform{})
	transfer(t, a, b, 0, 1<<20)
	a.ip(fmt.Sprintf("route add %s/32 dev wire src %s mtu 1400", b.outer, a.outer))
	transfer(t, a, b, 0, 5<<20) // in fragments, until the MTU is known
	a.within(func() error {
		a.tick(time.Now())
		return nil
	})
	var mtu int
	for _, i := range a.Snapshot().Interfaces {
		mtu = i.MTU
	}
	if mtu != 1338 { // 1,400 less 28, 16 and 16, a multiple of 4, less 2
		t.Errorf("MTU of the interface %d, want 1338", mtu)
	}
	transfer(t, a, b, 0, 5<<20)
	transfer(t, b, a, 1, 5<<20)
}

// TestNetNSTooBig gives an interface a larger MTU than the tunnel takes: the
// kernel believes our answer.
func TestNetNSTooBig(t *testing.T) {
	a, b := sites(t, false)
	a.open()
	defer a.close()
	b.open()
	defer b.close()
	join(t, a, b, true, gcm, ipsec.Transform{})
	a.ip("link set " + sharedName + " mtu 1500")
	for family, target := range b.inner {
		args := []string{"ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", "-M", "do", "-s", "1452", "-I", a.inner[family].String(), target.String()}
		if out, err := a.ns.Run(t.Context(), args...); err == nil {
			t.Errorf("a packet of 1,500 octets was answered: %s", out)
		}
		args = []string{"ip", "route", "get", target.String()}
		if out, err := a.ns.Run(t.Context(), args...); err != nil || !strings.Contains(out, "mtu 1438") {
			t.Errorf("no path MTU learned: %s, %v", out, err)
		}
	}
	// What may be cut is cut.
	args := []string{"ping", "-n", "-c", "1", "-W", "5", "-M", "dont", "-s", "4000", "-I", a.inner[0].String(), b.inner[0].String()}
	if out, err := a.ns.Run(t.Context(), args...); err != nil {
		t.Errorf("ping in fragments: %v: %s", err, out)
	}
}

// settled returns the state of a site once the kernel is through with what was
// set: it makes the local routes of IPv6 addresses some time after them.
func settled(t *testing.T, s *site) netlab.HostState {
	t.Helper()
	state := func() netlab.HostState {
		h, err := s.ns.HostState(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	last := state()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
		now := state()
		if strings.TrimSpace(last.Diff(now)) == "" {
			return now
		}
		last = now
	}
	t.Fatal("the host does not settle")
	return last
}

// TestNetNSLeavesNothing compares the host before and after, and takes the
// interface away in between.
func TestNetNSLeavesNothing(t *testing.T) {
	a, b := sites(t, false)
	before := settled(t, a)
	a.open()
	b.open()
	defer b.close()
	a.within(func() error { return a.SetInterfaces([]ipsec.Interface{{IfID: 9, Name: "tunnel9"}}) })
	join(t, a, b, true, gcm, ipsec.Transform{})
	transfer(t, a, b, 0, 1<<20)

	a.ip("link del " + sharedName)
	deadline := time.Now().Add(patience)
	for !slices.ContainsFunc(a.Snapshot().Interfaces, func(i InterfaceStatus) bool { return i.Broken }) {
		if time.Now().After(deadline) {
			t.Fatal("the interface's loss was not noticed")
		}
		time.Sleep(10 * time.Millisecond)
	}
	a.within(func() error {
		a.tick(time.Now())
		return nil
	})
	for f := range 2 {
		a.ip(fmt.Sprintf("route add %s dev %s src %s", b.prefix[f], sharedName, a.inner[f]))
	}
	transfer(t, a, b, 1, 1<<20)

	a.close()
	diff, err := a.ns.HostStateDiff(t.Context(), before)
	if err != nil || strings.TrimSpace(diff) != "" {
		t.Errorf("left behind: %v\n%s", err, diff)
	}
}
