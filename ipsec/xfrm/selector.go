package xfrm

import (
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// maxParts bounds the kernel's entries for one policy.
const maxParts = 256

// side is one end of a kernel selector: a prefix, and ports by a mask.
type side struct {
	prefix     netip.Prefix
	port, mask uint16
}

// sides splits a selector, whose addresses and ports are ranges, into pieces as
// the kernel knows them. Those of ICMP are not ports there: see icmp.
func sides(ts ipsec.TrafficSelector) []side {
	var list []side
	for _, p := range ts.Prefixes() {
		if isICMP(ts.Protocol) {
			list = append(list, side{prefix: p})
			continue
		}
		for _, block := range portBlocks(ts.StartPort, ts.EndPort) {
			list = append(list, side{p, block.port, block.mask})
		}
	}
	return list
}

type portBlock struct{ port, mask uint16 }

// portBlocks covers a range of ports by the fewest blocks of a size that is a
// power of two and begin at a multiple of it.
func portBlocks(first, last uint16) []portBlock {
	var list []portBlock
	for at, end := uint32(first), uint32(last)+1; at < end; {
		size := uint32(1) << min(bits.TrailingZeros32(at|1<<16), bits.Len32(end-at)-1)
		list = append(list, portBlock{uint16(at), uint16(0x10000 - size)})
		at += size
	}
	return list
}

const protocolICMP, protocolICMPv6 = unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6

func isICMP(protocol uint8) bool { return protocol == protocolICMP || protocol == protocolICMPv6 }

// icmp sets type and code of a selector for ICMP, which the kernel keeps as
// source and destination port. RFC 7296, section 3.13.1: type and code are the
// higher and the lower octet of the port.
func icmp(sel *nl.XfrmSelector, ts ipsec.TrafficSelector) error {
	first, last := ts.StartPort, ts.EndPort
	switch {
	case first == 0 && last == 65535:
		return nil
	case first&0xff == 0 && last == first|0xff:
	case first == last:
		sel.Dport, sel.DportMask = bigEndian16(first&0xff), 0xffff
	default:
		return fmt.Errorf("selector %s: a range of ICMP types or codes: %w", ts, ipsec.ErrUnsupported)
	}
	sel.Sport, sel.SportMask = bigEndian16(first>>8), 0xffff
	return nil
}

// selectors returns the kernel's selectors of packets from one selector to
// another.
func selectors(from, to ipsec.TrafficSelector) ([]nl.XfrmSelector, error) {
	if from.Start.BitLen() != to.Start.BitLen() {
		return nil, fmt.Errorf("selectors %s and %s: must be of one family", from, to)
	}
	protocol := max(from.Protocol, to.Protocol)
	for _, ts := range []ipsec.TrafficSelector{from, to} {
		switch {
		case ts.StartPort > ts.EndPort:
			return nil, fmt.Errorf("selector %s: OPAQUE ports: %w", ts, ipsec.ErrUnsupported)
		case ts.Protocol != 0 && ts.Protocol != protocol:
			return nil, fmt.Errorf("selectors %s and %s: must be of one protocol", from, to)
		}
	}
	sources, destinations := sides(from), sides(to)
	if n := len(sources) * len(destinations); n > maxParts {
		return nil, fmt.Errorf("selectors %s and %s: ranges that need %d entries, more than %d: %w", from, to, n, maxParts, ipsec.ErrUnsupported)
	}
	var list []nl.XfrmSelector
	for _, s := range sources {
		for _, d := range destinations {
			sel := nl.XfrmSelector{
				Saddr: address(s.prefix.Addr()), PrefixlenS: uint8(s.prefix.Bits()),
				Daddr: address(d.prefix.Addr()), PrefixlenD: uint8(d.prefix.Bits()),
				Family: familyOf(s.prefix.Addr()), Proto: protocol,
				Sport: bigEndian16(s.port), SportMask: bigEndian16(s.mask),
				Dport: bigEndian16(d.port), DportMask: bigEndian16(d.mask),
			}
			if isICMP(protocol) {
				for _, ts := range []ipsec.TrafficSelector{from, to} {
					if err := icmp(&sel, ts); err != nil {
						return nil, err
					}
				}
			}
			list = append(list, sel)
		}
	}
	return list, nil
}

// saSelector returns the selector of an SA where the kernel has one for it: an
// SA has a single one there. Of others the policies alone decide.
func saSelector(sa *ipsec.SA) (sel nl.XfrmSelector, ok bool) {
	if len(sa.Local) != 1 || len(sa.Remote) != 1 {
		return sel, false
	}
	from, to := sa.Local[0], sa.Remote[0]
	if sa.Direction == ipsec.In {
		from, to = to, from
	}
	list, err := selectors(from, to)
	if err != nil || len(list) != 1 {
		return sel, false
	}
	return list[0], true
}

// selectorsOf is the reverse of selectors for one entry of the kernel.
func selectorsOf(sel *nl.XfrmSelector) (from, to ipsec.TrafficSelector) {
	one := func(a nl.XfrmAddress, length uint8, port, mask uint16) ipsec.TrafficSelector {
		ts := ipsec.SelectorFromPrefix(netip.PrefixFrom(addressOf(a, sel.Family), int(length)))
		ts.Protocol = sel.Proto
		if !isICMP(sel.Proto) {
			ts.StartPort = bigEndian16(port)
			ts.EndPort = ts.StartPort | ^bigEndian16(mask)
		}
		return ts
	}
	from = one(sel.Saddr, sel.PrefixlenS, sel.Sport, sel.SportMask)
	to = one(sel.Daddr, sel.PrefixlenD, sel.Dport, sel.DportMask)
	if isICMP(sel.Proto) && sel.SportMask != 0 {
		first := bigEndian16(sel.Sport) << 8
		last := first | 0xff
		if sel.DportMask != 0 {
			first |= bigEndian16(sel.Dport)
			last = first
		}
		from.StartPort, from.EndPort = first, last
		to.StartPort, to.EndPort = first, last
	}
	return from, to
}
