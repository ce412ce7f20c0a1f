package sa

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"

	"github.com/vpngw/vpngw/ike/isakmp"
)

// Main mode with the digital envelope (GM/T 0022):
//
//	1  SA                                                          ──────►
//	2  SA, CERT_sig_r, CERT_enc_r                                  ◄──────
//	3  SK_i, NONCE_i, ID_i, CERT_sig_i, CERT_enc_i, SIG_i, [NAT-D] ──────►
//	4  SK_r, NONCE_r, ID_r, SIG_r, [NAT-D]                         ◄──────
//	5  HASH_I                                                      ──────►  encrypted
//	6  HASH_R                                                      ◄──────  encrypted
//
// What messages 3 and 4 prove is old: somebody may have recorded them. That the
// peer is there is shown by its hash, which hangs on a nonce that only it can read.
//
// Work with SM2 is what an attacker would have us do. So of a message its form is
// checked first, then the certificates, and only then the envelope is opened; and
// what may fail in one exchange is counted (gmMaxGuesses).

// gmMaxGuesses bounds how many messages that cost work with SM2 may fail in one
// exchange, on each side.
const gmMaxGuesses = 8

// gmPhase1 is what the messages of main mode with the digital envelope remember
// beside phase1.
type gmPhase1 struct {
	own      *gmOwn
	peer     *gmPeer
	conn     *Connection // of a responder, once the peer's certificates tell it
	ski, skr []byte
	sar      []byte // body of the responder's SA payload, as the initiator got it
	idr      []byte // body of the responder's ID payload
}

func (g *gmPhase1) wipe() {
	if g == nil {
		return
	}
	g.own.wipe()
	clear(g.ski)
	clear(g.skr)
}

// takeGM returns what handles the message that comes next.
func (s *ISAKMPSA) takeGM() func(Datagram, *isakmp.Message) error {
	switch p := s.phase1; {
	case s.initiator && p.awaits == 2:
		return s.takeGMChoice
	case !s.initiator && p.awaits == 3:
		return s.takeInitiatorEnvelope
	case s.initiator && p.awaits == 4:
		return s.takeResponderEnvelope
	case !s.initiator && p.awaits == 5:
		return s.takeGMInitiatorHash
	}
	return s.takeGMResponderHash
}

// guess counts a message that is about to cost work with SM2.
func (s *ISAKMPSA) guess() error {
	if s.phase1.guesses >= gmMaxGuesses {
		return errors.New("too many messages that were wrong")
	}
	if allow := s.m.env.AllowProof; allow != nil && !s.initiator && !allow(s.path.local.Addr(), s.path.remote.Addr()) {
		return errors.New("too many messages of unauthenticated peers that cost operations of public keys")
	}
	s.phase1.guesses++
	return nil
}

// envelope is the payloads of message 3 or 4. Only their form has been checked.
type envelope struct {
	key, nonce, id []byte // encrypted
	certificates   []*isakmp.Cert
	signature      []byte // in DER
	rawSignature   bool
}

// readEnvelope finds the payloads of an envelope and checks their form, which
// costs nothing.
func readEnvelope(msg *isakmp.Message) (*envelope, error) {
	key := isakmp.All[*isakmp.SymmetricKey](msg)
	nonce, okNonce := isakmp.Find[*isakmp.Nonce](msg)
	ids := isakmp.All[*isakmp.ID](msg)
	signature := isakmp.All[*isakmp.Signature](msg)
	if len(key) != 1 || !okNonce || len(ids) != 1 || len(signature) != 1 {
		return nil, errors.New("a digital envelope has one SK, NONCE, ID and SIG payload each")
	}
	if err := sealedKeyForm(key[0].Data); err != nil {
		return nil, err
	}
	id, err := isakmp.Body(ids[0])
	if err != nil {
		return nil, err
	}
	if blocks := len(nonce.Data)%gmKeyLen == 0 && len(id)%gmKeyLen == 0; !blocks || len(id) > maxGMIdentity {
		return nil, fmt.Errorf("a nonce of %d and an identity of %d octets, encrypted", len(nonce.Data), len(id))
	}
	e := &envelope{key: key[0].Data, nonce: nonce.Data, id: id, certificates: isakmp.All[*isakmp.Cert](msg)}
	e.signature, e.rawSignature, err = parseGMSignature(signature[0].Data)
	return e, err
}

// letter is an opened envelope.
type letter struct {
	sk, nonce, id []byte // id is the body of an ID payload
	encoding      GMKeyEncoding
	chain         *gmChain
}

// open opens an envelope with our encryption key.
func (e *envelope) open(own *gmOwn) (l *letter, err error) {
	l = &letter{}
	if l.sk, l.encoding, err = openKey(own.encryptionKey, e.key); err != nil {
		return nil, err
	}
	if l.chain, err = newGMChain(l.sk); err != nil {
		return nil, err
	}
	if l.nonce, err = l.chain.open(e.nonce); err == nil {
		l.id, err = l.chain.open(e.id)
	}
	if err == nil && (len(l.nonce) < isakmp.MinNonce || len(l.id) < 4) {
		err = errEnvelope
	}
	if err != nil {
		clear(l.sk)
		return nil, err
	}
	return l, nil
}

// identity reads the body of an ID payload.
func (l *letter) identity() *isakmp.ID {
	return &isakmp.ID{IDType: isakmp.IDType(l.id[0]), Protocol: l.id[1], Port: uint16(l.id[2])<<8 | uint16(l.id[3]), Data: l.id[4:]}
}

// write makes an envelope of ours for the other end, with our certificates if it
// has to be told them. It returns Sk, the nonce and the body of the identity as
// well.
func (s *ISAKMPSA) write(own *gmOwn, c *Connection, to *gmPeer, certificates bool) (payloads []isakmp.Payload, l *letter, err error) {
	rand := s.m.env.Rand
	l = &letter{sk: make([]byte, gmKeyLen), nonce: make([]byte, gmKeyLen)}
	for _, b := range [][]byte{l.sk, l.nonce} {
		if err := readFull(rand, b); err != nil {
			return nil, nil, err
		}
	}
	sealed, err := sealKey(rand, to.encryptionKey(), l.sk, s.gm.KeyEncoding)
	if err != nil {
		return nil, nil, err
	}
	chain, err := newGMChain(l.sk)
	if err != nil {
		return nil, nil, err
	}
	if l.id, err = isakmp.Body(c.gmIdentity(own)); err != nil {
		return nil, nil, err
	}
	payloads = []isakmp.Payload{
		&isakmp.SymmetricKey{Data: sealed}, &isakmp.Nonce{Data: chain.seal(l.nonce)},
		&isakmp.Unknown{PayloadType: isakmp.TypeID, Body: chain.seal(l.id)},
	}
	list := own.payloads()
	encryption, err := isakmp.Body(list[1])
	if err != nil {
		return nil, nil, err
	}
	if certificates {
		for _, p := range list {
			if s.gm.EncryptedCertificates {
				body, err := isakmp.Body(p)
				if err != nil {
					return nil, nil, err
				}
				p = &isakmp.Unknown{PayloadType: isakmp.TypeCert, Body: chain.seal(body)}
			}
			payloads = append(payloads, p)
		}
	}
	signature, err := gmSign(rand, own.signingKey, *s.gm, l.sk, l.nonce, l.id, encryption)
	if err != nil {
		return nil, nil, err
	}
	return append(payloads, &isakmp.Signature{Data: signature}), l, nil
}

// signedBy checks the signature of an envelope. It covers the encryption
// certificate of its sender, with the octet of its encoding.
func (e *envelope) signedBy(peer *gmPeer, l *letter, v GMVariant) bool {
	return gmVerify(peer.signingKey(), e.signature, v, l.sk, l.nonce, l.id, peer.encryptionBody)
}

// sealedDiagnosis is for an envelope that does not open: whoever wrote it had
// another certificate of ours, or another form.
func (s *ISAKMPSA) sealedDiagnosis(own *gmOwn, err error) error {
	return &refusalError{&Diagnosis{
		Reason: ReasonAuthentication, Cause: CauseEnvelope, Exchange: s.mode.String(), Parameter: "digital envelope",
		Ours: "encryption certificate " + own.encryption.SerialNumber.String(), Detail: err.Error() + " with our encryption key",
	}}
}

func (s *ISAKMPSA) signatureDiagnosis(peer *gmPeer) error {
	return &refusalError{&Diagnosis{
		Reason: ReasonAuthentication, Cause: CauseEnvelope, Exchange: s.mode.String(), Parameter: "signature of the peer",
		Theirs: nameOf(peer.signing.RawSubject),
		Detail: "the signature of the digital envelope is not by the key of the peer's signing certificate",
	}}
}

// gmHashIs compares a hash of message 5 or 6. Texts differ in whose SA payload it
// covers; where one transform was offered both are equal.
func (s *ISAKMPSA) gmHashIs(hash *isakmp.Hash, initiator bool, id []byte) bool {
	p := s.phase1
	ok := hmac.Equal(hash.Data, gmHash(s.keys, initiator, s.cookies(), p.sai, id))
	if p.gm.sar != nil {
		ok = ok || hmac.Equal(hash.Data, gmHash(s.keys, initiator, s.cookies(), p.gm.sar, id))
	}
	return ok
}

// openGMHash decrypts message 5 or 6 and returns its hash.
func (s *ISAKMPSA) openGMHash(msg *isakmp.Message) (hash *isakmp.Hash, iv []byte, err error) {
	switch {
	case !msg.Encrypted:
		return nil, nil, errors.New("not encrypted")
	case len(msg.Ciphertext()) > maxMessage5:
		return nil, nil, fmt.Errorf("%d octets, more than %d", len(msg.Ciphertext()), maxMessage5)
	}
	plain, iv, err := s.keys.decrypt(s.phase1.iv, msg.Ciphertext())
	if err != nil {
		return nil, nil, err
	}
	differs := &refusalError{s.pskDiagnosis("the peer's hash does not decrypt")}
	if err := msg.Open(plain); err != nil {
		return nil, nil, differs
	}
	hash, ok := isakmp.Find[*isakmp.Hash](msg)
	if !ok {
		return nil, nil, differs
	}
	return hash, iv, nil
}

// gmKeys takes the keys into use that the two nonces make.
func (s *ISAKMPSA) gmKeys() error {
	p := s.phase1
	k, err := newGMKeys(p.ni, p.nr, s.spii, s.spir)
	if err != nil {
		return err
	}
	// The first IV is SM3(Sk_i | Sk_r): the two stand where RFC 2409 has the public
	// values.
	p.gi, p.gr = p.gm.ski, p.gm.skr
	s.setKeys(k)
	return nil
}

// gmProofDiagnosis is for hashes that are not equal although both envelopes have
// opened.
func (s *ISAKMPSA) gmProofDiagnosis(how string) *Diagnosis {
	return &Diagnosis{
		Reason: ReasonAuthentication, Cause: CauseEnvelope, Exchange: s.mode.String(), Parameter: "keys of phase 1",
		Detail: "the two ends have made different keys, or the peer does not hold those of its certificates: " + how,
	}
}

// gmUnanswered completes the diagnosis of a message that brought no answer.
func (s *ISAKMPSA) gmUnanswered(d *Diagnosis, number int) {
	switch number {
	case 3:
		d.Cause, d.Parameter = CauseOwnTrust, "certificates"
		d.Detail += "; the peer may not trust the issuer of our certificates, or know another subject"
	case 5:
		d.Cause, d.Parameter = CauseEnvelope, "keys of phase 1"
	}
}

// ofProfile returns the connections of one profile.
func ofProfile(list []*Connection, gm bool) []*Connection {
	return slices.DeleteFunc(slices.Clone(list), func(c *Connection) bool { return (c.GM != nil) != gm })
}

// gmVendors are what we announce in the profile.
func (s *ISAKMPSA) gmVendors(all []isakmp.Payload) []isakmp.Payload {
	if !s.gm.NoNATTraversal {
		return all
	}
	return []isakmp.Payload{&isakmp.VendorDPD, &isakmp.VendorFragmentation}
}

// gmLearn notes what the peer announces.
func (s *ISAKMPSA) gmLearn(msg *isakmp.Message) {
	s.learn(msg)
	s.natTraversal = s.natTraversal && !s.gm.NoNATTraversal
}
