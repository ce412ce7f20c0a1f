//go:build netns

package sslvpn

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/deploy/netlab"
)

const patience = time.Minute

// within runs f on a thread inside a namespace; sockets and interfaces that f
// makes stay there.
func within(t *testing.T, ns *netlab.Namespace, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(filepath.Join("/run/netns", ns.Name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// tunnelLab is a server and a client with a wire between them, and a host
// behind the server.
type tunnelLab struct {
	server, client *netlab.Namespace
	plane, far     *plane
	there          *client // as the server sees it
}

var (
	outerServer = netip.MustParseAddr("198.51.100.1")
	outerClient = netip.MustParseAddr("198.51.100.2")
	innerHost   = netip.MustParseAddr("10.1.0.1")
	innerClient = netip.MustParseAddr("10.8.0.5")
)

func newTunnelLab(t *testing.T, stream bool) *tunnelLab {
	t.Helper()
	netlab, err := netlab.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlab.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &tunnelLab{}
	if l.server, err = netlab.Namespace(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if l.client, err = netlab.Namespace(t.Context(), "client"); err != nil {
		t.Fatal(err)
	}
	if err := l.server.Link(t.Context(), "wire", l.client, "wire", 1500); err != nil {
		t.Fatal(err)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(l.server.IP(t.Context(), fmt.Sprintf("addr add %s/24 dev wire", outerServer), fmt.Sprintf("addr add %s/32 dev lo", innerHost)))
	check(l.client.IP(t.Context(), fmt.Sprintf("addr add %s/24 dev wire", outerClient)))
	within(t, l.server, func() error {
		dev, err := tun.Open("p2c0", 2, 1500)
		if err != nil {
			return err
		}
		l.plane, err = newPlane(dev, testPool, planeOptions{})
		return err
	})
	within(t, l.client, func() error {
		dev, err := tun.Open("tun0", 2, 1500)
		if err != nil {
			return err
		}
		l.far = newPeerPlane(dev, planeOptions{})
		return nil
	})
	check(l.server.IP(t.Context(), "addr add 10.8.0.1/32 dev p2c0", fmt.Sprintf("route add %s dev p2c0 src %s", testPool, innerHost)))
	check(l.client.IP(t.Context(), fmt.Sprintf("addr add %s/32 dev tun0", innerClient),
		fmt.Sprintf("route add 10.1.0.0/16 dev tun0 src %s", innerClient), fmt.Sprintf("route add 10.8.0.1/32 dev tun0 src %s", innerClient)))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, p := range []*plane{l.plane, l.far} {
		running.Go(func() {
			if err := p.run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { stop(); running.Wait() })
	if stream {
		l.joinTCP(t, &running)
	} else {
		l.joinUDP(t)
	}
	return l
}

// join makes the client of both ends, with keys.
func (l *tunnelLab) join(t *testing.T, server, client link) (there, here *client) {
	t.Helper()
	k := dataKeys{AES128GCM, make([]byte, 16), make([]byte, 16), make([]byte, 8), make([]byte, 8), false}
	for _, b := range [][]byte{k.sendKey, k.recvKey, k.sendIV, k.recvIV} {
		rand.Read(b)
	}
	there, here = newClient(5, innerClient, server), newClient(5, innerClient, client)
	if err := errors.Join(there.installKey(0, k), here.installKey(0, dataKeys{k.cipher, k.recvKey, k.sendKey, k.recvIV, k.sendIV, k.epoch}), l.plane.attach(there)); err != nil {
		t.Fatal(err)
	}
	there.allow(newAccessSet(prefixes("10.1.0.0/16")))
	l.far.attachServer(here)
	l.there = there
	return there, here
}

func (l *tunnelLab) joinTCP(t *testing.T, running *sync.WaitGroup) {
	t.Helper()
	var listener net.Listener
	within(t, l.server, func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(outerServer, 443).String())
		return err
	})
	defer listener.Close()
	dialled, err := l.client.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near, err := newTCPLink(accepted.(*net.TCPConn), &l.plane.drops)
	if err != nil {
		t.Fatal(err)
	}
	far, err := newTCPLink(dialled.(*net.TCPConn), &l.far.drops)
	if err != nil {
		t.Fatal(err)
	}
	there, here := l.join(t, near, far)
	for _, end := range []struct {
		link *tcpLink
		c    *client
	}{{near, there}, {far, here}} {
		running.Go(func() {
			_ = end.link.run(func([]byte) error { return errors.New("a control packet") }, func(packets [][]byte) error {
				end.c.receive(packets)
				return nil
			})
		})
	}
	t.Cleanup(func() { near.close(); far.close() })
}

// toClient hands all data of a socket to one client.
type toClient struct{ c *client }

func (h *toClient) control(netip.AddrPort, []byte) {}
func (h *toClient) data(_ netip.AddrPort, _ uint32, packets [][]byte) {
	h.c.receive(packets)
}

func (l *tunnelLab) joinUDP(t *testing.T) {
	t.Helper()
	var sockets [2]udpSocket
	handlers := [2]*toClient{{newClient(0, innerClient, nil)}, {newClient(0, innerClient, nil)}}
	for i, end := range []struct {
		ns    *netlab.Namespace
		local netip.Addr
	}{{l.server, outerServer}, {l.client, outerClient}} {
		within(t, end.ns, func() (err error) {
			sockets[i], err = openUDP(netip.AddrPortFrom(end.local, 1194), handlers[i], udpOptions{})
			return err
		})
		t.Cleanup(func() { sockets[i].close() })
	}
	near, err := newUDPLink(sockets[0], sockets[1].local(), &l.plane.drops)
	if err != nil {
		t.Fatal(err)
	}
	far, err := newUDPLink(sockets[1], sockets[0].local(), &l.far.drops)
	if err != nil {
		t.Fatal(err)
	}
	handlers[0].c, handlers[1].c = l.join(t, near, far)
}

// transfer sends octets over one TCP connection and compares what arrives.
func transfer(t *testing.T, from, to *netlab.Namespace, target netip.AddrPort, octets int) {
	t.Helper()
	var listener net.Listener
	within(t, to, func() (err error) {
		listener, err = net.Listen("tcp", target.String())
		return err
	})
	defer listener.Close()
	type result struct {
		sum [sha256.Size]byte
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
		_, err = io.Copy(h, conn)
		received <- result{[sha256.Size]byte(h.Sum(nil)), err}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", target.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	data := make([]byte, octets)
	rand.Read(data)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if got := <-received; got.err != nil || got.sum != sha256.Sum256(data) {
		t.Errorf("what arrived differs: %v", got.err)
	}
}

// TestNetNSDataPath carries TCP and UDP between real TUN devices, over each
// transport, without a control channel: the keys are given.
func TestNetNSDataPath(t *testing.T) {
	for _, stream := range []bool{true, false} {
		name := "UDP"
		if stream {
			name = "TCP"
		}
		t.Run(name, func(t *testing.T) {
			l := newTunnelLab(t, stream)
			for _, ping := range []struct {
				from     *netlab.Namespace
				src, dst netip.Addr
			}{
				{l.client, innerClient, netip.MustParseAddr("10.8.0.1")},
				{l.client, innerClient, innerHost},
				{l.server, innerHost, innerClient},
			} {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				err := ping.from.WaitPing(ctx, ping.src, ping.dst)
				cancel()
				if err != nil {
					t.Fatalf("%v; drops %v, %v", err, l.plane.drops.snapshot(), l.far.drops.snapshot())
				}
			}
			const octets = 20 << 20
			transfer(t, l.client, l.server, netip.AddrPortFrom(innerHost, 7000), octets)
			transfer(t, l.server, l.client, netip.AddrPortFrom(innerClient, 7000), octets)
			for _, reverse := range []bool{false, true} {
				report, err := netlab.RunIPerf(t.Context(), l.client, l.server, innerHost, netlab.IPerf{Duration: time.Second, Reverse: reverse})
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("reverse %v: %.2f Gbit/s, %d retransmits", reverse, report.BitsPerSecond/1e9, report.Retransmits)
			}
			in, out := l.there.traffic()
			if in.Octets < octets || out.Octets < octets {
				t.Errorf("traffic %+v, %+v", in, out)
			}
			t.Logf("server %+v %+v %v, client %v", in, out, l.plane.drops.snapshot(), l.far.drops.snapshot())
			l.there.allow(newAccessSet(prefixes("10.1.0.2/32")))
			if out, err := l.client.Run(t.Context(), "ping", "-c", "1", "-W", "1", "-I", innerClient.String(), innerHost.String()); err == nil {
				t.Errorf("the host answers after it was forbidden: %s", out)
			}
			if n := l.plane.drops.snapshot()["denied"]; n == 0 || strings.Contains(fmt.Sprint(l.plane.drops.snapshot()), "integrity") {
				t.Errorf("drops %v", l.plane.drops.snapshot())
			}
		})
	}
}
