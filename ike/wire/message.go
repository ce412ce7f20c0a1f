package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vpngw/vpngw/ike/octets"
)

// Message is an IKEv2 message.
//
// On the way in: Parse, then Open when it is Encrypted (or Reassembler.Add
// when it is a fragment of one), then Check, then the payloads are worth
// looking at. On the way out: fill in Header and Payloads, then Append, Seal
// or SealFragments, which find NextPayload, version and Length themselves.
type Message struct {
	Header
	Payloads []Payload

	clear         int // payloads that stood outside of the Encrypted payload
	envelope      envelope
	authenticated bool
	// Of IKE_INTERMEDIATE: the header with the generic one of the Encrypted
	// payload, and what was inside, as they came. See IntAuthOctets.
	head, inner []byte
}

// envelope is the Encrypted payload of a parsed message.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Next Payload  |C|  RESERVED   |         Payload Length        |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|   Fragment Number (SKF only)  |  Total Fragments (SKF only)   |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~ body of the Cipher: IV, encrypted payloads and padding, ICV   ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type envelope struct {
	kind          PayloadType // TypeEncrypted, TypeEncryptedFr; zero: none
	first         PayloadType // type of the first payload inside
	offset        int         // of the body in the datagram
	number, total int         // of a fragment, number from 1
}

const (
	payloadHeaderLen  = 4
	fragmentHeaderLen = payloadHeaderLen + 4
	criticalBit       = 0x80
)

// Parse reads the header and the payloads that are in the clear. It stops at
// an Encrypted payload, which must come last. The error is always an *Error.
func Parse(b []byte) (*Message, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	if h.MajorVersion != 2 {
		e := dropError(17, "major version %d", h.MajorVersion)
		if h.MajorVersion > 2 {
			e.Notify = InvalidMajorVersion
		}
		return nil, e
	}
	m := &Message{Header: h}
	if m.Payloads, m.envelope, err = parseChain(h.NextPayload, b, HeaderLen); err != nil {
		return nil, err
	}
	m.clear = len(m.Payloads)
	return m, nil
}

// parseChain reads payloads from b[offset:] to its end.
func parseChain(next PayloadType, b []byte, offset int) (list []Payload, env envelope, err error) {
	for next != NoNextPayload {
		fail := func(e *Error, at int) error {
			e.Payload, e.Offset = next, at+e.Offset
			return e
		}
		if len(list) == MaxPayloads {
			return nil, env, fail(syntaxError(0, "more than %d payloads", MaxPayloads), offset)
		}
		if len(b)-offset < payloadHeaderLen {
			return nil, env, fail(syntaxError(0, "%d octets are no payload", len(b)-offset), offset)
		}
		following, critical := PayloadType(b[offset]), b[offset+1]&criticalBit != 0
		length := int(binary.BigEndian.Uint16(b[offset+2:]))
		if length < payloadHeaderLen || length > len(b)-offset {
			return nil, env, fail(syntaxError(0, "length %d with %d octets left", length, len(b)-offset), offset)
		}
		body := b[offset+payloadHeaderLen : offset+length]
		if next == TypeEncrypted || next == TypeEncryptedFr {
			env, e := parseEnvelope(next, following, body, offset, offset+length == len(b))
			if e != nil {
				return nil, env, fail(e, offset)
			}
			return list, env, nil
		}
		p, e := parsePayload(next, critical, body)
		if e != nil {
			return nil, env, fail(e, offset+payloadHeaderLen)
		}
		list = append(list, p)
		offset, next = offset+length, following
	}
	if offset != len(b) {
		return nil, env, syntaxError(offset, "%d trailing octets", len(b)-offset)
	}
	return list, env, nil
}

func parseEnvelope(kind, first PayloadType, body []byte, offset int, last bool) (envelope, *Error) {
	env := envelope{kind: kind, first: first, offset: offset + payloadHeaderLen}
	if !last {
		return env, syntaxError(0, "not the last payload")
	}
	if kind == TypeEncryptedFr {
		if len(body) < fragmentHeaderLen-payloadHeaderLen {
			return env, syntaxError(payloadHeaderLen, "no fragment numbers")
		}
		env.offset = offset + fragmentHeaderLen
		env.number = int(binary.BigEndian.Uint16(body))
		env.total = int(binary.BigEndian.Uint16(body[2:]))
		switch {
		case env.number == 0 || env.number > env.total:
			return env, syntaxError(payloadHeaderLen, "fragment %d of %d", env.number, env.total)
		case env.total > MaxFragments:
			return env, syntaxError(payloadHeaderLen, "%d fragments, more than %d", env.total, MaxFragments)
		case (env.number == 1) != (first != NoNextPayload):
			return env, syntaxError(0, "fragment %d announces %s", env.number, first)
		}
	}
	return env, nil
}

// parsePayload reads one payload's body.
func parsePayload(t PayloadType, critical bool, body []byte) (p Payload, err *Error) {
	c := octets.NewCursor(body)
	switch t {
	case TypeSA:
		p = parseSA(c)
	case TypeKE:
		p = parseKE(c)
	case TypeIDi, TypeIDr:
		p = parseID(c, t == TypeIDr)
	case TypeCert:
		p = parseCert(c)
	case TypeCertReq:
		p = parseCertReq(c)
	case TypeAuth:
		p = parseAuth(c)
	case TypeNonce:
		p = parseNonce(c)
	case TypeNotify:
		p = parseNotify(c)
	case TypeDelete:
		p = parseDelete(c)
	case TypeVendorID:
		p = parseVendorID(c)
	case TypeTSi, TypeTSr:
		p = parseTS(c, t == TypeTSr)
	case TypeConfig:
		p = parseConfig(c)
	case TypeEAP:
		p = parseEAP(c)
	case NoNextPayload, TypeEncrypted, TypeEncryptedFr:
		return nil, syntaxError(0, "out of place")
	default:
		if critical {
			e := syntaxError(0, "critical, and not known")
			e.Notify = UnsupportedCriticalPayload
			return nil, e
		}
		return &Unknown{PayloadType: t, Body: c.Remainder()}, nil
	}
	c.End()
	if c.Failed() {
		offset, reason := c.Fault()
		return nil, syntaxError(offset, "%s", reason)
	}
	return p, nil
}

// Encrypted reports whether the message came with an Encrypted payload, whole
// or in fragments, opened or not.
func (m *Message) Encrypted() bool { return m.envelope.kind != NoNextPayload }

// Authenticated reports whether the message has passed its integrity check. It
// stays true when the payloads inside then turn out malformed.
func (m *Message) Authenticated() bool { return m.authenticated }

// Fragment returns the position, from 1, of a message that is one of total
// fragments; ok is false when it is whole.
func (m *Message) Fragment() (number, total int, ok bool) {
	return m.envelope.number, m.envelope.total, m.envelope.kind == TypeEncryptedFr
}

// Open authenticates and decrypts a message that Parse has read from raw, and
// adds the payloads inside to Payloads. The error is always an *Error. While
// Authenticated is false the message must be dropped; else the notify of the
// error may be sent.
func (m *Message) Open(raw []byte, c Cipher) error {
	if m.envelope.kind != TypeEncrypted || m.authenticated {
		return dropError(0, "no Encrypted payload to open")
	}
	plain, err := m.unseal(raw, c)
	if err != nil {
		return err
	}
	return m.openInner(plain)
}

// unseal authenticates and decrypts the body of the Encrypted payload.
func (m *Message) unseal(raw []byte, c Cipher) ([]byte, error) {
	if len(raw) != int(m.Length) || m.envelope.offset > len(raw) {
		return nil, dropError(0, "not the datagram that was parsed")
	}
	plain, err := c.Open(raw, m.envelope.offset)
	if err != nil {
		return nil, &Error{Payload: m.envelope.kind, Offset: m.envelope.offset, Reason: err.Error()}
	}
	if m.Exchange == IKEIntermediate && m.clear == 0 {
		m.head = bytes.Clone(raw[:HeaderLen+payloadHeaderLen])
	}
	return plain, nil
}

// openInner adds the payloads of an authentic plaintext.
func (m *Message) openInner(plain []byte) error {
	m.authenticated = true
	if m.Exchange == IKEIntermediate {
		m.inner = plain
	}
	inner, nested, err := parseChain(m.envelope.first, plain, 0)
	if err != nil {
		return err
	}
	if nested.kind != NoNextPayload {
		e := syntaxError(0, "inside another one")
		e.Payload = nested.kind
		return e
	}
	m.Payloads = append(m.Payloads[:m.clear:m.clear], inner...)
	return nil
}

// Append appends the message with all payloads in the clear.
func (m *Message) Append(dst []byte) ([]byte, error) {
	start := len(dst)
	h := m.outgoing()
	dst = h.Append(dst)
	dst, first, err := appendChain(dst, m.Payloads)
	if err != nil {
		return nil, err
	}
	if len(dst)-start > MaxMessage {
		return nil, fmt.Errorf("a message of %d octets, more than %d", len(dst)-start, MaxMessage)
	}
	h.NextPayload, h.Length = first, uint32(len(dst)-start)
	h.Append(dst[start:start])
	return dst, nil
}

// outgoing returns the header with the version that this package speaks.
func (m *Message) outgoing() Header {
	h := m.Header
	h.MajorVersion, h.MinorVersion, h.Version = 2, 0, false
	return h
}

// appendChain appends payloads, each under its generic header, and returns
// the type of the first.
func appendChain(b []byte, list []Payload) (out []byte, first PayloadType, err error) {
	if len(list) > MaxPayloads {
		return nil, 0, fmt.Errorf("%d payloads, more than %d", len(list), MaxPayloads)
	}
	if len(list) > 0 {
		first = list[0].Type()
	}
	for i, p := range list {
		start, following, flags := len(b), NoNextPayload, byte(0)
		if i+1 < len(list) {
			following = list[i+1].Type()
		}
		if u, ok := p.(*Unknown); ok && u.Critical {
			flags = criticalBit
		}
		b = append(b, byte(following), flags, 0, 0)
		if b, err = p.appendBody(b); err != nil {
			return nil, 0, fmt.Errorf("%s payload: %w", p.Type(), err)
		}
		length := len(b) - start
		if length > 65535 {
			return nil, 0, fmt.Errorf("%s payload: %d octets do not fit", p.Type(), length)
		}
		binary.BigEndian.PutUint16(b[start+2:], uint16(length))
	}
	return b, first, nil
}

// Seal returns the message with all payloads inside one Encrypted payload.
func (m *Message) Seal(c Cipher) ([]byte, error) {
	plain, first, err := appendChain(nil, m.Payloads)
	if err != nil {
		return nil, err
	}
	return m.protect(c, envelope{kind: TypeEncrypted, first: first}, plain)
}

// protect puts a plaintext into an Encrypted payload or a fragment.
func (m *Message) protect(c Cipher, env envelope, plain []byte) ([]byte, error) {
	prefix := payloadHeaderLen
	if env.kind == TypeEncryptedFr {
		prefix = fragmentHeaderLen
	}
	payload := prefix + c.SealedLen(len(plain))
	length := HeaderLen + payload
	if length > MaxMessage {
		return nil, fmt.Errorf("a message of %d octets, more than %d", length, MaxMessage)
	}
	h := m.outgoing()
	h.NextPayload, h.Length = env.kind, uint32(length)
	b := h.Append(make([]byte, 0, length))
	b = append(b, byte(env.first), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(payload))
	if env.kind == TypeEncryptedFr {
		b = binary.BigEndian.AppendUint16(b, uint16(env.number))
		b = binary.BigEndian.AppendUint16(b, uint16(env.total))
	}
	b, err := c.Seal(b, plain)
	if err != nil {
		return nil, err
	}
	if len(b) != length {
		return nil, errors.New("the cipher broke its promise of length")
	}
	return b, nil
}

// Type returns the number that the payload came with.
func (p *Unknown) Type() PayloadType { return p.PayloadType }

func (p *Unknown) appendBody(b []byte) ([]byte, error) {
	if _, known := payloadNames[p.PayloadType]; known {
		return nil, errors.New("it has a type of its own")
	}
	return append(b, p.Body...), nil
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

// ID returns the payload IDi, or IDr for the responder's.
func (m *Message) ID(responder bool) (*ID, bool) {
	all := All[*ID](m)
	i := slices.IndexFunc(all, func(p *ID) bool { return p.Responder == responder })
	if i < 0 {
		return nil, false
	}
	return all[i], true
}

// TS returns the payload TSi, or TSr for the responder's.
func (m *Message) TS(responder bool) (*TS, bool) {
	all := All[*TS](m)
	i := slices.IndexFunc(all, func(p *TS) bool { return p.Responder == responder })
	if i < 0 {
		return nil, false
	}
	return all[i], true
}

// String reads "IKE_SA_INIT request 0 [SA, KE, Nonce, N(COOKIE)]". It tells
// no identity, key or nonce.
func (m *Message) String() string {
	names := make([]string, 0, len(m.Payloads)+1)
	for _, p := range m.Payloads {
		switch p := p.(type) {
		case *Notify:
			names = append(names, p.String())
		case *Delete:
			names = append(names, p.String())
		default:
			names = append(names, p.Type().String())
		}
	}
	switch number, total, fragment := m.Fragment(); {
	case m.authenticated:
	case fragment:
		names = append(names, fmt.Sprintf("SKF(%d/%d)", number, total))
	case m.Encrypted():
		names = append(names, TypeEncrypted.String())
	}
	return m.Header.String() + " [" + strings.Join(names, ", ") + "]"
}
