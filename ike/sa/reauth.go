package sa

import (
	"encoding/binary"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

// Authentication is done anew by another IKE SA with the same peer, which a
// machine of its own sets up with all its children before the caller ends this
// one: make before break (RFC 7296, section 2.8.3). The end that began the IKE
// SA does so. The other one tells it for how long it takes the peer for proven
// (RFC 4478), and goes ahead itself where that brings nothing.

const (
	// authRetry is how long a reauthentication may take before it is tried again.
	authRetry = time.Minute
	// authHaste is the least time between the IKE SA's authentication and the next,
	// however short a lifetime the peer asks for.
	authHaste = 5 * time.Second
)

// lifetimeNotify tells the peer for how long its authentication holds.
func lifetimeNotify(d time.Duration) *wire.Notify {
	seconds := min(max(d, 0)/time.Second, 1<<32-1)
	return &wire.Notify{NotifyType: wire.AuthLifetime, Data: binary.BigEndian.AppendUint32(nil, uint32(seconds))}
}

// limitAuthentication sets the times of the authentication as the connection has
// its lifetime.
func (m *Machine) limitAuthentication() {
	m.reauthAt, m.authEndAt = time.Time{}, time.Time{}
	m.contact.Lifetime = m.conn.AuthLifetime
	if life := m.conn.AuthLifetime; life > 0 {
		m.reauthAt = m.authAt.Add(m.soft(life, m.began))
		m.authEndAt = m.authAt.Add(life)
	}
}

// heedAuthLifetime reads what the peer tells of the lifetime of our
// authentication. Only the end that began the IKE SA heeds it.
func (m *Machine) heedAuthLifetime(msg *wire.Message) {
	n, ok := msg.Notify(wire.AuthLifetime)
	if !ok || !m.began || len(n.Data) != 4 {
		return
	}
	life := time.Duration(binary.BigEndian.Uint32(n.Data)) * time.Second
	at := m.now.Add(time.Duration(float64(life) * m.softFraction(true)))
	if earliest := m.authAt.Add(authHaste); at.Before(earliest) {
		at = earliest
	}
	if m.reauthAt.IsZero() || at.Before(m.reauthAt) {
		m.reauthAt = at
	}
}

// reauthenticate has the IKE SA replaced. Where only the peer can begin, it is
// asked to.
func (m *Machine) reauthenticate() {
	s := m.current
	if s == nil || !s.live() {
		return
	}
	if !m.authEndAt.IsZero() {
		m.reauthAt = m.now.Add(m.jitter(authRetry))
	}
	if m.began || m.conn.Remote.IsValid() && m.conn.Remote == s.path.remote.Addr() && !s.path.natRemote {
		m.emit(Replace{m.redirected})
		return
	}
	left := time.Duration(0)
	if m.authEndAt.After(m.now) {
		left = m.authEndAt.Sub(m.now)
	}
	s.enqueue(&announceLifetime{left})
}

// authExpired ends the IKE SA with a peer that has not authenticated itself anew
// in time.
func (m *Machine) authExpired() { m.terminate(ReasonReauthTimeout, nil) }

// announceLifetime tells the peer in an exchange of its own for how long its
// authentication holds.
type announceLifetime struct{ left time.Duration }

func (x *announceLifetime) kind() wire.ExchangeType { return wire.Informational }

func (x *announceLifetime) request(*ikeSA) ([]wire.Payload, bool) {
	return []wire.Payload{lifetimeNotify(x.left)}, true
}

func (x *announceLifetime) response(*ikeSA, Datagram, *wire.Message) {}

func (x *announceLifetime) unanswered(s *ikeSA, o *outstanding) { s.dead(o) }
