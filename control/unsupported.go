package control

// unsupported refuses what the API knows and this release cannot do: an
// option that is accepted must be one that works. The rules of the options
// stand elsewhere and are complete, so making one work means to delete its
// line here.
func (p *parser) unsupported(field, what string) {
	p.fail(field, "%s this release does not support", what)
}

// unsupportedGateway refuses gateways of kinds that no data plane carries yet.
func unsupportedGateway(d *gatewayDraft) *Error {
	p := &parser{}
	if d.AttachmentType == AttachER {
		p.unsupported("attachment_type", "er is an attachment that")
	}
	if d.NetworkType == NetworkPrivate && !d.AccessPrivateIPs[0].IsValid() {
		p.unsupported("access_private_ip_1", "leaving the private addresses to be chosen is something that")
	}
	return p.err
}

// unsupportedConnection refuses connections that no engine establishes yet.
func unsupportedConnection(d *connectionDraft) *Error {
	p := &parser{}
	if d.Style == StyleBGP {
		p.unsupported("style", string(d.Style)+" is a style that")
	}
	return p.err
}
