package sa

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// The additional key exchanges of a new IKE SA are an IKE_INTERMEDIATE exchange
// each, between IKE_SA_INIT and IKE_AUTH (RFC 9242; RFC 9370, section 2.2.2):
//
//	initiator                                         responder
//	SA, KEi, Ni, N(INTERMEDIATE_EXCHANGE_SUPPORTED) ─►
//	         ◄─ SA, KEr, Nr, N(INTERMEDIATE_EXCHANGE_SUPPORTED)
//	{KEi(1)}  ───────────────────────────────────────►
//	          ◄───────────────────────────────────────  {KEr(1)}
//	{IDi, AUTH, …}  ─────────────────────────────────►
//
// Each one mixes its secret into all keys, which protect what follows. AUTH
// covers what was said.

// intermediate is what a handshake knows of its IKE_INTERMEDIATE exchanges.
type intermediate struct {
	methods []uint16 // of the additional key exchanges that are to come
	// What AUTH covers of the requests and the responses so far: IntAuth_i and
	// IntAuth_r of RFC 9242, section 3.3.2.
	requests, responses []byte
}

// intAuth returns IntAuth, which AUTH covers: nothing where there was no exchange.
// id is the message id of the IKE_AUTH request.
func (i *intermediate) intAuth(id uint32) []byte {
	if i.requests == nil {
		return nil
	}
	return binary.BigEndian.AppendUint32(join(i.requests, i.responses), id)
}

// cover adds a message, under the keys that protect it. key is that of the side
// that sent it.
func (s *ikeSA) cover(sum *[]byte, key []byte, msg *wire.Message) error {
	octets, err := msg.IntAuthOctets()
	if err != nil {
		return err
	}
	*sum = s.keys.prf.sum(key, *sum, octets)
	return nil
}

// offersAdditional reports whether proposals have additional key exchanges.
func offersAdditional(list []ipsec.Proposal) bool {
	return slices.ContainsFunc(list, func(p ipsec.Proposal) bool {
		return slices.ContainsFunc(p.Transforms, func(t ipsec.Transform) bool { return t.Type.IsAdditional() && t.ID != ipsec.GroupNone })
	})
}

// mix goes over to the keys with the secret of an additional key exchange:
// SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr).
func (s *ikeSA) mix(secret []byte) error {
	old := s.keys
	defer old.wipe()
	h := s.handshake
	return s.setKeys(s.proposal, rekeySeed(old, secret, h.ni, h.nr, nil), h.ni, h.nr)
}

// ikeIntermediate is our IKE_INTERMEDIATE exchange.
type ikeIntermediate struct{ kex keyExchange }

func (x *ikeIntermediate) kind() wire.ExchangeType { return wire.IKEIntermediate }

// wipe drops the private value.
func (x *ikeIntermediate) wipe() {
	if x.kex != nil {
		x.kex.wipe()
		x.kex = nil
	}
}

func (x *ikeIntermediate) request(s *ikeSA) ([]wire.Payload, bool) {
	h := s.handshake
	var err error
	if x.kex, err = newKeyExchange(h.intermediate.methods[0], s.m.env.Rand); err != nil {
		s.m.fail(x.diagnosis(err))
		return nil, false
	}
	payloads := []wire.Payload{&wire.KE{Group: h.intermediate.methods[0], Data: x.kex.public()}}
	if err := s.cover(&h.intermediate.requests, s.keys.pi, s.message(x.kind(), false, s.nextID, payloads)); err != nil {
		s.m.fail(x.diagnosis(err))
		return nil, false
	}
	return payloads, true
}

func (x *ikeIntermediate) response(s *ikeSA, _ Datagram, msg *wire.Message) {
	defer x.wipe()
	if n, ok := msg.ErrorNotify(); ok {
		d := refusedInit(n, s.m.conn.Proposals)
		d.Exchange = x.kind().String()
		s.m.fail(d)
		return
	}
	if err := x.accept(s, msg); err != nil {
		s.m.fail(x.diagnosis(err))
		return
	}
	s.afterInit()
}

// accept takes the peer's value.
func (x *ikeIntermediate) accept(s *ikeSA, msg *wire.Message) error {
	i := &s.handshake.intermediate
	ke, ok := wire.Find[*wire.KE](msg)
	if !ok || ke.Group != i.methods[0] {
		return errors.New("the answer has no key exchange of the method agreed on")
	}
	secret, err := x.kex.shared(ke.Data)
	if err != nil {
		return err
	}
	defer clear(secret)
	if err := s.cover(&i.responses, s.keys.pr, msg); err != nil {
		return err
	}
	i.methods = i.methods[1:]
	return s.mix(secret)
}

func (x *ikeIntermediate) unanswered(s *ikeSA, o *outstanding) { s.m.fail(unreachable(s, o)) }

func (x *ikeIntermediate) diagnosis(err error) *Diagnosis {
	return &Diagnosis{
		Reason: ReasonPhase1Proposal, Cause: CauseAdditional, Exchange: x.kind().String(), Parameter: ipsec.TransformAdditional1.String(), Detail: err.Error(),
	}
}

// afterInit goes on to what follows IKE_SA_INIT: the additional key exchanges,
// and then IKE_AUTH.
func (s *ikeSA) afterInit() {
	if len(s.handshake.intermediate.methods) > 0 {
		s.enqueue(&ikeIntermediate{})
		return
	}
	s.enqueue(&ikeAuth{})
}

// awaits reports whether an exchange is what is to come next on an IKE SA that we
// respond to and that is not authenticated yet.
func (h *handshake) awaits(t wire.ExchangeType) bool {
	if len(h.intermediate.methods) > 0 {
		return t == wire.IKEIntermediate
	}
	return t == wire.IKEAuth
}

// answerIntermediate answers IKE_INTERMEDIATE. The new keys count from the next
// message on.
func (s *ikeSA) answerIntermediate(msg *wire.Message) reply {
	i := &s.handshake.intermediate
	bad := func(err error) reply {
		r := refuse(wire.InvalidSyntax)
		r.then = func() {
			s.m.conn = s.m.expected(s.path.remote.Addr())
			s.m.fail((&ikeIntermediate{}).diagnosis(err))
		}
		return r
	}
	ke, ok := wire.Find[*wire.KE](msg)
	if !ok || ke.Group != i.methods[0] {
		return bad(errors.New("the request has no key exchange of the method agreed on"))
	}
	value, secret, err := answerKeyExchange(ke.Group, s.m.env.Rand, ke.Data)
	if err != nil {
		return bad(err)
	}
	payloads := []wire.Payload{&wire.KE{Group: ke.Group, Data: value}}
	answer := s.message(wire.IKEIntermediate, true, msg.MessageID, payloads)
	if err := errors.Join(s.cover(&i.requests, s.keys.pi, msg), s.cover(&i.responses, s.keys.pr, answer)); err != nil {
		return bad(err)
	}
	return reply{payloads: payloads, then: func() {
		defer clear(secret)
		i.methods = i.methods[1:]
		if err := s.mix(secret); err != nil {
			s.m.fail((&ikeIntermediate{}).diagnosis(err))
		}
	}}
}
