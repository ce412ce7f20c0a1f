package nqa

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/fuzztest"
)

type packet struct {
	source, destination netip.Addr
	message             []byte
}

// network answers requests as a test says.
type network struct {
	mu       sync.Mutex
	silent   bool
	refuse   error
	delay    time.Duration
	requests []sent
	change   func(*packet) // spoils replies
	replies  chan packet
	closed   chan struct{}
}

type sent struct {
	packet
	device string
	at     time.Time
}

func newNetwork() *network {
	return &network{delay: 20 * time.Millisecond, replies: make(chan packet, 100), closed: make(chan struct{})}
}

func (n *network) Send(source, destination netip.Addr, device string, message []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests = append(n.requests, sent{packet{source, destination, message}, device, time.Now()})
	if n.refuse != nil || n.silent {
		return n.refuse
	}
	e, err := parseEcho(message, source.Is6())
	if err != nil {
		return err
	}
	e.reply = true
	reply := packet{source: destination, destination: source, message: e.append(nil)}
	if n.change != nil {
		n.change(&reply)
	}
	time.AfterFunc(n.delay, func() { n.replies <- reply })
	return nil
}

func (n *network) Receive(buffer []byte) (source, destination netip.Addr, message []byte, err error) {
	select {
	case p := <-n.replies:
		return p.source, p.destination, buffer[:copy(buffer, p.message)], nil
	case <-n.closed:
		return source, destination, nil, net.ErrClosed
	}
}

func (n *network) Close() error { close(n.closed); return nil }

func (n *network) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func target1(id string) Target {
	return Target{ID: id, Source: netip.MustParseAddr("203.0.113.1"), Destination: netip.MustParseAddr("198.51.100.7"), Device: "tunnel"}
}

// inBubble runs a Runner on a network inside a synctest bubble.
func inBubble(t *testing.T, test func(t *testing.T, n *network, r *Runner)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		r := NewRunner(Options{Socket: n})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		test(t, n, r)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func changed(r *Runner) bool {
	select {
	case <-r.Changed():
		return true
	default:
		return false
	}
}

func TestVerdicts(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network, r *Runner) {
		if err := r.Apply([]Target{target1("a")}); err != nil {
			t.Fatal(err)
		}
		want := func(verdict Verdict, signalled bool) {
			t.Helper()
			list := r.Snapshot()
			if got := changed(r); len(list) != 1 || list[0].Verdict != verdict || got != signalled {
				t.Errorf("got %+v, changed %v; want %s, %v", list, got, verdict, signalled)
			}
		}
		synctest.Wait()
		want(Unknown, false)
		pass(20 * time.Millisecond)
		want(Reachable, true) // by the first reply
		if s := r.Snapshot()[0]; s.RTT != 20*time.Millisecond || s.Answered != 1 || s.Lost != 0 {
			t.Errorf("status %+v", s)
		}
		pass(10 * time.Second)
		n.set(func() { n.silent = true })
		pass(n.delay) // a reply may be under way
		before := r.Snapshot()[0]
		pass(2900 * time.Millisecond) // at most the third request without a reply is under way
		want(Reachable, false)
		pass(1200 * time.Millisecond)
		want(Unreachable, true)
		if s := r.Snapshot()[0]; s.Lost-before.Lost < 3 || s.Answered != before.Answered || s.RTT != before.RTT {
			t.Errorf("status %+v after %+v", s, before)
		}
		n.set(func() { n.silent = false })
		pass(1900 * time.Millisecond)
		want(Unreachable, false) // not by one reply
		pass(1200 * time.Millisecond)
		want(Reachable, true)
	})
}

func TestOneInFourLostIsReachable(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network, r *Runner) {
		if err := r.Apply([]Target{target1("a")}); err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			n.set(func() { n.silent = i%4 == 3 })
			pass(time.Second)
		}
		s := r.Snapshot()[0]
		if s.Verdict != Reachable || s.Lost < 8 || s.Lost > 11 || s.Answered+s.Lost < 38 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestForgedRepliesDoNotCount(t *testing.T) {
	for name, change := range map[string]func(*packet){
		"another source":      func(p *packet) { p.source = netip.MustParseAddr("198.51.100.8") },
		"another destination": func(p *packet) { p.destination = netip.MustParseAddr("203.0.113.2") },
		"another token": func(p *packet) {
			e, _ := parseEcho(p.message, false)
			e.token++
			p.message = e.append(nil)
		},
		"another sequence number": func(p *packet) {
			e, _ := parseEcho(p.message, false)
			e.sequence++
			p.message = e.append(nil)
		},
		"a request": func(p *packet) {
			e, _ := parseEcho(p.message, false)
			e.reply = false
			p.message = e.append(nil)
		},
		"a wrong checksum": func(p *packet) { p.message[2]++ },
		"a short message":  func(p *packet) { p.message = p.message[:15] },
		"a late reply":     nil,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *network, r *Runner) {
				n.set(func() {
					n.change = change
					if change == nil {
						n.delay = 2100 * time.Millisecond
					}
				})
				if err := r.Apply([]Target{target1("a")}); err != nil {
					t.Fatal(err)
				}
				pass(6 * time.Second)
				if s := r.Snapshot()[0]; s.Verdict != Unreachable || s.Answered != 0 || s.RTT != 0 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

func TestApply(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network, r *Runner) {
		a, b := target1("a"), target1("b")
		b.Device, b.Destination = "", netip.MustParseAddr("198.51.100.8")
		if err := r.Apply([]Target{a, b}); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		before := r.Snapshot()
		b.Source = netip.MustParseAddr("203.0.113.2")
		if err := r.Apply([]Target{b, a}); err != nil {
			t.Fatal(err)
		}
		after := r.Snapshot()
		if after[0] != before[0] || after[1].Verdict != Unknown || after[1].Answered != 0 {
			t.Errorf("after a change of b: %+v, before %+v", after, before)
		}
		err := r.Apply([]Target{a, a, {ID: "c", Source: a.Source}, {ID: "d", Source: netip.MustParseAddr("::1"), Destination: a.Destination}})
		for _, words := range []string{"target a: stands there twice", "target c: source and", "target d: source and"} {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("Apply: %v, want %q", err, words)
			}
		}
		if list := r.Snapshot(); len(list) != 1 || list[0] != after[0] {
			t.Errorf("left are %+v", list)
		}
		if err := r.Apply(nil); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		count := 0
		n.set(func() { count = len(n.requests); n.refuse = errors.New("no such device") })
		pass(time.Minute)
		n.set(func() {
			if len(n.requests) != count {
				t.Errorf("%d requests without a target", len(n.requests)-count)
			}
		})
		if err := r.Apply([]Target{a}); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		if s := r.Snapshot()[0]; s.Verdict != Unreachable || s.Err == nil {
			t.Errorf("a target that cannot be sent to: %+v", s)
		}
	})
}

// Many targets that come together do not go on together.
func TestTargetsSpread(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network, r *Runner) {
		var list []Target
		for i := range 1000 {
			list = append(list, target1(string(rune('0'+i))))
		}
		n.set(func() { n.silent = true })
		if err := r.Apply(list); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		most := make(map[time.Time]int)
		n.set(func() {
			for _, s := range n.requests[len(list):] {
				most[s.at.Truncate(100*time.Millisecond)]++
			}
			if rate := len(n.requests); rate < 9000 || rate > 11000 {
				t.Errorf("%d requests in 10 s to 1000 targets", rate)
			}
		})
		for at, count := range most {
			if count > 300 {
				t.Errorf("%d requests within 100 ms of %s", count, at)
			}
		}
	})
}

// Targets of IPv6 have a socket of their own.
func TestFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v4, v6 := newNetwork(), newNetwork()
		r := NewRunner(Options{Socket: v4, SocketV6: v6})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		six := Target{ID: "six", Source: netip.MustParseAddr("2001:db8::1"), Destination: netip.MustParseAddr("2001:db8::2")}
		if err := r.Apply([]Target{target1("four"), six}); err != nil {
			t.Error(err)
		}
		pass(3 * time.Second)
		for _, s := range r.Snapshot() {
			if s.Verdict != Reachable {
				t.Errorf("%s is %s after %d replies", s.ID, s.Verdict, s.Answered)
			}
		}
		v6.set(func() {
			for _, request := range v6.requests {
				if request.message[0] != typeEchoV6 || request.message[2] != 0 || request.message[3] != 0 {
					t.Errorf("the request begins with % x", request.message[:4])
				}
			}
		})
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	six := Target{ID: "six", Source: netip.MustParseAddr("2001:db8::1"), Destination: netip.MustParseAddr("2001:db8::2")}
	if err := NewRunner(Options{Socket: newNetwork()}).Apply([]Target{six}); err == nil || !strings.Contains(err.Error(), "no IPv6") {
		t.Errorf("without a socket: %v", err)
	}
	mixed := target1("mixed")
	mixed.Destination = six.Destination
	if err := NewRunner(Options{Socket: newNetwork(), SocketV6: newNetwork()}).Apply([]Target{mixed}); err == nil || !strings.Contains(err.Error(), "one family") {
		t.Errorf("of two families: %v", err)
	}
}

func FuzzParseEcho(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(echo{reply: true, id: 1, sequence: 2, token: 3}.append(nil))
	target.Add(append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, echo{}.append(nil)...))
	target.Fuzz(func(t *testing.T, b []byte) {
		for _, v6 := range []bool{false, true} {
			if e, err := parseEcho(b, v6); err == nil {
				if again, err := parseEcho(e.append(nil), v6); err != nil || again != e {
					t.Errorf("%+v became %+v, %v", e, again, err)
				}
			}
		}
		if a, ok := packetInfo(b); ok && !a.Is6() {
			t.Errorf("the destination is %s", a)
		}
		if _, _, payload, ok := splitIPv4(b); ok && len(payload) > len(b)-20 {
			t.Errorf("payload of %d octets in a packet of %d", len(payload), len(b))
		}
	})
}
