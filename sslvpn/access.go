package sslvpn

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// accessSet is the destinations that a client may reach. It does not change;
// nil allows nothing.
type accessSet struct {
	ipv4, ipv6 []addressRange // in order, neither touching nor overlapping
}

type addressRange struct{ first, last ipNumber }

// newAccessSet returns the union of prefixes. What is foreign is no part of a
// prefix for everything.
func newAccessSet(prefixes []netip.Prefix, foreign ...netip.Prefix) *accessSet {
	var ipv4, ipv6 []addressRange
	for _, p := range prefixes {
		if !p.IsValid() {
			continue
		}
		ranges := []addressRange{rangeOf(p)}
		if p.Bits() == 0 {
			ranges = without(ranges[0], foreign)
		}
		if p.Addr().Is4() {
			ipv4 = append(ipv4, ranges...)
		} else {
			ipv6 = append(ipv6, ranges...)
		}
	}
	return &accessSet{ipv4: union(ipv4), ipv6: union(ipv6)}
}

// without returns what is left of a range, in order.
func without(whole addressRange, foreign []netip.Prefix) (left []addressRange) {
	var gaps []addressRange
	for _, p := range foreign {
		if r := rangeOf(p); whole.contains(r.first) {
			gaps = append(gaps, r)
		}
	}
	next := whole.first
	for _, gap := range union(gaps) {
		if next.compare(gap.first) < 0 {
			left = append(left, addressRange{next, gap.first.previous()})
		}
		if next = gap.last.next(); gap.last == whole.last {
			return left
		}
	}
	return append(left, addressRange{next, whole.last})
}

// union orders ranges and joins those that overlap or touch.
func union(ranges []addressRange) []addressRange {
	slices.SortFunc(ranges, func(a, b addressRange) int { return a.first.compare(b.first) })
	var joined []addressRange
	for _, r := range ranges {
		if n := len(joined); n > 0 && (r.first.compare(joined[n-1].last) <= 0 || r.first == joined[n-1].last.next()) {
			if joined[n-1].last.compare(r.last) < 0 {
				joined[n-1].last = r.last
			}
			continue
		}
		joined = append(joined, r)
	}
	return joined
}

// contains reports whether an address may be reached.
func (s *accessSet) contains(a ipNumber) bool {
	if s == nil {
		return false
	}
	ranges := s.ipv6
	if a.is4() {
		ranges = s.ipv4
	}
	low, high := 0, len(ranges)
	for low < high {
		middle := int(uint(low+high) / 2)
		if ranges[middle].last.compare(a) < 0 {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low < len(ranges) && ranges[low].first.compare(a) <= 0
}

func (r *addressRange) contains(a ipNumber) bool {
	return r.first.compare(a) <= 0 && a.compare(r.last) <= 0
}

// rangeOf returns the addresses of a network.
func rangeOf(p netip.Prefix) addressRange {
	first := addressNumber(p.Masked().Addr())
	last := first
	switch host := p.Addr().BitLen() - p.Bits(); {
	case host > 64:
		last = ipNumber{first.high | (1<<(host-64) - 1), ^uint64(0)}
	default:
		last.low |= 1<<host - 1
	}
	return addressRange{first, last}
}

// ipNumber is an IP address as a number. Those of IPv4 are in ::ffff:0:0/96,
// whose own addresses are on no network (RFC 6890); the zero value is none.
type ipNumber struct{ high, low uint64 }

const mappedIPv4 = 0xffff << 32

func ipv4Number(n uint32) ipNumber { return ipNumber{low: mappedIPv4 | uint64(n)} }

func ipv6Number(octets []byte) ipNumber {
	return ipNumber{binary.BigEndian.Uint64(octets), binary.BigEndian.Uint64(octets[8:])}
}

// addressNumber returns an address as a number; the zero Addr is the zero value.
func addressNumber(a netip.Addr) ipNumber {
	if !a.IsValid() {
		return ipNumber{}
	}
	octets := a.As16()
	return ipv6Number(octets[:])
}

// addr is the reverse of addressNumber.
func (n ipNumber) addr() netip.Addr {
	var octets [16]byte
	binary.BigEndian.PutUint64(octets[:], n.high)
	binary.BigEndian.PutUint64(octets[8:], n.low)
	return netip.AddrFrom16(octets).Unmap()
}

func (n ipNumber) is4() bool { return n.high == 0 && n.low>>32 == 0xffff }

func (n ipNumber) isZero() bool { return n == ipNumber{} }

func (n ipNumber) compare(m ipNumber) int {
	if n.high != m.high {
		return cmp.Compare(n.high, m.high)
	}
	return cmp.Compare(n.low, m.low)
}

// previous returns the number before n, which is not zero.
func (n ipNumber) previous() ipNumber {
	if n.low == 0 {
		n.high--
	}
	n.low--
	return n
}

// next returns the number after n; after the last one comes zero.
func (n ipNumber) next() ipNumber {
	n.low++
	if n.low == 0 {
		n.high++
	}
	return n
}
