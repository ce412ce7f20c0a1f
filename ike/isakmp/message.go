package isakmp

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Message is an IKEv1 message.
//
// On the way in: Parse, then Open with the plaintext when it is Encrypted. On
// the way out: fill in Header and Payloads, then Encode, which finds
// NextPayload and Length itself.
type Message struct {
	Header
	Payloads []Payload

	chain []byte // the payloads as they were received, padding cut off
	ends  []int  // of the payloads in chain
	body  []byte // of an encrypted message, until Open
}

const payloadHeaderLen = 4

// most is how often a payload may occur. Of a payload that is not here there
// may be any number.
var most = map[PayloadType]int{
	TypeSA: 1, TypeKE: 1, TypeNonce: 1, TypeHash: 1, TypeID: 2, TypeFragment: 1,
}

// Parse reads the header of a datagram and, where it is not encrypted, the
// payloads. The error is always an *Error.
func Parse(b []byte) (*Message, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	m := &Message{Header: h}
	if h.Encrypted {
		m.body = append([]byte(nil), b[HeaderLen:]...)
		return m, nil
	}
	end, err := m.parseChain(b, HeaderLen)
	if err != nil {
		return nil, err
	}
	if !isPadding(b[end:]) {
		return nil, malformed(end, "%d trailing octets", len(b)-end)
	}
	return m, nil
}

// isPadding tells whether what follows the payloads of a message that is not
// encrypted is there to make its length a multiple of four, as libreswan and some
// routers do though RFC 2408 does not ask for it: up to three zero octets.
func isPadding(b []byte) bool {
	for _, octet := range b {
		if octet != 0 {
			return false
		}
	}
	return len(b) < 4
}

// Ciphertext returns what Encrypted messages have after the header. It is nil
// after Open.
func (m *Message) Ciphertext() []byte { return m.body }

// Open reads the payloads of a message whose decrypted body is plain. What
// follows them is padding, and may hold anything. The error is always an
// *Error: with a wrong key hardly any plaintext is a chain of payloads.
func (m *Message) Open(plain []byte) error {
	if _, err := m.parseChain(plain, 0); err != nil {
		return err
	}
	m.body = nil
	return nil
}

// parseChain reads payloads from b[start:] and returns where they end.
func (m *Message) parseChain(b []byte, start int) (end int, err error) {
	var list []Payload
	var ends []int
	count := map[PayloadType]int{}
	at := start
	for next := m.NextPayload; next != NoNextPayload; {
		fail := func(e *Error, at int) error {
			e.Payload, e.Offset = next, at+e.Offset
			return e
		}
		if len(list) == MaxPayloads {
			return 0, fail(malformed(0, "more than %d payloads", MaxPayloads), at)
		}
		if len(b)-at < payloadHeaderLen {
			return 0, fail(malformed(0, "%d octets are no payload", len(b)-at), at)
		}
		following, length := PayloadType(b[at]), int(binary.BigEndian.Uint16(b[at+2:]))
		if length < payloadHeaderLen || length > len(b)-at {
			return 0, fail(malformed(0, "length %d with %d octets left", length, len(b)-at), at)
		}
		if count[next]++; most[next] > 0 && count[next] > most[next] {
			return 0, fail(malformed(0, "occurs %d times", count[next]), at)
		}
		p, e := parsePayload(next, b[at+payloadHeaderLen:at+length])
		if e != nil {
			return 0, fail(e, at+payloadHeaderLen)
		}
		at += length
		list, ends = append(list, p), append(ends, at-start)
		next = following
	}
	m.Payloads, m.ends = list, ends
	m.chain = append([]byte(nil), b[start:at]...)
	return at, nil
}

// Signed returns what the Hash payload of a phase 2 message covers: the octets
// of all other payloads, wherever it stands among them. With apart, a payload in
// front of it does not announce it: senders that put it last differ in that.
func (m *Message) Signed(apart bool) []byte {
	var signed []byte
	start := 0
	for i, p := range m.Payloads {
		if p.Type() != TypeHash {
			at := len(signed)
			signed = append(signed, m.chain[start:m.ends[i]]...)
			if apart && i+1 < len(m.Payloads) && m.Payloads[i+1].Type() == TypeHash {
				signed[at] = byte(NoNextPayload)
			}
		}
		start = m.ends[i]
	}
	return signed
}

// Pieces splits a chain that Chain or Signed returned into its payloads, each
// with its generic header.
func Pieces(chain []byte) (list [][]byte) {
	for len(chain) >= payloadHeaderLen {
		length := int(binary.BigEndian.Uint16(chain[2:]))
		if length < payloadHeaderLen || length > len(chain) {
			return list
		}
		list = append(list, chain[:length])
		chain = chain[length:]
	}
	return list
}

// Chain returns payloads one after the other, each under its generic header.
// after is the type of the payload that follows the last one; zero: none.
func Chain(list []Payload, after PayloadType) ([]byte, error) {
	if len(list) > MaxPayloads {
		return nil, fmt.Errorf("%d payloads, more than %d", len(list), MaxPayloads)
	}
	var b []byte
	for i, p := range list {
		start, following := len(b), after
		if i+1 < len(list) {
			following = list[i+1].Type()
		}
		var err error
		if b, err = p.appendBody(append(b, byte(following), 0, 0, 0)); err != nil {
			return nil, fmt.Errorf("%s payload: %w", p.Type(), err)
		}
		length := len(b) - start
		if length > MaxMessage {
			return nil, fmt.Errorf("%s payload: %d octets do not fit", p.Type(), length)
		}
		binary.BigEndian.PutUint16(b[start+2:], uint16(length))
	}
	return b, nil
}

// Encode returns the message as a datagram. With encrypt, its payloads are
// padded with zeros to a multiple of block octets and encrypted in place.
func (m *Message) Encode(block int, encrypt func([]byte)) ([]byte, error) {
	chain, err := Chain(m.Payloads, NoNextPayload)
	if err != nil {
		return nil, err
	}
	if encrypt != nil {
		if over := len(chain) % block; over != 0 || len(chain) == 0 {
			chain = append(chain, make([]byte, block-over)...)
		}
	}
	if len(chain) > MaxMessage-HeaderLen {
		return nil, fmt.Errorf("a message of %d octets, more than %d", HeaderLen+len(chain), MaxMessage)
	}
	h := m.Header
	h.NextPayload, h.Encrypted, h.Length = NoNextPayload, encrypt != nil, uint32(HeaderLen+len(chain))
	if len(m.Payloads) > 0 {
		h.NextPayload = m.Payloads[0].Type()
	}
	if encrypt != nil {
		encrypt(chain)
	}
	return append(h.Append(make([]byte, 0, HeaderLen+len(chain))), chain...), nil
}

// Find returns the first payload of type P, such as *KE.
func Find[P Payload](m *Message) (P, bool) {
	for _, p := range m.Payloads {
		if found, ok := p.(P); ok {
			return found, true
		}
	}
	var none P
	return none, false
}

// All returns all payloads of type P, such as *Notify, in order.
func All[P Payload](m *Message) []P {
	var all []P
	for _, p := range m.Payloads {
		if found, ok := p.(P); ok {
			all = append(all, found)
		}
	}
	return all
}

// Notify returns the first notification of a type.
func (m *Message) Notify(t NotifyType) (*Notify, bool) {
	for _, n := range All[*Notify](m) {
		if n.NotifyType == t {
			return n, true
		}
	}
	return nil, false
}

// ErrorNotify returns the first notification that refuses something.
func (m *Message) ErrorNotify() (*Notify, bool) {
	for _, n := range All[*Notify](m) {
		if n.NotifyType.IsError() {
			return n, true
		}
	}
	return nil, false
}

// String reads "main mode [SA, VID, VID]". It tells no identity, key or nonce.
func (m *Message) String() string {
	names := make([]string, 0, len(m.Payloads)+1)
	for _, p := range m.Payloads {
		if p, ok := p.(fmt.Stringer); ok {
			names = append(names, p.String())
			continue
		}
		names = append(names, p.Type().String())
	}
	if m.body != nil {
		names = append(names, "encrypted")
	}
	return m.Header.String() + " [" + strings.Join(names, ", ") + "]"
}
