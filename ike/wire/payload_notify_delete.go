package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/vpngw/vpngw/ike/octets"
	"github.com/vpngw/vpngw/ipsec"
)

// Type returns TypeNotify.
func (*Notify) Type() PayloadType { return TypeNotify }

// String reads "N(NO_PROPOSAL_CHOSEN)".
func (p *Notify) String() string { return "N(" + p.NotifyType.String() + ")" }

// parseNotify reads a notification (RFC 7296, section 3.10). Without an SPI
// the protocol means nothing and is read as zero.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  Protocol ID  |   SPI Size    |      Notify Message Type      |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                Security Parameter Index (SPI)                 ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                       Notification Data                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseNotify(c *octets.Cursor) *Notify {
	p := &Notify{Protocol: ipsec.Protocol(c.Uint8("protocol"))}
	spiSize := int(c.Uint8("SPI size"))
	p.NotifyType = NotifyType(c.Uint16("notify type"))
	p.SPI = c.Bytes(spiSize, "SPI")
	if spiSize == 0 {
		p.Protocol = 0
	}
	p.Data = c.Remainder()
	return p
}

func (p *Notify) appendBody(b []byte) ([]byte, error) {
	if len(p.SPI) > 255 {
		return nil, fmt.Errorf("an SPI of %d octets", len(p.SPI))
	}
	if len(p.SPI) == 0 && p.Protocol != 0 {
		return nil, fmt.Errorf("protocol %s without an SPI", p.Protocol)
	}
	b = append(b, byte(p.Protocol), byte(len(p.SPI)))
	b = binary.BigEndian.AppendUint16(b, uint16(p.NotifyType))
	return append(append(b, p.SPI...), p.Data...), nil
}

// Type returns TypeDelete.
func (*Delete) Type() PayloadType { return TypeDelete }

// String reads "D(ESP 0a1b2c3d)".
func (p *Delete) String() string {
	names := []string{p.Protocol.String()}
	for _, spi := range p.SPIs {
		names = append(names, spi.String())
	}
	return "D(" + strings.Join(names, " ") + ")"
}

// parseDelete reads a list of SAs to end (RFC 7296, section 3.11).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Protocol ID   |   SPI Size    |          Num of SPIs          |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~               Security Parameter Index(es) (SPI)              ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseDelete(c *octets.Cursor) *Delete {
	p := &Delete{Protocol: ipsec.Protocol(c.Uint8("protocol"))}
	size, count := int(c.Uint8("SPI size")), int(c.Uint16("number of SPIs"))
	switch {
	case c.Failed():
		return p
	case p.Protocol == ipsec.ProtocolIKE:
		if size != 0 || count != 0 {
			c.Fail("deletion of the IKE SA with %d SPIs of %d octets", count, size)
		}
	case p.Protocol != ipsec.ProtocolESP && p.Protocol != ipsec.ProtocolAH:
		c.Fail("deletion of an SA of %s", p.Protocol)
	case size != 4:
		c.Fail("deletion of %s with an SPI of %d octets", p.Protocol, size)
	case count > MaxDeleteSPIs:
		c.Fail("deletion of %d SAs, more than %d", count, MaxDeleteSPIs)
	}
	for i := 0; i < count && !c.Failed(); i++ {
		p.SPIs = append(p.SPIs, ipsec.SPI(c.Uint32("SPI")))
	}
	c.End()
	return p
}

func (p *Delete) appendBody(b []byte) ([]byte, error) {
	size := byte(4)
	switch p.Protocol {
	case ipsec.ProtocolIKE:
		size = 0
		if len(p.SPIs) != 0 {
			return nil, errors.New("the deletion of an IKE SA carries no SPI")
		}
	case ipsec.ProtocolESP, ipsec.ProtocolAH:
	default:
		return nil, fmt.Errorf("no SA of %s can be deleted", p.Protocol)
	}
	if len(p.SPIs) > MaxDeleteSPIs {
		return nil, fmt.Errorf("%d SPIs, more than %d", len(p.SPIs), MaxDeleteSPIs)
	}
	b = append(b, byte(p.Protocol), size)
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.SPIs)))
	for _, spi := range p.SPIs {
		b = binary.BigEndian.AppendUint32(b, uint32(spi))
	}
	return b, nil
}

// Type returns TypeVendorID.
func (*VendorID) Type() PayloadType { return TypeVendorID }

// parseVendorID reads a vendor's octets: all of the body (RFC 7296, section
// 3.12).
func parseVendorID(c *octets.Cursor) *VendorID { return &VendorID{Data: c.Remainder()} }

func (p *VendorID) appendBody(b []byte) ([]byte, error) { return append(b, p.Data...), nil }
