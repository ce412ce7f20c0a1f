package fleet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Event is a line of a history: a node took or left a claim, renewed its lease,
// or died.
type Event struct {
	// At is when, in nanoseconds of CLOCK_MONOTONIC, which all processes of a
	// host share: histories of nodes on one host can be compared.
	At    int64     `json:"at"`
	Time  time.Time `json:"time"` // the same for people
	Node  string    `json:"node"`
	Kind  EventKind `json:"event"`
	Claim string    `json:"claim,omitempty"`
	// Until is the deadline of the lease, of Left and Renewed: what was in force
	// before ended then, should it be earlier than At.
	Until int64 `json:"until,omitempty"`
}

// EventKind says what happened.
type EventKind string

// Kinds of events.
const (
	Taken   EventKind = "taken"
	Left    EventKind = "left"
	Renewed EventKind = "renewed" // all that the node holds ends at the deadline, unless it is renewed again
	Died    EventKind = "died"    // all that the node held ended
)

// History writes down what a node takes and leaves. The nil History writes
// nothing.
type History struct {
	node string
	out  io.WriteCloser
	now  func() int64 // as Event.At
}

// OpenHistory appends to a file, which it makes if it is not there.
func OpenHistory(path, node string) (*History, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &History{node: node, out: f, now: MonotonicNow}, nil
}

// MonotonicNow reads CLOCK_MONOTONIC, in nanoseconds.
func MonotonicNow() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // fails for unknown clocks only
	return t.Nano()
}

func (h *History) take(claim string) error { return h.write(Taken, claim, 0) }

// leave writes that a claim was left, whose lease has that time left, which is
// negative after its deadline.
func (h *History) leave(claim string, left time.Duration) error {
	if h == nil {
		return nil
	}
	return h.write(Left, claim, h.now()+int64(left))
}

// renew writes the deadline of the lease, which is so far away. It comes before
// the deadline is in force.
func (h *History) renew(left time.Duration) error {
	if h == nil {
		return nil
	}
	return h.write(Renewed, "", h.now()+int64(left))
}

func (h *History) write(kind EventKind, claim string, until int64) error {
	if h == nil {
		return nil
	}
	line, err := json.Marshal(Event{
		At: h.now(), Time: time.Now().UTC(), Node: h.node, Kind: kind, Claim: claim, Until: until,
	})
	if err != nil {
		return err
	}
	_, err = h.out.Write(append(line, '\n')) // at once, whoever else appends
	return err
}

// RecordDeath appends to the history of a node whose process was seen to have
// ended without a chance to do so itself.
func RecordDeath(path, node string) error {
	h, err := OpenHistory(path, node)
	if err != nil {
		return err
	}
	return errors.Join(h.write(Died, "", 0), h.Close())
}

// Close closes the file.
func (h *History) Close() error {
	if h == nil {
		return nil
	}
	return h.out.Close()
}

// ReadHistory reads what a History wrote. A last line that is not whole was cut
// off by the end of its process, and is left out.
func ReadHistory(r io.Reader) ([]Event, error) {
	var events []Event
	lines := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, err
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		events = append(events, e)
	}
}

// holding is the time from taking a claim to leaving it.
type holding struct {
	node       string
	start, end int64
}

const forEver = 1<<63 - 1

// CheckHistory returns what is wrong with the histories of all nodes together:
// two nodes held a claim at the same time, or the history contradicts itself.
func CheckHistory(events []Event) error {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b Event) int { return int(min(max(a.At-b.At, -1), 1)) })
	type key struct{ node, claim string }
	open := map[key]int64{}
	deadline := map[string]int64{} // of the leases of nodes that say so
	held := map[string][]holding{}
	var errs []error
	end := func(k key, at int64) {
		start := open[k]
		delete(open, k)
		// What was taken after the deadline was never used.
		held[k.claim] = append(held[k.claim], holding{k.node, start, max(start, at)})
	}
	for _, e := range events {
		k := key{e.Node, e.Claim}
		_, holds := open[k]
		switch e.Kind {
		case Taken:
			if holds {
				errs = append(errs, fmt.Errorf("%s: %s took it at %d again", e.Claim, e.Node, e.At))
				continue
			}
			open[k] = e.At
		case Left:
			if !holds {
				errs = append(errs, fmt.Errorf("%s: %s left at %d what it had not taken", e.Claim, e.Node, e.At))
				continue
			}
			end(k, min(e.At, e.Until))
		case Renewed:
			deadline[e.Node] = e.Until
		case Died:
			// It may have been stopped, and killed before it could say that the
			// deadline has passed.
			at := e.At
			if until, known := deadline[e.Node]; known {
				at = min(at, until)
			}
			for k := range open {
				if k.node == e.Node {
					end(k, at)
				}
			}
			delete(deadline, e.Node)
		default:
			errs = append(errs, fmt.Errorf("event %q of %s is unknown", e.Kind, e.Node))
		}
	}
	for k := range open {
		end(k, forEver)
	}
	for claim, list := range held {
		slices.SortFunc(list, func(a, b holding) int { return int(min(max(a.start-b.start, -1), 1)) })
		last := list[0]
		for _, h := range list[1:] {
			if h.start < last.end {
				errs = append(errs, fmt.Errorf("%s: %s took it at %d, and %s had it until %s", claim, h.node, h.start, last.node, timeOf(last.end)))
			}
			if h.end > last.end {
				last = h
			}
		}
	}
	return errors.Join(errs...)
}

func timeOf(at int64) string {
	if at == forEver {
		return "the end"
	}
	return fmt.Sprint(at)
}
