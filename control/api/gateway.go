package api

import (
	"context"
	"net/netip"

	"github.com/vpngw/vpngw/control"
)

// handlers implements the operations of the document.
type handlers struct{ server *Server }

// answerOf says which answer an object stands in: the document returns some
// members in some answers only.
type answerOf int

const (
	created answerOf = iota
	shown            // show and list
	updated
)

// borderGroup is the one group of zones that there is: no edge sites.
const borderGroup = "center"

// CreateVgw creates a gateway.
func (h *handlers) CreateVgw(ctx context.Context, req CreateVgwRequestObject) (CreateVgwResponseObject, error) {
	g := &req.Body.VpnGateway
	view, err := h.server.service.CreateGateway(ctx, req.ProjectID, control.GatewayCreate{
		Name:                g.Name,
		NetworkType:         text(g.NetworkType),
		AttachmentType:      text(g.AttachmentType),
		IPVersion:           text(g.IPVersion),
		ERID:                g.ErID,
		VPCID:               g.VpcID,
		LocalSubnets:        list(g.LocalSubnets),
		LocalSubnetsV6:      list(g.LocalSubnetsV6),
		ConnectSubnet:       g.ConnectSubnet,
		BGPASN:              g.BgpAsn,
		Flavor:              text(g.Flavor),
		AvailabilityZoneIDs: list(g.AvailabilityZoneIds),
		EnterpriseProjectID: g.EnterpriseProjectID,
		EIP1:                eipRequest(g.Eip1),
		EIP2:                eipRequest(g.Eip2),
		AccessVPCID:         g.AccessVpcID,
		AccessSubnetID:      g.AccessSubnetID,
		HAMode:              text(g.HaMode),
		AccessPrivateIP1:    g.AccessPrivateIp1,
		AccessPrivateIP2:    g.AccessPrivateIp2,
		Tags:                tagsRequest(g.Tags),
	})
	if err != nil {
		return nil, err
	}
	return CreateVgw201JSONResponse{VpnGateway: gatewayAnswer(&view, created), RequestID: callOf(ctx).requestID}, nil
}

// ShowVgw shows a gateway.
func (h *handlers) ShowVgw(ctx context.Context, req ShowVgwRequestObject) (ShowVgwResponseObject, error) {
	view, err := h.server.service.ShowGateway(ctx, req.ProjectID, req.VgwID)
	if err != nil {
		return nil, err
	}
	return ShowVgw200JSONResponse{VpnGateway: gatewayAnswer(&view, shown), RequestID: callOf(ctx).requestID}, nil
}

// ListVgws lists all gateways.
func (h *handlers) ListVgws(ctx context.Context, req ListVgwsRequestObject) (ListVgwsResponseObject, error) {
	views, err := h.server.service.ListGateways(ctx, req.ProjectID, control.GatewayFilter{
		ID:                   value(req.Params.VgwID),
		EnterpriseProjectIDs: list(req.Params.EnterpriseProjectID),
	})
	if err != nil {
		return nil, err
	}
	answer := ListVgws200JSONResponse{VpnGateways: make([]Vgw, len(views)), RequestID: callOf(ctx).requestID}
	for i := range views {
		answer.VpnGateways[i] = gatewayAnswer(&views[i], shown)
	}
	return answer, nil
}

// UpdateVgw changes a gateway.
func (h *handlers) UpdateVgw(ctx context.Context, req UpdateVgwRequestObject) (UpdateVgwResponseObject, error) {
	view, err := h.server.service.UpdateGateway(ctx, req.ProjectID, req.VgwID, gatewayUpdate(&req.Body.VpnGateway))
	if err != nil {
		return nil, err
	}
	return UpdateVgw200JSONResponse{VpnGateway: gatewayAnswer(&view, updated), RequestID: callOf(ctx).requestID}, nil
}

func gatewayUpdate(g *UpdateVgw) control.GatewayUpdate {
	return control.GatewayUpdate{
		Name:           g.Name,
		LocalSubnets:   list(g.LocalSubnets),
		LocalSubnetsV6: list(g.LocalSubnetsV6),
		EIPID1:         g.EipId1,
		EIPID2:         g.EipId2,
		PolicyTemplate: templateRequest(g.PolicyTemplate),
	}
}

// UpdatePostpaidVgwSpecification changes the flavor of a gateway.
func (h *handlers) UpdatePostpaidVgwSpecification(ctx context.Context, req UpdatePostpaidVgwSpecificationRequestObject) (UpdatePostpaidVgwSpecificationResponseObject, error) {
	flavor := control.Flavor(req.Body.VpnGateway.Flavor)
	view, err := h.server.service.ChangeFlavor(ctx, req.ProjectID, req.VgwID, flavor)
	if err != nil {
		return nil, err
	}
	return UpdatePostpaidVgwSpecification200JSONResponse{
		VpnGateway: gatewayAnswer(&view, updated), RequestID: callOf(ctx).requestID,
	}, nil
}

// DeleteVgw deletes a gateway.
func (h *handlers) DeleteVgw(ctx context.Context, req DeleteVgwRequestObject) (DeleteVgwResponseObject, error) {
	if err := h.server.service.DeleteGateway(ctx, req.ProjectID, req.VgwID); err != nil {
		return nil, err
	}
	return DeleteVgw204Response{}, nil
}

func eipRequest(e *CreateEip) *control.EIPRequest {
	if e == nil {
		return nil
	}
	return &control.EIPRequest{
		ID:            e.ID,
		Type:          text(e.Type),
		ChargeMode:    text(e.ChargeMode),
		BandwidthSize: e.BandwidthSize,
		BandwidthName: e.BandwidthName,
		BandwidthID:   e.BandwidthID,
	}
}

func templateRequest(t *PolicyTemplate) *control.PolicyTemplateRequest {
	if t == nil {
		return nil
	}
	out := &control.PolicyTemplateRequest{}
	if p := t.IkePolicy; p != nil {
		out.IKE = control.IKEPolicyRequest{
			EncryptionAlgorithm:     text(p.EncryptionAlgorithm),
			AuthenticationAlgorithm: text(p.AuthenticationAlgorithm),
			DHGroup:                 text(p.DhGroup),
			LifetimeSeconds:         p.LifetimeSeconds,
		}
	}
	if p := t.IpsecPolicy; p != nil {
		out.IPsec = control.IPsecPolicyRequest{
			EncryptionAlgorithm:     text(p.EncryptionAlgorithm),
			AuthenticationAlgorithm: text(p.AuthenticationAlgorithm),
			PFS:                     text(p.Pfs),
			LifetimeSeconds:         p.LifetimeSeconds,
		}
	}
	return out
}

// gatewayAnswer writes a gateway. Its EIPs and times appear when it has been
// ACTIVE once and stay from then on.
func gatewayAnswer(v *control.GatewayView, in answerOf) Vgw {
	g := Vgw{
		ID:                   v.ID,
		Name:                 v.Name,
		NetworkType:          NetworkType(v.NetworkType),
		AttachmentType:       AttachmentType(v.AttachmentType),
		IPVersion:            IPVersion(v.IPVersion),
		BgpAsn:               int64(v.BGPASN),
		Flavor:               Flavor(v.Flavor),
		ConnectionNumber:     v.ConnectionLimit,
		UsedConnectionNumber: v.UsedConnections,
		UsedConnectionGroup:  v.UsedGroups,
		EnterpriseProjectID:  v.EnterpriseProjectID,
		AccessVpcID:          v.AccessVPCID,
		AccessSubnetID:       v.AccessSubnetID,
		HaMode:               HAMode(v.HAMode),
		Tags:                 tagsAnswer(v.Tags),
	}
	if v.Certificate != nil {
		g.CertificateID = &v.Certificate.ID
	}
	if v.AttachmentType == control.AttachVPC {
		g.VpcID, g.ConnectSubnet = &v.VPCID, &v.ConnectSubnet
		g.LocalSubnets, g.LocalSubnetsV6 = byFamily(v.IPVersion, prefixes(v.LocalSubnets))
	} else {
		g.ErID = &v.ERID
	}
	if t := v.Template; t != nil {
		g.PolicyTemplate = templateAnswer(t)
	}
	if v.NetworkType == control.NetworkPrivate {
		g.AccessPrivateIp1 = pointer(v.AccessPrivateIPs[0].String())
		g.AccessPrivateIp2 = pointer(v.AccessPrivateIPs[1].String())
	}
	if in == created {
		return g
	}
	g.AvailabilityZoneIds = pointer(append([]string{}, v.AvailabilityZones...))
	if applied := v.Status.AppliedAt; !applied.IsZero() {
		g.CreatedAt = pointer(control.FormatTime(v.CreatedAt))
		g.UpdatedAt = pointer(control.FormatTime(v.UpdatedAt))
		if v.NetworkType == control.NetworkPublic {
			g.Eip1, g.Eip2 = eipAnswer(&v.EIPs[0]), eipAnswer(&v.EIPs[1])
		}
		if in == shown {
			g.AppliedAt = pointer(control.FormatTime(applied))
		}
	}
	if in == shown {
		g.Status = pointer(VgwStatus(v.State))
		g.StatusMessage = orAbsent(v.StatusMessage())
		g.PublicBorderGroup = pointer(borderGroup)
		flavors := make([]string, len(v.SupportedFlavors))
		for i, f := range v.SupportedFlavors {
			flavors[i] = string(f)
		}
		g.SupportedFlavors = &flavors
		g.SupportedFeatures = &[]string{"query_connection_log"}
		g.UpgradeInfo = pointer(Unready)
		if v.Upgradable {
			g.UpgradeInfo = pointer(Ready)
		}
	}
	return g
}

func templateAnswer(t *control.PolicyTemplate) *PolicyTemplate {
	var out PolicyTemplate
	out.IkePolicy = &TemplateIke{
		EncryptionAlgorithm:     pointer(TemplateEncryption(t.IKE.Encryption)),
		AuthenticationAlgorithm: pointer(TemplateAuthentication(t.IKE.Authentication)),
		DhGroup:                 pointer(TemplateGroup(t.IKE.Group)),
		LifetimeSeconds:         &t.IKE.LifetimeSeconds,
	}
	out.IpsecPolicy = &TemplateIpsec{
		EncryptionAlgorithm:     pointer(TemplateEncryption(t.IPsec.Encryption)),
		AuthenticationAlgorithm: pointer(TemplateAuthentication(t.IPsec.Authentication)),
		Pfs:                     pointer(TemplatePfs(t.IPsec.PFS)),
		LifetimeSeconds:         &t.IPsec.LifetimeSeconds,
	}
	return &out
}

func eipAnswer(e *control.EIPBinding) *Eip {
	share := PER
	if e.Shared {
		share = WHOLE
	}
	version := 4
	if e.Address.Is6() {
		version = 6
	}
	return &Eip{
		ID:            e.ID,
		IPVersion:     version,
		Type:          e.Type,
		IPAddress:     e.Address.String(),
		ChargeMode:    e.ChargeMode,
		BandwidthID:   e.BandwidthID,
		BandwidthSize: e.BandwidthMbps,
		BandwidthName: e.BandwidthName,
		ShareType:     share,
	}
}

// byFamily returns a list as the member of one family, the other being absent.
func byFamily[T any](family control.IPVersion, v []T) (v4, v6 *[]T) {
	if family == control.IPv6 {
		return nil, &v
	}
	return &v, nil
}

func prefixes(in []netip.Prefix) []string {
	out := make([]string, len(in))
	for i, p := range in {
		out[i] = p.String()
	}
	return out
}

func tagsRequest(in *[]Tag) []control.Tag {
	if in == nil {
		return nil
	}
	out := make([]control.Tag, len(*in))
	for i, t := range *in {
		out[i] = control.Tag(t)
	}
	return out
}

func tagsAnswer(in []control.Tag) []Tag {
	out := make([]Tag, len(in))
	for i, t := range in {
		out[i] = Tag(t)
	}
	return out
}

// orAbsent leaves a member out that has nothing to say.
func orAbsent(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func pointer[T any](v T) *T { return &v }

// value returns what a pointer points to, or the zero value.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// text returns a member of an enumeration as plain text.
func text[T ~string](p *T) *string {
	if p == nil {
		return nil
	}
	return pointer(string(*p))
}

// list returns a list that was sent, and nil for one that was not.
func list[T any](p *[]T) []T {
	if p == nil {
		return nil
	}
	return append([]T{}, *p...)
}
