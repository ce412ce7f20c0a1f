package isakmp

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vpngw/vpngw/ike/octets"
	"github.com/vpngw/vpngw/ipsec"
)

// IDType is the kind of an identity (RFC 2407, section 4.6.2.1).
type IDType uint8

// Identity types.
const (
	IDIPv4Addr       IDType = 1
	IDFQDN           IDType = 2
	IDUserFQDN       IDType = 3
	IDIPv4AddrSubnet IDType = 4
	IDIPv6Addr       IDType = 5
	IDIPv6AddrSubnet IDType = 6
	IDIPv4AddrRange  IDType = 7
	IDIPv6AddrRange  IDType = 8
	IDDERASN1DN      IDType = 9
	IDDERASN1GN      IDType = 10
	IDKeyID          IDType = 11
)

// ID names an end in phase 1, and the traffic of one end in phase 2.
type ID struct {
	IDType   IDType
	Protocol uint8  // IP protocol; zero: any
	Port     uint16 // zero: any
	Data     []byte
}

// Type returns TypeID.
func (*ID) Type() PayloadType { return TypeID }

// parseID reads an identity (RFC 2407, section 4.6.2).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!   ID Type     !  Protocol ID  !             Port              !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                     Identification Data                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseID(c *octets.Cursor) *ID {
	p := &ID{IDType: IDType(c.Uint8("ID type")), Protocol: c.Uint8("protocol"), Port: c.Uint16("port")}
	p.Data = c.Remainder()
	return p
}

func (p *ID) appendBody(b []byte) ([]byte, error) {
	b = append(b, byte(p.IDType), p.Protocol)
	b = binary.BigEndian.AppendUint16(b, p.Port)
	return append(b, p.Data...), nil
}

// Selector returns the traffic that an identity of phase 2 names.
func (p *ID) Selector() (ipsec.TrafficSelector, error) {
	ts := ipsec.TrafficSelector{Protocol: p.Protocol, StartPort: p.Port, EndPort: p.Port}
	if p.Port == 0 {
		ts.EndPort = 65535
	}
	size := 4
	switch p.IDType {
	case IDIPv6Addr, IDIPv6AddrSubnet, IDIPv6AddrRange:
		size = 16
	default:
	}
	address := func(b []byte) netip.Addr {
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	switch p.IDType {
	case IDIPv4Addr, IDIPv6Addr:
		if len(p.Data) == size {
			ts.Start = address(p.Data)
			ts.End = ts.Start
		}
	case IDIPv4AddrSubnet, IDIPv6AddrSubnet:
		if len(p.Data) != 2*size {
			break
		}
		bits, ok := prefixLen(p.Data[size:])
		if !ok {
			return ts, fmt.Errorf("identity of phase 2: %x is no netmask", p.Data[size:])
		}
		whole := ipsec.SelectorFromPrefix(netip.PrefixFrom(address(p.Data[:size]), bits))
		ts.Start, ts.End = whole.Start, whole.End
	case IDIPv4AddrRange, IDIPv6AddrRange:
		if len(p.Data) == 2*size {
			ts.Start, ts.End = address(p.Data[:size]), address(p.Data[size:])
		}
	default:
		return ts, fmt.Errorf("identity of phase 2: type %d names no addresses", uint8(p.IDType))
	}
	if !ts.Valid() {
		return ts, fmt.Errorf("identity of phase 2: %d octets of type %d are no addresses", len(p.Data), uint8(p.IDType))
	}
	return ts, nil
}

// prefixLen returns the length of the prefix of a netmask.
func prefixLen(mask []byte) (bits int, ok bool) {
	ended := false
	for _, b := range mask {
		for i := 7; i >= 0; i-- {
			switch one := b>>i&1 == 1; {
			case one && ended:
				return 0, false
			case one:
				bits++
			default:
				ended = true
			}
		}
	}
	return bits, true
}

// SelectorID returns the identity of phase 2 for some traffic: a subnet where
// the addresses are one, else an address or a range. Ports other than all or one
// have no notation.
func SelectorID(ts ipsec.TrafficSelector) (*ID, error) {
	p := &ID{Protocol: ts.Protocol}
	switch {
	case !ts.Valid():
		return nil, fmt.Errorf("selector %s is not valid", ts)
	case ts.StartPort == 0 && ts.EndPort == 65535:
	case ts.StartPort == ts.EndPort && ts.StartPort != 0:
		p.Port = ts.StartPort
	default:
		return nil, fmt.Errorf("selector %s: IKEv1 has no notation for a range of ports", ts)
	}
	start, end := ts.Start.AsSlice(), ts.End.AsSlice()
	v4 := ts.Start.Is4()
	pick := func(four, six IDType) IDType {
		if v4 {
			return four
		}
		return six
	}
	prefixes := ts.Prefixes()
	switch {
	case ts.Start == ts.End:
		p.IDType, p.Data = pick(IDIPv4Addr, IDIPv6Addr), start
	case len(prefixes) == 1:
		mask := make([]byte, len(start))
		for i := range prefixes[0].Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		p.IDType, p.Data = pick(IDIPv4AddrSubnet, IDIPv6AddrSubnet), append(start, mask...)
	default:
		p.IDType, p.Data = pick(IDIPv4AddrRange, IDIPv6AddrRange), append(start, end...)
	}
	return p, nil
}
