package sslvpn

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Times of a session.
const (
	// pingInterval is how often a side that has nothing to send says so, and
	// pingRestart how long a client waits for anything. Both are pushed. A
	// session ends after twice pingRestart, so that the client moves first.
	pingInterval  = 10 * time.Second
	pingRestart   = 60 * time.Second
	clientTimeout = 2 * pingRestart
	// pushRepeat is how long a PUSH_REQUEST is taken for one that crossed the
	// PUSH_REPLY.
	pushRepeat = 30 * time.Second
	// keyActivation is when sealing moves to a new key whose first packet from
	// the client has not come, and keyOverlap how long its predecessor opens
	// packets.
	keyActivation = 5 * time.Second
	keyOverlap    = 60 * time.Second
	// minRenegotiation is the time between renegotiations that a client may ask
	// for: each costs a signature.
	minRenegotiation = time.Second
	// farewellTime is how long a client on UDP has to acknowledge the last
	// message. It begins once.
	farewellTime = 5 * time.Second

	tunMTU = 1500 // octets of an inner packet
)

// timetable is when a session has something to do; a zero time is never.
type timetable struct {
	farewell    time.Time // the session leaves for good
	keepalive   time.Time // look whether a ping is due, or the client silent
	renegotiate time.Time // by us
	begun       time.Time // of the newest renegotiation
	activate    time.Time // the newest key
	retire      time.Time // the key before it
	old         uint8     // key id of the key before
}

// established starts the rhythm of a session.
func (t *timetable) established(now time.Time, o Options) {
	t.keepalive = now.Add(pingInterval)
	t.nextRenegotiation(now, o)
}

// renewed follows the agreement on another key.
func (t *timetable) renewed(now time.Time, o Options, old uint8) {
	t.activate, t.retire, t.old = now.Add(keyActivation), now.Add(keyOverlap), old
	t.nextRenegotiation(now, o)
}

// nextRenegotiation sets a time between 90 and 100 % of the option, so that
// sessions that began together do not renegotiate together.
func (t *timetable) nextRenegotiation(now time.Time, o Options) {
	t.renegotiate = time.Time{}
	if d := o.RenegotiateAfter; d > 0 {
		t.renegotiate = now.Add(d - rand.N(d/10+1))
	}
}

// schedule sets the timer to the first time at which something is due. The
// caller holds mu.
func (s *session) schedule(now time.Time) {
	if s.phase == phaseEnded {
		return
	}
	next := first(s.times.farewell, s.times.keepalive, s.times.renegotiate, s.times.activate, s.times.retire)
	for _, k := range s.keys {
		if k == nil {
			continue
		}
		if !k.agreed && s.phase != phaseLeaving {
			next = first(next, k.deadline)
		}
		next = first(next, k.rel.deadline())
	}
	if next.IsZero() {
		return
	}
	wait := max(next.Sub(now), 0)
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.tick)
		return
	}
	s.timer.Reset(wait)
}

// first returns the earliest of times that are not zero.
func first(times ...time.Time) time.Time {
	var f time.Time
	for _, t := range times {
		if !t.IsZero() && (f.IsZero() || t.Before(f)) {
			f = t
		}
	}
	return f
}

// due reports whether a time has come.
func due(now, t time.Time) bool { return !t.IsZero() && !now.Before(t) }

// tick does what is due.
func (s *session) tick() {
	now := time.Now()
	var after []func() // without mu
	s.mu.Lock()
	t := &s.times
	for _, k := range s.keys {
		if k == nil {
			continue
		}
		if !k.agreed && s.phase != phaseLeaving && due(now, k.deadline) {
			if k.started {
				k.fail(errNegotiation) // negotiate sees it
			} else {
				after = append(after, func() { s.failed(k, errNegotiation) })
			}
			k.deadline = time.Time{}
			continue
		}
		s.flush(now, k)
	}
	c := s.client.Load()
	if due(now, t.farewell) {
		t.farewell = time.Time{}
		after = append(after, s.finish)
	}
	if s.phase == phaseEstablished {
		if due(now, t.activate) {
			t.activate = time.Time{}
			c.activateKey(s.current)
		}
		if due(now, t.retire) {
			t.retire = time.Time{}
			s.retire(t.old)
		}
		if due(now, t.renegotiate) {
			t.renegotiate = time.Time{}
			s.beginRenegotiation(now)
		}
		if due(now, t.keepalive) {
			t.keepalive = now.Add(pingInterval)
			after = append(after, func() { s.keepAlive(now, c) })
		}
	}
	s.schedule(now)
	s.mu.Unlock()
	for _, f := range after {
		f()
	}
}

// keepAlive ends a session whose client is silent and pings one to which
// nothing was sent.
func (s *session) keepAlive(now time.Time, c *client) {
	heard := c.lastReceived()
	if heard.IsZero() {
		s.mu.Lock()
		heard = s.established
		s.mu.Unlock()
	}
	if now.Sub(heard) >= clientTimeout {
		s.end(ending{reason: "nothing was heard of the client for " + clientTimeout.String(), message: wire.RestartClient("ping timeout")})
		return
	}
	_ = c.keepAlive(now, pingInterval-time.Second) // without a key or a link: the client will tell
}

// retire removes a key id for good. The caller holds mu.
func (s *session) retire(id uint8) {
	if k := s.keys[id]; k != nil && id != s.current {
		k.fail(errSessionEnded)
		s.keys[id] = nil
		s.client.Load().retireKey(id)
	}
}

// renegotiate asks for other data keys.
func (s *session) renegotiate(why string) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != phaseEstablished {
		return
	}
	if s.beginRenegotiation(now) {
		s.ep.log.Debug("renegotiating", "session", s.id, "reason", why)
	}
	s.schedule(now)
}

// negotiating returns the key id that is being negotiated, or nil. The caller
// holds mu.
func (s *session) negotiating() *keyState {
	for _, k := range s.keys {
		if k != nil && !k.agreed && k.err == nil {
			return k
		}
	}
	return nil
}

// beginRenegotiation sends a soft reset. While a negotiation is under way it
// does so after that one's time: a client, or on UDP somebody in its name, can
// begin one that comes to nothing. The caller holds mu and schedules.
func (s *session) beginRenegotiation(now time.Time) bool {
	if s.negotiating() != nil {
		s.times.renegotiate = now.Add(s.ep.server.opts.Limits.HandshakeTimeout)
		return false
	}
	k := s.nextKey(now)
	k.ours = true
	s.flush(now, k)
	return true
}

// nextKey starts the key id after the newest one with a soft reset of ours. A
// key that had the id before is past its time.
func (s *session) nextKey(now time.Time) *keyState {
	id := wire.NextKeyID(s.current)
	s.retire(id)
	s.times.begun = now
	k := s.newKey(now, id)
	_ = k.rel.queue(wire.SoftReset, nil) // an empty queue has room
	return k
}

// softReset takes a client's wish for the next key id. Where we have begun it
// too, the two meet in one. The caller holds mu.
func (s *session) softReset(now time.Time, c *wire.Control) (*keyState, controlDrop) {
	switch {
	case s.phase != phaseEstablished, c.KeyID != wire.NextKeyID(s.current), c.PacketID != 0, s.negotiating() != nil:
		return nil, dropUnexpected
	case now.Sub(s.times.begun) < minRenegotiation:
		return nil, dropTooOften
	}
	return s.nextKey(now), ""
}

// ending is why and how a session ends.
type ending struct {
	reason  string       // for the connection log
	message string       // for the client; empty: nothing is said
	under   *keyState    // whose TLS session carries the message; nil: the newest
	refused loginFailure // why a login was turned down; empty: none was
}

// failed ends what an unsuccessful negotiation was for.
func (s *session) failed(k *keyState, err error) {
	var r *refusal
	refused := errors.As(err, &r)
	first := k.id == 0
	s.mu.Lock()
	if !refused && !first && !k.ours {
		// On UDP anybody can begin one who sees the session ids. The session
		// goes on with the keys that it has.
		if s.keys[k.id] == k {
			k.fail(err)
			s.keys[k.id] = nil
		}
		s.mu.Unlock()
		s.ep.control.add(dropNegotiation)
		return
	}
	s.mu.Unlock()
	switch {
	case refused:
		s.end(ending{reason: r.reason, message: r.message, under: k, refused: r.why})
	case first:
		s.end(ending{reason: err.Error()})
	default:
		s.end(ending{reason: "renegotiation failed: " + err.Error(), message: wire.RestartClient("renegotiation failed")})
	}
}

// end ends the session: its traffic at once, the control channel when the
// client has had the last message. Only the first call counts.
func (s *session) end(e ending) {
	now := time.Now()
	s.mu.Lock()
	if s.phase >= phaseLeaving {
		s.mu.Unlock()
		return
	}
	was := s.phase
	s.phase = phaseLeaving
	s.times = timetable{farewell: now.Add(farewellTime)}
	k := e.under
	if k == nil {
		k = s.keys[s.current]
	}
	// Before that, a write would begin a handshake and wait for it.
	tell := e.message != "" && k != nil && k.secured
	s.schedule(now)
	s.mu.Unlock()

	s.ep.left(s, was, e.refused, e.reason)
	if !tell {
		s.finish()
		return
	}
	if _, err := k.tls.Write(wire.AppendMessage(nil, e.message)); err != nil {
		s.finish()
		return
	}
	s.mu.Lock()
	s.farewell = k
	done := s.delivered(k)
	s.mu.Unlock()
	if done {
		s.finish()
	}
}

// finish closes the way to the client. Only the first call counts.
func (s *session) finish() {
	s.mu.Lock()
	if s.phase == phaseEnded {
		s.mu.Unlock()
		return
	}
	s.phase = phaseEnded
	if s.timer != nil {
		s.timer.Stop()
	}
	for i, k := range s.keys {
		if k != nil {
			k.fail(errSessionEnded)
			s.keys[i] = nil
		}
	}
	s.mu.Unlock()
	s.ep.forget(s)
	s.link.shut()
}
