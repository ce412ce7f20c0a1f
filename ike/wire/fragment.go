package wire

import (
	"bytes"
	"fmt"
	"sort"
)

// SealFragments returns the message as Seal does when it fits into limit
// octets, and else as fragments of at most that length (RFC 7383). The caller
// subtracts from limit what stands in front of the IKE header: IP, UDP and the
// non-ESP marker.
func (m *Message) SealFragments(c Cipher, limit int) ([][]byte, error) {
	plain, first, err := appendChain(nil, m.Payloads)
	if err != nil {
		return nil, err
	}
	if HeaderLen+payloadHeaderLen+c.SealedLen(len(plain)) <= limit {
		whole, err := m.protect(c, envelope{kind: TypeEncrypted, first: first}, plain)
		return [][]byte{whole}, err
	}
	// The most plaintext whose fragment still fits.
	chunk := sort.Search(len(plain), func(n int) bool {
		return HeaderLen+fragmentHeaderLen+c.SealedLen(n+1) > limit
	})
	if chunk == 0 {
		return nil, fmt.Errorf("no fragment fits into %d octets", limit)
	}
	total := (len(plain) + chunk - 1) / chunk
	if total > MaxFragments {
		return nil, fmt.Errorf("%d fragments, more than %d", total, MaxFragments)
	}
	fragments := make([][]byte, total)
	for i := range fragments {
		env := envelope{kind: TypeEncryptedFr, number: i + 1, total: total}
		if i == 0 {
			env.first = first
		}
		piece := plain[i*chunk : min((i+1)*chunk, len(plain))]
		if fragments[i], err = m.protect(c, env, piece); err != nil {
			return nil, err
		}
	}
	return fragments, nil
}

// Reassembler puts the fragments of one message at a time together (RFC 7383,
// section 2.6). An IKE SA has one for requests and one for responses. The zero
// value is ready for use. Only authentic fragments enter it, so that nobody
// but the peer can fill or upset it. It has no clock: the owner calls Reset
// when a message stays incomplete for too long, and looks at message ids
// before it adds.
type Reassembler struct{ *partial }

// partial is an incomplete message; nil: there is none.
type partial struct {
	message *Message // of the first fragment that came: header and total
	pieces  [][]byte // plaintext by number - 1; nil: missing
	first   PayloadType
	missing int
	size    int
}

// Pending reports whether a message is incomplete.
func (r *Reassembler) Pending() bool { return r.partial != nil }

// Reset forgets an incomplete message.
func (r *Reassembler) Reset() {
	if r.partial == nil {
		return
	}
	for _, piece := range r.pieces {
		clear(piece)
	}
	r.partial = nil
}

// Holds reports whether a fragment is there already. Add then passes the one at
// hand over without a look.
func (r *Reassembler) Holds(m *Message) bool {
	number, total, ok := m.Fragment()
	return ok && r.Pending() && r.same(&m.Header) && total == len(r.pieces) && r.pieces[number-1] != nil
}

// Add takes a fragment that Parse has read from raw. It returns the whole
// message when this was the last one missing, and nil when others are. A
// fragment of a later message, or of more fragments in all, starts anew; one
// of an earlier message or of fewer fragments is refused. The error is always
// an *Error; its Notify may be sent when the message is returned beside it.
func (r *Reassembler) Add(raw []byte, m *Message, c Cipher) (*Message, error) {
	number, total, ok := m.Fragment()
	if !ok || m.authenticated {
		return nil, dropError(0, "not a fragment")
	}
	if m.clear > 0 && number != 1 {
		return nil, dropError(HeaderLen, "payloads in the clear beside fragment %d", number)
	}
	same := r.Pending() && r.same(&m.Header)
	if r.Pending() && (m.MessageID < r.message.MessageID || same && total < len(r.pieces)) {
		return nil, dropError(0, "fragment of a message that is out of date")
	}
	if r.Holds(m) {
		return nil, nil
	}
	plain, err := m.unseal(raw, c)
	if err != nil {
		return nil, err
	}
	if !same || total > len(r.pieces) {
		r.Reset()
		r.partial = &partial{message: m, pieces: make([][]byte, total), missing: total}
	}
	if r.size+len(plain) > MaxMessage {
		r.Reset()
		return nil, dropError(0, "more than %d octets in fragments", MaxMessage)
	}
	if plain == nil {
		plain = []byte{}
	}
	r.pieces[number-1] = plain
	r.size += len(plain)
	r.missing--
	if number == 1 {
		r.message, r.first = m, m.envelope.first
	}
	if r.missing > 0 {
		return nil, nil
	}
	whole := r.message
	whole.envelope = envelope{kind: TypeEncrypted, first: r.first}
	err = whole.openInner(bytes.Join(r.pieces, nil))
	r.Reset()
	return whole, err
}

// same reports whether a fragment belongs to the message under way.
func (r *Reassembler) same(h *Header) bool {
	return h.MessageID == r.message.MessageID && h.Exchange == r.message.Exchange &&
		h.Response == r.message.Response && h.Initiator == r.message.Initiator &&
		h.InitiatorSPI == r.message.InitiatorSPI && h.ResponderSPI == r.message.ResponderSPI
}
