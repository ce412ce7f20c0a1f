package ipsec

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// TrafficSelector is a range of addresses, a range of ports and an IP protocol
// (RFC 7296, section 3.13.1). Start and End are of one family and inclusive.
// Protocol 0 means any. For ICMP the ports hold type and code.
type TrafficSelector struct {
	Start, End         netip.Addr
	StartPort, EndPort uint16
	Protocol           uint8
}

// SelectorFromPrefix returns the selector of all traffic of a prefix.
func SelectorFromPrefix(p netip.Prefix) TrafficSelector {
	p = p.Masked()
	return TrafficSelector{Start: p.Addr(), End: lastAddr(p), EndPort: 65535}
}

// lastAddr returns the highest address of a masked prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		switch free := (i+1)*8 - p.Bits(); {
		case free >= 8:
			b[i] = 0xff
		case free > 0:
			b[i] |= 1<<free - 1
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Valid reports whether the selector has a range of one family that is not
// empty. A port range from 65535 to 0 is OPAQUE (RFC 7296, section 3.13.1) and
// valid, too.
func (s TrafficSelector) Valid() bool {
	return s.Start.IsValid() && s.Start.BitLen() == s.End.BitLen() && !s.End.Less(s.Start) &&
		(s.StartPort <= s.EndPort || s.isOpaque())
}

func (s TrafficSelector) isOpaque() bool { return s.StartPort == 65535 && s.EndPort == 0 }

// Contains reports whether every packet of t is one of s.
func (s TrafficSelector) Contains(t TrafficSelector) bool {
	both, ok := s.Intersect(t)
	return ok && both == t
}

// ContainsAddr reports whether the address lies in the range, whatever the
// protocol and port.
func (s TrafficSelector) ContainsAddr(a netip.Addr) bool {
	return a.BitLen() == s.Start.BitLen() && !a.Less(s.Start) && !s.End.Less(a)
}

// Matches reports whether a packet with this address, protocol and port falls
// under the selector.
func (s TrafficSelector) Matches(a netip.Addr, protocol uint8, port uint16) bool {
	return s.ContainsAddr(a) && (s.Protocol == 0 || s.Protocol == protocol) &&
		port >= s.StartPort && port <= s.EndPort
}

// Intersect returns what two selectors share; ok is false when that is nothing.
func (s TrafficSelector) Intersect(t TrafficSelector) (both TrafficSelector, ok bool) {
	if !s.Valid() || !t.Valid() || s.Start.BitLen() != t.Start.BitLen() {
		return TrafficSelector{}, false
	}
	both = s
	switch {
	case s.Protocol == t.Protocol || t.Protocol == 0:
	case s.Protocol == 0:
		both.Protocol = t.Protocol
	default:
		return TrafficSelector{}, false
	}
	if s.Start.Less(t.Start) {
		both.Start = t.Start
	}
	if t.End.Less(s.End) {
		both.End = t.End
	}
	if both.End.Less(both.Start) {
		return TrafficSelector{}, false
	}
	switch {
	case t.isOpaque() && s.StartPort == 0 && s.EndPort == 65535:
		both.StartPort, both.EndPort = t.StartPort, t.EndPort
	case s.isOpaque() && t.StartPort == 0 && t.EndPort == 65535:
	case s.isOpaque() != t.isOpaque():
		return TrafficSelector{}, false
	case s.isOpaque(): // as is t
	default:
		both.StartPort, both.EndPort = max(s.StartPort, t.StartPort), min(s.EndPort, t.EndPort)
		if both.StartPort > both.EndPort {
			return TrafficSelector{}, false
		}
	}
	return both, true
}

// Prefixes returns the smallest list of prefixes that covers the address
// range, in order.
func (s TrafficSelector) Prefixes() []netip.Prefix {
	if !s.Valid() {
		return nil
	}
	var list []netip.Prefix
	for a := s.Start; ; {
		// The largest prefix that begins at a and does not pass End.
		bits := a.BitLen()
		for bits > 0 {
			wider := netip.PrefixFrom(a, bits-1)
			if wider.Masked().Addr() != a || s.End.Less(lastAddr(wider.Masked())) {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(a, bits)
		list = append(list, p)
		last := lastAddr(p)
		if last == s.End {
			return list
		}
		a = last.Next()
	}
}

// String reads "10.0.0.0/24", "10.0.0.1-10.0.0.9", and adds "[tcp/443]" when
// the selector is limited to a protocol or to ports.
func (s TrafficSelector) String() string {
	if !s.Start.IsValid() {
		return "invalid"
	}
	text := s.Start.String() + "-" + s.End.String()
	if p := s.Prefixes(); len(p) == 1 {
		text = p[0].String()
	}
	anyPort := s.StartPort == 0 && s.EndPort == 65535
	if s.Protocol == 0 && anyPort {
		return text
	}
	text += "[" + protocolName(s.Protocol)
	switch {
	case anyPort:
	case s.isOpaque():
		text += "/opaque"
	case s.StartPort == s.EndPort:
		text += fmt.Sprintf("/%d", s.StartPort)
	default:
		text += fmt.Sprintf("/%d-%d", s.StartPort, s.EndPort)
	}
	return text + "]"
}

func protocolName(p uint8) string {
	switch p {
	case 0:
		return "any"
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 58:
		return "icmpv6"
	}
	return fmt.Sprintf("%d", p)
}

// MaxSelectors is the most traffic selectors that one payload holds (RFC 7296,
// section 3.13).
const MaxSelectors = 255

// Narrow returns what an offer of traffic selectors leaves of the allowed ones
// (RFC 7296, section 2.9): every intersection, without those that another one
// contains, in the order of the offer, and at most MaxSelectors. It is empty
// when they share nothing.
func Narrow(allowed, offered []TrafficSelector) []TrafficSelector {
	var kept []TrafficSelector
	for _, o := range offered {
		for _, a := range allowed {
			both, ok := a.Intersect(o)
			if !ok || slices.ContainsFunc(kept, func(k TrafficSelector) bool { return k.Contains(both) }) {
				continue
			}
			kept = slices.DeleteFunc(kept, both.Contains)
			if len(kept) == MaxSelectors {
				return kept
			}
			kept = append(kept, both)
		}
	}
	return kept
}

// Covers reports whether every selector of inner lies within one of outer.
func Covers(outer, inner []TrafficSelector) bool {
	return !slices.ContainsFunc(inner, func(in TrafficSelector) bool {
		return !slices.ContainsFunc(outer, func(out TrafficSelector) bool { return out.Contains(in) })
	})
}

// CompareSelectors orders selectors by address, then port, then protocol, for
// stable output.
func CompareSelectors(a, b TrafficSelector) int {
	return cmp.Or(a.Start.Compare(b.Start), a.End.Compare(b.End), cmp.Compare(a.StartPort, b.StartPort),
		cmp.Compare(a.EndPort, b.EndPort), cmp.Compare(a.Protocol, b.Protocol))
}
