package nqa

import (
	"cmp"
	"container/heap"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Target is what is probed.
type Target struct {
	ID                  string     // unique
	Source, Destination netip.Addr // of one family
	// Device is what requests are sent by; where it is empty, the routing
	// tables decide.
	Device string
}

// Verdict says whether a target answers.
type Verdict uint8

// Verdicts.
const (
	Unknown Verdict = iota // it is too early to say
	Reachable
	Unreachable
)

// String returns "unknown", "reachable" or "unreachable".
func (v Verdict) String() string {
	switch v {
	case Unknown:
		return "unknown"
	case Reachable:
		return "reachable"
	case Unreachable:
		return "unreachable"
	}
	return fmt.Sprintf("verdict %d", uint8(v))
}

// Status is what is known of a target since it was applied.
type Status struct {
	Target
	Verdict        Verdict
	Answered, Lost uint64        // requests; one under way is neither
	RTT            time.Duration // of the last reply; zero: none has come
	Err            error         // why the last request could not be sent
}

// Socket sends and receives ICMP messages. Receive is called by one goroutine
// while others send; Close makes it return net.ErrClosed.
type Socket interface {
	Send(source, destination netip.Addr, device string, message []byte) error
	// Receive reads the next message into a buffer and returns the part of it
	// from the ICMP header on.
	Receive(buffer []byte) (source, destination netip.Addr, message []byte, err error)
	Close() error
}

// Options are what a Runner works with. Socket is required.
type Options struct {
	Socket    Socket        // of ICMP
	SocketV6  Socket        // of ICMPv6; nil: targets of IPv6 are refused
	Interval  time.Duration // between requests to a target; default one second
	DownAfter int           // losses in a row that make a target unreachable; default 3
	UpAfter   int           // replies in a row that make it reachable again; default 3
	Logger    *slog.Logger  // default: none
	Random    io.Reader     // of tokens; default crypto/rand.Reader
}

// MaxTargets bounds what one Runner probes.
const MaxTargets = 20000

// receivePause is how long a Runner waits after a fault of the socket.
const receivePause = time.Second

// Runner probes targets. Its methods may be called from several goroutines.
type Runner struct {
	Options
	changed chan struct{} // holds one
	wake    chan struct{} // holds one

	mu      sync.Mutex
	targets map[string]*target
	tokens  map[uint64]*target
	queue   queue
}

// target is a Target with its state.
type target struct {
	status   Status
	token    uint64
	sequence uint16
	sent     time.Time // of the request under way; zero: none is
	run      int       // results like the last one in a row
	answered bool      // the last result
	due      time.Time
	place    int // in the queue
}

// NewRunner returns a Runner without targets. Its sockets are closed when Run
// returns.
func NewRunner(o Options) *Runner {
	o.Interval = cmp.Or(o.Interval, time.Second)
	o.DownAfter, o.UpAfter = cmp.Or(o.DownAfter, 3), cmp.Or(o.UpAfter, 3)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return &Runner{
		Options: o, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		targets: make(map[string]*target), tokens: make(map[uint64]*target),
	}
}

// Changed yields a value after one or more verdicts have changed.
func (r *Runner) Changed() <-chan struct{} { return r.changed }

// Apply replaces the targets. Those that stay as they are keep their state. A
// target that cannot be probed is left out; all of these errors are joined.
func (r *Runner) Apply(targets []Target) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	want := make(map[string]Target, len(targets))
	for _, t := range targets {
		switch _, twice := want[t.ID]; {
		case twice:
			errs = append(errs, fmt.Errorf("target %s: stands there twice", t.ID))
		case !t.Source.IsValid() || !t.Destination.IsValid() || t.Source.Is4() != t.Destination.Is4():
			errs = append(errs, fmt.Errorf("target %s: source and destination must be addresses of one family", t.ID))
		case r.socket(t.Source) == nil:
			errs = append(errs, fmt.Errorf("target %s: this host has no IPv6", t.ID))
		case len(want) == MaxTargets:
			errs = append(errs, fmt.Errorf("target %s: there are %d already", t.ID, MaxTargets))
		default:
			want[t.ID] = t
		}
	}
	for id, t := range r.targets {
		if t.status.Target != want[id] {
			heap.Remove(&r.queue, t.place)
			delete(r.targets, id)
			delete(r.tokens, t.token)
		}
	}
	now := time.Now()
	for id, wanted := range want {
		if r.targets[id] != nil {
			continue
		}
		var token [8]byte
		if _, err := io.ReadFull(r.Random, token[:]); err != nil {
			errs = append(errs, fmt.Errorf("target %s: random token: %w", id, err))
			continue
		}
		t := &target{status: Status{Target: wanted}, token: binary.BigEndian.Uint64(token[:]), due: now}
		r.targets[id], r.tokens[t.token] = t, t
		heap.Push(&r.queue, t)
	}
	signal(r.wake)
	return errors.Join(errs...)
}

// Snapshot returns the targets by id.
func (r *Runner) Snapshot() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Status, 0, len(r.targets))
	for _, t := range r.targets {
		list = append(list, t.status)
	}
	slices.SortFunc(list, func(a, b Status) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// socket returns the one for an address; nil where there is none.
func (r *Runner) socket(a netip.Addr) Socket {
	if a.Is6() {
		return r.SocketV6
	}
	return r.Socket
}

// Run probes until ctx ends, and closes the sockets.
func (r *Runner) Run(ctx context.Context) error {
	var received sync.WaitGroup
	received.Go(func() { r.receive(ctx, r.Socket, false) })
	if r.SocketV6 != nil {
		received.Go(func() { r.receive(ctx, r.SocketV6, true) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			err := r.Socket.Close()
			if r.SocketV6 != nil {
				err = errors.Join(err, r.SocketV6.Close())
			}
			received.Wait()
			if err != nil {
				return fmt.Errorf("nqa: %w", err)
			}
			return nil
		case <-timer.C:
		case <-r.wake:
		}
		timer.Stop()
		if next, any := r.probe(time.Now()); any {
			timer.Reset(time.Until(next))
		}
	}
}

// probe sends the requests that are due, and returns when the next one is.
func (r *Runner) probe(now time.Time) (next time.Time, any bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 && !r.queue[0].due.After(now) {
		t := r.queue[0]
		if !t.sent.IsZero() {
			r.result(t, false)
		}
		first := t.sequence == 0
		t.sequence++
		if t.sequence == 0 {
			t.sequence = 1
		}
		message := echo{v6: t.status.Source.Is6(), id: uint16(t.token), sequence: t.sequence, token: t.token}.append(nil)
		t.sent = now
		t.status.Err = r.socket(t.status.Source).Send(t.status.Source, t.status.Destination, t.status.Device, message)
		t.due = now.Add(r.Interval)
		if first {
			// Targets that came together go on apart from each other.
			t.due = t.due.Add(mathrand.N(r.Interval)) //nolint:gosec // spreads load and protects nothing
		}
		heap.Fix(&r.queue, 0)
	}
	if len(r.queue) == 0 {
		return time.Time{}, false
	}
	return r.queue[0].due, true
}

// receive takes replies until a socket is closed.
func (r *Runner) receive(ctx context.Context, socket Socket, v6 bool) {
	buffer := make([]byte, 2048)
	for {
		source, destination, message, err := socket.Receive(buffer)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			r.Logger.Warn("probes cannot be received", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(receivePause):
			}
		default:
			r.reply(time.Now(), source, destination, message, v6)
		}
	}
}

// reply takes a message that may be the reply to a request under way.
func (r *Runner) reply(now time.Time, source, destination netip.Addr, message []byte, v6 bool) {
	e, err := parseEcho(message, v6)
	if err != nil || !e.reply {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tokens[e.token]
	if t == nil || t.sent.IsZero() || e.sequence != t.sequence || source != t.status.Destination || destination != t.status.Source {
		return
	}
	t.status.RTT = max(now.Sub(t.sent), time.Nanosecond)
	r.result(t, true)
}

// result ends the request under way.
func (r *Runner) result(t *target, answered bool) {
	t.sent = time.Time{}
	if t.answered != answered {
		t.run = 0
	}
	t.answered = answered
	t.run++
	before := t.status.Verdict
	if answered {
		t.status.Answered++
		if before == Unknown || t.run >= r.UpAfter {
			t.status.Verdict = Reachable
		}
	} else {
		t.status.Lost++
		if t.run >= r.DownAfter {
			t.status.Verdict = Unreachable
		}
	}
	if t.status.Verdict != before {
		signal(r.changed)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// queue orders targets by when they are due; it is a heap.
type queue []*target

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	t := x.(*target)
	t.place = len(*q)
	*q = append(*q, t)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return t
}
