package api

import (
	"context"
	"strings"

	"github.com/vpngw/vpngw/control"
)

// CreateVpnConnection creates a connection.
func (h *handlers) CreateVpnConnection(ctx context.Context, req CreateVpnConnectionRequestObject) (CreateVpnConnectionResponseObject, error) {
	c := &req.Body.VpnConnection
	view, err := h.server.service.CreateConnection(ctx, req.ProjectID, connectionRequest(c))
	if err != nil {
		return nil, err
	}
	answer := connectionAnswer(&view, created)
	answer.EnableHealthCheck = c.EnableHealthCheck
	return CreateVpnConnection201JSONResponse{VpnConnection: answer, RequestID: callOf(ctx).requestID}, nil
}

// BatchCreateVpnConnection creates the connections of one gateway, all or none.
func (h *handlers) BatchCreateVpnConnection(ctx context.Context, req BatchCreateVpnConnectionRequestObject) (BatchCreateVpnConnectionResponseObject, error) {
	creates := make([]control.ConnectionCreate, len(req.Body.VpnConnections))
	for i := range creates {
		creates[i] = connectionRequest(&req.Body.VpnConnections[i])
	}
	views, err := h.server.service.CreateConnections(ctx, req.ProjectID, creates)
	if err != nil {
		return nil, err
	}
	answer := BatchCreateVpnConnection201JSONResponse{
		VpnConnections: make([]VpnConnection, len(views)), RequestID: callOf(ctx).requestID,
	}
	for i := range views {
		answer.VpnConnections[i] = connectionAnswer(&views[i], created)
		answer.VpnConnections[i].EnableHealthCheck = req.Body.VpnConnections[i].EnableHealthCheck
	}
	return answer, nil
}

func connectionRequest(c *CreateVpnConnection) control.ConnectionCreate {
	return control.ConnectionCreate{
		Name:               c.Name,
		VgwID:              &c.VgwID,
		VgwIP:              &c.VgwIP,
		Style:              c.Style,
		CgwID:              &c.CgwID,
		PeerSubnets:        list(c.PeerSubnets),
		PeerSubnetsV6:      list(c.PeerSubnetsV6),
		TunnelLocalAddress: c.TunnelLocalAddress,
		TunnelPeerAddress:  c.TunnelPeerAddress,
		EnableNQA:          c.EnableNqa,
		EnableHub:          c.EnableHub,
		EnableHealthCheck:  value(c.EnableHealthCheck),
		PSK:                secret(c.Psk),
		PPK:                secret(c.Ppk),
		PolicyRules:        rulesRequest(c.PolicyRules),
		PolicyRulesV6:      rulesRequest(c.PolicyRulesV6),
		IKEPolicy:          ikeRequest(c.Ikepolicy),
		IPsecPolicy:        ipsecRequest(c.Ipsecpolicy),
		HARole:             text(c.HaRole),
		Tags:               tagsRequest(c.Tags),
	}
}

// ShowVpnConnection shows a connection.
func (h *handlers) ShowVpnConnection(ctx context.Context, req ShowVpnConnectionRequestObject) (ShowVpnConnectionResponseObject, error) {
	view, err := h.server.service.ShowConnection(ctx, req.ProjectID, req.VpnConnectionID)
	if err != nil {
		return nil, err
	}
	return ShowVpnConnection200JSONResponse{
		VpnConnection: connectionAnswer(&view, shown), RequestID: callOf(ctx).requestID,
	}, nil
}

// ListVpnConnections lists a page of connections.
func (h *handlers) ListVpnConnections(ctx context.Context, req ListVpnConnectionsRequestObject) (ListVpnConnectionsResponseObject, error) {
	p := &req.Params
	vgwIP, eipID := value(p.VgwIP), value(p.EipID)
	if vgwIP != "" && eipID != "" && vgwIP != eipID {
		return nil, control.Invalid("eip_id", "must be equal to vgw_ip when both are given")
	}
	page, err := h.server.service.ListConnections(ctx, req.ProjectID, control.ConnectionFilter{
		ID:                   value(p.VpnID),
		GatewayID:            value(p.VgwID),
		VgwIP:                vgwIP + strings.TrimPrefix(eipID, vgwIP),
		EnterpriseProjectIDs: list(p.EnterpriseProjectID),
		Page:                 control.Page{Limit: p.Limit, Marker: value(p.Marker)},
	})
	if err != nil {
		return nil, err
	}
	answer := ListVpnConnections200JSONResponse{
		VpnConnections: make([]VpnConnection, len(page.Items)),
		TotalCount:     int64(page.Total),
		PageInfo:       pageInfo(len(page.Items), page.NextMarker),
		RequestID:      callOf(ctx).requestID,
	}
	for i := range page.Items {
		answer.VpnConnections[i] = connectionAnswer(&page.Items[i], shown)
	}
	return answer, nil
}

// UpdateVpnConnection changes a connection.
func (h *handlers) UpdateVpnConnection(ctx context.Context, req UpdateVpnConnectionRequestObject) (UpdateVpnConnectionResponseObject, error) {
	view, err := h.server.service.UpdateConnection(ctx, req.ProjectID, req.VpnConnectionID, connectionUpdate(&req.Body.VpnConnection))
	if err != nil {
		return nil, err
	}
	return UpdateVpnConnection200JSONResponse{
		VpnConnection: connectionAnswer(&view, updated), RequestID: callOf(ctx).requestID,
	}, nil
}

func connectionUpdate(c *UpdateVpnConnection) control.ConnectionUpdate {
	var ike *control.IKEPolicyRequest
	if p := c.Ikepolicy; p != nil {
		ike = ikeRequest(&IkePolicy{
			AuthenticationAlgorithm: p.AuthenticationAlgorithm,
			DhGroup:                 p.DhGroup,
			Dpd:                     p.Dpd,
			EncryptionAlgorithm:     p.EncryptionAlgorithm,
			IkeVersion:              p.IkeVersion,
			LifetimeSeconds:         p.LifetimeSeconds,
			LocalID:                 p.LocalID,
			LocalIDType:             p.LocalIDType,
			PeerID:                  p.PeerID,
			PeerIDType:              p.PeerIDType,
			Phase1NegotiationMode:   p.Phase1NegotiationMode,
			AdditionalKeyExchange:   p.AdditionalKeyExchange,
			PpkID:                   p.PpkID,
			PpkRequired:             p.PpkRequired,
		})
	}
	return control.ConnectionUpdate{
		Name:               c.Name,
		CgwID:              c.CgwID,
		PeerSubnets:        list(c.PeerSubnets),
		PeerSubnetsV6:      list(c.PeerSubnetsV6),
		TunnelLocalAddress: c.TunnelLocalAddress,
		TunnelPeerAddress:  c.TunnelPeerAddress,
		EnableNQA:          c.EnableNqa,
		EnableHub:          c.EnableHub,
		PSK:                secret(c.Psk),
		PPK:                secret(c.Ppk),
		PolicyRules:        rulesRequest(c.PolicyRules),
		PolicyRulesV6:      rulesRequest(c.PolicyRulesV6),
		IKEPolicy:          ike,
		IPsecPolicy:        ipsecRequest(c.Ipsecpolicy),
	}
}

// DeleteVpnConnection deletes a connection.
func (h *handlers) DeleteVpnConnection(ctx context.Context, req DeleteVpnConnectionRequestObject) (DeleteVpnConnectionResponseObject, error) {
	if err := h.server.service.DeleteConnection(ctx, req.ProjectID, req.VpnConnectionID); err != nil {
		return nil, err
	}
	return DeleteVpnConnection204Response{}, nil
}

// ShowVpnConnectionLog shows the log of a connection.
func (h *handlers) ShowVpnConnectionLog(ctx context.Context, req ShowVpnConnectionLogRequestObject) (ShowVpnConnectionLogResponseObject, error) {
	lines, err := h.server.service.ConnectionLog(ctx, req.ProjectID, req.VpnConnectionID)
	if err != nil {
		return nil, err
	}
	answer := ShowVpnConnectionLog200JSONResponse{
		Logs: make([]VpnConnectionLog, len(lines)), RequestID: callOf(ctx).requestID,
	}
	for i, l := range lines {
		answer.Logs[i] = VpnConnectionLog{Time: l.Time.Unix(), RawMessage: l.Message}
	}
	return answer, nil
}

// ListConnectionIpsecSa lists the CHILD_SAs of a connection with what they have
// carried.
func (h *handlers) ListConnectionIpsecSa(ctx context.Context, req ListConnectionIpsecSaRequestObject) (ListConnectionIpsecSaResponseObject, error) {
	list, at, err := h.server.service.ConnectionChildSAs(ctx, req.ProjectID, req.VpnConnectionID)
	if err != nil {
		return nil, err
	}
	answer := ListConnectionIpsecSa200JSONResponse{SaInfos: make([]SaInfo, len(list)), RequestID: callOf(ctx).requestID}
	for i, c := range list {
		answer.SaInfos[i] = SaInfo{
			ID:           c.ID,
			SourceIPCidr: strings.Join(prefixes(c.Local), ","), DestIPCidr: strings.Join(prefixes(c.Remote), ","),
			PacketsSent: c.Sent.Packets, PacketsRecv: c.Received.Packets,
			TrafficSent: c.Sent.Octets, TrafficRecv: c.Received.Octets,
			CollectedAt: control.FormatTime(at),
		}
	}
	return answer, nil
}

// ResetVpnConnection resets a connection.
func (h *handlers) ResetVpnConnection(ctx context.Context, req ResetVpnConnectionRequestObject) (ResetVpnConnectionResponseObject, error) {
	if err := h.server.service.ResetConnection(ctx, req.ProjectID, req.VpnConnectionID); err != nil {
		return nil, err
	}
	return ResetVpnConnection200JSONResponse{RequestID: callOf(ctx).requestID}, nil
}

func secret(p *string) *control.Secret {
	if p == nil {
		return nil
	}
	return pointer(control.NewSecret(*p))
}

func rulesRequest(in *PolicyRuleRequests) []control.PolicyRuleRequest {
	if in == nil {
		return nil
	}
	out := make([]control.PolicyRuleRequest, len(*in))
	for i, r := range *in {
		out[i] = control.PolicyRuleRequest{Source: value(r.Source), Destination: list(r.Destination)}
	}
	return out
}

func ikeRequest(p *IkePolicy) *control.IKEPolicyRequest {
	if p == nil {
		return nil
	}
	out := &control.IKEPolicyRequest{
		IKEVersion:              text(p.IkeVersion),
		Phase1NegotiationMode:   text(p.Phase1NegotiationMode),
		AuthenticationAlgorithm: text(p.AuthenticationAlgorithm),
		EncryptionAlgorithm:     text(p.EncryptionAlgorithm),
		DHGroup:                 text(p.DhGroup),
		AuthenticationMethod:    text(p.AuthenticationMethod),
		LifetimeSeconds:         p.LifetimeSeconds,
		LocalIDType:             text(p.LocalIDType),
		LocalID:                 p.LocalID,
		PeerIDType:              text(p.PeerIDType),
		PeerID:                  p.PeerID,
		AdditionalKeyExchange:   text(p.AdditionalKeyExchange),
		PPKID:                   p.PpkID,
		PPKRequired:             p.PpkRequired,
	}
	if d := p.Dpd; d != nil {
		out.DPD = &control.DPDRequest{Timeout: d.Timeout, Interval: d.Interval, Msg: text(d.Msg)}
	}
	return out
}

func ipsecRequest(p *IpsecPolicy) *control.IPsecPolicyRequest {
	if p == nil {
		return nil
	}
	return &control.IPsecPolicyRequest{
		AuthenticationAlgorithm: text(p.AuthenticationAlgorithm),
		EncryptionAlgorithm:     text(p.EncryptionAlgorithm),
		PFS:                     text(p.Pfs),
		TransformProtocol:       text(p.TransformProtocol),
		LifetimeSeconds:         p.LifetimeSeconds,
		EncapsulationMode:       text(p.EncapsulationMode),
		AdditionalKeyExchange:   text(p.AdditionalKeyExchange),
		UDPEncapsulation:        text(p.UDPEncapsulation),
	}
}

// connectionAnswer writes a connection. It has neither PSK nor PPK.
func connectionAnswer(v *control.ConnectionView, in answerOf) VpnConnection {
	c := VpnConnection{
		ID:                  v.ID,
		Name:                v.Name,
		VgwID:               v.GatewayID,
		VgwIP:               v.VgwIP,
		CgwID:               v.CustomerGatewayID,
		Style:               VpnConnectionStyle(strings.ToUpper(string(v.Style))),
		TunnelLocalAddress:  v.TunnelLocal.String(),
		TunnelPeerAddress:   v.TunnelPeer.String(),
		PolicyRules:         []PolicyRule{},
		PolicyRulesV6:       []PolicyRule{},
		Ikepolicy:           ikeAnswer(v),
		Ipsecpolicy:         ipsecAnswer(v),
		CreatedAt:           control.FormatTime(v.CreatedAt),
		UpdatedAt:           control.FormatTime(v.UpdatedAt),
		EnterpriseProjectID: v.EnterpriseProjectID,
		HaRole:              HARole(v.HARole),
		Tags:                tagsAnswer(v.Tags),
	}
	routed := v.Style == control.StyleStatic || v.Style == control.StylePolicyTemplate
	if v.Gateway.AttachmentType == control.AttachVPC || routed {
		c.PeerSubnets, c.PeerSubnetsV6 = byFamily(v.Gateway.IPVersion, prefixes(v.PeerSubnets))
	}
	if v.Style == control.StylePolicy {
		rules := &c.PolicyRules
		if v.Gateway.IPVersion == control.IPv6 {
			rules = &c.PolicyRulesV6
		}
		for i, r := range v.PolicyRules {
			*rules = append(*rules, PolicyRule{
				RuleIndex: i + 1, Source: r.Source.String(), Destination: prefixes(r.Destinations),
			})
		}
	}
	if v.Style == control.StyleStatic {
		c.EnableNqa = &v.EnableNQA
	}
	if v.Style == control.StyleBGP {
		c.EnableHub = &v.EnableHub
	}
	if in != created {
		c.ConnectionMonitorID = orAbsent(v.MonitorID)
	}
	if in == shown {
		c.Status = pointer(VpnConnectionStatus(v.State))
		c.StatusMessage = orAbsent(v.StatusMessage())
		if weak := v.WeakAlgorithms(); len(weak) > 0 {
			c.WeakAlgorithms = &weak
		}
		if p := v.Status.DataPlane; p != nil {
			c.DataPlane = &DataPlane{Name: p.Name, Reason: p.Reason}
		}
		if p := v.Status.Encapsulation; p != nil {
			c.EspEncapsulation = &EspEncapsulation{Name: p.Name, Reason: p.Reason}
		}
		if d := v.Status.Diagnosis; d != nil {
			c.Diagnosis = diagnosisAnswer(d)
		}
	}
	return c
}

// ikeAnswer writes the policy in effect. Connections of flavor GM have neither
// a group nor identities.
func ikeAnswer(v *control.ConnectionView) IkePolicy {
	p := &v.IKE
	answer := IkePolicy{
		IkeVersion:              pointer(IKEVersion(p.Version)),
		AuthenticationAlgorithm: pointer(AuthenticationAlgorithm(p.Authentication)),
		EncryptionAlgorithm:     pointer(EncryptionAlgorithm(p.Encryption)),
		AuthenticationMethod:    pointer(AuthenticationMethod(p.AuthenticationMethod)),
		LifetimeSeconds:         &p.LifetimeSeconds,
		Dpd: &Dpd{
			Timeout: &p.DPD.TimeoutSeconds, Interval: &p.DPD.IntervalSeconds, Msg: pointer(DpdMsg(p.DPD.Msg)),
		},
	}
	if p.Version == control.IKEv1 {
		answer.Phase1NegotiationMode = pointer(NegotiationMode(p.NegotiationMode))
	}
	if v.Gateway.Flavor != control.FlavorGM {
		answer.DhGroup = pointer(DhGroup(p.Group))
		answer.LocalIDType, answer.LocalID = pointer(IDType(p.LocalIDType)), &v.LocalID
		answer.PeerIDType, answer.PeerID = pointer(IDType(p.PeerIDType)), &v.PeerID
	}
	if p.Additional != "" {
		answer.AdditionalKeyExchange = pointer(AdditionalKeyExchange(p.Additional))
	}
	if p.PPKID != "" {
		answer.PpkID, answer.PpkRequired = &p.PPKID, &p.PPKRequired
	}
	return answer
}

func ipsecAnswer(v *control.ConnectionView) IpsecPolicy {
	p := &v.IPsec
	answer := IpsecPolicy{
		AuthenticationAlgorithm: pointer(AuthenticationAlgorithm(p.Authentication)),
		EncryptionAlgorithm:     pointer(EncryptionAlgorithm(p.Encryption)),
		TransformProtocol:       pointer(IpsecPolicyTransformProtocol(p.TransformProtocol)),
		LifetimeSeconds:         &p.LifetimeSeconds,
		EncapsulationMode:       pointer(IpsecPolicyEncapsulationMode(p.EncapsulationMode)),
	}
	if v.Gateway.Flavor != control.FlavorGM {
		answer.Pfs = pointer(Pfs(p.PFS))
	}
	if p.Additional != "" {
		answer.AdditionalKeyExchange = pointer(AdditionalKeyExchange(p.Additional))
	}
	if p.UDPEncapsulation != "" {
		answer.UDPEncapsulation = pointer(UDPEncapsulation(p.UDPEncapsulation))
	}
	return answer
}
