package sa

import (
	"bytes"
	"errors"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// The additional key exchanges of a CREATE_CHILD_SA exchange are an
// IKE_FOLLOWUP_KE exchange each, right after it (RFC 9370, section 2.2.4). What
// belongs together is told by a link that the responder makes up:
//
//	initiator                                   responder
//	SA, Ni, KEi, …  ──────────────────────────►
//	   ◄───  SA, Nr, KEr, …, N(ADDITIONAL_KEY_EXCHANGE)(link)
//	KEi(1), N(ADDITIONAL_KEY_EXCHANGE)(link) ─►
//	                ◄──────────────────────────  KEr(1)
//
// The new SA exists when the last one is done.

// followupTimeout is how long a responder waits for the next of them.
const followupTimeout = 30 * time.Second

var errOtherMethod = errors.New("no key exchange of the method agreed on")

// followup is an initiator's additional key exchanges.
type followup struct {
	methods []uint16 // that are to come
	link    []byte
	kex     keyExchange
	secrets []byte // of those that are done, joined
}

// begin reads what a CREATE_CHILD_SA response says of them.
func (f *followup) begin(chosen ipsec.Proposal, msg *wire.Message) error {
	f.methods = chosen.Additional()
	return f.linked(msg)
}

// linked reads the link, where there is to be one.
func (f *followup) linked(msg *wire.Message) error {
	if !f.pending() {
		return nil
	}
	n, ok := msg.Notify(wire.AdditionalKeyExchange)
	if !ok || len(n.Data) == 0 {
		return errors.New("no link to the additional key exchange")
	}
	f.link = n.Data
	return nil
}

// pending reports whether another one is to come.
func (f *followup) pending() bool { return len(f.methods) > 0 }

func (f *followup) request(rand randSource) ([]wire.Payload, error) {
	var err error
	if f.kex, err = newKeyExchange(f.methods[0], rand); err != nil {
		return nil, err
	}
	return []wire.Payload{
		&wire.KE{Group: f.methods[0], Data: f.kex.public()},
		&wire.Notify{NotifyType: wire.AdditionalKeyExchange, Data: f.link},
	}, nil
}

// take takes an answer.
func (f *followup) take(msg *wire.Message) error {
	ke, ok := wire.Find[*wire.KE](msg)
	if !ok || f.kex == nil || ke.Group != f.methods[0] {
		return errOtherMethod
	}
	secret, err := f.kex.shared(ke.Data)
	if err != nil {
		return err
	}
	f.secrets = appendSecret(f.secrets, secret)
	f.methods = f.methods[1:]
	return f.linked(msg)
}

func (f *followup) wipe() {
	if f.kex != nil {
		f.kex.wipe()
	}
	clear(f.secrets)
	*f = followup{}
}

// appendSecret joins secrets and wipes where they were.
func appendSecret(secrets, secret []byte) []byte {
	joined := join(secrets, secret)
	clear(secrets)
	clear(secret)
	return joined
}

// followedUp is what a responder keeps of a CREATE_CHILD_SA exchange until its
// additional key exchanges are done.
type followedUp struct {
	link    []byte
	methods []uint16
	secrets []byte
	// finish makes the new SA, and the answer that holds the last value.
	finish func(last *wire.KE, secrets []byte) reply
	// wipe drops the secrets that finish would use.
	wipe func()
}

// awaitFollowup answers a CREATE_CHILD_SA request that is to be followed up. An
// IKE SA waits for one at a time: a later request takes its place.
func (s *ikeSA) awaitFollowup(payloads []wire.Payload, f *followedUp) reply {
	s.forgetFollowup()
	link, err := s.m.newNonce()
	if err != nil {
		f.wipe()
		return refuse(wire.TemporaryFailure)
	}
	f.link = link
	s.followedUp, s.followupAt = f, s.m.now.Add(followupTimeout)
	return reply{payloads: append(payloads, &wire.Notify{NotifyType: wire.AdditionalKeyExchange, Data: link})}
}

// forgetFollowup gives up what is not followed up.
func (s *ikeSA) forgetFollowup() {
	if f := s.followedUp; f != nil {
		f.wipe()
		clear(f.secrets)
	}
	s.followedUp, s.followupAt = nil, time.Time{}
}

// answerFollowupKE answers IKE_FOLLOWUP_KE.
func (s *ikeSA) answerFollowupKE(msg *wire.Message) reply {
	f := s.followedUp
	n, ok := msg.Notify(wire.AdditionalKeyExchange)
	if f == nil || !ok || !bytes.Equal(n.Data, f.link) {
		return refuse(wire.StateNotFound)
	}
	ke, _ := wire.Find[*wire.KE](msg)
	if ke.Group != f.methods[0] {
		s.forgetFollowup()
		return refuse(wire.InvalidSyntax)
	}
	value, secret, err := answerKeyExchange(ke.Group, s.m.env.Rand, ke.Data)
	if err != nil {
		s.forgetFollowup()
		return refuse(wire.InvalidSyntax)
	}
	f.secrets = appendSecret(f.secrets, secret)
	f.methods = f.methods[1:]
	answer := &wire.KE{Group: ke.Group, Data: value}
	if len(f.methods) > 0 {
		s.followedUp = nil
		return s.awaitFollowup([]wire.Payload{answer}, f)
	}
	defer s.forgetFollowup()
	return f.finish(answer, f.secrets)
}
