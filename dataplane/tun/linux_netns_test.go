//go:build netns

package tun

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread that has a network namespace of its own; both
// end with f.
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
		f()
	}()
	<-done
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// read returns the next frame of a queue.
func read(t *testing.T, q Queue) []byte {
	t.Helper()
	buf := make([]byte, HeaderLen+MaxPacket)
	for {
		n, err := q.Read(buf)
		switch {
		case err == nil:
			return buf[:n]
		case !errors.Is(err, ErrWouldBlock):
			t.Errorf("read: %v", err)
			return nil
		}
		if err := q.Wait(); err != nil {
			t.Errorf("wait: %v", err)
			return nil
		}
	}
}

func TestNetNSDevice(t *testing.T) {
	inNamespace(t, func() {
		d, err := Open("tuntest0", 1, 1400)
		if err != nil {
			t.Error(err)
			return
		}
		defer d.Close()
		if again, err := Open("tuntest0", 1, 1400); err == nil || !strings.Contains(err.Error(), "exists") {
			t.Errorf("the same name again: %v, %v", again, err)
		}
		ip(t, "link", "add", "other0", "type", "veth", "peer", "name", "other1")
		if _, err := Open("other0", 1, 1400); err == nil {
			t.Error("somebody else's interface: no error")
		}
		link, err := netlink.LinkByName("tuntest0")
		if err != nil {
			t.Error(err)
			return
		}
		if a := link.Attrs(); a.MTU != 1400 || a.Flags&net.FlagUp == 0 {
			t.Errorf("MTU %d, flags %v", a.MTU, a.Flags)
		}
		if addrs := ip(t, "-6", "addr", "show", "dev", "tuntest0"); addrs != "" {
			t.Errorf("IPv6 addresses: %s", addrs)
		}
		if err := d.SetMTU(1300); err != nil {
			t.Error(err)
		}
		if link, err = netlink.LinkByName("tuntest0"); err != nil || link.Attrs().MTU != 1300 {
			t.Errorf("MTU after SetMTU: %+v, %v", link, err)
		}

		// The only frame that ever comes is one that was sent.
		ip(t, "addr", "add", "10.1.0.7/24", "dev", "tuntest0")
		conn, err := net.Dial("udp", "10.1.0.9:5000")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("out there")); err != nil {
			t.Error(err)
		}
		got := segmentsOf(t, read(t, d.Queues()[0]))
		if len(got) != 1 || !bytes.HasSuffix(got[0], []byte("out there")) {
			t.Errorf("got %x", got)
		}
		f, ok := parseFlow(got[0])
		if !ok || !f.checksumRight() {
			t.Error("checksum wrong")
		}

		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if _, err := netlink.LinkByName("tuntest0"); err == nil {
			t.Error("the interface is still there after Close")
		}
	})
}

// What the kernel drops since nobody reads is counted, to the packet.
func TestNetNSOverruns(t *testing.T) {
	inNamespace(t, func() {
		d, err := Open("tuntest0", 1, 1400)
		if err != nil {
			t.Error(err)
			return
		}
		defer d.Close()
		ip(t, "addr", "add", "10.1.0.7/24", "dev", "tuntest0")
		conn, err := net.Dial("udp", "10.1.0.9:5000")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		const sent = 2000 // four times what the queue holds
		for range sent {
			// The kernel says ENOBUFS of one that it drops, or says nothing.
			_, _ = conn.Write([]byte("out there"))
		}
		lost := d.Overruns()
		read, buf := uint64(0), make([]byte, HeaderLen+MaxPacket)
		for {
			if _, err := d.Queues()[0].Read(buf); err != nil {
				break
			}
			read++
		}
		if lost == 0 || lost+read != sent {
			t.Errorf("%d of %d packets lost, %d read", lost, sent, read)
		}
	})
}

func TestNetNSCloseWakesReaders(t *testing.T) {
	inNamespace(t, func() {
		d, err := Open("tuntest0", 2, 1400)
		if err != nil {
			t.Error(err)
			return
		}
		ended := make(chan error, 2)
		for _, q := range d.Queues() {
			go func() { ended <- q.Wait() }()
		}
		time.Sleep(10 * time.Millisecond) // let them wait; it must work without, too
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Errorf("a reader got %v", err)
			}
		}
		if _, err := d.Queues()[0].Read(make([]byte, HeaderLen+MaxPacket)); !errors.Is(err, ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
		if err := d.NewWriter().Write(0, [][]byte{make([]byte, HeaderLen)}); !errors.Is(err, ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
	})
}

// TestNetNSKernelTakesGroups gives the kernel what a Coalescer made of UDP and
// TCP packets and looks at what a socket gets.
func TestNetNSKernelTakesGroups(t *testing.T) {
	inNamespace(t, func() {
		d, err := Open("tuntest0", 1, 1400)
		if err != nil {
			t.Error(err)
			return
		}
		defer d.Close()
		ip(t, "addr", "add", addr4[1].String()+"/24", "dev", "tuntest0")
		ip(t, "route", "add", netip.PrefixFrom(addr4[0], 24).Masked().String(), "dev", "tuntest0")
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr4[1], 443)))
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		c := NewCoalescer(d.NewWriter())
		want := udpTrain(spec{sport: 4000}, 60, 900)
		for _, p := range want {
			if _, err := c.Add(bytes.Clone(p)); err != nil {
				t.Error(err)
			}
		}
		if _, err := c.Flush(); err != nil {
			t.Error(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
		for i, p := range want {
			buf := make([]byte, 2000)
			n, err := conn.Read(buf)
			if err != nil || !bytes.Equal(buf[:n], p[28:]) {
				t.Errorf("datagram %d: %d octets, %v", i, n, err)
				return
			}
		}

		// A super-packet of TCP is answered like the packets it stands for: by
		// a reset, since nobody listens.
		r := NewCoalescer(d.NewWriter())
		for _, p := range train(spec{protocol: protocolTCP, sport: 4000, seq: 1, flags: tcpACK}, 20, 1000) {
			if _, err := r.Add(p); err != nil {
				t.Error(err)
			}
		}
		if _, err := r.Flush(); err != nil {
			t.Error(err)
		}
		got := segmentsOf(t, read(t, d.Queues()[0]))
		if len(got) != 1 || got[0][9] != protocolTCP || got[0][33]&4 == 0 {
			t.Errorf("no reset: %x", got)
		}
	})
}
