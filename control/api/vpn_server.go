package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// CreateVpnServer creates the server of a gateway.
func (h *handlers) CreateVpnServer(ctx context.Context, req CreateVpnServerRequestObject) (CreateVpnServerResponseObject, error) {
	v := &req.Body.VpnServer
	create := control.ServerCreate{
		TunnelProtocol: text(v.TunnelProtocol),
		ClientCIDR:     &v.ClientCidr,
		LocalSubnets:   list(v.LocalSubnets),
		AuthType:       text(v.ClientAuthType),
		DNSServers:     list(v.DNSServers),
		SecondFactor:   text(v.SecondFactor),
		Network: control.NetworkOptionsRequest{
			ClientCIDRv6: v.ClientCidrV6, LocalSubnetsV6: list(v.LocalSubnetsV6), Topology: text(v.Topology), DNSDomain: v.DNSDomain,
		},
	}
	if c := v.ServerCertificate; c != nil {
		create.Certificate = &control.ServerCertificateRequest{Source: text(c.Source), ID: c.ID}
	}
	if cas := v.ClientCaCertificates; cas != nil {
		for i := range *cas {
			create.ClientCAs = append(create.ClientCAs, clientCARequest(&(*cas)[i]))
		}
	}
	if o := v.SslOptions; o != nil {
		create.SSL = control.SSLOptionsRequest{
			Protocol: text(o.Protocol), Port: portRequest(o.Port), Cipher: text(o.EncryptionAlgorithm), Compressed: o.IsCompressed,
			UDPPorts: list(o.UDPPorts), ControlWrap: text(o.ControlChannelWrap), PortShare: o.PortShare,
			RevokedClientKeys: list(o.RevokedClientKeys),
		}
	}
	created, err := h.server.service.CreateServer(ctx, req.ProjectID, req.P2CVgwID, create)
	if err != nil {
		return nil, err
	}
	return CreateVpnServer201JSONResponse{VpnServer: CreatedObject{ID: created.ID}, RequestID: callOf(ctx).requestID}, nil
}

// ListVpnServersByVgw lists the server of a gateway.
func (h *handlers) ListVpnServersByVgw(ctx context.Context, req ListVpnServersByVgwRequestObject) (ListVpnServersByVgwResponseObject, error) {
	views, err := h.server.service.ListServersOfGateway(ctx, req.ProjectID, req.P2CVgwID)
	if err != nil {
		return nil, err
	}
	return ListVpnServersByVgw200JSONResponse(serversAnswer(ctx, control.List[control.ServerView]{Items: views, Total: len(views)})), nil
}

// ListVpnServersByProject lists a page of the servers of all gateways.
func (h *handlers) ListVpnServersByProject(ctx context.Context, req ListVpnServersByProjectRequestObject) (ListVpnServersByProjectResponseObject, error) {
	page, err := h.server.service.ListServers(ctx, req.ProjectID, control.Page{Limit: req.Params.Limit, Marker: value(req.Params.Marker)})
	if err != nil {
		return nil, err
	}
	return ListVpnServersByProject200JSONResponse(serversAnswer(ctx, page)), nil
}

func serversAnswer(ctx context.Context, page control.List[control.ServerView]) VpnServerListResponseBody {
	answer := VpnServerListResponseBody{
		VpnServers: make([]VpnServer, len(page.Items)),
		TotalCount: page.Total,
		PageInfo:   pageInfo(len(page.Items), page.NextMarker),
		RequestID:  callOf(ctx).requestID,
	}
	for i := range page.Items {
		answer.VpnServers[i] = serverAnswer(&page.Items[i])
	}
	return answer
}

// UpdateVpnServer changes a server.
func (h *handlers) UpdateVpnServer(ctx context.Context, req UpdateVpnServerRequestObject) (UpdateVpnServerResponseObject, error) {
	v := &req.Body.VpnServer
	update := control.ServerUpdate{
		ClientCIDR:   v.ClientCidr,
		LocalSubnets: list(v.LocalSubnets),
		AuthType:     text(v.ClientAuthType),
		DNSServers:   list(v.DNSServers),
		SecondFactor: text(v.SecondFactor),
		Network: control.NetworkOptionsRequest{
			ClientCIDRv6: v.ClientCidrV6, LocalSubnetsV6: list(v.LocalSubnetsV6), Topology: text(v.Topology), DNSDomain: v.DNSDomain,
		},
	}
	if c := v.ServerCertificate; c != nil {
		update.CertificateID = &c.ID
	}
	if o := v.SslOptions; o != nil {
		update.SSL = control.SSLOptionsRequest{
			Protocol: text(o.Protocol), Port: portRequest(o.Port), Cipher: text(o.EncryptionAlgorithm),
			UDPPorts: list(o.UDPPorts), ControlWrap: text(o.ControlChannelWrap), PortShare: o.PortShare,
			RevokedClientKeys: list(o.RevokedClientKeys),
		}
	}
	if err := h.server.service.UpdateServer(ctx, req.ProjectID, req.VpnServerID, update); err != nil {
		return nil, err
	}
	return UpdateVpnServer200JSONResponse{RequestID: callOf(ctx).requestID}, nil
}

// ExportClientConfig writes the profile of the clients of a server, whatever
// their system is.
func (h *handlers) ExportClientConfig(ctx context.Context, req ExportClientConfigRequestObject) (ExportClientConfigResponseObject, error) {
	profile, err := h.server.service.ClientProfile(ctx, req.ProjectID, req.VpnServerID)
	if err != nil {
		return nil, err
	}
	return ExportClientConfig200JSONResponse{ClientConfig: profile}, nil
}

func portRequest(p *SslPort) *int {
	if p == nil {
		return nil
	}
	return new(int(*p))
}

func serverAnswer(v *control.ServerView) VpnServer {
	s := VpnServer{
		ID:                   v.ID,
		P2CVgwID:             v.GatewayID,
		ClientCidr:           v.ClientCIDR.String(),
		LocalSubnets:         prefixes(v.LocalSubnets),
		ClientAuthType:       ClientAuthType(v.AuthType),
		TunnelProtocol:       TunnelSsl,
		ServerCertificate:    serverCertificateAnswer(&v.Shown),
		ClientCaCertificates: make([]ClientCa, len(v.CAs)),
		SslOptions: SslOptions{
			Protocol:                v.Protocol,
			Port:                    v.Port,
			EncryptionAlgorithm:     v.Cipher,
			AuthenticationAlgorithm: v.AuthenticationAlgorithm(),
			IsCompressed:            v.Compressed,
		},
		DNSServers:    make([]string, len(v.DNSServers)),
		Status:        VpnServerStatus(v.State),
		StatusMessage: orAbsent(v.StatusMessage()),
		CreatedAt:     control.FormatTime(v.CreatedAt),
		UpdatedAt:     control.FormatTime(v.UpdatedAt),
	}
	if len(v.UDPPorts) > 0 {
		s.SslOptions.UDPPorts = &v.UDPPorts
	}
	if v.ControlWrap != control.WrapNone {
		s.SslOptions.ControlChannelWrap = new(ControlChannelWrap(v.ControlWrap))
	}
	if len(v.RevokedClientKeys) > 0 {
		s.SslOptions.RevokedClientKeys = &v.RevokedClientKeys
	}
	if v.PortShare.IsValid() {
		s.SslOptions.PortShare = new(v.PortShare.String())
	}
	if v.SecondFactor != control.FactorNone {
		s.SecondFactor = new(SecondFactor(v.SecondFactor))
	}
	if v.ClientCIDRv6.IsValid() {
		s.ClientCidrV6 = new(v.ClientCIDRv6.String())
		s.LocalSubnetsV6 = new(prefixes(v.LocalSubnetsV6))
	}
	if v.Topology != "" {
		s.Topology = new(ClientTopology(v.Topology))
	}
	s.DNSDomain = orAbsent(v.DNSDomain)
	for i := range v.CAs {
		s.ClientCaCertificates[i] = clientCAAnswer(&v.CAs[i])
	}
	for i, a := range v.DNSServers {
		s.DNSServers[i] = a.String()
	}
	return s
}

func serverCertificateAnswer(v *control.ServerCertificateView) ServerCertificate {
	c := ServerCertificate{ID: v.ID, Name: v.Name, Source: CertificateSource(v.Source)}
	if v.SerialNumber != "" {
		c.Issuer, c.Subject, c.SerialNumber = &v.Issuer, &v.Subject, &v.SerialNumber
		c.ExpirationTime = new(wholeSeconds(v.Expires))
		c.SignatureAlgorithm = &v.SignatureAlgorithm
	}
	return c
}
