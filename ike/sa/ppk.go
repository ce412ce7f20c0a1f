package sa

import (
	"bytes"
	"crypto/subtle"
	"errors"

	"github.com/vpngw/vpngw/ike/wire"
)

// PPK is a post-quantum pre-shared key (RFC 8784): a secret beside the PSK that
// is mixed into the keys of children and of rekeyed IKE SAs, so that they hold
// even against a peer that breaks the key exchange. The IKE SA on which it was
// agreed is protected by it from its first rekey on.
type PPK struct {
	ID  string // by which the peer finds the key
	Key []byte // 32 octets or more of randomness
	// Required refuses a peer that does without. Else the IKE SA comes up without
	// the key where the peer does not have it.
	Required bool
}

// same reports whether two connections have the same PPK, or none.
func (p *PPK) same(q *PPK) bool {
	if p == nil || q == nil {
		return p == q
	}
	return p.ID == q.ID && p.Required == q.Required && subtle.ConstantTimeCompare(p.Key, q.Key) == 1
}

func (p *PPK) validate() error {
	switch {
	case p == nil:
		return nil
	case p.ID == "" || len(p.ID) > maxPPKID:
		return errors.New("PPK: the id must have 1 to 255 octets")
	case len(p.Key) == 0:
		return errors.New("PPK: the key is empty")
	}
	return nil
}

const (
	maxPPKID   = 255 // octets, of ours
	ppkIDFixed = 2   // type of a PPK_ID that both sides have configured (section 5.1)
)

// identity returns the PPK_IDENTITY notify of a request.
func (p *PPK) identity() *wire.Notify {
	return &wire.Notify{NotifyType: wire.PPKIdentity, Data: append([]byte{ppkIDFixed}, p.ID...)}
}

// named reports whether a PPK_IDENTITY notify means the key.
func (p *PPK) named(n *wire.Notify) bool {
	return len(n.Data) > 1 && n.Data[0] == ppkIDFixed && string(n.Data[1:]) == p.ID
}

// namedPPK returns the id of a PPK_IDENTITY notify for a message to people.
func namedPPK(n *wire.Notify) string {
	if len(n.Data) < 2 {
		return "none"
	}
	return printable(string(n.Data[1:]))
}

// withPPK returns the keys with a PPK mixed in (section 3): SK_d, SK_pi and SK_pr
// become prf+(PPK, themselves). What protects messages stays.
func (k *ikeKeys) withPPK(ppk *PPK) (*ikeKeys, error) {
	mixed := &ikeKeys{
		prf: k.prf, ai: bytes.Clone(k.ai), ar: bytes.Clone(k.ar), ei: bytes.Clone(k.ei), er: bytes.Clone(k.er),
	}
	for from, to := range map[*[]byte]*[]byte{&k.d: &mixed.d, &k.pi: &mixed.pi, &k.pr: &mixed.pr} {
		var err error
		if *to, err = k.prf.plus(ppk.Key, *from, len(*from)); err != nil {
			return nil, err
		}
	}
	return mixed, nil
}

// usePPK goes over to keys made by withPPK.
func (s *ikeSA) usePPK(mixed *ikeKeys) {
	s.keys.wipe()
	s.keys, s.ppk = mixed, true
}

// ppkDiagnosis tells that the two ends disagree about a PPK.
func ppkDiagnosis(x wire.ExchangeType, ours, theirs, detail string) *Diagnosis {
	return &Diagnosis{
		Reason: ReasonAuthentication, Cause: CausePPK, Exchange: x.String(), Parameter: "post-quantum pre-shared key",
		Ours: ours, Theirs: theirs, Detail: detail,
	}
}

// describe returns what is configured, for a diagnosis.
func (p *PPK) describe() string {
	switch {
	case p == nil:
		return "none"
	case p.Required:
		return "required, id " + printable(p.ID)
	}
	return "optional, id " + printable(p.ID)
}

// peerPPK is what an initiator's IKE_AUTH request says of a PPK.
type peerPPK struct {
	identity *wire.Notify // of the key that AUTH was made with; nil: with none
	without  []byte       // AUTH data made without it, or nil
}

func readPPK(msg *wire.Message) (p peerPPK) {
	if n, ok := msg.Notify(wire.PPKIdentity); ok {
		p.identity = n
	}
	if n, ok := msg.Notify(wire.NoPPKAuth); ok && len(n.Data) > 0 {
		p.without = n.Data
	}
	return p
}

// proof is a peer's AUTH, and what it is to be made with.
type proof struct {
	keys    *ikeKeys
	data    []byte
	ppk     bool   // the keys have our PPK in them
	without []byte // the same made without it, where the peer gives that, too
}

// proof tells, of a candidate's PPK and of what the initiator says of its own,
// which keys its proof is to be made with (section 3).
func (s *ikeSA) proof(c *Connection, auth *wire.Auth, peer peerPPK) (proof, *Diagnosis) {
	ours := c.PPK
	switch {
	case peer.identity == nil && ours != nil && ours.Required:
		return proof{}, ppkDiagnosis(wire.IKEAuth, ours.describe(), "none", "the peer does without")
	case peer.identity == nil:
		return proof{keys: s.keys, data: auth.Data}, nil
	case ours != nil && ours.named(peer.identity):
		mixed, err := s.keys.withPPK(ours)
		if err != nil {
			return proof{}, ppkDiagnosis(wire.IKEAuth, ours.describe(), namedPPK(peer.identity), err.Error())
		}
		return proof{keys: mixed, data: auth.Data, ppk: true, without: peer.without}, nil
	case peer.without == nil:
		return proof{}, ppkDiagnosis(wire.IKEAuth, ours.describe(), "required, id "+namedPPK(peer.identity), "")
	case ours != nil && ours.Required:
		return proof{}, ppkDiagnosis(wire.IKEAuth, ours.describe(), "optional, id "+namedPPK(peer.identity), "")
	}
	return proof{keys: s.keys, data: peer.without}, nil
}

// prove returns the payloads of an initiator's proof: AUTH, and with a PPK its id
// and, unless it is required, AUTH without it.
func (s *ikeSA) prove(c *Connection, id *wire.ID) ([]wire.Payload, error) {
	h := s.handshake
	of, octets := h.signed(true), id.AuthOctets()
	plain := s.keys.pskAuth(c.PSK, true, of, octets)
	if !h.ppk || c.PPK == nil {
		return []wire.Payload{&wire.Auth{Method: wire.AuthSharedKey, Data: plain}}, nil
	}
	var err error
	if h.mixed, err = s.keys.withPPK(c.PPK); err != nil {
		return nil, err
	}
	payloads := []wire.Payload{
		&wire.Auth{Method: wire.AuthSharedKey, Data: h.mixed.pskAuth(c.PSK, true, of, octets)}, c.PPK.identity(),
	}
	if !c.PPK.Required {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.NoPPKAuth, Data: plain})
	}
	return payloads, nil
}

// settlePPK heeds whether the responder has used the PPK that we have named.
func (s *ikeSA) settlePPK(c *Connection, msg *wire.Message) *Diagnosis {
	mixed := s.handshake.mixed
	_, used := msg.Notify(wire.PPKIdentity)
	switch {
	case used && mixed == nil:
		return ppkDiagnosis(wire.IKEAuth, c.PPK.describe(), "used", "the peer uses a key that we have not named")
	case used:
		s.handshake.mixed = nil
		s.usePPK(mixed)
	case c.PPK != nil && c.PPK.Required:
		return ppkDiagnosis(wire.IKEAuth, c.PPK.describe(), "none", "the peer does without")
	}
	return nil
}
