package isakmp

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/vpngw/vpngw/ike/octets"
	"github.com/vpngw/vpngw/ipsec"
)

// Notify reports an error or a status (RFC 2408, section 3.14).
type Notify struct {
	Protocol   ipsec.Protocol
	SPI        []byte // of ISAKMP both cookies or nothing
	NotifyType NotifyType
	Data       []byte
}

// Type returns TypeNotify.
func (*Notify) Type() PayloadType { return TypeNotify }

// String reads "N(NO-PROPOSAL-CHOSEN)".
func (p *Notify) String() string { return "N(" + p.NotifyType.String() + ")" }

// parseNotify reads a notification. The DOI may be zero, ISAKMP itself.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!              Domain of Interpretation  (DOI)                  !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!  Protocol-ID  !   SPI Size    !      Notify Message Type      !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!                Security Parameter Index (SPI)                 !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                       Notification Data                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseNotify(c *octets.Cursor) *Notify {
	c.Uint32("DOI")
	p := &Notify{Protocol: ipsec.Protocol(c.Uint8("protocol"))}
	spiSize := int(c.Uint8("SPI size"))
	p.NotifyType = NotifyType(c.Uint16("notify type"))
	p.SPI = c.Bytes(spiSize, "SPI")
	p.Data = c.Remainder()
	return p
}

func (p *Notify) appendBody(b []byte) ([]byte, error) {
	if len(p.SPI) > 255 {
		return nil, fmt.Errorf("an SPI of %d octets", len(p.SPI))
	}
	b = binary.BigEndian.AppendUint32(b, doiIPsec)
	b = append(b, byte(p.Protocol), byte(len(p.SPI)))
	b = binary.BigEndian.AppendUint16(b, uint16(p.NotifyType))
	return append(append(b, p.SPI...), p.Data...), nil
}

// Delete tells that the sender has ended SAs (RFC 2408, section 3.15).
type Delete struct {
	Protocol ipsec.Protocol
	// SPIs are those of the sender's inbound SAs; for ISAKMP each one is both
	// cookies, 16 octets.
	SPIs [][]byte
}

// Type returns TypeDelete.
func (*Delete) Type() PayloadType { return TypeDelete }

// String reads "D(ESP 0a1b2c3d)".
func (p *Delete) String() string {
	names := []string{p.Protocol.String()}
	for _, spi := range p.SPIs {
		names = append(names, fmt.Sprintf("%x", spi))
	}
	return "D(" + strings.Join(names, " ") + ")"
}

// spiSize returns the length of the SPIs of a protocol; zero: it has no SAs.
func spiSize(p ipsec.Protocol) int {
	switch p {
	case ipsec.ProtocolIKE:
		return 16
	case ipsec.ProtocolESP, ipsec.ProtocolAH:
		return 4
	}
	return 0
}

// parseDelete reads a list of SAs.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!              Domain of Interpretation  (DOI)                  !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!  Protocol-Id  !   SPI Size    !           # of SPIs           !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~               Security Parameter Index(es) (SPI)              ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseDelete(c *octets.Cursor) *Delete {
	c.Uint32("DOI")
	p := &Delete{Protocol: ipsec.Protocol(c.Uint8("protocol"))}
	size, count := int(c.Uint8("SPI size")), int(c.Uint16("number of SPIs"))
	switch want := spiSize(p.Protocol); {
	case c.Failed():
		return p
	case want == 0:
		c.Fail("deletion of an SA of %s", p.Protocol)
	case size != want:
		c.Fail("deletion of %s with an SPI of %d octets", p.Protocol, size)
	case count > MaxDeleteSPIs:
		c.Fail("deletion of %d SAs, more than %d", count, MaxDeleteSPIs)
	}
	for i := 0; i < count && !c.Failed(); i++ {
		p.SPIs = append(p.SPIs, c.Bytes(size, "SPI"))
	}
	return p
}

func (p *Delete) appendBody(b []byte) ([]byte, error) {
	size := spiSize(p.Protocol)
	if size == 0 {
		return nil, fmt.Errorf("no SA of %s can be deleted", p.Protocol)
	}
	if len(p.SPIs) > MaxDeleteSPIs {
		return nil, fmt.Errorf("%d SPIs, more than %d", len(p.SPIs), MaxDeleteSPIs)
	}
	b = binary.BigEndian.AppendUint32(b, doiIPsec)
	b = append(b, byte(p.Protocol), byte(size))
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.SPIs)))
	for _, spi := range p.SPIs {
		if len(spi) != size {
			return nil, fmt.Errorf("an SPI of %d octets for %s", len(spi), p.Protocol)
		}
		b = append(b, spi...)
	}
	return b, nil
}
