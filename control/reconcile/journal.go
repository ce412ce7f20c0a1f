package reconcile

import (
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/control"
)

// Bounds of a connection's log.
const (
	journalLines = 200 // kept of each connection
	foldTail     = 4   // how far back a repeat is looked for
)

// line is one line of a connection's log: a message, when it was said last,
// and how often since when.
type line struct {
	message     string
	first, last time.Time
	count       int
}

// raw is the line as the API shows it.
func (l line) raw() string {
	head := l.last.UTC().Format("2006-01-02T15:04:05.000000+00:00") + " " + l.message
	if l.count < 2 {
		return head
	}
	return fmt.Sprintf("%s (%d times since %s)", head, l.count, l.first.UTC().Format(time.RFC3339))
}

// journal is the log of one connection, oldest line first: what earlier
// processes have left, and the lines of this one.
type journal struct {
	old     []control.LogLine
	lines   []line
	changed bool // since it was stored
}

// restore takes the log from the store, newest line first.
func (j *journal) restore(log []control.LogLine) {
	j.old = slices.Clone(log)
	slices.Reverse(j.old)
}

// add appends a message. One that was said among the last lines moves to the
// end and counts on: a failure that repeats itself does not push out the rest.
func (j *journal) add(now time.Time, message string) {
	added := line{message: message, first: now, last: now, count: 1}
	for i := len(j.lines) - 1; i >= 0 && i >= len(j.lines)-foldTail; i-- {
		if j.lines[i].message == message {
			added.first, added.count = j.lines[i].first, j.lines[i].count+1
			j.lines = slices.Delete(j.lines, i, i+1)
			break
		}
	}
	j.lines = append(j.lines, added)
	j.lines = slices.Delete(j.lines, 0, max(0, len(j.lines)-journalLines))
	j.old = slices.Delete(j.old, 0, min(len(j.old), max(0, len(j.old)+len(j.lines)-journalLines)))
	j.changed = true
}

// stored is the log as the store keeps it, oldest line first.
func (j *journal) stored() []control.LogLine {
	all := slices.Clone(j.old)
	for _, l := range j.lines {
		all = append(all, control.LogLine{Time: l.last.UTC(), Message: l.raw()})
	}
	return all
}
