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
	quotaAddresses   = 1024
)

// quota bounds what unproven initiators bring about. An address that is busy does not
// use up what there is for the others.
type quota struct {
	all   *rate.Limiter
	each  rate.Limit
	burst int // of each

	mu     sync.Mutex
	byAddr map[netip.Addr]*rate.Limiter
}

// newNotices bounds log lines and events that belong to no connection.
func newNotices() *quota {
	return &quota{
		all: rate.NewLimiter(noticesOfAll, noticesBurst), each: rate.Every(unprovenEvery), burst: noticesOfAddress,
		byAddr: map[netip.Addr]*rate.Limiter{},
	}
}

// Messages a second with operations of public keys, of initiators that are not
// authenticated. To verify the certificates of one takes about 0.7 ms, and with the
// longest chain 6 ms: all that are let in cost less than a third of a CPU.
const (
	proofsOfAll     = rate.Limit(50)
	proofsOfAddress = rate.Limit(10)
	proofsBurst     = 20
)

// newProofs bounds operations of public keys.
func newProofs() *quota {
	return &quota{
		all: rate.NewLimiter(proofsOfAll, int(proofsOfAll)), each: proofsOfAddress, burst: proofsBurst,
		byAddr: map[netip.Addr]*rate.Limiter{},
	}
}

// allowProof implements sa.Env.AllowProof. A flood from addresses that no connection
// names does not lock those out that one does.
func (s *Server) allowProof(local, remote netip.Addr) bool {
	if !s.proofs.ofAddress(remote.Unmap()) {
		return false
	}
	return len(s.directory.Load().exact(local, remote)) > 0 || s.proofs.all.Allow()
}

func (q *quota) allow(from netip.Addr) bool { return q.ofAddress(from) && q.all.Allow() }

// ofAddress reports whether an address has something left.
func (q *quota) ofAddress(from netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	from = countedAs(from)
	of := q.byAddr[from]
	if of == nil {
		if len(q.byAddr) == quotaAddresses {
			clear(q.byAddr) // a flood of addresses: the limit of all holds
		}
		of = rate.NewLimiter(q.each, q.burst)
		q.byAddr[from] = of
	}
	return of.Allow()
}
