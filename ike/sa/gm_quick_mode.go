package sa

import (
	"crypto/hmac"

	"github.com/vpngw/vpngw/ike/isakmp"
)

// quickHash returns HASH(1) or HASH(2) over payloads, of which chain is the octets
// and drawn what was drawn before them: nothing, or the initiator's nonce.
func (s *ISAKMPSA) quickHash(id uint32, drawn []byte, payloads []isakmp.Payload, chain []byte) []byte {
	if s.gm != nil && s.gm.NonceFirst {
		return s.keys.sum(nonceFirst(id, drawn, payloads, chain)...)
	}
	return s.keys.sum(idOctets(id), drawn, chain)
}

// quickHashIs compares the hash of a message. In the profile GM/T 0022 both orders
// are taken, and the peer's is answered in.
func (s *ISAKMPSA) quickHashIs(hash *isakmp.Hash, msg *isakmp.Message, drawn []byte) bool {
	chain := msg.Signed(false)
	if s.gm == nil {
		return hmac.Equal(hash.Data, s.keys.sum(idOctets(msg.MessageID), drawn, chain))
	}
	var payloads []isakmp.Payload
	for _, p := range msg.Payloads {
		if p.Type() != isakmp.TypeHash {
			payloads = append(payloads, p)
		}
	}
	rfc := hmac.Equal(hash.Data, s.keys.sum(idOctets(msg.MessageID), drawn, chain))
	gm := hmac.Equal(hash.Data, s.keys.sum(nonceFirst(msg.MessageID, drawn, payloads, chain)...))
	if rfc || gm {
		s.gm.NonceFirst = gm
		s.m.gmLearned(s)
	}
	return rfc || gm
}

// nonceFirst is the order of the standard's text, in which nonces stand without
// their headers, and the initiator's ahead of its SA payload:
//
//	HASH(1) = prf(SKEYID_a, M-ID | Ni_b | SA | IDci | IDcr)
//	HASH(2) = prf(SKEYID_a, M-ID | Ni_b | SA | Nr_b | IDci | IDcr)
func nonceFirst(id uint32, drawn []byte, payloads []isakmp.Payload, chain []byte) [][]byte {
	parts := [][]byte{idOctets(id)}
	if len(drawn) > 0 {
		parts = append(parts, drawn)
	}
	var rest [][]byte
	for i, piece := range isakmp.Pieces(chain) {
		if i >= len(payloads) {
			break
		}
		nonce, ok := payloads[i].(*isakmp.Nonce)
		switch {
		case ok && len(drawn) == 0:
			parts = append(parts, nonce.Data)
		case ok:
			rest = append(rest, nonce.Data)
		default:
			rest = append(rest, piece)
		}
	}
	return append(parts, rest...)
}

// learnProbe notes how the peer names the ISAKMP SA in a probe.
func (s *ISAKMPSA) learnProbe(n *isakmp.Notify) {
	if s.gm != nil {
		s.gm.EmptyDPDSPI = len(n.SPI) == 0
		s.m.gmLearned(s)
	}
}

// probeSPI is what a probe names the ISAKMP SA by.
func (s *ISAKMPSA) probeSPI() []byte {
	if s.gm != nil && s.gm.EmptyDPDSPI {
		return nil
	}
	return s.cookies()
}
