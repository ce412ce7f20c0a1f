package control

import (
	"io"
	"slices"
	"strings"
)

// connectionDefaults is the specification of a connection of a gateway of
// which nothing was said. Its tunnel addresses are chosen last, by
// completeTunnel.
func connectionDefaults(g *Gateway, cgw *CustomerGateway, random io.Reader) (Connection, error) {
	name, err := randomName("vpn-", random)
	s := suiteOf(g.Flavor)
	c := Connection{
		Meta:                Meta{Name: name},
		GatewayID:           g.ID,
		CustomerGatewayID:   cgw.ID,
		EnterpriseProjectID: g.EnterpriseProjectID,
		Style:               StyleStatic,
		HARole:              RoleMaster,
		IKE:                 s.ike,
		IPsec:               s.ipsec,
	}
	if cgw.IDType == IDTypeFQDN && !s.withoutIdentity {
		c.IKE.PeerIDType, c.IKE.PeerID = IDTypeFQDN, cgw.IDValue
	}
	return c, err
}

// parseConnection reads a request for a connection over its defaults.
func parseConnection(req *ConnectionCreate, g *Gateway, c Connection) (Connection, error) {
	p := &parser{}
	if req.Style != nil {
		style := strings.ToLower(*req.Style)
		text(p, "style", &style, &c.Style, StylePolicy, StyleStatic, StyleBGP, StylePolicyTemplate)
	}
	text(p, "ha_role", req.HARole, &c.HARole, RoleMaster, RoleSlave)
	if g.HAMode == ActiveActive {
		c.HARole = RoleMaster
	}
	p.tags("tags", req.Tags, &c.Tags)
	if req.PSK == nil && !suiteOf(g.Flavor).withoutIdentity {
		p.fail("psk", "is required")
	}
	p.connection(g, &ConnectionUpdate{
		Name:               req.Name,
		PeerSubnets:        req.PeerSubnets,
		PeerSubnetsV6:      req.PeerSubnetsV6,
		TunnelLocalAddress: req.TunnelLocalAddress,
		TunnelPeerAddress:  req.TunnelPeerAddress,
		EnableNQA:          req.EnableNQA,
		EnableHub:          req.EnableHub,
		PSK:                req.PSK,
		PPK:                req.PPK,
		PolicyRules:        req.PolicyRules,
		PolicyRulesV6:      req.PolicyRulesV6,
		IKEPolicy:          req.IKEPolicy,
		IPsecPolicy:        req.IPsecPolicy,
	}, &c)
	return c, p.result()
}

// mergeConnection reads a change of a connection over its present
// specification. before is the customer gateway it had, after the one it is to
// have.
func mergeConnection(req *ConnectionUpdate, g *Gateway, before, after *CustomerGateway, c Connection) (Connection, error) {
	p := &parser{}
	c.CustomerGatewayID = after.ID
	if before.ID != after.ID {
		followCustomerGateway(&c.IKE, before, after)
	}
	if req.IKEPolicy != nil {
		// Only the creation decides on the method of authentication.
		k := *req.IKEPolicy
		k.AuthenticationMethod = nil
		r := *req
		r.IKEPolicy = &k
		req = &r
	}
	p.connection(g, req, &c)
	return c, p.result()
}

// followCustomerGateway moves a peer identity that was the old customer
// gateway's name or address on to the new one's.
func followCustomerGateway(k *IKEPolicy, before, after *CustomerGateway) {
	follows := k.PeerIDType == IDTypeIP && k.PeerID == "" || k.PeerIDType == IDTypeFQDN && before.IDType == IDTypeFQDN && k.PeerID == before.IDValue
	if !follows {
		return
	}
	k.PeerIDType, k.PeerID = after.IDType, ""
	if after.IDType == IDTypeFQDN {
		k.PeerID = after.IDValue
	}
}

// connection reads the members that creation and change have in common.
func (p *parser) connection(g *Gateway, req *ConnectionUpdate, c *Connection) {
	s := suiteOf(g.Flavor)
	p.name("name", req.Name, &c.Name)
	p.peerSubnets(g, c, req.PeerSubnets, req.PeerSubnetsV6)
	p.tunnelAddress("tunnel_local_address", req.TunnelLocalAddress, &c.TunnelLocal)
	p.tunnelAddress("tunnel_peer_address", req.TunnelPeerAddress, &c.TunnelPeer)
	boolean(req.EnableNQA, &c.EnableNQA)
	boolean(req.EnableHub, &c.EnableHub)
	if req.PSK != nil && !s.withoutIdentity {
		p.psk("psk", *req.PSK)
		c.PSK = *req.PSK
	}
	p.rulesOfFamily(g, c, req.PolicyRules, req.PolicyRulesV6)
	p.ikePolicy(s, req.IKEPolicy, &c.IKE)
	p.postQuantumKey(s, req, c)
	c.IKE.settle()
	p.ipsecPolicy(s, req.IPsecPolicy, &c.IPsec)
}

// postQuantumKey reads the key that goes with ppk_id, and forgets it with that.
func (p *parser) postQuantumKey(s *suite, req *ConnectionUpdate, c *Connection) {
	switch {
	case req.PPK != nil && !s.withoutIdentity:
		p.ppk("ppk", *req.PPK)
		c.PPK = *req.PPK
	case c.IKE.PPKID == "":
		c.PPK = Secret{}
	}
	if k := req.IKEPolicy; c.IKE.PPKID == "" && (k == nil || k.PPKRequired == nil) {
		c.IKE.PPKRequired = false
	}
}

func (p *parser) peerSubnets(g *Gateway, c *Connection, v4, v6 []string) {
	field, mine, otherField, other := peerSubnetsField(g), v4, "peer_subnets_v6", v6
	if g.IPVersion == IPv6 {
		mine, otherField, other = v6, "peer_subnets", v4
	}
	if len(other) > 0 {
		p.fail(otherField, "must be absent with a gateway of ip_version %s", g.IPVersion)
	}
	if mine != nil {
		c.PeerSubnets = nil
		if len(mine) > 0 {
			c.PeerSubnets = p.prefixes(field, g.IPVersion, mine, maxSubnets)
		}
	}
}

func (p *parser) rulesOfFamily(g *Gateway, c *Connection, v4, v6 []PolicyRuleRequest) {
	field, mine, otherField, other := policyRulesField(g), v4, "policy_rules_v6", v6
	if g.IPVersion == IPv6 {
		mine, otherField, other = v6, "policy_rules", v4
	}
	if len(other) > 0 {
		p.fail(otherField, "must be absent with a gateway of ip_version %s", g.IPVersion)
	}
	if mine != nil {
		c.PolicyRules = nil // an empty list is as good as none
		if len(mine) > 0 {
			c.PolicyRules = slices.Clip(p.policyRules(field, g.IPVersion, mine))
		}
	}
}

func peerSubnetsField(g *Gateway) string {
	if g.IPVersion == IPv6 {
		return "peer_subnets_v6"
	}
	return "peer_subnets"
}

func policyRulesField(g *Gateway) string {
	if g.IPVersion == IPv6 {
		return "policy_rules_v6"
	}
	return "policy_rules"
}
