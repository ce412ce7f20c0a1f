package fuzztest

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// largest bounds what mutation grows: what a datagram can hold and somewhat more.
const largest = 1 << 17

// edges are numbers next to which length and count fields are misread.
var edges = []uint64{0, 1, 3, 4, 7, 8, 15, 16, 28, 127, 128, 255, 256, 1280, 1500, 32767, 32768, 65535, 65536, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<63 - 1, 1<<64 - 1}

// mutator makes new inputs from old ones. pool is what may be spliced in.
type mutator struct {
	rand *rand.Rand
	pool [][]any
}

// mutate returns a changed copy of the arguments of a target.
func (m *mutator) mutate(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = m.copied(a)
	}
	for range 1 + m.rand.IntN(4) {
		i := m.rand.IntN(len(out))
		out[i] = m.changed(out[i], i)
	}
	return out
}

func (*mutator) copied(a any) any {
	if b, ok := a.([]byte); ok {
		return slices.Clone(b)
	}
	return a
}

func (m *mutator) changed(a any, at int) any {
	switch a := a.(type) {
	case []byte:
		return m.octets(a, at)
	case string:
		return string(m.octets([]byte(a), at))
	case bool:
		return !a
	case uint8:
		return uint8(m.number(uint64(a)))
	case uint16:
		return uint16(m.number(uint64(a)))
	case uint32:
		return uint32(m.number(uint64(a)))
	case uint64:
		return m.number(a)
	case int:
		return int(m.number(uint64(a)))
	default:
		// A target with another type must fail, not be left unmutated.
		panic("fuzztest: no mutation for this type of argument")
	}
}

func (m *mutator) number(n uint64) uint64 {
	switch m.rand.IntN(4) {
	case 0:
		return m.rand.Uint64()
	case 1:
		return edges[m.rand.IntN(len(edges))]
	case 2:
		return n ^ 1<<m.rand.IntN(64)
	default:
		return n + uint64(m.rand.IntN(33)) - 16
	}
}

// octets changes one thing in b. at is which argument of the target b is.
func (m *mutator) octets(b []byte, at int) []byte {
	if len(b) == 0 {
		return m.some(1 + m.rand.IntN(64))
	}
	i := m.rand.IntN(len(b))
	rest := b[i:]
	n := 1 + m.rand.IntN(min(len(rest), 64))
	switch m.rand.IntN(10) {
	case 0:
		b[i] ^= 1 << m.rand.IntN(8)
	case 1:
		b[i] = byte(m.rand.Uint32())
	case 2:
		b[i] = byte(m.number(uint64(b[i])))
	case 3: // a field of two octets in network order, mostly a length
		if len(rest) >= 2 {
			binary.BigEndian.PutUint16(rest, uint16(m.number(uint64(binary.BigEndian.Uint16(rest)))))
		}
	case 4: // of four: an SPI, a sequence number, a message id
		if len(rest) >= 4 {
			binary.BigEndian.PutUint32(rest, uint32(m.number(uint64(binary.BigEndian.Uint32(rest)))))
		}
	case 5:
		return b[:i]
	case 6:
		return slices.Delete(b, i, i+n)
	case 7:
		return m.inserted(b, i, m.some(n))
	case 8: // something twice
		return m.inserted(b, m.rand.IntN(len(b)+1), slices.Clone(rest[:n]))
	default:
		return m.spliced(b, i, at)
	}
	return b
}

func (m *mutator) inserted(b []byte, i int, what []byte) []byte {
	if len(b)+len(what) > largest {
		return b
	}
	return slices.Insert(b, i, what...)
}

// spliced puts a part of another input over the end of b or into it.
func (m *mutator) spliced(b []byte, i, at int) []byte {
	if len(m.pool) == 0 {
		return b
	}
	var other []byte
	switch o := m.pool[m.rand.IntN(len(m.pool))][at].(type) {
	case []byte:
		other = o
	case string:
		other = []byte(o)
	}
	if len(other) == 0 {
		return b
	}
	from := m.rand.IntN(len(other))
	if m.rand.IntN(2) == 0 {
		return append(b[:i:i], other[from:]...)
	}
	return m.inserted(b, i, other[from:from+1+m.rand.IntN(len(other)-from)])
}

func (m *mutator) some(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(m.rand.Uint32())
	}
	return out
}
