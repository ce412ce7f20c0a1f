package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/vpngw/vpngw/ike/octets"
)

// Type returns TypeConfig.
func (*Config) Type() PayloadType { return TypeConfig }

// parseConfig reads a configuration payload: a type, three reserved octets and
// attributes (RFC 7296, section 3.15).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|R|         Attribute Type      |            Length             |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                             Value                             ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseConfig(c *octets.Cursor) *Config {
	p := &Config{ConfigType: ConfigType(c.Uint8("configuration type"))}
	c.Take(3, "reserved field")
	for !c.Failed() && c.Len() > 0 {
		if len(p.Attributes) == MaxConfigAttributes {
			c.Fail("more than %d attributes", MaxConfigAttributes)
			break
		}
		kind := c.Uint16("attribute type") & 0x7fff
		value := c.Bytes(int(c.Uint16("attribute length")), "attribute value")
		p.Attributes = append(p.Attributes, ConfigAttribute{Type: kind, Value: value})
	}
	return p
}

func (p *Config) appendBody(b []byte) ([]byte, error) {
	if len(p.Attributes) > MaxConfigAttributes {
		return nil, fmt.Errorf("%d attributes, more than %d", len(p.Attributes), MaxConfigAttributes)
	}
	b = append(b, byte(p.ConfigType), 0, 0, 0)
	for _, a := range p.Attributes {
		if a.Type > 0x7fff || len(a.Value) > 65535 {
			return nil, fmt.Errorf("attribute %d of %d octets does not fit", a.Type, len(a.Value))
		}
		b = binary.BigEndian.AppendUint16(b, a.Type)
		b = binary.BigEndian.AppendUint16(b, uint16(len(a.Value)))
		b = append(b, a.Value...)
	}
	return b, nil
}
