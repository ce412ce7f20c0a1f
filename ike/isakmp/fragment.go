package isakmp

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/vpngw/vpngw/ike/octets"
)

const (
	fragmentHeaderLen = 4
	fragmentLast      = 0x01
)

// parseFragment reads a piece of a message. The format, which has no RFC, is
// that of Cisco and Microsoft.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|          Fragment ID          | Fragment Num  |     Flags     |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                         Fragment Data                         ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseFragment(c *octets.Cursor) *Fragment {
	p := &Fragment{ID: c.Uint16("fragment ID"), Number: c.Uint8("fragment number")}
	p.Last = c.Uint8("flags")&fragmentLast != 0
	p.Data = filled(c, "fragment data")
	if p.Number == 0 || int(p.Number) > MaxFragments {
		c.Fail("fragment number %d, not 1 to %d", p.Number, MaxFragments)
	}
	return p
}

func (p *Fragment) appendBody(b []byte) ([]byte, error) {
	if p.Number == 0 || int(p.Number) > MaxFragments {
		return nil, fmt.Errorf("fragment number %d, not 1 to %d", p.Number, MaxFragments)
	}
	var flags byte
	if p.Last {
		flags = fragmentLast
	}
	b = binary.BigEndian.AppendUint16(b, p.ID)
	return appendFilled(append(b, p.Number, flags), p.Data, "fragment data")
}

// Fragments cuts a message, with its header, into datagrams of at most limit
// octets. A message that fits is returned as it is. Each piece travels in a
// message of its own that is not encrypted, whatever the whole one is.
func Fragments(datagram []byte, id uint16, limit int) ([][]byte, error) {
	if len(datagram) <= limit {
		return [][]byte{datagram}, nil
	}
	h, err := ParseHeader(datagram)
	if err != nil {
		return nil, err
	}
	room := limit - HeaderLen - payloadHeaderLen - fragmentHeaderLen
	if room <= 0 {
		return nil, fmt.Errorf("no fragment fits into %d octets", limit)
	}
	total := (len(datagram) + room - 1) / room
	if total > MaxFragments {
		return nil, fmt.Errorf("%d fragments, more than %d", total, MaxFragments)
	}
	list := make([][]byte, total)
	for i := range list {
		m := Message{Header: h, Payloads: []Payload{&Fragment{
			ID: id, Number: uint8(i + 1), Last: i == total-1,
			Data: datagram[i*room : min((i+1)*room, len(datagram))],
		}}}
		if list[i], err = m.Encode(0, nil); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Reassembler puts the fragments of one message at a time together. The zero
// value is ready for use. Nobody authenticates fragments: whoever sees the
// cookies of an SA can upset a message, as he can drop its datagrams, and no
// more: what it holds is bounded. It has no clock: the owner calls Reset when a
// message stays incomplete for too long.
type Reassembler struct {
	id      uint16
	pieces  [][]byte // by number - 1; nil: missing
	total   int      // zero: the last one has not come
	present int
	size    int // octets
}

// Pending reports whether a message is incomplete.
func (r *Reassembler) Pending() bool { return r.present > 0 }

// Reset forgets an incomplete message.
func (r *Reassembler) Reset() { *r = Reassembler{} }

// Add takes a fragment and returns the whole message, as a datagram, when it was
// the last one missing. A fragment with another ID starts anew, and so does one
// that has come with other data: peers use an ID again, and what somebody has put
// in its place must not spoil each repetition of the message. The data is copied.
func (r *Reassembler) Add(f *Fragment) (datagram []byte, err error) {
	if r.present > 0 && (f.ID != r.id || r.contradicts(f)) {
		r.Reset()
	}
	if r.pieces == nil {
		r.pieces = make([][]byte, MaxFragments)
	}
	i := int(f.Number) - 1
	switch {
	case i < 0 || i >= MaxFragments, f.Last && r.total != 0 && r.total != i+1, r.total != 0 && i >= r.total:
		r.Reset()
		return nil, malformed(0, "fragment %d does not fit the others", f.Number)
	case r.pieces[i] != nil:
		return nil, nil
	case r.size+len(f.Data) > MaxReassembled:
		r.Reset()
		return nil, malformed(0, "more than %d octets in fragments", MaxReassembled)
	}
	r.id = f.ID
	r.pieces[i] = bytes.Clone(f.Data) // not the whole datagram that it came in
	r.present++
	r.size += len(f.Data)
	if f.Last {
		r.total = i + 1
	}
	if r.total == 0 || r.present < r.total {
		return nil, nil
	}
	whole := make([]byte, 0, r.size)
	for _, piece := range r.pieces[:r.total] {
		if piece == nil {
			// More pieces came than the last one's number allows.
			r.Reset()
			return nil, malformed(0, "fragments beyond the last one")
		}
		whole = append(whole, piece...)
	}
	r.Reset()
	return whole, nil
}

// contradicts reports whether a fragment of the same number has come with other data.
func (r *Reassembler) contradicts(f *Fragment) bool {
	i := int(f.Number) - 1
	return i >= 0 && i < len(r.pieces) && r.pieces[i] != nil && !bytes.Equal(r.pieces[i], f.Data)
}
