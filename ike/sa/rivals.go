package sa

import (
	"slices"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// A connection may for a while have several IKE SAs, each with a machine of its own:
// while one is authenticated anew, make before break (RFC 7296, section 2.8.3), after
// both ends began one at once, after one end has lost its own, or while what is
// configured changes. Each end chooses by itself which of them stays, and both must
// choose the same.

const (
	// crossing is how long after one IKE SA was set up the other end may have begun
	// one that crosses it: it may have to repeat its first message, and gives that up
	// after attemptGrace when it has an IKE SA.
	crossing = 15 * time.Second
	// contactDelay is how much later than we the peer may have authenticated an IKE
	// SA, or it us: as long as a message may take with repetitions.
	contactDelay = 200 * time.Second
	// attemptGrace is how long an attempt of ours may go without an answer beside
	// an IKE SA that stands.
	attemptGrace = 10 * time.Second
	// replacedGrace is how long the end that has not begun the better one of two IKE
	// SAs leaves it to the other to end the worse. That one knows when it has all
	// children: our answers may have to be repeated. Where an authentication holds for
	// less than four times as long, it is a fourth of that: else each end could begin
	// the next IKE SA before the last worse one has gone.
	replacedGrace = 30 * time.Second
	// messageGrace is how long an initiator of IKEv1 leaves what a new one replaces:
	// the last message of a quick mode, which is not answered, may be overtaken.
	messageGrace = 5 * time.Second
	// flightGrace is how long any initiator leaves what a new IKE SA replaces: for
	// packets of its SAs that are under way, or wait in the peer's queues.
	flightGrace = 2 * time.Second
	// maxBeside is how many IKE SAs of a connection stand beside the one that serves.
	// A peer that sets up more answers for none of them in the end: what it leaves
	// would last as long as its lifetime.
	maxBeside = 8
)

// Contact is an IKE SA as it was authenticated: what the choice between two of one
// connection rests on. Both ends know the same, but for the times.
type Contact struct {
	Begun          time.Time // the machine, with its first message
	At             time.Time // of authentication; zero: not yet
	SPI            uint64    // the initiator's
	Initiator      bool      // we
	InitialContact bool      // the initiator said that it knew of no other
	// Lifetime is how long the authentication holds by our own configuration; zero: for ever.
	Lifetime time.Duration
}

// authenticated fills in what an IKEUp event tells.
func (a *Contact) authenticated(e *Event, now time.Time) {
	a.At, a.SPI, a.Initiator = now, e.InitiatorSPI, e.Initiator
	if !e.Initiator {
		a.InitialContact = e.InitialContact
	}
}

// beside reports whether there is another IKE SA with the peer, which carries its
// traffic until this one has shown that it can.
func (m *core) beside() bool {
	return !m.contact.InitialContact && m.env.QuerySA != nil && m.env.InitialContact != nil && !m.env.InitialContact(m.conn)
}

// awaitPeer leaves the traffic to the child of another IKE SA until the peer is known
// to have this one: our answer, which tells of it, may be late or lost. A packet on it
// shows that, or a message: see trust. Nor does it wait when the other IKE SA is gone, or
// Acquire asks for the child: the data plane has no other, or is about to lose it. What
// was made from a template has a request id of its own in each IKE SA: its policy would
// take the traffic at once.
func (c *childSA) awaitPeer() {
	if c.slot.template == nil {
		c.slot.protect(c, ipsec.Out)
	}
	c.patient, c.probeAt = true, c.m.now.Add(probeInterval)
}

// trust makes children send whose peer has had the answer that tells of them: as its
// next request shows, since it has only one under way, and of IKE_AUTH also the answer
// to one of ours.
func (m *Machine) trust(request bool) {
	for _, c := range slices.Clone(m.children) {
		if c.patient && (request || c.first) {
			c.addOut()
		}
	}
}

// Rival is what a machine is among those of its connection. The zero value is one
// that has not begun.
type Rival struct {
	Ending bool // it has been told to terminate
	// Outdated: it was negotiated for another configuration than the connection has
	// now, one for which it takes a new IKE SA.
	Outdated bool

	contact  Contact
	live     bool // has an IKE SA that is not gone
	v1       bool
	answered bool // the peer has an SPI, so it is more than an attempt of ours

	children  int       // that are up, by ReqID
	complete  int       // the most that have been
	settled   time.Time // when the last of its children, or the IKE SA, was up
	confirmed time.Time // see IKEStatus
	probed    time.Time // when Review last asked for one
	replaceAt time.Time // when another one is to take its place
	replaceBy Redirected
}

// Begin says that the machine negotiates its first IKE SA.
func (r *Rival) Begin(now time.Time) { r.contact.Begun, r.live = now, true }

// Leave says that the machine is no more.
func (r *Rival) Leave() { r.live = false }

// Live reports whether the machine has an IKE SA, or negotiates one.
func (r *Rival) Live() bool { return r.live }

// Up reports whether an IKE SA of the machine has been authenticated.
func (r *Rival) Up() bool { return !r.contact.At.IsZero() }

// Initiator reports whether we began the IKE SA that was authenticated.
func (r *Rival) Initiator() bool { return r.contact.Initiator }

// Observe notes how the machine stands. It is due after each step of it.
func (r *Rival) Observe(st *Status) {
	r.contact, r.live = st.Contact, len(st.IKE) > 0
	r.settled, r.answered = r.contact.At, false
	var reqIDs []uint32 // of what is up: twice while it is rekeyed
	for i := range st.Children {
		c := &st.Children[i]
		if c.up() {
			reqIDs = append(reqIDs, c.ReqID)
		}
		if c.Established.After(r.settled) {
			r.settled = c.Established
		}
	}
	slices.Sort(reqIDs)
	r.children = len(slices.Compact(reqIDs))
	r.complete = max(r.complete, r.children)
	for _, i := range st.IKE {
		r.v1 = i.Version == 1
		r.answered = r.answered || i.ResponderSPI != 0
		if i.Confirmed.After(r.confirmed) {
			r.confirmed = i.Confirmed
		}
	}
}

// Replace asks for another IKE SA in the place of the machine's: see the action of
// that name. It is not yet time for that while the machine's own, which the peer
// began, could be taken for one that has crossed it.
func (r *Rival) Replace(now time.Time) { r.ReplaceAt(now, Redirected{}) }

// ReplaceAt is Replace with the gateway that another one has sent us to.
func (r *Rival) ReplaceAt(now time.Time, by Redirected) {
	r.replaceAt, r.replaceBy = now, by
	if earliest := r.contact.At.Add(2 * crossing); !r.contact.Initiator && earliest.After(now) {
		r.replaceAt = earliest
	}
}

// Rivals are the machines of one connection that have found out they are its own,
// oldest first.
type Rivals []*Rival

// stands reports whether an IKE SA of the machine is in use.
func (r *Rival) stands() bool { return r.live && !r.Ending && r.Up() }

// Best returns the one whose IKE SA serves the connection, or nil.
func (all Rivals) Best() *Rival {
	var best *Rival
	for _, r := range all {
		if r.stands() && (best == nil || r.isBetter(best)) {
			best = r
		}
	}
	return best
}

// Attempting reports whether one negotiates its first IKE SA.
func (all Rivals) Attempting() bool {
	return slices.ContainsFunc(all, func(r *Rival) bool { return r.live && !r.Ending && !r.Up() })
}

// Serving reports whether there is an IKE SA as the connection has it now.
func (all Rivals) Serving() bool {
	return slices.ContainsFunc(all, func(r *Rival) bool { return r.stands() && !r.Outdated })
}

// Carrying reports whether one that serves has a child.
func (all Rivals) Carrying() bool {
	return slices.ContainsFunc(all, func(r *Rival) bool { return r.stands() && !r.Outdated && r.children > 0 })
}

// Alone reports whether no other one than r is live, so that its IKE_AUTH may carry
// INITIAL_CONTACT.
func (all Rivals) Alone(r *Rival) bool {
	return !slices.ContainsFunc(all, func(o *Rival) bool { return o != r && o.live })
}

// Review is what is to be done about the machines of a connection.
type Review struct {
	End   []*Rival // are to be given Terminate; they are marked as Ending
	Probe []*Rival // are to be given Probe
	Begin bool     // another IKE SA, by a machine of its own: InitiateAt
	At    Redirected
	// Again is when to ask once more, although nothing has happened; zero: never.
	Again time.Time
}

// Review returns what is to be done, so that one IKE SA remains. The connection has
// a number of children. It is due whenever one of the machines has made a step, has
// come or gone.
//
// The others end once the best one is known to be complete at both ends, by an answer of
// the peer that is later than both. If it gives none, it ends itself. An attempt of ours
// that the peer has answered is left to its end, since the peer may take it for
// established already.
func (all Rivals) Review(now time.Time, children int) (v Review) {
	best := all.Best()
	if best == nil {
		return v
	}
	for _, r := range all {
		if r == best || r.Ending || !r.live && !r.Outdated {
			continue // of IKEv1 those are left that have only children, and outdated ones
		}
		if r.pending(now) && !best.contact.toldAlone(r.contact) {
			v.again(r.contact.At.Add(contactDelay))
			if r.probed.Before(r.contact.At) {
				v.probe(r, now)
			}
			continue
		}
		switch wait, ends := best.outlasts(r, now, children); {
		case ends:
			r.Ending = true
			v.End = append(v.End, r)
		case wait > 0:
			v.again(now.Add(wait))
		case wait < 0:
			v.probe(best, now)
		}
	}
	v.End = append(v.End, all.surplus(best)...)
	for _, r := range all {
		if due := r.replaceAt; due.After(now) && r == best {
			v.again(due)
		} else if !due.IsZero() {
			r.replaceAt = time.Time{}
			if r == best && !all.Attempting() {
				v.Begin, v.At = true, r.replaceBy
			}
		}
	}
	return v
}

func (v *Review) probe(r *Rival, now time.Time) {
	r.probed = now
	v.Probe = append(v.Probe, r)
}

// surplus marks as Ending, and returns, the oldest of those beside the best that are
// too many.
func (all Rivals) surplus(best *Rival) (end []*Rival) {
	beside := 0
	for _, r := range slices.Backward(all) {
		if r == best || !r.stands() {
			continue
		}
		if beside++; beside > maxBeside {
			r.Ending = true
			end = append(end, r)
		}
	}
	return end
}

func (v *Review) again(at time.Time) {
	if v.Again.IsZero() || at.Before(v.Again) {
		v.Again = at
	}
}

// pending reports whether the peer may not have the answer that sets its IKE SA up. It
// takes the IKE SA into use when it has, so that until then it cannot be told that the
// IKE SA is gone.
func (r *Rival) pending(now time.Time) bool {
	return r.Up() && !r.v1 && !r.contact.Initiator && !r.confirmed.After(r.contact.At) && now.Sub(r.contact.At) < contactDelay
}

// probeFirst is the wait for a sign of life that must be asked for.
const probeFirst = -1

// outlasts reports whether the best one of two is known to stay, so that the other
// one ends, or for how long that one is left to be, for the time being: zero until
// something happens to it.
func (best *Rival) outlasts(r *Rival, now time.Time, children int) (wait time.Duration, ends bool) {
	grace := best.grace()
	switch {
	case !r.Up():
		if r.answered || r.contact.Begun.After(best.contact.At) { // it is to replace what stands
			return 0, false
		}
		wait = best.contact.At.Add(attemptGrace).Sub(now)
	case best.contact.toldAlone(r.contact):
	case best.outlived(r, children):
		wait = best.settled.Add(grace).Sub(now)
	case best.probed.Before(r.contact.At) || best.probed.Before(best.contact.At):
		return probeFirst, false
	default:
		return 0, false
	}
	return max(wait, 0), wait <= 0
}

// grace is how long what the IKE SA replaces is left to be, once it is known to be complete.
func (r *Rival) grace() time.Duration {
	switch life := r.contact.Lifetime; {
	case r.contact.Initiator && r.v1:
		return messageGrace
	case r.contact.Initiator:
		return flightGrace
	case life > 0:
		return max(min(replacedGrace, life/4), flightGrace)
	}
	return replacedGrace
}

// isBetter reports whether an IKE SA is to be kept rather than another one of the
// same connection.
func (r *Rival) isBetter(o *Rival) bool {
	if r.Outdated != o.Outdated {
		return o.Outdated
	}
	return r.contact.supersedes(o.contact)
}

// outlived reports whether an IKE SA is confirmed since another one was there beside it, and has had
// as many children, or where these are of another configuration, all. One of them that is
// gone since was deleted in its own right, and so is to go with the other IKE SA, too.
func (r *Rival) outlived(o *Rival, children int) bool {
	if !o.Outdated || r.Outdated {
		children = max(o.children, 1)
	}
	return r.confirmed.After(r.contact.At) && r.confirmed.After(o.contact.At) && r.complete >= children
}

// supersedes reports whether an IKE SA is to be kept rather than another one
// of the same connection. The later one is, make before break. But when each
// end began one, they may have crossed, and each end may have seen the other's
// later: then the one counts that alone carried INITIAL_CONTACT, for which the
// peer may have dropped the other, and else the one with the lower SPI of its
// initiator. So both ends choose the same. When it was no crossing, because one
// end has lost the older one, that choice may be wrong: the liveness check in
// Review then tells.
func (a Contact) supersedes(b Contact) bool {
	if a.crossed(b) {
		if a.InitialContact != b.InitialContact {
			return a.InitialContact
		}
		return a.SPI < b.SPI
	}
	return a.At.After(b.At)
}

// crossed reports whether each end began one of two IKE SAs, and the later one
// before it had the other, as far as that can be told.
func (a Contact) crossed(b Contact) bool {
	if a.Initiator == b.Initiator {
		return false
	}
	if a.At.After(b.At) {
		a, b = b, a
	}
	return b.Begun.Sub(a.At) < crossing
}

// toldAlone reports whether the peer has said, with an IKE SA that it began
// later, that it knows nothing of another one (RFC 7296, section 2.4).
func (a Contact) toldAlone(b Contact) bool {
	return a.InitialContact && !a.Initiator && a.At.After(b.At) &&
		(!b.Initiator || a.At.Sub(b.At) >= contactDelay)
}
