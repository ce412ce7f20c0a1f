package api

import (
	"context"
	"slices"

	"github.com/vpngw/vpngw/control"
)

// ListAvailabilityZones lists the zones by flavor and attachment. It knows
// nothing of IPv6.
func (h *handlers) ListAvailabilityZones(ctx context.Context, req ListAvailabilityZonesRequestObject) (ListAvailabilityZonesResponseObject, error) {
	zones, err := h.server.service.AvailabilityZones(ctx, req.ProjectID)
	if err != nil {
		return nil, err
	}
	of := func(flavor control.Flavor) ZonesOfFlavor {
		z := ZonesOfFlavor{Vpc: []string{}, Er: []string{}}
		for _, zone := range zones {
			if slices.Contains(zone.Specs, control.GatewaySpec{Flavor: flavor, Attachment: control.AttachVPC, IPVersion: control.IPv4}) {
				z.Vpc = append(z.Vpc, zone.Name)
			}
			if slices.Contains(zone.Specs, control.GatewaySpec{Flavor: flavor, Attachment: control.AttachER, IPVersion: control.IPv4}) {
				z.Er = append(z.Er, zone.Name)
			}
		}
		return z
	}
	return ListAvailabilityZones200JSONResponse{
		AvailabilityZones: AvailabilityZones{
			Basic:                   of(control.FlavorBasic),
			Professional1:           of(control.FlavorProfessional1),
			Professional1NonFixedIP: of(control.FlavorProfessional1NonFixedIP),
			Professional2:           of(control.FlavorProfessional2),
			Professional2NonFixedIP: of(control.FlavorProfessional2NonFixedIP),
			Gm:                      of(control.FlavorGM),
		},
		RequestID: callOf(ctx).requestID,
	}, nil
}

// ListExtendedAvailabilityZones lists the zones with the kinds of gateways that
// each offers.
func (h *handlers) ListExtendedAvailabilityZones(ctx context.Context, req ListExtendedAvailabilityZonesRequestObject) (ListExtendedAvailabilityZonesResponseObject, error) {
	zones, err := h.server.service.AvailabilityZones(ctx, req.ProjectID)
	if err != nil {
		return nil, err
	}
	answer := ListExtendedAvailabilityZones200JSONResponse{
		AvailabilityZones: make([]ExtendedAvailabilityZone, len(zones)), RequestID: callOf(ctx).requestID,
	}
	for i, zone := range zones {
		specs := make([]AvailableSpec, len(zone.Specs))
		for j, s := range zone.Specs {
			specs[j] = AvailableSpec{
				Flavor: Flavor(s.Flavor), AttachmentType: AttachmentType(s.Attachment), IPVersion: IPVersion(s.IPVersion),
			}
		}
		answer.AvailabilityZones[i] = ExtendedAvailabilityZone{
			Name: zone.Name, PublicBorderGroup: borderGroup, AvailableSpecs: specs,
		}
	}
	return answer, nil
}
