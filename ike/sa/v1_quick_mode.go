package sa

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// A quick mode makes a CHILD_SA, new or in the place of another one (RFC 2409,
// section 5.5). All messages are encrypted:
//
//	initiator                                       responder
//	HASH(1), SA, Ni [, KE], IDci, IDcr ──────────►  inbound added
//	inbound added  ◄────────────────────────────── HASH(2), SA, Nr [, KE], IDci, IDcr
//	outbound added  HASH(3)  ────────────────────►  outbound added
//
// Some responders can receive only after the third message: an initiator that
// has an older child goes on sending on that one until traffic shows that the
// new one is complete, or for sendDelay.

const (
	// maxQuickModes is how many quick modes of ours may be under way.
	maxQuickModes = 8
	// maxAnswered is how many of the peer's may be.
	maxAnswered = 64
	// supersedeTime is how long a child stays after one of ours has followed it.
	supersedeTime = 10 * time.Second
	// crossingChildren is how far apart two children that each end began may have
	// been set up and still have crossed.
	crossingChildren = 10 * time.Second
	// abandonedTime is how long a responder's child waits for traffic to complete
	// it, once nothing is left by which message 3 could come.
	abandonedTime = time.Minute
	// shortestLife bounds the lifetime that a peer may ask for.
	shortestLife = 10 // seconds
)

// quickMode is one exchange.
type quickMode struct {
	s         *ISAKMPSA // nil while ours waits for its turn
	id        uint32
	initiator bool
	slot      *slot
	cfg       *Child   // of the slot, as it was at our first message
	old       *childSA // to be followed; nil for a new child

	in     ipsec.SPI
	local  *isakmp.ID // of our side's traffic
	remote *isakmp.ID
	kex    keyExchange
	ni, nr []byte
	iv     []byte
	child  *childSA

	awaits   int // number of the message that comes next; zero: none
	digest   [sha256.Size]byte
	answer   [][]byte // to the message with that digest
	flight   *flight
	forgetAt time.Time // see repeatWindow
}

func (s *ISAKMPSA) quickByID(id uint32) *quickMode {
	i := slices.IndexFunc(s.quick, func(q *quickMode) bool { return q.id == id })
	if i < 0 {
		return nil
	}
	return s.quick[i]
}

// say sends a message under its hash, which covers the message id, what both
// ends have drawn so far, and the payloads. An answer is awaited by repeating it.
func (q *quickMode) say(payloads []isakmp.Payload, drawn []byte, repeat bool) error {
	s := q.s
	chain, err := isakmp.Chain(payloads, isakmp.NoNextPayload)
	if err != nil {
		return err
	}
	hash := &isakmp.Hash{Data: s.quickHash(q.id, drawn, payloads, chain)}
	return q.send(append([]isakmp.Payload{hash}, payloads...), repeat)
}

func (q *quickMode) send(payloads []isakmp.Payload, repeat bool) error {
	s := q.s
	datagrams, err := s.encode(s.header(isakmp.QuickMode, q.id), payloads, &q.iv)
	if err != nil {
		return err
	}
	q.flight, q.answer = nil, datagrams
	if repeat {
		q.flight = s.newFlight(datagrams)
	}
	s.transmit(datagrams)
	return nil
}

// receiveQuick handles a message of quick mode.
func (s *ISAKMPSA) receiveQuick(d Datagram, msg *isakmp.Message) {
	switch q := s.quickByID(msg.MessageID); {
	case !msg.Encrypted:
		s.m.drop(dropPlain)
	case !s.live() || s.keys == nil:
		s.m.drop(dropUnauthenticated)
	case msg.MessageID == 0:
		s.m.drop(dropMalformed)
	case q != nil:
		q.receive(d, msg)
	case s.ids.contain(msg.MessageID):
		s.m.drop(dropOutOfWindow)
	default:
		s.answerQuick(d, msg)
	}
}

// open decrypts a message and checks its hash, over the message id, what both
// ends have drawn so far, and the payloads. It returns the IV for the next
// message, or nil where the message is to be dropped.
func (s *ISAKMPSA) open(msg *isakmp.Message, iv []byte, drawn []byte) (next []byte) {
	plain, next, err := s.keys.decrypt(iv, msg.Ciphertext())
	if err == nil {
		err = msg.Open(plain)
	}
	if err != nil {
		s.m.drop(dropMalformed)
		return nil
	}
	hash, ok := isakmp.Find[*isakmp.Hash](msg)
	if !ok || !s.quickHashIs(hash, msg, drawn) {
		s.m.drop(dropIntegrity)
		return nil
	}
	return next
}

// receive handles a further message of an exchange.
func (q *quickMode) receive(d Datagram, msg *isakmp.Message) {
	s := q.s
	digest := sha256.Sum256(d.Bytes)
	if digest == q.digest {
		s.transmitTo(d.Local, d.Remote, q.answer)
		return
	}
	switch q.awaits {
	case 2:
		next := s.open(msg, q.iv, q.ni)
		if next == nil {
			return
		}
		q.iv, q.digest, q.answer = next, digest, nil
		s.heard(d, true)
		q.takeAnswer(msg)
	case 3:
		plain, _, err := s.keys.decrypt(q.iv, msg.Ciphertext())
		if err == nil {
			err = msg.Open(plain)
		}
		hash, ok := isakmp.Find[*isakmp.Hash](msg)
		if err != nil || !ok || !hmac.Equal(hash.Data, s.keys.sum([]byte{0}, idOctets(q.id), q.ni, q.nr)) {
			s.m.drop(dropIntegrity)
			return
		}
		q.digest, q.answer = digest, nil
		s.heard(d, true)
		q.end()
		q.child.addOut()
	default: // such as a CONNECTED notification, which we do not wait for
		s.m.drop(dropNoResponseDue)
	}
}

// agree returns the shorter one of our lifetime and the peer's.
func agree(own ipsec.Lifetime, peer lifetime) *ipsec.Lifetime {
	if peer.seconds != 0 {
		peer.seconds = max(peer.seconds, shortestLife)
	}
	if peer.kilobytes != 0 {
		peer.kilobytes = max(peer.kilobytes, kilobyte) // a MiB
	}
	l := lifeOf(own).atMost(peer)
	own.Hard, own.HardBytes = l.duration(), l.kilobytes*kilobyte
	return &own
}

// newChild makes a child, of which the caller knows the roles.
func (s *ISAKMPSA) newChild(k *slot, ch choice, in, out ipsec.SPI, keys *childKeys) *childSA {
	c := &childSA{m: &s.m.core, slot: k, state: Connecting, in: in, out: out, path: s.path, proposal: ch.proposal, keys: keys}
	c.rekeys = true // if one is up then: IKEv1 does not tell
	if ch.encap && !c.path.encap {
		c.path.encap = true
		c.path.float()
	}
	return c
}

// end ends the exchange. It still answers a repeated message for a while.
func (q *quickMode) end() {
	q.awaits, q.flight = 0, nil
	if q.kex != nil {
		q.kex.wipe()
		q.kex = nil
	}
	q.forgetAt = q.s.m.now.Add(2 * time.Minute) // a peer may repeat for as long
}

func (q *quickMode) forget() {
	q.s.quick = slices.DeleteFunc(q.s.quick, func(o *quickMode) bool { return o == q })
}

// repeat is called when no answer has come in time.
func (q *quickMode) repeat() {
	s, m := q.s, q.s.m
	if q.child != nil && q.child.hasOut { // traffic has shown that the peer has our answer
		q.end()
		return
	}
	if s.repeat(q.flight) {
		return
	}
	sent := q.flight.sent
	d := &Diagnosis{
		Reason: ReasonMaxTransmit, Cause: CauseSilence, Exchange: isakmp.QuickMode.String(), Parameter: "CHILD_SA",
		Detail: fmt.Sprintf("no answer to message %d of quick mode %08x, sent %d times to %s", q.awaits-1, q.id, q.flight.tries+1, s.path.remote),
	}
	q.end()
	if !q.initiator {
		c := q.child
		m.emit(Emit{m.childFailure(q.slot, false, d)})
		c.remove(false)
		m.lost(c, ReasonMaxTransmit, d)
		return
	}
	q.slot.busy = false
	if m.heardSince(sent) {
		d.Detail += "; the peer may have no such pair of traffic selectors, or other algorithms"
		d.Ours = flowText(q.slot.cfg.Local, q.slot.cfg.Remote) + ", " + ipsec.List(q.slot.phase2Sets(), "; ")
	} else if !s.dpd {
		// There is no other way to find out that the peer is gone.
		m.end(d.Reason, d)
		return
	}
	q.failed(d)
	s.startProbe()
}

// abandon ends an exchange whose ISAKMP SA is gone.
func (q *quickMode) abandon() {
	m := q.s.m
	if q.awaits == 0 {
		return
	}
	q.end()
	if !q.initiator {
		// Message 3 may have been lost: then traffic completes the child.
		if c := q.child; c != nil && c.state == Connecting {
			c.expireAt = m.now.Add(abandonedTime)
		}
		return
	}
	q.slot.busy = false
	q.again(m.jitter(minRetry))
}
