package control

import (
	"context"
	"slices"
)

// ZoneOffer is what gateways can be made in an availability zone.
type ZoneOffer struct {
	Name  string
	Specs []GatewaySpec
}

// GatewaySpec is a kind of gateway.
type GatewaySpec struct {
	Flavor     Flavor
	Attachment AttachmentType
	IPVersion  IPVersion
}

// flavors are all that requests may name.
var flavors = []Flavor{
	FlavorBasic, FlavorProfessional1, FlavorProfessional2, FlavorGM, FlavorProfessional1NonFixedIP, FlavorProfessional2NonFixedIP,
}

// AvailabilityZones performs ListAvailabilityZones and
// ListExtendedAvailabilityZones: every zone offers the kinds of gateways that
// a request for a public gateway is not refused for.
func (s *Service) AvailabilityZones(_ context.Context, project string) ([]ZoneOffer, error) {
	if err := validProject(project); err != nil {
		return nil, err
	}
	var specs []GatewaySpec
	for _, flavor := range flavors {
		for _, attachment := range []AttachmentType{AttachVPC, AttachER} {
			for _, version := range []IPVersion{IPv4, IPv6} {
				if spec := (GatewaySpec{flavor, attachment, version}); spec.offered() {
					specs = append(specs, spec)
				}
			}
		}
	}
	var zones []ZoneOffer
	for _, name := range s.inventory.Load().AvailabilityZones {
		zones = append(zones, ZoneOffer{Name: name, Specs: slices.Clone(specs)})
	}
	return zones, nil
}

// offered tells whether there can be gateways of this kind.
func (g GatewaySpec) offered() bool {
	d := &gatewayDraft{Gateway: Gateway{
		Flavor: g.Flavor, AttachmentType: g.Attachment, IPVersion: g.IPVersion, NetworkType: NetworkPublic,
	}}
	return basicFlavorIsPublicVPC(d) == nil && unsupportedGateway(d) == nil
}
