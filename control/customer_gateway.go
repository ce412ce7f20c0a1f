package control

import "net/netip"

// IDType is the type of an identity.
type IDType string

// Identity types. Identities are compared exactly, case included; a name is
// never resolved.
const (
	IDTypeIP   IDType = "ip"
	IDTypeFQDN IDType = "fqdn"
)

// CustomerGateway is the device at the other end of a connection. It has no
// status: it exists for connections to refer to.
type CustomerGateway struct {
	Meta

	IDType  IDType `json:"id_type"`
	IDValue string `json:"id_value"`         // an address in its canonical form, or a name
	BGPASN  uint32 `json:"bgp_asn,omitzero"` // zero: none

	// CACertificate is the authority of the peer's certificates, for connections
	// of gateways of flavor GM.
	CACertificate *CACertificate `json:"ca_certificate,omitempty"`
}

// CACertificate is a CA certificate. Customer gateways of a project may share one.
type CACertificate struct {
	ID  string `json:"id"`
	PEM string `json:"pem"`
}

// Authorities returns the CA certificate in DER; empty where there is none.
func (c *CustomerGateway) Authorities() ([][]byte, error) {
	if c.CACertificate == nil {
		return nil, nil
	}
	return derOf(c.CACertificate.PEM)
}

// Address returns the peer's address. It is the zero Addr for a customer
// gateway known by name: its address is learned from its packets.
func (c *CustomerGateway) Address() netip.Addr {
	if c.IDType != IDTypeIP {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(c.IDValue) // checked when it was created
	return a
}

// CustomerGatewayCreate is a request for a customer gateway. A nil member was
// not sent.
type CustomerGatewayCreate struct {
	Name          *string
	IDType        *string
	IDValue       *string
	IP            *string // legacy form of IDValue with IDType ip
	BGPASN        *int64
	CACertificate *CACertificateRequest
	Tags          []Tag
}

// CustomerGatewayUpdate is a change of a customer gateway. A nil member stays
// as it is.
type CustomerGatewayUpdate struct {
	Name          *string
	CACertificate *CACertificateRequest
}

// CACertificateRequest names a stored CA certificate or carries a new one.
type CACertificateRequest struct {
	ID      *string
	Content *string // PEM
}
