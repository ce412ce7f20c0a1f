package sslvpn

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// accessSet is the IPv4 destinations that a client may reach. It does not
// change; nil allows nothing.
type accessSet struct {
	ranges []addressRange // in order, neither touching nor overlapping
}

type addressRange struct{ first, last uint32 }

// newAccessSet returns the union of prefixes. Those of IPv6 allow nothing,
// since the tunnels carry IPv4.
func newAccessSet(prefixes []netip.Prefix) *accessSet {
	var ranges []addressRange
	for _, p := range prefixes {
		if !p.IsValid() || !p.Addr().Is4() {
			continue
		}
		first := addressNumber(p.Masked().Addr())
		ranges = append(ranges, addressRange{first, first | uint32(1<<(32-p.Bits())-1)})
	}
	slices.SortFunc(ranges, func(a, b addressRange) int {
		switch {
		case a.first < b.first:
			return -1
		case a.first > b.first:
			return 1
		}
		return 0
	})
	s := &accessSet{}
	for _, r := range ranges {
		n := len(s.ranges)
		if n > 0 && (s.ranges[n-1].last == ^uint32(0) || r.first <= s.ranges[n-1].last+1) {
			s.ranges[n-1].last = max(s.ranges[n-1].last, r.last)
			continue
		}
		s.ranges = append(s.ranges, r)
	}
	return s
}

// contains reports whether an address may be reached.
func (s *accessSet) contains(address uint32) bool {
	if s == nil {
		return false
	}
	low, high := 0, len(s.ranges)
	for low < high {
		middle := int(uint(low+high) / 2)
		if s.ranges[middle].last < address {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low < len(s.ranges) && s.ranges[low].first <= address
}

// addressNumber returns an IPv4 address as a number.
func addressNumber(a netip.Addr) uint32 {
	octets := a.As4()
	return binary.BigEndian.Uint32(octets[:])
}

// numberAddress is the reverse of addressNumber.
func numberAddress(n uint32) netip.Addr {
	var octets [4]byte
	binary.BigEndian.PutUint32(octets[:], n)
	return netip.AddrFrom4(octets)
}
