package api

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/vpngw/vpngw/control"
)

// tally counts what goes on at the moment under each of a set of names.
type tally struct {
	mu     sync.Mutex
	number map[string]int
}

func newTally() *tally { return &tally{number: map[string]int{}} }

// begin counts one more and returns how many there are.
func (t *tally) begin(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.number[name]++
	return t.number[name]
}

// end counts one less.
func (t *tally) end(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.number[name]--; t.number[name] <= 0 {
		delete(t.number, name)
	}
}

// bodies counts the octets of request bodies that are in memory, in all and by
// who sends them.
type bodies struct {
	mu  sync.Mutex
	all int64
	of  map[string]int64
}

func newBodies() *bodies { return &bodies{of: map[string]int64{}} }

// take counts more octets of a sender, unless there would be too many.
func (b *bodies) take(sender string, octets int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all+octets > maxBodies || b.of[sender]+octets > maxSenderBodies {
		return false
	}
	b.all += octets
	b.of[sender] += octets
	return true
}

// give returns octets that were taken.
func (b *bodies) give(sender string, octets int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all -= octets
	if b.of[sender] -= octets; b.of[sender] <= 0 {
		delete(b.of, sender)
	}
}

// countedBody is the body of a request while it is read into memory. Its octets
// count until the request has been answered.
type countedBody struct {
	io.Reader
	bodies *bodies
	call   *call
}

// Read fails as busy when the sender, or all together, have too much in memory.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if n > 0 {
		if !b.bodies.take(b.call.sender, int64(n)) {
			return 0, control.Busy()
		}
		b.call.octets += int64(n)
	}
	return n, err
}

// neighbourhood is who an address and port are counted as: the address or, of
// IPv6, its /64, all of which one host can have.
func neighbourhood(remote string) string {
	address, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	if ip := address.Addr().Unmap().WithZone(""); !ip.Is4() {
		return netip.PrefixFrom(ip, 64).Masked().String()
	}
	return address.Addr().Unmap().String()
}

// enter bounds how many requests are served at once, in all and of one caller;
// leave is to be called at the end. Their bodies have been read by then, so that
// clients who send slowly keep nobody out. Requests without authentication have
// a few places of their own.
func (s *Server) enter(op *operation, caller string) (leave func(), err error) {
	places := s.inFlight
	if op.public {
		places = s.public
	} else if s.working.begin(caller) > maxCallerInFlight {
		s.working.end(caller)
		return nil, control.Busy()
	}
	done := func() {
		if !op.public {
			s.working.end(caller)
		}
	}
	select {
	case places <- struct{}{}:
		return func() { <-places; done() }, nil
	default:
		done()
		return nil, control.Busy()
	}
}

// boundConnections returns a hook that closes connections beyond the limits.
func boundConnections() func(net.Conn, http.ConnState) {
	var open atomic.Int64
	addresses := newTally()
	return func(c net.Conn, state http.ConnState) {
		from := neighbourhood(c.RemoteAddr().String())
		switch state {
		case http.StateNew:
			if all, own := open.Add(1), addresses.begin(from); all > maxConnections || own > maxAddressConnections {
				c.Close()
			}
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
			addresses.end(from)
		default:
		}
	}
}
