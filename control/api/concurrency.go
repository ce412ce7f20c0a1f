package api

import (
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

// limited bounds how many requests are served at once, in all and of one
// address.
func (s *Server) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := neighbourhood(r.RemoteAddr)
		defer s.addresses.end(from)
		if s.addresses.begin(from) > maxAddressInFlight {
			writeError(w, r, control.Busy())
			return
		}
		select {
		case s.inFlight <- struct{}{}:
			defer func() { <-s.inFlight }()
			next.ServeHTTP(w, r)
		default:
			writeError(w, r, control.Busy())
		}
	})
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
