package control

import (
	"io"
	"net/netip"
	"slices"
)

const defaultEnterpriseProject = "0"

// gatewayDefaults is the specification of a gateway of which nothing was said.
func gatewayDefaults(random io.Reader) (Gateway, error) {
	name, err := randomName("vpngw-", random)
	return Gateway{
		Meta:                Meta{Name: name},
		NetworkType:         NetworkPublic,
		AttachmentType:      AttachVPC,
		IPVersion:           IPv4,
		Flavor:              defaultFlavor,
		HAMode:              ActiveActive,
		BGPASN:              defaultBGPASN,
		EnterpriseProjectID: defaultEnterpriseProject,
	}, err
}

// parseGateway reads a request for a gateway over its defaults. What concerns
// several members, the inventory or other gateways is left to the rules; EIPs
// and zones are bound after them.
func parseGateway(req *GatewayCreate, g Gateway) (Gateway, error) {
	p := &parser{}
	p.name("name", req.Name, &g.Name)
	text(p, "network_type", req.NetworkType, &g.NetworkType, NetworkPublic, NetworkPrivate)
	text(p, "attachment_type", req.AttachmentType, &g.AttachmentType, AttachVPC, AttachER)
	text(p, "ip_version", req.IPVersion, &g.IPVersion, IPv4, IPv6)
	text(p, "flavor", req.Flavor, &g.Flavor, flavors...)
	text(p, "ha_mode", req.HAMode, &g.HAMode, ActiveActive, ActiveStandby)
	number(p, "bgp_asn", req.BGPASN, &g.BGPASN, 1, 4294967295)
	p.enterpriseProject("enterprise_project_id", req.EnterpriseProjectID, &g.EnterpriseProjectID)
	p.id("er_id", req.ERID, &g.ERID)
	p.id("vpc_id", req.VPCID, &g.VPCID)
	p.id("connect_subnet", req.ConnectSubnet, &g.ConnectSubnet)
	p.localSubnets(&g, req.LocalSubnets, req.LocalSubnetsV6)
	p.accessSubnet(&g, req)
	p.accessPrivateIPs(&g, req.AccessPrivateIP1, req.AccessPrivateIP2)
	p.tags("tags", req.Tags, &g.Tags)
	g.AvailabilityZones = slices.Clone(req.AvailabilityZoneIDs)
	if g.Flavor.NonFixedIP() {
		template := defaultTemplate
		g.Template = &template
	}
	return g, p.result()
}

// mergeGateway reads a change of a gateway over its present specification.
func mergeGateway(req *GatewayUpdate, g Gateway) (Gateway, error) {
	p := &parser{}
	p.name("name", req.Name, &g.Name)
	p.localSubnets(&g, req.LocalSubnets, req.LocalSubnetsV6)
	switch {
	case req.PolicyTemplate == nil:
	case g.Template == nil:
		p.fail("policy_template", "only a gateway of a NonFixedIP flavor has one")
	default:
		template := *g.Template
		p.policyTemplate(req.PolicyTemplate, &template)
		g.Template = &template
	}
	return g, p.result()
}

// localSubnets reads the subnets of the gateway's family; those of the other
// family must not be there.
func (p *parser) localSubnets(g *Gateway, v4, v6 []string) {
	field, mine, otherField, other := "local_subnets", v4, "local_subnets_v6", v6
	if g.IPVersion == IPv6 {
		field, mine, otherField, other = otherField, other, field, mine
	}
	if len(other) > 0 {
		p.fail(otherField, "must be absent with ip_version %s", g.IPVersion)
	}
	if mine != nil {
		g.LocalSubnets = nil // an empty list is as good as none
		if len(mine) > 0 {
			g.LocalSubnets = p.prefixes(field, g.IPVersion, mine, maxSubnets)
		}
	}
}

// accessSubnet reads where the gateway has its cloud-side addresses: by
// default where it connects.
func (p *parser) accessSubnet(g *Gateway, req *GatewayCreate) {
	g.AccessVPCID, g.AccessSubnetID = g.VPCID, g.ConnectSubnet
	if req.AccessVPCID != nil && req.AccessSubnetID == nil {
		p.fail("access_subnet_id", "is required with access_vpc_id")
	}
	p.id("access_vpc_id", req.AccessVPCID, &g.AccessVPCID)
	p.id("access_subnet_id", req.AccessSubnetID, &g.AccessSubnetID)
}

func (p *parser) accessPrivateIPs(g *Gateway, first, second *string) {
	if (first == nil) != (second == nil) {
		p.fail("access_private_ip_1", "and access_private_ip_2 must be given together")
		return
	}
	if first == nil {
		return
	}
	if g.NetworkType != NetworkPrivate {
		p.fail("access_private_ip_1", "must be absent with network_type %s", g.NetworkType)
	}
	g.AccessPrivateIPs = [2]netip.Addr{p.address("access_private_ip_1", *first), p.address("access_private_ip_2", *second)}
}
