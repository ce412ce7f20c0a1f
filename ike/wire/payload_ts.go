package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vpngw/vpngw/ike/octets"
	"github.com/vpngw/vpngw/ipsec"
)

// Type returns TypeTSi or TypeTSr.
func (p *TS) Type() PayloadType {
	if p.Responder {
		return TypeTSr
	}
	return TypeTSi
}

// String reads "TSi(10.0.0.0/24)".
func (p *TS) String() string {
	return fmt.Sprintf("%s(%s)", p.Type(), ipsec.SelectorList(p.Selectors))
}

// Traffic selector types (section 3.13.1).
const (
	tsIPv4AddrRange = 7
	tsIPv6AddrRange = 8
)

// tsFixedLen is the length of a selector without its two addresses.
const tsFixedLen = 8

// parseTS reads traffic selectors (RFC 7296, section 3.13). Before the list
// stand their number and three reserved octets.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|   TS Type     |IP Protocol ID |       Selector Length         |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|           Start Port          |           End Port            |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                         Starting Address                      ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                         Ending Address                        ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// Selectors of other types cannot be agreed on and are left out, so the list
// may come out empty.
func parseTS(c *octets.Cursor, responder bool) *TS {
	p := &TS{Responder: responder}
	count := int(c.Uint8("number of selectors"))
	c.Take(3, "reserved field")
	switch {
	case c.Failed():
	case count == 0:
		c.Fail("no selectors")
	case count > MaxSelectors:
		c.Fail("%d selectors, more than %d", count, MaxSelectors)
	}
	for i := 0; i < count && !c.Failed(); i++ {
		kind := c.Uint8("selector type")
		protocol := c.Uint8("IP protocol")
		body := c.Sub(int(c.Uint16("selector length"))-4, "selector")
		if c.Failed() || kind != tsIPv4AddrRange && kind != tsIPv6AddrRange {
			continue
		}
		ts := ipsec.TrafficSelector{Protocol: protocol, StartPort: body.Uint16("port"), EndPort: body.Uint16("port")}
		size := 4
		if kind == tsIPv6AddrRange {
			size = 16
		}
		ts.Start, _ = netip.AddrFromSlice(body.Take(size, "address"))
		ts.End, _ = netip.AddrFromSlice(body.Take(size, "address"))
		body.End()
		if !ts.Valid() {
			body.Fail("an empty range")
		}
		p.Selectors = append(p.Selectors, ts)
	}
	c.End()
	return p
}

func (p *TS) appendBody(b []byte) ([]byte, error) {
	switch n := len(p.Selectors); {
	case n == 0:
		return nil, errors.New("no selectors")
	case n > MaxSelectors:
		return nil, fmt.Errorf("%d selectors, more than %d", n, MaxSelectors)
	}
	b = append(b, byte(len(p.Selectors)), 0, 0, 0)
	for _, ts := range p.Selectors {
		if !ts.Valid() {
			return nil, fmt.Errorf("invalid selector %s", ts)
		}
		kind := byte(tsIPv4AddrRange)
		if !ts.Start.Is4() {
			kind = tsIPv6AddrRange
		}
		b = append(b, kind, ts.Protocol)
		b = binary.BigEndian.AppendUint16(b, uint16(tsFixedLen+2*ts.Start.BitLen()/8))
		b = binary.BigEndian.AppendUint16(b, ts.StartPort)
		b = binary.BigEndian.AppendUint16(b, ts.EndPort)
		b = append(append(b, ts.Start.AsSlice()...), ts.End.AsSlice()...)
	}
	return b, nil
}
