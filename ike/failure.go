package ike

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/ike/sa"
)

// Failure is the last failed negotiation of a connection. The same one again
// only adds to the count.
type Failure struct {
	Diagnosis   sa.Diagnosis
	Count       int
	First, Last time.Time
}

// noteFailure folds a diagnosis, and reports whether it is worth a line of
// log: the first, and each time the count has doubled.
func (c *connection) noteFailure(d *sa.Diagnosis, now time.Time) bool {
	if c.failure == nil || !c.failure.Diagnosis.Same(d) {
		c.failure = &Failure{Diagnosis: *d, First: now}
	}
	c.failure.Count++
	c.failure.Last = now
	return doubled(c.failure.Count)
}

// doubled reports whether a count is a power of two.
func doubled(count int) bool { return count&(count-1) == 0 }

// unproven reports whether an event tells of an initiator that was not
// authenticated. The values in it are whatever that initiator chose to send,
// as often as it liked.
func unproven(e *sa.Event) bool { return e.Kind == sa.Failed && !e.Initiator && !e.Established }

// What an unproven initiator may add to a connection's story: at once what a
// peer's first tries bring up, and then one item in a while.
const (
	unprovenEvery = 10 * time.Second
	unprovenBurst = 4
)

// noteUnproven is noteFailure for an initiator that was not authenticated. What
// differs in nothing but its values is one failure, which shows the latest of
// them. Only as much as the limiter lets pass is told; the rest counts.
func (c *connection) noteUnproven(d *sa.Diagnosis, now time.Time) (log, tell bool) {
	if c.unproven == nil {
		c.unproven = rate.NewLimiter(rate.Every(unprovenEvery), unprovenBurst)
	}
	same := c.failure != nil && c.failure.Diagnosis.Reason == d.Reason && c.failure.Diagnosis.Code() == d.Code() &&
		c.failure.Diagnosis.Exchange == d.Exchange && c.failure.Diagnosis.Parameter == d.Parameter
	tell = c.unproven.AllowN(now, 1)
	if !same {
		if !tell {
			return false, false
		}
		c.failure = &Failure{First: now}
	}
	c.failure.Count++
	c.failure.Last = now
	if !tell {
		return false, false
	}
	news := !c.failure.Diagnosis.Same(d)
	c.failure.Diagnosis = *d
	return news || doubled(c.failure.Count), true
}

// stranger notes an initiator at an address that no connection expects a peer at.
func (s *Server) stranger(d sa.Datagram, exchange string) {
	s.emit(sa.Event{
		Kind: sa.Failed, Local: d.Local, Remote: d.Remote, Reason: sa.ReasonPeerAddress,
		Diagnosis: &sa.Diagnosis{
			Reason: sa.ReasonPeerAddress, Exchange: exchange, Parameter: "peer address",
			Theirs: d.Remote.Addr().Unmap().String(), Detail: "no connection expects a peer at this address",
		},
	})
}

// Bounds of what is told of initiators that mean no connection: of each
// address, and of all.
const (
	noticesOfAll     = rate.Limit(1)
	noticesBurst     = 10
	noticesOfAddress = 2
	noticeAddresses  = 1024
)

// notices bounds the log lines and events that unproven initiators bring about
// and that belong to no connection. An address that is busy does not drown the
// others.
type notices struct {
	all *rate.Limiter

	mu     sync.Mutex
	byAddr map[netip.Addr]*rate.Limiter
}

func newNotices() *notices {
	return &notices{all: rate.NewLimiter(noticesOfAll, noticesBurst), byAddr: map[netip.Addr]*rate.Limiter{}}
}

func (n *notices) allow(from netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	from = countedAs(from)
	of := n.byAddr[from]
	if of == nil {
		if len(n.byAddr) == noticeAddresses {
			clear(n.byAddr) // a flood of addresses: the limit of all holds
		}
		of = rate.NewLimiter(rate.Every(unprovenEvery), noticesOfAddress)
		n.byAddr[from] = of
	}
	return of.Allow() && n.all.Allow()
}
