package control

import (
	"io"
	"slices"
)

// P2CGatewayCreate is a request for a client-to-cloud gateway. A nil member was
// not sent.
type P2CGatewayCreate struct {
	Name                *string
	VPCID               *string
	ConnectSubnet       *string
	Flavor              *string
	AvailabilityZoneIDs []string
	EIP                 *EIPRequest
	MaxConnections      *int
	EnterpriseProjectID *string
	Tags                []Tag
}

// P2CGatewayUpdate is a change of a client-to-cloud gateway. A nil member stays
// as it is.
type P2CGatewayUpdate struct {
	Name  *string
	EIPID *string
}

func p2cGatewayDefaults(random io.Reader) (P2CGateway, error) {
	name, err := randomName("p2c-vpngw-", random)
	return P2CGateway{
		Meta:                Meta{Name: name},
		Flavor:              defaultFlavor,
		MaxConnections:      defaultMaxClients,
		EnterpriseProjectID: defaultEnterpriseProject,
	}, err
}

// parseP2CGateway reads a request for a gateway over its defaults. What
// concerns the inventory or other gateways is left to the rules.
func parseP2CGateway(req *P2CGatewayCreate, g P2CGateway) (P2CGateway, error) {
	p := &parser{}
	p.plainName("name", req.Name, &g.Name)
	p.required("vpc_id", req.VPCID)
	p.id("vpc_id", req.VPCID, &g.VPCID)
	p.required("connect_subnet", req.ConnectSubnet)
	p.id("connect_subnet", req.ConnectSubnet, &g.ConnectSubnet)
	text(p, "flavor", req.Flavor, &g.Flavor, FlavorProfessional1)
	if req.MaxConnections != nil {
		if *req.MaxConnections < 1 {
			p.fail("max_connection_number", "must be at least 1")
		}
		g.MaxConnections = *req.MaxConnections
	}
	p.enterpriseProject("enterprise_project_id", req.EnterpriseProjectID, &g.EnterpriseProjectID)
	if len(req.Tags) > maxTags {
		p.fail("tags", "must be at most %d", maxTags)
	}
	tags := make([]TagChange, len(req.Tags))
	for i, t := range req.Tags {
		tags[i] = TagChange{Key: t.Key, Value: &t.Value}
	}
	p.tagChanges("tags", tags)
	g.Tags = slices.Clone(req.Tags)
	if req.EIP == nil {
		p.fail("eip", "is required")
	}
	return g, p.result()
}

// required refuses a member that was not sent. Clients that have no value for
// it may send an empty one.
func (p *parser) required(field string, v *string) {
	if v == nil || *v == "" {
		p.fail(field, "is required")
	}
}
