//go:build linux

package udp

import (
	"net/netip"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	type come struct {
		messages int
		octets   int // of each
		after    time.Duration
	}
	repeat := func(n int, c come) (all []come) {
		for range n {
			all = append(all, c)
		}
		return all
	}
	const full, small = 1500, 100
	fast, slow := paceWithin/paceMessages/2, paceWithin/paceMessages*2
	for _, tt := range []struct {
		name string
		come []come
		want bool
	}{
		{"nothing", nil, false},
		{"one by one and fast", repeat(2*paceMessages, come{1, full, fast}), true},
		{"one by one and slow", repeat(20*paceMessages, come{1, full, slow}), false},
		{"acknowledgements, fast", repeat(20*paceMessages, come{1, small, fast}), false},
		{"acknowledgements between", repeat(2*paceMessages, come{2, (full + small) / 2, fast}), true},
		{"many at once, seldom", repeat(20, come{paceMessages, full, 2 * paceWithin}), false},
		{"a burst after silence", repeat(paceMessages, come{1, full, 0}), false},
		{"fast, then slow", append(repeat(2*paceMessages, come{1, full, fast}), repeat(2*paceMessages, come{1, full, slow})...), false},
		{"fast, then small", append(repeat(2*paceMessages, come{1, full, fast}), repeat(2*paceMessages, come{1, small, fast})...), false},
	} {
		var p pace
		now := time.Unix(1, 0)
		for _, c := range tt.come {
			now = now.Add(c.after)
			p.add(c.messages, c.messages*c.octets, func() time.Time { return now })
		}
		if p.fast != tt.want {
			t.Errorf("%s: %v", tt.name, p.fast)
		}
	}
}

// TestPortGathers: readers that let datagrams gather lose none and keep their
// order, and one datagram alone comes.
func TestPortGathers(t *testing.T) {
	loopback := netip.AddrPortFrom(nextAddr(), 0)
	a, _ := listen(t, loopback, PortOptions{})
	b, got := listen(t, loopback, PortOptions{})
	path, err := NewPath(a.Local(), b.Local(), true)
	if err != nil {
		t.Fatal(err)
	}
	s := a.NewSender()
	for i := range 40 * paceMessages {
		datagram := make([]byte, 2*paceOctets)
		datagram[0], datagram[1] = byte(i), byte(i>>8)
		if _, err := s.Send(path, datagram, len(datagram), 0); err != nil {
			t.Fatal(err)
		}
		// A few are under way at a time, so that none is too many for the socket.
		if i%8 == 0 {
			for j := max(0, i-7); j <= i; j++ {
				if g := got.next(t); len(g.data) != 2*paceOctets || g.data[:2] != string([]byte{byte(j), byte(j >> 8)}) {
					t.Fatalf("datagram %d has %d octets and begins with %x", j, len(g.data), g.data[:min(2, len(g.data))])
				}
			}
		}
	}
}
