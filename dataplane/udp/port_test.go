package udp

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// portCollector is the DatagramReceiver of every socket of a Port.
type portCollector struct{ all chan got }

func (c *portCollector) Receive(from netip.AddrPort, datagram []byte) {
	c.all <- got{kind: "datagram", remote: from, data: string(datagram)}
	if cap(datagram)-len(datagram) < Slack {
		c.all <- got{kind: "no room behind a datagram"}
		return
	}
	// As opening in place does: what lies behind is used and put back.
	behind := datagram[len(datagram) : len(datagram)+Slack]
	saved := bytes.Clone(behind)
	clear(datagram[:len(datagram)+Slack])
	copy(behind, saved)
}

func (c *portCollector) Flush() {}

func listen(t *testing.T, local netip.AddrPort, o PortOptions) (*Port, *portCollector) {
	t.Helper()
	c := &portCollector{all: make(chan got, 1000)}
	p, err := Listen(local, func() DatagramReceiver { return c }, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, c
}

func (c *portCollector) next(t *testing.T) got {
	t.Helper()
	select {
	case g := <-c.all:
		return g
	case <-time.After(patience):
		t.Fatal("nothing arrived")
		return got{}
	}
}

// TestPort sends trains both ways between two ports that the kernel chose.
func TestPort(t *testing.T) {
	loopback := netip.AddrPortFrom(nextAddr(), 0)
	for _, sockets := range []int{1, 3} {
		a, gotA := listen(t, loopback, PortOptions{Sockets: sockets})
		b, gotB := listen(t, loopback, PortOptions{Sockets: sockets})
		for _, way := range []struct {
			from, to *Port
			got      *portCollector
		}{{a, b, gotB}, {b, a, gotA}} {
			path, err := NewPath(way.from.Local(), way.to.Local(), true)
			if err != nil {
				t.Fatal(err)
			}
			var data []byte
			for i := range 20 {
				data = fmt.Appendf(data, "datagram %02d", i)
			}
			size := len("datagram 00")
			if failed, err := way.from.NewSender().Send(path, data[:len(data)-3], size, 0); failed != 0 || err != nil {
				t.Fatalf("%d failed: %v", failed, err)
			}
			for i := range 20 {
				want := fmt.Sprintf("datagram %02d", i)
				if i == 19 {
					want = want[:size-3]
				}
				if g := way.got.next(t); g.kind != "datagram" || g.data != want || g.remote != way.from.Local() {
					t.Fatalf("%+v, want %q from %s", g, want, way.from.Local())
				}
			}
		}
	}
}

func TestPortTakesAnyDatagram(t *testing.T) {
	p, c := listen(t, netip.AddrPortFrom(nextAddr(), 0), PortOptions{})
	conn := dial(t, p.Local())
	for _, data := range []string{"", "\xff", "\x00\x00\x00\x00", string(bytes.Repeat([]byte{7}, 60000))} {
		write(t, conn, data)
		if g := c.next(t); g.kind != "datagram" || g.data != data {
			t.Errorf("%.40q, want %.40q", g.data, data)
		}
	}
}

func TestPortInUse(t *testing.T) {
	p, c := listen(t, netip.AddrPortFrom(nextAddr(), 0), PortOptions{})
	if again, err := Listen(p.Local(), func() DatagramReceiver { return c }, PortOptions{}); err == nil {
		again.Close()
		t.Error("opened twice")
	}
	for _, local := range []string{"224.0.0.1:1194", "[ff02::1]:1194"} {
		if p, err := Listen(netip.MustParseAddrPort(local), func() DatagramReceiver { return c }, PortOptions{}); err == nil {
			p.Close()
			t.Errorf("%s: opened", local)
		}
	}
}
