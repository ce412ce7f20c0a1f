package ike

import (
	"slices"
	"sync"

	"github.com/vpngw/vpngw/ike/sa"
)

// mailboxDatagrams is how many datagrams may wait for one peer: a message in
// the largest number of fragments, and the same again.
const mailboxDatagrams = 128

// mailbox is what waits for a peer. Datagrams are bounded, the newest being
// refused. Commands are not, since the peer would get out of step without
// them; one that is already last in the queue is not queued again.
//
// An idle peer has no goroutine: what comes starts one, which works until nothing is
// left. There is one at a time.
type mailbox struct {
	work func() // of the goroutine; it ends when rest says so

	mu        sync.Mutex
	working   bool // there is a goroutine
	woken     bool // since take
	datagrams []sa.Datagram
	commands  []sa.Command
}

// newMailbox returns the mailbox of a peer that is being set up: it has a goroutine
// already.
func newMailbox(work func()) mailbox { return mailbox{work: work, working: true} }

// datagram queues a datagram; false means that the mailbox is full.
func (m *mailbox) datagram(d sa.Datagram) bool {
	m.mu.Lock()
	full := len(m.datagrams) >= mailboxDatagrams
	if !full {
		m.datagrams = append(m.datagrams, d)
	}
	m.wakeLocked()
	m.mu.Unlock()
	return !full
}

func (m *mailbox) command(c sa.Command) {
	m.mu.Lock()
	if n := len(m.commands); n == 0 || m.commands[n-1] != c {
		m.commands = append(m.commands, c)
	}
	m.wakeLocked()
	m.mu.Unlock()
}

// awaited is a command that another peer waits for.
type awaited struct {
	sa.Command
	done chan struct{} // is closed when all is performed that it asks for
}

// call queues a command. The channel that it returns is closed once that is obeyed;
// it is not where the peer ends before.
func (m *mailbox) call(c sa.Command) <-chan struct{} {
	done := make(chan struct{})
	m.command(awaited{c, done})
	return done
}

// wake has the peer look whether something is due.
func (m *mailbox) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wakeLocked()
}

func (m *mailbox) wakeLocked() {
	m.woken = true
	if !m.working {
		m.working = true
		go m.work()
	}
}

// rest ends the goroutine's work, unless the peer was woken since take.
func (m *mailbox) rest() (ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.working = m.woken
	return !m.working
}

// adopts reports whether an SA waits to be taken over.
func (m *mailbox) adopts() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.commands, func(c sa.Command) bool { _, ok := c.(sa.Adopt); return ok })
}

// take empties the mailbox.
func (m *mailbox) take() ([]sa.Command, []sa.Datagram) {
	m.mu.Lock()
	defer m.mu.Unlock()
	commands, datagrams := m.commands, m.datagrams
	m.commands, m.datagrams, m.woken = nil, nil, false
	return commands, datagrams
}
