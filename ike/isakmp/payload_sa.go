package isakmp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vpngw/vpngw/ike/octets"
	"github.com/vpngw/vpngw/ipsec"
)

const (
	doiIPsec              = 1 // RFC 2407
	situationIdentityOnly = 1

	lastSubstruct  = 0
	moreProposals  = 2
	moreTransforms = 3

	attributeTV = 0x8000 // attribute format: type/value, without a length
)

// AttributeType is the kind of an attribute. Phase 1 and phase 2 have different
// ones.
type AttributeType uint16

// Attributes of a phase 1 transform (RFC 2409, appendix A).
const (
	Phase1Encryption   AttributeType = 1
	Phase1Hash         AttributeType = 2
	Phase1AuthMethod   AttributeType = 3
	Phase1Group        AttributeType = 4
	Phase1LifeType     AttributeType = 11
	Phase1LifeDuration AttributeType = 12
	Phase1KeyLength    AttributeType = 14
	// Phase1Asymmetric is the asymmetric algorithm (GM/T 0022).
	Phase1Asymmetric AttributeType = 20
)

// Attributes of a phase 2 transform (RFC 2407, section 4.5).
const (
	Phase2LifeType      AttributeType = 1
	Phase2LifeDuration  AttributeType = 2
	Phase2Group         AttributeType = 3
	Phase2Encapsulation AttributeType = 4
	Phase2Auth          AttributeType = 5
	Phase2KeyLength     AttributeType = 6
	Phase2ESN           AttributeType = 11 // RFC 4304
)

// Attribute is one attribute of a transform (RFC 2408, section 3.3). Short
// values are of two octets and need no length of their own.
type Attribute struct {
	Type  AttributeType // 15 bits
	Value []byte
}

// Number returns an attribute whose value is a number, in two octets where it
// fits and in four where not.
func Number(t AttributeType, v uint32) Attribute {
	if v <= 0xffff {
		return Attribute{Type: t, Value: binary.BigEndian.AppendUint16(nil, uint16(v))}
	}
	return Attribute{Type: t, Value: binary.BigEndian.AppendUint32(nil, v)}
}

// Number returns the value as a number; ok is false when it has more octets
// than a number of 64 bits.
func (a Attribute) Number() (v uint64, ok bool) {
	if len(a.Value) == 0 || len(a.Value) > 8 {
		return 0, false
	}
	for _, b := range a.Value {
		v = v<<8 | uint64(b)
	}
	return v, true
}

// parseSA reads the DOI, the situation and the list of proposals (RFC 2408,
// sections 3.4 to 3.6).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|              Domain of Interpretation  (DOI)                  |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                           Situation                           |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	! Next Payload  !   RESERVED    !         Payload Length        !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!  Proposal #   !  Protocol-Id  !    SPI Size   !# of Transforms!
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!                        SPI (variable)                         !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseSA(c *octets.Cursor, body []byte) *SA {
	sa := &SA{Raw: append([]byte(nil), body...)}
	if doi := c.Uint32("DOI"); !c.Failed() && doi != doiIPsec {
		c.Fail("DOI %d", doi)
	}
	if situation := c.Uint32("situation"); !c.Failed() && situation != situationIdentityOnly {
		c.Fail("situation %#x", situation)
	}
	for !c.Failed() {
		if len(sa.Proposals) == MaxProposals {
			c.Fail("more than %d proposals", MaxProposals)
			break
		}
		more := c.Uint8("proposal")
		c.Take(1, "proposal")
		body := c.Sub(int(c.Uint16("proposal length"))-4, "proposal")
		proposal := parseProposal(body)
		if c.Failed() {
			break
		}
		sa.Proposals = append(sa.Proposals, proposal)
		if more == lastSubstruct {
			break
		}
		if more != moreProposals {
			c.Fail("proposal followed by substructure %d", more)
		}
	}
	return sa
}

func parseProposal(c *octets.Cursor) Proposal {
	p := Proposal{Number: c.Uint8("proposal number"), Protocol: ipsec.Protocol(c.Uint8("protocol"))}
	spiSize, transforms := int(c.Uint8("SPI size")), int(c.Uint8("number of transforms"))
	switch {
	case c.Failed():
	case (p.Protocol == ipsec.ProtocolESP || p.Protocol == ipsec.ProtocolAH) && spiSize != 4:
		c.Fail("%s proposal with an SPI of %d octets", p.Protocol, spiSize)
	case transforms == 0:
		c.Fail("proposal without transforms")
	case transforms > MaxTransforms:
		c.Fail("%d transforms, more than %d", transforms, MaxTransforms)
	}
	p.SPI = c.Bytes(spiSize, "SPI")
	for i := range transforms {
		if c.Failed() {
			return p
		}
		more := c.Uint8("transform")
		c.Take(1, "transform")
		body := c.Sub(int(c.Uint16("transform length"))-4, "transform")
		t := parseTransform(body)
		if c.Failed() {
			return p
		}
		if last := i == transforms-1; last && more != lastSubstruct || !last && more != moreTransforms {
			c.Fail("transform %d of %d followed by substructure %d", i+1, transforms, more)
		}
		p.Transforms = append(p.Transforms, t)
	}
	c.End()
	return p
}

// parseTransform reads one transform and its attributes.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!  Transform #  !  Transform-Id !           RESERVED2           !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                        SA Attributes                          ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseTransform(c *octets.Cursor) Transform {
	t := Transform{Number: c.Uint8("transform number"), ID: c.Uint8("transform ID")}
	c.Take(2, "reserved field")
	t.Attributes = parseAttributes(c)
	return t
}

// parseAttributes reads attributes to the end (RFC 2408, section 3.3).
func parseAttributes(c *octets.Cursor) (list []Attribute) {
	for !c.Failed() && c.Len() > 0 {
		if len(list) == MaxAttributes {
			c.Fail("more than %d attributes", MaxAttributes)
			break
		}
		kind := c.Uint16("attribute type")
		length := 2
		if kind&attributeTV == 0 {
			length = int(c.Uint16("attribute length"))
		}
		value := c.Bytes(length, "attribute value")
		if !c.Failed() {
			list = append(list, Attribute{AttributeType(kind &^ attributeTV), value})
		}
	}
	return list
}

// ParseAttributes reads a list of attributes, the data of some notifications.
func ParseAttributes(b []byte) ([]Attribute, error) {
	c := octets.NewCursor(b)
	list := parseAttributes(c)
	if c.Failed() {
		offset, reason := c.Fault()
		return nil, malformed(offset, "%s", reason)
	}
	return list, nil
}

// AppendAttributes appends a list of attributes.
func AppendAttributes(b []byte, list []Attribute) ([]byte, error) {
	if len(list) > MaxAttributes {
		return nil, fmt.Errorf("%d attributes, more than %d", len(list), MaxAttributes)
	}
	for _, a := range list {
		switch {
		case a.Type&attributeTV != 0:
			return nil, errors.New("an attribute type of 16 bits")
		case len(a.Value) == 2:
			b = binary.BigEndian.AppendUint16(b, uint16(a.Type)|attributeTV)
		case len(a.Value) > MaxMessage:
			return nil, fmt.Errorf("an attribute of %d octets", len(a.Value))
		default:
			b = binary.BigEndian.AppendUint16(b, uint16(a.Type))
			b = binary.BigEndian.AppendUint16(b, uint16(len(a.Value)))
		}
		b = append(b, a.Value...)
	}
	return b, nil
}

func (p *SA) appendBody(b []byte) ([]byte, error) {
	if n := len(p.Proposals); n == 0 || n > MaxProposals {
		return nil, fmt.Errorf("%d proposals, not 1 to %d", n, MaxProposals)
	}
	b = binary.BigEndian.AppendUint32(b, doiIPsec)
	b = binary.BigEndian.AppendUint32(b, situationIdentityOnly)
	for i := range p.Proposals {
		more := byte(moreProposals)
		if i == len(p.Proposals)-1 {
			more = lastSubstruct
		}
		var err error
		if b, err = appendSubstruct(b, more, p.Proposals[i].appendTo); err != nil {
			return nil, fmt.Errorf("proposal %d: %w", i+1, err)
		}
	}
	return b, nil
}

// appendSubstruct appends a proposal or transform under its generic header.
func appendSubstruct(b []byte, more byte, body func([]byte) ([]byte, error)) ([]byte, error) {
	start := len(b)
	b, err := body(append(b, more, 0, 0, 0))
	if err != nil {
		return nil, err
	}
	if n := len(b) - start; n > MaxMessage {
		return nil, fmt.Errorf("%d octets do not fit", n)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return b, nil
}

func (p *Proposal) appendTo(b []byte) ([]byte, error) {
	if n := len(p.Transforms); n == 0 || n > MaxTransforms {
		return nil, fmt.Errorf("%d transforms, not 1 to %d", n, MaxTransforms)
	}
	if len(p.SPI) > 255 {
		return nil, fmt.Errorf("an SPI of %d octets", len(p.SPI))
	}
	b = append(b, p.Number, byte(p.Protocol), byte(len(p.SPI)), byte(len(p.Transforms)))
	b = append(b, p.SPI...)
	for i := range p.Transforms {
		more := byte(moreTransforms)
		if i == len(p.Transforms)-1 {
			more = lastSubstruct
		}
		var err error
		if b, err = appendSubstruct(b, more, p.Transforms[i].appendTo); err != nil {
			return nil, fmt.Errorf("transform %d: %w", i+1, err)
		}
	}
	return b, nil
}

func (t *Transform) appendTo(b []byte) ([]byte, error) {
	return AppendAttributes(append(b, t.Number, t.ID, 0, 0), t.Attributes)
}

// Get returns the value of a transform's only attribute of a type as a number.
// found is false when it does not occur, and valid is false when it occurs more
// than once or is no number.
func (t *Transform) Get(kind AttributeType) (v uint64, found, valid bool) {
	valid = true
	for _, a := range t.Attributes {
		if a.Type != kind {
			continue
		}
		n, ok := a.Number()
		valid = valid && ok && !found
		v, found = n, true
	}
	return v, found, valid
}
