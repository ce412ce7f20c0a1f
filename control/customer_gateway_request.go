package control

import (
	"io"
	"net/netip"
)

// customerGatewayDefaults is the specification of a customer gateway of which
// nothing was said.
func customerGatewayDefaults(random io.Reader) (CustomerGateway, error) {
	name, err := randomName("cgw-", random)
	return CustomerGateway{Meta: Meta{Name: name}, IDType: IDTypeIP}, err
}

// parseCustomerGateway reads a request for a customer gateway over its
// defaults.
func parseCustomerGateway(req *CustomerGatewayCreate, c CustomerGateway) (CustomerGateway, error) {
	p := &parser{}
	p.name("name", req.Name, &c.Name)
	idType, idValue := req.IDType, req.IDValue
	if idValue == nil && req.IP != nil { // the legacy form
		idType, idValue = nil, req.IP
	}
	text(p, "id_type", idType, &c.IDType, IDTypeIP, IDTypeFQDN)
	if idValue == nil {
		p.fail("id_value", "is required")
		return c, p.result()
	}
	c.IDValue = p.customerID("id_value", c.IDType, *idValue)
	if req.BGPASN != nil && c.IDType != IDTypeIP {
		p.fail("bgp_asn", "must be absent with id_type %s", c.IDType)
	}
	number(p, "bgp_asn", req.BGPASN, &c.BGPASN, 1, 4294967295)
	p.caCertificate(req.CACertificate)
	p.tags("tags", req.Tags, &c.Tags)
	return c, p.result()
}

// mergeCustomerGateway reads a change of a customer gateway over its present
// specification.
func mergeCustomerGateway(req *CustomerGatewayUpdate, c CustomerGateway) (CustomerGateway, error) {
	p := &parser{}
	p.name("name", req.Name, &c.Name)
	p.caCertificate(req.CACertificate)
	return c, p.result()
}

func (p *parser) customerID(field string, t IDType, v string) string {
	if t == IDTypeFQDN {
		p.fqdn(field, v, maxCustomerIDLen)
		return v
	}
	a, err := netip.ParseAddr(v)
	if err != nil || !isPeerAddress(a) {
		p.fail(field, "must be the IPv4 or IPv6 address of a device")
		return v
	}
	return a.String() // IPv6 has several spellings
}

func (p *parser) caCertificate(req *CACertificateRequest) {
	const field = "ca_certificate"
	switch {
	case req == nil:
	case req.ID != nil && req.Content != nil:
		p.fail(field, "must have id or content, not both")
	case req.ID == nil && req.Content == nil:
		p.fail(field, "must have id or content")
	case req.Content != nil && (len(*req.Content) < 1 || len(*req.Content) > 8192):
		p.fail(field+".content", "must have 1 to 8192 characters")
	}
}
