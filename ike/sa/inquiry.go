package sa

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// Inquiry finds out why a peer refuses our negotiation, or is silent, where it
// does not say. It sends first messages of IKE with other contents than ours, or
// to another port, and compares the answers: what a peer chooses from all that
// there is tells what it has. It makes no SA and goes on from no answer, of which
// anybody may have sent each: what it finds is for people.
//
// It has the methods of a machine, and ends with an event of the connection, if it
// has found anything.
type Inquiry struct {
	env   *Env
	conn  *Connection
	about *Diagnosis

	now       time.Time
	out       []Action
	questions []question // that are left; the first is the one asked
	asked     bool
	otherwise *Diagnosis // what it is if no question brings an answer that tells more

	spi      uint64
	kex      keyExchange
	group    uint16
	cookie   []byte
	ni       []byte
	rounds   int
	datagram []byte
	tries    int
	next     time.Time
}

// question is a first message and what an answer to it means.
type question struct {
	v1        bool
	port      uint16 // ours and the peer's
	proposals []ipsec.Proposal
	// means returns what an answer tells; nil: go on asking.
	means func(answer) *Diagnosis
}

// answer is what came back; without a choice it is a refusal.
type answer struct{ choice []ipsec.Proposal }

// Rhythm of a question.
const (
	questionWait  = time.Second // doubles
	questionTries = 2           // repeats
)

// Inquirable reports whether an Inquiry can find out more about a failure of a
// negotiation that we began.
func Inquirable(c *Connection, d *Diagnosis) bool { return len(questionsOf(c, d)) > 0 }

// Inquire begins an inquiry about a failure that is Inquirable.
func Inquire(now time.Time, env *Env, c *Connection, d *Diagnosis) (*Inquiry, []Action) {
	q := &Inquiry{env: env, conn: c, about: d, now: now, questions: questionsOf(c, d), otherwise: silent(c, d)}
	q.ask()
	return q, q.actions()
}

// questionsOf returns what is to be asked about a failure.
func questionsOf(c *Connection, d *Diagnosis) []question {
	if c.GM != nil {
		return nil
	}
	v1 := c.IKEv1()
	about := func(version1 bool, means func(answer) *Diagnosis) (list []question) {
		for _, proposals := range everyProposal(c, version1) {
			list = append(list, question{v1: version1, port: portIKE, proposals: proposals, means: means})
		}
		return list
	}
	other := func() []question {
		return about(!v1, func(a answer) *Diagnosis {
			if a.choice == nil {
				return nil
			}
			return versionDiagnosis(v1, d)
		})
	}
	switch d.Code() {
	case CauseIKEProposal:
		if d.Offers == nil || len(d.Offers.Theirs) > 0 || c.Aggressive {
			return nil
		}
		return append(about(v1, func(a answer) *Diagnosis { return chosenOf(c, d, a.choice) }), other()...)
	case CauseUnreachable:
		if d.Reason == ReasonMaxTransmit {
			return other()
		}
	case CauseUDP4500, CauseFragments, CausePSK:
		if d.Reason == ReasonMaxTransmit && d.silentPort == portNAT {
			return []question{{v1: v1, port: portNAT, proposals: c.Proposals, means: func(answer) *Diagnosis { return passes(d) }}}
		}
	default:
	}
	return nil
}

// silent is what it means that no question brings an answer that tells more; nil
// where that is nothing new.
func silent(c *Connection, d *Diagnosis) *Diagnosis {
	more := *d
	switch d.Code() {
	case CauseIKEProposal:
		more.Cause, more.Offers, more.Parameter = CauseUnknownToPeer, nil, "peer address"
		more.Ours, more.Theirs = c.Local.String(), ""
		more.Detail = "the peer refuses any proposal that could be made: it knows no connection for our address"
	case CauseUDP4500, CauseFragments, CausePSK:
		more.Cause, more.Parameter = CauseUDP4500, "UDP port 4500"
		more.Detail += "; a first message to port 4500 brings no answer either, though port 500 answers"
	default:
		return nil
	}
	return &more
}

// passes is for an answer from port 4500.
func passes(d *Diagnosis) *Diagnosis {
	more := *d
	more.Detail = d.Detail + "; UDP port 4500 passes small messages: a first message to it is answered"
	if d.Code() == CauseUDP4500 {
		more.Cause, more.Parameter = CauseSilence, "answer of the peer"
		more.Detail = "the request to port 4500 is not answered, while a first message to it is: the peer drops the request, or its answer is large and lost"
	}
	return &more
}

// versionDiagnosis is for a peer that takes the other version.
func versionDiagnosis(v1 bool, about *Diagnosis) *Diagnosis {
	d := &Diagnosis{Reason: ReasonVersion, Exchange: about.Exchange, Parameter: "IKE version", Ours: "2", Theirs: "1"}
	if v1 {
		d.Ours, d.Theirs = "1", "2"
	}
	d.Detail = "the peer takes a first message of IKEv" + d.Theirs
	return d
}

// chosenOf compares what the peer has chosen from all that there is with what we
// have.
func chosenOf(c *Connection, about *Diagnosis, choice []ipsec.Proposal) *Diagnosis {
	if choice == nil {
		return nil
	}
	var d *Diagnosis
	if c.IKEv1() {
		_, err := ipsec.Choose(phase1Sets(c.Proposals), choice)
		if err == nil {
			return nil
		}
		d = proposalDiagnosis(ReasonPhase1Proposal, c.mode(), err)
	} else {
		_, err := ipsec.Choose(c.Proposals, choice)
		if err == nil {
			return nil
		}
		d = mismatchDiagnosis(ReasonPhase1Proposal, wire.IKESAInit, err)
	}
	d.Exchange = about.Exchange
	d.Detail = "the peer refused our proposals; from all that there are it chose " + proposalList(choice)
	return d
}

// Algorithms that an inquiry offers, behind those of the connection.
var (
	everyCipher = []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Encryption(ipsec.EncryptionAESCBC, 192), ipsec.Encryption(ipsec.EncryptionAESCBC, 128),
		ipsec.Encryption(ipsec.Encryption3DES, 0),
	}
	everyAEAD = []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 256), ipsec.Encryption(ipsec.EncryptionAESGCM16, 128),
		ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0),
	}
	everyIntegrity = []ipsec.Transform{
		ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), ipsec.Integrity(ipsec.IntegrityHMACSHA2512256), ipsec.Integrity(ipsec.IntegrityHMACSHA2384192),
		ipsec.Integrity(ipsec.IntegrityHMACSHA196), ipsec.Integrity(ipsec.IntegrityHMACMD596),
	}
	everyPRF = []ipsec.Transform{
		ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.PRF(ipsec.PRFHMACSHA2512), ipsec.PRF(ipsec.PRFHMACSHA2384), ipsec.PRF(ipsec.PRFHMACSHA1), ipsec.PRF(ipsec.PRFHMACMD5),
	}
	everyGroup = []ipsec.Transform{
		ipsec.Group(ipsec.GroupMODP2048), ipsec.Group(ipsec.GroupECP256), ipsec.Group(ipsec.GroupECP384), ipsec.Group(ipsec.GroupECP521),
		ipsec.Group(ipsec.GroupMODP3072), ipsec.Group(ipsec.GroupMODP4096), ipsec.Group(ipsec.GroupMODP1536), ipsec.Group(ipsec.GroupMODP1024), ipsec.Group(ipsec.GroupMODP768),
	}
)

// ownFirst returns every transform of a type, those of the proposals first: of the
// peer's choices that are close to them, one is the closest.
func ownFirst(proposals []ipsec.Proposal, t ipsec.TransformType, every []ipsec.Transform) []ipsec.Transform {
	var list []ipsec.Transform
	for _, p := range proposals {
		for _, tr := range p.Of(t) {
			if slices.Contains(every, tr) && !slices.Contains(list, tr) {
				list = append(list, tr)
			}
		}
	}
	for _, tr := range every {
		if !slices.Contains(list, tr) {
			list = append(list, tr)
		}
	}
	return list
}

// everyProposal returns all that there is to offer, in messages that fit into one
// IP packet each.
func everyProposal(c *Connection, v1 bool) (messages [][]ipsec.Proposal) {
	own := func(t ipsec.TransformType, every []ipsec.Transform) []ipsec.Transform {
		return ownFirst(c.Proposals, t, every)
	}
	ciphers, integ := own(ipsec.TransformEncryption, everyCipher), own(ipsec.TransformIntegrity, everyIntegrity)
	prfs := own(ipsec.TransformPRF, everyPRF)
	groups := own(ipsec.TransformGroup, everyGroup)
	if !v1 {
		groups = append(groups, ipsec.Group(ipsec.GroupCurve25519))
		lists := [][]ipsec.Transform{
			slices.Concat(ciphers, integ, prfs, groups),
			slices.Concat(own(ipsec.TransformEncryption, everyAEAD), prfs, groups),
		}
		if enc := c.Proposals[0].Of(ipsec.TransformEncryption); len(enc) > 0 && enc[0].IsAEAD() {
			slices.Reverse(lists)
		}
		// A proposal with a type that the peer does not know is refused whole.
		additional := [][]ipsec.Transform{nil, {ipsec.Additional(1, ipsec.GroupMLKEM768)}}
		if len(c.Proposals[0].Additional()) > 0 {
			slices.Reverse(additional)
		}
		for _, more := range additional {
			for _, list := range lists {
				messages = append(messages, []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: slices.Concat(list, more)}})
			}
		}
		return messages
	}
	// One hash and two ciphers with all groups are less than 800 octets.
	for _, f := range prfs {
		for pair := range slices.Chunk(ciphers, 2) {
			messages = append(messages, []ipsec.Proposal{{
				Protocol: ipsec.ProtocolIKE, Transforms: slices.Concat(pair, []ipsec.Transform{f}, groups),
			}})
		}
	}
	return messages
}

// ask sends the first of the questions that are left, or ends the inquiry.
func (q *Inquiry) ask() {
	q.stop()
	if len(q.questions) == 0 {
		q.conclude(q.otherwise)
		return
	}
	m := core{env: q.env}
	var err error
	if q.spi, err = m.newSPI(); err == nil {
		if q.ni, err = m.newNonce(); err == nil {
			err = q.exchange(firstGroup(q.questions[0].proposals))
		}
	}
	if err != nil {
		q.conclude(nil)
		return
	}
	q.asked, q.cookie, q.rounds = true, nil, 0
	q.compose()
}

// exchange draws the private value of a group, which no answer is taken with.
func (q *Inquiry) exchange(group uint16) (err error) {
	q.drop()
	if !q.questions[0].v1 {
		q.kex, err = newKeyExchange(group, q.env.Rand)
	}
	q.group = group
	return err
}

func (q *Inquiry) drop() {
	if q.kex != nil {
		q.kex.wipe()
		q.kex = nil
	}
}

func (q *Inquiry) stop() {
	q.drop()
	q.asked, q.datagram, q.tries, q.next = false, nil, 0, time.Time{}
}

// conclude ends the inquiry with what it has found; nil: nothing.
func (q *Inquiry) conclude(d *Diagnosis) {
	q.stop()
	q.questions = nil
	if d == nil {
		return
	}
	q.out = append(q.out, Emit{Event{
		Kind: Failed, Connection: q.conn.Name, Initiator: true, Reason: d.Reason, Diagnosis: d,
		Local: netip.AddrPortFrom(q.conn.Local, portIKE), Remote: netip.AddrPortFrom(q.conn.Remote, portIKE),
	}})
}

// compose writes the message of the question and sends it.
func (q *Inquiry) compose() {
	x := q.questions[0]
	var err error
	if x.v1 {
		c := Connection{Proposals: x.proposals, Lifetime: q.conn.Lifetime}
		var offer *isakmp.SA
		if offer, err = phase1Offer(&c); err == nil {
			msg := isakmp.Message{
				Header:   isakmp.Header{InitiatorSPI: q.spi, Exchange: isakmp.IdentityProtection},
				Payloads: append([]isakmp.Payload{offer}, vendors()...),
			}
			q.datagram, err = msg.Encode(0, nil)
		}
	} else {
		var payloads []wire.Payload
		if q.cookie != nil {
			payloads = append(payloads, &wire.Notify{NotifyType: wire.Cookie, Data: q.cookie})
		}
		payloads = append(payloads, &wire.SA{Proposals: numbered(x.proposals, nil)}, &wire.KE{Group: q.group, Data: q.kex.public()}, &wire.Nonce{Data: q.ni},
			&wire.Notify{NotifyType: wire.IntermediateSupported})
		msg := wire.Message{Header: wire.Header{InitiatorSPI: q.spi, Exchange: wire.IKESAInit, Initiator: true}, Payloads: payloads}
		q.datagram, err = msg.Append(nil)
	}
	if err != nil {
		q.conclude(nil)
		return
	}
	q.tries = 0
	q.send()
}

func (q *Inquiry) send() {
	port := q.questions[0].port
	q.out = append(q.out, Send{
		Local: netip.AddrPortFrom(q.conn.Local, port), Remote: netip.AddrPortFrom(q.conn.Remote, port), Datagram: q.datagram,
	})
	q.next = q.now.Add(questionWait << q.tries)
}

// Handle takes a datagram under one of SPIs.
func (q *Inquiry) Handle(now time.Time, d Datagram) []Action {
	q.now = now
	if !q.asked {
		return nil
	}
	x := q.questions[0]
	if x.v1 {
		if msg, err := isakmp.Parse(d.Bytes); err == nil && msg.InitiatorSPI == q.spi {
			q.answeredV1(msg)
		}
	} else if msg, err := wire.Parse(d.Bytes); err == nil && msg.InitiatorSPI == q.spi && msg.Response && msg.Exchange == wire.IKESAInit && msg.Check() == nil {
		q.answeredV2(msg)
	}
	return q.actions()
}

func (q *Inquiry) answeredV1(msg *isakmp.Message) {
	if offer, ok := isakmp.Find[*isakmp.SA](msg); ok {
		if sets, err := readPhase1(offer); err == nil {
			q.answered(answer{choice: []ipsec.Proposal{sets[0].proposal}})
		}
		return
	}
	if _, ok := msg.ErrorNotify(); ok {
		q.answered(answer{})
	}
}

func (q *Inquiry) answeredV2(msg *wire.Message) {
	again := q.rounds < maxInitRounds
	if n, ok := msg.Notify(wire.Cookie); ok {
		if again && len(n.Data) > 0 && len(n.Data) <= maxCookie && !bytes.Equal(n.Data, q.cookie) {
			q.rounds++
			q.cookie = n.Data
			q.compose()
		}
		return
	}
	if n, ok := msg.Notify(wire.InvalidKEPayload); ok {
		if g, ok := wantedGroup(n); ok && again && g != q.group && offers(q.questions[0].proposals, g) {
			q.rounds++
			if q.exchange(g) == nil {
				q.compose()
			}
		}
		return
	}
	if sa, ok := wire.Find[*wire.SA](msg); ok && len(sa.Proposals) == 1 {
		q.answered(answer{choice: sa.Proposals})
		return
	}
	if _, ok := msg.ErrorNotify(); ok {
		q.answered(answer{})
	}
}

// answered judges an answer, and goes on to the next question where it tells
// nothing.
func (q *Inquiry) answered(a answer) {
	if d := q.questions[0].means(a); d != nil {
		q.conclude(d)
		return
	}
	q.questions = q.questions[1:]
	q.ask()
}

// Timeout repeats the question, or takes silence for the answer.
func (q *Inquiry) Timeout(now time.Time) []Action {
	q.now = now
	if !q.asked || q.next.After(now) {
		return nil
	}
	if q.tries < questionTries {
		q.tries++
		q.send()
		return q.actions()
	}
	silent := q.questions[0]
	if q.about.Code() == CauseIKEProposal && silent.v1 == q.conn.IKEv1() {
		q.conclude(nil) // the peer that refused has fallen silent: nothing is known
		return q.actions()
	}
	// It would be as silent to the others of the kind.
	q.questions = slices.DeleteFunc(q.questions, func(x question) bool { return x.v1 == silent.v1 && x.port == silent.port })
	q.ask()
	return q.actions()
}

// Do obeys a command: to end. The others are none of its.
func (q *Inquiry) Do(now time.Time, c Command) []Action {
	q.now = now
	if _, ok := c.(Terminate); ok {
		q.conclude(nil)
	}
	return q.actions()
}

func (q *Inquiry) actions() []Action {
	out := q.out
	q.out = nil
	return out
}

// Deadline is when Timeout wants to be called.
func (q *Inquiry) Deadline() time.Time { return q.next }

// Pending reports false: nothing waits for the data plane.
func (q *Inquiry) Pending() bool { return false }

// Done reports whether the inquiry is over.
func (q *Inquiry) Done() bool { return !q.asked }

// SPIs returns the SPI under which the answer comes.
func (q *Inquiry) SPIs() []uint64 {
	if !q.asked {
		return nil
	}
	return []uint64{q.spi}
}

// Connection returns the connection's name.
func (q *Inquiry) Connection() string { return q.conn.Name }

// Configuration returns the connection.
func (q *Inquiry) Configuration() *Connection { return q.conn }

// Status is empty: there is no SA.
func (q *Inquiry) Status() Status { return Status{Connection: q.conn.Name} }

// Describe is Status.
func (q *Inquiry) Describe(st *Status) { *st = q.Status() }

// Drops is empty.
func (q *Inquiry) Drops() map[string]uint64 { return nil }
