package sa

import (
	"crypto/sha256"
	"errors"
	"math"
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

// exchange is a request of ours and what its answer does.
type exchange interface {
	kind() wire.ExchangeType
	// request returns what to ask. It is called when the window is free; ok is
	// false when there is nothing to ask any more.
	request(s *ikeSA) (payloads []wire.Payload, ok bool)
	// response handles the answer, which is authentic (save in IKE_SA_INIT) and
	// has passed the rules of its exchange.
	response(s *ikeSA, d Datagram, msg *wire.Message)
	// unanswered is called when no repeat has brought an answer.
	unanswered(s *ikeSA, o *outstanding)
}

// outstanding is the request that an answer is awaited for.
type outstanding struct {
	exchange
	id        uint32
	datagrams [][]byte
	rhythm    Retransmit
	sent      time.Time // first
	tries     int       // repeats so far
	next      time.Time // of the next repeat, or of giving up
}

// defaultRetransmit is the rhythm of most implementations: 4, 7.2, 13, 23, 42
// seconds between repeats, and 76 before giving up.
var defaultRetransmit = Retransmit{Initial: 4 * time.Second, Factor: 1.8, Tries: 5}

// rhythm returns the configured rhythm of repeats.
func (e *Env) rhythm() Retransmit {
	r := e.Retransmit
	if r.Initial <= 0 {
		return defaultRetransmit
	}
	r.Factor = max(r.Factor, 1)
	return r
}

// wait returns the time from one sending to the next.
func (r Retransmit) wait(tries int) time.Duration {
	return time.Duration(float64(r.Initial) * math.Pow(r.Factor, float64(tries)))
}

// Sub-rhythms for exchanges that cannot wait that long.
const (
	deleteRepeats   = 2
	livenessRepeats = 3
)

// rhythm of an exchange: that of the environment, but for exchanges that have
// one of their own.
func (s *ikeSA) rhythm(x exchange) Retransmit {
	r := s.m.env.rhythm()
	switch x.(type) {
	case *deleteIKE:
		r.Tries = min(r.Tries, deleteRepeats)
	case *liveness:
		if t := s.m.conn.DPD.Timeout; t > 0 {
			r = Retransmit{Initial: t, Factor: 1, Tries: livenessRepeats}
		}
	}
	return r
}

// secretive is an exchange that holds a private value until it is answered.
type secretive interface{ wipe() }

// discard wipes what exchanges hold that will not be gone on with.
func discard(list ...exchange) {
	for _, x := range list {
		if x, ok := x.(secretive); ok {
			x.wipe()
		}
	}
}

// enqueue puts an exchange at the end of the queue.
func (s *ikeSA) enqueue(x exchange) { s.queue = append(s.queue, x) }

// pump sends the next request when the window is free.
func (s *ikeSA) pump() {
	for s.active == nil && len(s.queue) > 0 && s.state != Rekeyed && s.state != Deleted {
		x := s.queue[0]
		s.queue = s.queue[1:]
		if payloads, ok := x.request(s); ok {
			s.sendRequest(x, payloads)
		}
	}
}

// sendRequest sends a request and waits for its answer.
func (s *ikeSA) sendRequest(x exchange, payloads []wire.Payload) {
	datagrams, err := s.encode(s.message(x.kind(), false, s.nextID, payloads))
	if err != nil {
		// What we ask cannot be put into a message: our configuration is at fault.
		s.m.terminate(ReasonMalformedMessage, &Diagnosis{
			Reason: ReasonMalformedMessage, Exchange: x.kind().String(), Parameter: "request", Detail: err.Error(),
		})
		return
	}
	o := &outstanding{exchange: x, id: s.nextID, datagrams: datagrams, rhythm: s.rhythm(x), sent: s.m.now}
	s.nextID++
	s.active = o
	s.transmit(o)
}

// transmit sends the request, for the first time or again.
func (s *ikeSA) transmit(o *outstanding) {
	for _, b := range o.datagrams {
		s.m.emit(Send{Local: s.path.local, Remote: s.path.remote, Datagram: b})
	}
	o.next = s.m.now.Add(s.m.jitter(o.rhythm.wait(o.tries)))
}

// repeat is called when no answer has come in time.
func (s *ikeSA) repeat(o *outstanding) {
	if s.active != o {
		return
	}
	if o.tries < o.rhythm.Tries {
		o.tries++
		s.transmit(o)
		return
	}
	if _, ok := o.exchange.(*liveness); ok && s.m.heardSince(o.sent) && s.m.now.Sub(o.sent) < livenessPatience {
		o.tries = 0
		s.transmit(o)
		return
	}
	if s.m.detour(s, o) {
		return
	}
	s.active = nil
	o.unanswered(s, o)
}

// receiveRequest handles a request of the peer.
func (s *ikeSA) receiveRequest(d Datagram, msg *wire.Message) {
	if msg.Exchange == wire.IKESAInit {
		s.repeatInit(d)
		return
	}
	if s.answered != nil && msg.MessageID == s.answered.id && s.expectID == msg.MessageID+1 {
		s.repeatAnswer(d)
		return
	}
	switch {
	case s.in == nil:
		s.m.drop(dropDeletedSA)
		return
	case msg.MessageID != s.expectID:
		s.m.drop(dropOutOfWindow)
		return
	case !s.authenticated && (s.initiator || !s.handshake.awaits(msg.Exchange)):
		s.m.drop(dropUnauthenticated)
		return
	case s.authenticated && (msg.Exchange == wire.IKEAuth || msg.Exchange == wire.IKEIntermediate):
		s.m.drop(dropAuthAgain)
		return
	}
	digest := sha256.Sum256(d.Bytes)
	_, _, fragmented := msg.Fragment()
	msg, err := s.unprotect(&s.requests, d, msg)
	if msg == nil {
		return
	}
	if fragmented {
		digest, s.firstFragment = s.firstFragment, [sha256.Size]byte{}
	}
	if err == nil {
		err = msg.Check()
	}
	s.expectID++
	s.heard(d)
	s.m.trust(true)
	var r reply
	if err == nil {
		r = s.answer(d, msg)
	} else {
		r = s.answerMalformed(msg, err)
	}
	if r.child == nil {
		s.send(d, msg, digest, r)
		return
	}
	s.m.after(func() {
		if r.child.refused != nil {
			r = r.without(r.child.refusal())
		} else {
			r.child.told = true
		}
		s.send(d, msg, digest, r)
	})
}

// reply is what answers a request, and what happens once it is on its way.
type reply struct {
	payloads []wire.Payload
	then     func()
	// child is what the reply tells of, if so, and without makes the reply in its
	// place where the data plane does not take the child.
	child   *childSA
	without func(wire.NotifyType) reply
}

// refuse is a reply of one error notify.
func refuse(t wire.NotifyType, data ...byte) reply {
	return reply{payloads: []wire.Payload{&wire.Notify{NotifyType: t, Data: data}}}
}

// answer finds the reply to a request that is authentic and well-formed.
func (s *ikeSA) answer(d Datagram, msg *wire.Message) reply {
	switch msg.Exchange {
	case wire.IKEAuth:
		return s.answerAuth(d, msg)
	case wire.CreateChildSA:
		return s.answerCreateChild(msg)
	case wire.Informational:
		return s.answerInformational(d, msg)
	case wire.IKEIntermediate:
		return s.answerIntermediate(msg)
	case wire.IKEFollowupKE:
		return s.answerFollowupKE(msg)
	case wire.IKESAInit:
	}
	return refuse(wire.InvalidSyntax)
}

// answerMalformed tells the peer what is wrong with its request. A request
// that breaks the syntax ends the IKE SA (RFC 7296, section 2.21.3).
func (s *ikeSA) answerMalformed(msg *wire.Message, err error) reply {
	var bad *wire.Error
	if !errors.As(err, &bad) || bad.Notify == 0 {
		bad = &wire.Error{Notify: wire.InvalidSyntax, Reason: err.Error()}
	}
	if bad.Notify == wire.UnsupportedCriticalPayload {
		return refuse(bad.Notify, byte(bad.Payload))
	}
	r := refuse(bad.Notify)
	diagnosis := &Diagnosis{
		Reason: ReasonMalformedPayload, Exchange: msg.Exchange.String(),
		Parameter: bad.Payload.String(), Detail: "the peer's request is malformed: " + bad.Error(),
	}
	r.then = func() { s.m.end(ReasonMalformedPayload, diagnosis) }
	return r
}

// send sends a reply, keeps it for repeats of the request, and then does what
// follows from it.
func (s *ikeSA) send(d Datagram, msg *wire.Message, digest [sha256.Size]byte, r reply) {
	datagrams, err := s.encode(s.message(msg.Exchange, true, msg.MessageID, r.payloads))
	if err != nil {
		s.m.drop(dropDefectAnswer)
		return
	}
	s.answered = &answered{at: s.m.now, id: msg.MessageID, digest: digest, datagrams: datagrams}
	s.sendTo(d.Local, d.Remote, datagrams)
	if r.then != nil {
		r.then()
	}
}

// sendTo sends datagrams back to where a request came from.
func (s *ikeSA) sendTo(local, remote netip.AddrPort, datagrams [][]byte) {
	for _, b := range datagrams {
		s.m.emit(Send{Local: local, Remote: remote, Datagram: b})
	}
}

// repeatAnswer sends the last answer again, when the request is the same octet
// by octet. Of a request in fragments the first one asks for it.
func (s *ikeSA) repeatAnswer(d Datagram) {
	if sha256.Sum256(d.Bytes) != s.answered.digest {
		s.m.drop(dropOutOfWindow)
		return
	}
	s.sendTo(d.Local, d.Remote, s.answered.datagrams)
}

// receiveResponse handles an answer of the peer.
func (s *ikeSA) receiveResponse(d Datagram, msg *wire.Message) {
	o := s.active
	switch {
	case o == nil || msg.MessageID != o.id || msg.Exchange != o.kind():
		s.m.drop(dropNoResponseDue)
		return
	case msg.Exchange == wire.IKESAInit:
		if err := msg.Check(); err != nil {
			s.m.drop(dropMalformedInit)
			return
		}
		o.response(s, d, msg) // ends the exchange itself when the answer will do
		return
	case !msg.Encrypted():
		if n, ok := msg.ErrorNotify(); ok && s.handshake != nil {
			s.handshake.hint = n
		}
		s.m.drop(dropResponsePlain)
		return
	}
	msg, err := s.unprotect(&s.responses, d, msg)
	if msg == nil {
		return
	}
	if err == nil {
		err = msg.Check()
	}
	s.active = nil
	s.heard(d)
	s.confirmed = s.m.now
	s.m.trust(false)
	if err != nil {
		s.m.terminate(ReasonMalformedPayload, &Diagnosis{
			Reason: ReasonMalformedPayload, Exchange: msg.Exchange.String(),
			Detail: "the peer's answer is malformed: " + err.Error(),
		})
		return
	}
	o.response(s, d, msg)
}

// unprotect opens a message, or adds a fragment to its message. It returns nil
// when there is nothing to handle; drops are counted.
func (s *ikeSA) unprotect(r *wire.Reassembler, d Datagram, msg *wire.Message) (*wire.Message, error) {
	if !msg.Encrypted() {
		s.m.drop(dropPlain)
		return nil, nil
	}
	number, _, fragment := msg.Fragment()
	if !fragment {
		err := msg.Open(d.Bytes, s.in)
		if !msg.Authenticated() {
			s.m.drop(dropIntegrity)
			return nil, nil
		}
		return msg, err
	}
	if !s.fragmentation {
		s.m.drop(dropFragmentNotAgreed)
		return nil, nil
	}
	held := r.Holds(msg)
	whole, err := r.Add(d.Bytes, msg, s.in)
	if whole == nil && err != nil {
		s.m.drop(dropFragment)
		return nil, nil
	}
	if number == 1 && !msg.Response && !held {
		// Of a request that came in other fragments before, the last form counts.
		s.firstFragment = sha256.Sum256(d.Bytes)
	}
	if whole == nil {
		s.reassemblyAt = s.m.now.Add(reassemblyTimeout)
		return nil, nil
	}
	s.reassemblyAt = time.Time{}
	return whole, err
}

// heard notes that the peer is alive, and where it is: it has sent a message
// that is authentic and new.
func (s *ikeSA) heard(d Datagram) {
	m := s.m
	s.lastSeen = m.now
	m.heard()
	if !s.authenticated {
		return
	}
	if m.mobike {
		m.arrived()
	} else {
		m.follow(s, d.Remote)
	}
	if c := m.current; c != nil && c.successor == s && c.state == Rekeyed {
		m.moveTo(s) // the peer uses what it has made
	}
}
