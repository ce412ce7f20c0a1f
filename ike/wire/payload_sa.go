package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/vpngw/vpngw/ike/octets"
	"github.com/vpngw/vpngw/ipsec"
)

// Type returns TypeSA.
func (*SA) Type() PayloadType { return TypeSA }

// String reads "SA(1 IKE: AES-CBC-128, …)".
func (p *SA) String() string {
	names := make([]string, len(p.Proposals))
	for i, prop := range p.Proposals {
		names[i] = fmt.Sprintf("%d %s", prop.Number, prop)
	}
	return "SA(" + strings.Join(names, "; ") + ")"
}

// Values of the "more follow" octets and of attributes (section 3.3).
const (
	lastSubstruct  = 0
	moreProposals  = 2
	moreTransforms = 3

	attributeKeyLength = 14
	attributeTV        = 0x8000 // attribute format: type/value, without a length
)

// parseSA reads the list of proposals (RFC 7296, section 3.3).
//
//	                     1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Last Substruc |   RESERVED    |         Proposal Length       |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Proposal Num  |  Protocol ID  |    SPI Size   |Num  Transforms|
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                        SPI (variable)                         ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                        <Transforms>                           ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// A transform with an attribute that is not known cannot be agreed on and is
// left out; a proposal that has lost all transforms of a type that way is left
// out, too (section 3.3.6). So the list may come out empty.
func parseSA(c *octets.Cursor) *SA {
	sa := &SA{}
	for count := 0; !c.Failed(); count++ {
		if count == MaxProposals {
			c.Fail("more than %d proposals", MaxProposals)
			break
		}
		more := c.Uint8("proposal")
		c.Take(1, "proposal")
		length := int(c.Uint16("proposal length"))
		body := c.Sub(length-4, "proposal")
		proposal, usable := parseProposal(body)
		if c.Failed() {
			break
		}
		if usable {
			sa.Proposals = append(sa.Proposals, proposal)
		}
		if more == lastSubstruct {
			break
		}
		if more != moreProposals {
			c.Fail("proposal followed by substructure %d", more)
		}
	}
	return sa
}

func parseProposal(c *octets.Cursor) (p ipsec.Proposal, usable bool) {
	p.Number = c.Uint8("proposal number")
	p.Protocol = ipsec.Protocol(c.Uint8("protocol"))
	spiSize := int(c.Uint8("SPI size"))
	transforms := int(c.Uint8("number of transforms"))
	switch {
	case c.Failed():
	case p.Protocol == ipsec.ProtocolIKE && spiSize != 0 && spiSize != 8,
		(p.Protocol == ipsec.ProtocolESP || p.Protocol == ipsec.ProtocolAH) && spiSize != 4:
		c.Fail("%s proposal with an SPI of %d octets", p.Protocol, spiSize)
	case transforms == 0:
		c.Fail("proposal without transforms")
	case transforms > MaxTransforms:
		c.Fail("%d transforms, more than %d", transforms, MaxTransforms)
	}
	p.SPI = c.Bytes(spiSize, "SPI")
	lost := map[ipsec.TransformType]bool{}
	for i := range transforms {
		if c.Failed() {
			return p, false
		}
		more := c.Uint8("transform")
		c.Take(1, "transform")
		length := int(c.Uint16("transform length"))
		body := c.Sub(length-4, "transform")
		t, known := parseTransform(body)
		if c.Failed() {
			return p, false
		}
		if last := i == transforms-1; last && more != lastSubstruct || !last && more != moreTransforms {
			c.Fail("transform %d of %d followed by substructure %d", i+1, transforms, more)
		}
		if known {
			p.Transforms = append(p.Transforms, t)
		} else {
			lost[t.Type] = true
		}
	}
	c.End()
	for t := range lost {
		if len(p.Of(t)) == 0 {
			return p, false
		}
	}
	return p, !c.Failed()
}

// parseTransform reads one transform (section 3.3.2) and its attributes
// (section 3.3.5). known is false when an attribute is not understood.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Last Substruc |   RESERVED    |        Transform Length       |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|Transform Type |   RESERVED    |          Transform ID         |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                      Transform Attributes                     ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseTransform(c *octets.Cursor) (t ipsec.Transform, known bool) {
	t.Type = ipsec.TransformType(c.Uint8("transform type"))
	c.Take(1, "transform")
	t.ID = c.Uint16("transform ID")
	known = true
	for n := 0; c.Len() > 0 && !c.Failed(); n++ {
		if n == MaxTransformAttributes {
			c.Fail("more than %d attributes of a transform", MaxTransformAttributes)
			break
		}
		kind := c.Uint16("attribute type")
		value := c.Uint16("attribute value")
		if kind&attributeTV == 0 {
			c.Take(int(value), "attribute value")
		}
		if kind == attributeTV|attributeKeyLength && value != 0 && t.KeyBits == 0 {
			t.KeyBits = value
		} else {
			known = false
		}
	}
	return t, known
}

func (p *SA) appendBody(b []byte) ([]byte, error) {
	if len(p.Proposals) == 0 {
		return nil, errors.New("no proposals")
	}
	if len(p.Proposals) > MaxProposals {
		return nil, fmt.Errorf("%d proposals, more than %d", len(p.Proposals), MaxProposals)
	}
	for i := range p.Proposals {
		more := byte(moreProposals)
		if i == len(p.Proposals)-1 {
			more = lastSubstruct
		}
		start := len(b)
		b = append(b, more, 0, 0, 0)
		var err error
		if b, err = appendProposal(b, &p.Proposals[i], i+1); err != nil {
			return nil, fmt.Errorf("proposal %d: %w", i+1, err)
		}
		if len(b)-start > MaxMessage {
			return nil, fmt.Errorf("proposal %d: %d octets do not fit", i+1, len(b)-start)
		}
		binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	}
	return b, nil
}

// appendProposal appends a proposal from its number on. position is its number
// unless it has one.
func appendProposal(b []byte, p *ipsec.Proposal, position int) ([]byte, error) {
	number := p.Number
	if number == 0 {
		number = uint8(position)
	}
	spiFits := len(p.SPI) <= 255
	switch p.Protocol {
	case ipsec.ProtocolIKE:
		spiFits = len(p.SPI) == 0 || len(p.SPI) == 8
	case ipsec.ProtocolESP, ipsec.ProtocolAH:
		spiFits = len(p.SPI) == 4
	}
	if !spiFits {
		return nil, fmt.Errorf("an SPI of %d octets for %s", len(p.SPI), p.Protocol)
	}
	if n := len(p.Transforms); n == 0 || n > MaxTransforms {
		return nil, fmt.Errorf("%d transforms, not 1 to %d", n, MaxTransforms)
	}
	b = append(b, number, byte(p.Protocol), byte(len(p.SPI)), byte(len(p.Transforms)))
	b = append(b, p.SPI...)
	for i, t := range p.Transforms {
		more, length := byte(moreTransforms), byte(8)
		if i == len(p.Transforms)-1 {
			more = lastSubstruct
		}
		if t.KeyBits != 0 {
			length = 12
		}
		b = append(b, more, 0, 0, length, byte(t.Type), 0)
		b = binary.BigEndian.AppendUint16(b, t.ID)
		if t.KeyBits != 0 {
			b = binary.BigEndian.AppendUint16(b, attributeTV|attributeKeyLength)
			b = binary.BigEndian.AppendUint16(b, t.KeyBits)
		}
	}
	return b, nil
}
