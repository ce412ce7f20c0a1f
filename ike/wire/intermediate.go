package wire

import (
	"encoding/binary"
	"errors"
)

// IntAuthOctets returns what the authentication of IKE_AUTH covers of an
// IKE_INTERMEDIATE message (RFC 9242, section 3.3.2): the header, the generic
// header of the Encrypted payload, and the payloads inside in the clear, with
// the lengths that the message would have without IV, padding and ICV. Of a
// message in fragments they are those of the whole one. The message is one to be
// sent, or has been opened.
func (m *Message) IntAuthOctets() ([]byte, error) {
	head, inner := m.head, m.inner
	if !m.Encrypted() {
		var first PayloadType
		var err error
		if inner, first, err = appendChain(nil, m.Payloads); err != nil {
			return nil, err
		}
		h := m.outgoing()
		head = append(h.Append(nil), byte(first), 0, 0, 0)
	}
	if m.Exchange != IKEIntermediate || len(head) != HeaderLen+payloadHeaderLen {
		return nil, errors.New("not a protected IKE_INTERMEDIATE message")
	}
	out := append(append(make([]byte, 0, len(head)+len(inner)), head...), inner...)
	out[16] = byte(TypeEncrypted) // next payload: a fragment has another one
	binary.BigEndian.PutUint32(out[24:], uint32(len(out)))
	binary.BigEndian.PutUint16(out[HeaderLen+2:], uint16(len(out)-HeaderLen))
	return out, nil
}
