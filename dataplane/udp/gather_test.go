package udp

import (
	"net/netip"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	type come struct {
		messages int
		after    time.Duration
	}
	repeat := func(n int, c come) (all []come) {
		for range n {
			all = append(all, c)
		}
		return all
	}
	fast, slow := paceWithin/paceMessages/2, paceWithin/paceMessages*2
	for _, tt := range []struct {
		name string
		come []come
		want bool
	}{
		{"nothing", nil, false},
		{"one by one and fast", repeat(2*paceMessages, come{1, fast}), true},
		{"one by one and slow", repeat(20*paceMessages, come{1, slow}), false},
		{"many at once, seldom", repeat(20, come{paceMessages, 2 * paceWithin}), false},
		{"a burst after silence", repeat(paceMessages, come{1, 0}), false},
		{"fast, then slow", append(repeat(2*paceMessages, come{1, fast}), repeat(2*paceMessages, come{1, slow})...), false},
	} {
		var p pace
		now := time.Unix(1, 0)
		for _, c := range tt.come {
			now = now.Add(c.after)
			p.add(c.messages, func() time.Time { return now })
		}
		if p.fast != tt.want {
			t.Errorf("%s: %v", tt.name, p.fast)
		}
	}
}

// TestPaceOfOne: only one reader holds a processor while it pauses.
func TestPaceOfOne(t *testing.T) {
	if !gathering.CompareAndSwap(false, true) {
		t.Fatal("another reader pauses")
	}
	p := pace{fast: true}
	p.gather() // which must leave the other's turn alone
	if !gathering.CompareAndSwap(true, false) {
		t.Error("the turn of another reader was ended")
	}
	p.gather()
	if gathering.Load() {
		t.Error("the turn is not given back")
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
		want := string([]byte{byte(i), byte(i >> 8)})
		if _, err := s.Send(path, []byte(want), len(want), 0); err != nil {
			t.Fatal(err)
		}
		// A few are under way at a time, so that none is too many for the socket.
		if i%8 == 0 {
			for j := max(0, i-7); j <= i; j++ {
				if g := got.next(t); g.data != string([]byte{byte(j), byte(j >> 8)}) {
					t.Fatalf("datagram %d is %q", j, g.data)
				}
			}
		}
	}
}
