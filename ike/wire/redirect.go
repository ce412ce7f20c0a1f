package wire

import (
	"errors"
	"fmt"
	"net/netip"
)

// GatewayIdentity names a gateway in a REDIRECT or a REDIRECTED_FROM notify (RFC
// 5685): by an address or by a name, of which one is set.
type GatewayIdentity struct {
	Addr netip.Addr
	FQDN string
}

// Types of a gateway identity.
const (
	gatewayIPv4 = 1
	gatewayIPv6 = 2
	gatewayFQDN = 3
)

// String returns the address or the name.
func (g GatewayIdentity) String() string {
	if g.Addr.IsValid() {
		return g.Addr.String()
	}
	return g.FQDN
}

// RedirectData returns the data of a REDIRECT or a REDIRECTED_FROM notify. A nonce
// is the initiator's, in the answer to IKE_SA_INIT:
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------+---------------+-------------------------------+
//	| GW Ident Type |  GW Ident Len |  New Responder GW Identity    ~
//	+---------------+---------------+-------------------------------+
//	~                        Nonce Data                             ~
//	+---------------------------------------------------------------+
func RedirectData(g GatewayIdentity, nonce []byte) ([]byte, error) {
	kind, identity := byte(gatewayFQDN), []byte(g.FQDN)
	if a := g.Addr.Unmap(); a.IsValid() {
		kind, identity = gatewayIPv6, a.AsSlice()
		if a.Is4() {
			kind = gatewayIPv4
		}
	}
	if len(identity) == 0 || len(identity) > 255 {
		return nil, fmt.Errorf("gateway identity of %d octets: must be 1 to 255", len(identity))
	}
	b := append([]byte{kind, byte(len(identity))}, identity...)
	return append(b, nonce...), nil
}

// ParseRedirect reads what RedirectData has written. The nonce is empty where there
// is none. A name is not checked beyond its length.
func ParseRedirect(data []byte) (g GatewayIdentity, nonce []byte, err error) {
	if len(data) < 2 || len(data) < 2+int(data[1]) || data[1] == 0 {
		return g, nil, errors.New("redirect: truncated gateway identity")
	}
	identity, nonce := data[2:2+int(data[1])], data[2+int(data[1]):]
	switch data[0] {
	case gatewayIPv4, gatewayIPv6:
		a, ok := netip.AddrFromSlice(identity)
		if !ok || a.Is4() != (data[0] == gatewayIPv4) {
			return g, nil, fmt.Errorf("redirect: address of %d octets", len(identity))
		}
		g.Addr = a
	case gatewayFQDN:
		g.FQDN = string(identity)
	default:
		return g, nil, fmt.Errorf("redirect: gateway identity of type %d", data[0])
	}
	return g, nonce, nil
}
