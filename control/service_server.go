package control

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// Names of what each server has from the start.
const (
	defaultGroupName         = "default"
	defaultGroupDescription  = "Default user group"
	defaultPolicyName        = "default"
	defaultPolicyDescription = "Default access policy"
)

// ServerView is a server as the API shows it.
type ServerView struct {
	VPNServer
	Status ServerStatus
	State  ServerState
	Shown  ServerCertificateView // of the certificate
	CAs    []ClientCAView
}

// ServerCertificateView is what the API shows of a server's certificate. Its
// members are empty, but for the name and the source, when the certificate is
// no longer in the inventory.
type ServerCertificateView struct {
	CertificateInfo
	ID     string
	Name   string
	Source CertificateSource
}

// ClientCAView is what the API shows of a client CA certificate.
type ClientCAView struct {
	CertificateInfo
	ID, Name             string
	CreatedAt, UpdatedAt time.Time
}

// CreateServer performs CreateVpnServer. The server has a group and a policy
// from the start, which reaches everything.
func (s *Service) CreateServer(ctx context.Context, project, gatewayID string, req ServerCreate) (Meta, error) {
	var created Meta
	err := once(ctx, s, project, &created, func(tx *transaction) error {
		g, err := tx.readyP2CGateway(project, gatewayID, P2CActive)
		if err != nil {
			return err
		}
		v, err := parseServer(&req, serverDefaults())
		if err != nil {
			return err
		}
		v.GatewayID = gatewayID
		d, err := s.serverDraft(tx, v, g)
		if err != nil {
			return err
		}
		own := slices.DeleteFunc(slices.Clone(d.servers), func(o VPNServer) bool { return o.Project != project })
		if d.Meta, err = s.newMeta(d.Meta, project, metas(own, func(v *VPNServer) Meta { return v.Meta })); err != nil {
			return err
		}
		if err := parseServerCertificate(&d.VPNServer, req.Certificate); err != nil {
			return err
		}
		if len(req.ClientCAs) > maxClientCAs {
			return refuse("VPN.1111", "The number of client CA certificates exceeds the upper limit.")
		}
		for i, ca := range req.ClientCAs {
			if _, err := s.addClientCA(&d.VPNServer, fmt.Sprintf("client_ca_certificates[%d].", i), ca); err != nil {
				return err
			}
		}
		if err := firstBroken(d, slices.Concat(serverRules, networkRules, optionRules)); err != nil {
			return err
		}
		if err := renewControlKey(&d.VPNServer, nil, s.random); err != nil {
			return err
		}
		if err := s.completeCertificate(d); err != nil {
			return err
		}
		if err := s.putBuiltIns(tx, &d.VPNServer); err != nil {
			return err
		}
		created = d.Meta
		return tx.putServer(d.VPNServer)
	})
	return created, err
}

// parseServerCertificate reads which certificate a new server is to have.
func parseServerCertificate(v *VPNServer, req *ServerCertificateRequest) error {
	empty := refuse("VPN.1100", "The server certificate cannot be empty.")
	if req == nil {
		return empty
	}
	source := CertificateSource("")
	p := &parser{}
	text(p, "server_certificate.source", req.Source, &source, CertificateCCM, CertificateServiceSign)
	p.shortID("server_certificate.id", req.ID)
	if err := p.result(); err != nil {
		return err
	}
	switch {
	case source == CertificateServiceSign && sent(req.ID):
		return Invalid("server_certificate.id", "must be absent with source SERVICE_SIGN")
	case source == CertificateServiceSign:
		v.Certificate = ServerCertificate{Source: source}
	case sent(req.ID):
		v.Certificate = ServerCertificate{Source: CertificateCCM, ID: *req.ID}
	default:
		return empty
	}
	return nil
}

// completeCertificate has our own CA sign the certificate of a server, or names
// that of the inventory.
func (s *Service) completeCertificate(d *serverDraft) (err error) {
	if d.Certificate.Source == CertificateCCM {
		c, _ := d.inventory.Certificate(d.Certificate.ID) // is there by a rule
		d.Certificate.Name = c.Name
		return nil
	}
	name, err := randomName("server-cert-", s.random)
	if err != nil {
		return err
	}
	d.Certificate, err = signServerCertificate(&d.VPNServer, d.gateway.EIP.Address, name, s.now())
	return err
}

// putBuiltIns stores the group and the policy that a server has from the start.
func (s *Service) putBuiltIns(tx *transaction, v *VPNServer) error {
	groups, err := list(tx.ctx, tx.objects.p2c.groups, v.Project)
	if err != nil {
		return err
	}
	policies, err := list(tx.ctx, tx.objects.p2c.policies, v.Project)
	if err != nil {
		return err
	}
	group := UserGroup{Meta: Meta{Name: defaultGroupName}, ServerID: v.ID, Description: defaultGroupDescription, Type: TypeDefault}
	if group.Meta, err = s.newMeta(group.Meta, v.Project, metas(groups, func(g *UserGroup) Meta { return g.Meta })); err != nil {
		return err
	}
	policy := AccessPolicy{
		Meta: Meta{Name: defaultPolicyName}, ServerID: v.ID, GroupID: group.ID, Description: defaultPolicyDescription, Type: TypeDefault,
		Destinations: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)},
	}
	if policy.Meta, err = s.newMeta(policy.Meta, v.Project, metas(policies, func(p *AccessPolicy) Meta { return p.Meta })); err != nil {
		return err
	}
	if err := tx.putUserGroup(group); err != nil {
		return err
	}
	return tx.putAccessPolicy(policy)
}

func (s *Service) serverDraft(tx *transaction, v VPNServer, g P2CGateway) (*serverDraft, error) {
	d := &serverDraft{VPNServer: v, gateway: g, inventory: s.inventory.Load(), now: s.now()}
	var err error
	if d.servers, err = tx.servers(""); err != nil {
		return nil, err
	}
	d.servers = slices.DeleteFunc(d.servers, func(o VPNServer) bool { return o.ID == v.ID })
	d.tunnels, err = tx.connections("")
	return d, err
}

// ListServersOfGateway performs ListVpnServersByVgw.
func (s *Service) ListServersOfGateway(ctx context.Context, project, gatewayID string) ([]ServerView, error) {
	tx := s.read(ctx)
	if _, err := tx.p2cGateway(project, gatewayID); err != nil {
		return nil, err
	}
	all, err := tx.servers(project)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(v VPNServer) bool { return v.GatewayID != gatewayID })
	newestFirst(all, func(v *VPNServer) time.Time { return v.CreatedAt })
	return s.viewServers(tx, project, all)
}

// ListServers performs ListVpnServersByProject: newest first.
func (s *Service) ListServers(ctx context.Context, project string, page Page) (List[ServerView], error) {
	if err := validProject(project); err != nil {
		return List[ServerView]{}, err
	}
	tx := s.read(ctx)
	all, err := tx.servers(project)
	if err != nil {
		return List[ServerView]{}, err
	}
	cut, err := paginateP2C(all, func(v *VPNServer) time.Time { return v.CreatedAt }, page)
	if err != nil {
		return List[ServerView]{}, err
	}
	views, err := s.viewServers(tx, project, cut.Items)
	return List[ServerView]{Items: views, Total: cut.Total, NextMarker: cut.NextMarker}, err
}

// viewServers returns what the API shows of servers of a project.
func (s *Service) viewServers(tx *transaction, project string, servers []VPNServer) ([]ServerView, error) {
	gateways, err := tx.p2cGateways(project)
	if err != nil {
		return nil, err
	}
	status, err := statuses(tx.ctx, s.objects.p2c.serverStatus, project)
	if err != nil {
		return nil, err
	}
	views := make([]ServerView, 0, len(servers))
	for _, v := range servers {
		i := slices.IndexFunc(gateways, func(g P2CGateway) bool { return g.ID == v.GatewayID })
		if i >= 0 { // else it was finalised just now
			views = append(views, s.viewServer(v, status[v.ID], &gateways[i]))
		}
	}
	return views, nil
}

func (s *Service) viewServer(v VPNServer, status ServerStatus, g *P2CGateway) ServerView {
	c := &v.Certificate
	view := ServerView{
		VPNServer: v, Status: status, State: v.State(status, g),
		Shown: ServerCertificateView{Name: c.Name, Source: c.Source},
	}
	if chain := s.inventory.Load().serverChain(c); len(chain) > 0 {
		view.Shown.ID, view.Shown.CertificateInfo = c.ID, infoOf(chain[0])
	}
	for i := range v.ClientCAs {
		view.CAs = append(view.CAs, viewClientCA(&v.ClientCAs[i]))
	}
	return view
}

func viewClientCA(c *ClientCA) ClientCAView {
	view := ClientCAView{ID: c.ID, Name: c.Name, CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt}
	if certificate, err := c.Certificate(); err == nil {
		view.CertificateInfo = infoOf(certificate)
	}
	return view
}

// UpdateServer performs UpdateVpnServer. Of what stays as it is, no rule is
// asked.
func (s *Service) UpdateServer(ctx context.Context, project, id string, req ServerUpdate) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		// A change is what mends a server in FAULT.
		v, g, err := tx.readyServer(project, id, ServerActive, ServerFault)
		if err != nil {
			return err
		}
		merged, err := mergeServer(&req, v)
		if err != nil {
			return err
		}
		if err := mergeCertificate(&merged, req.CertificateID); err != nil {
			return err
		}
		if reflect.DeepEqual(merged, v) {
			return nil
		}
		d, err := s.serverDraft(tx, merged, g)
		if err != nil {
			return err
		}
		d.before = &v
		if err := d.readBelow(tx); err != nil {
			return err
		}
		if d.ClientCIDR != v.ClientCIDR || d.ClientCIDRv6 != v.ClientCIDRv6 || !slices.Equal(d.LocalSubnets, v.LocalSubnets) {
			if err := firstBroken(d, networkRules); err != nil {
				return err
			}
		}
		if d.Certificate.ID != v.Certificate.ID {
			if err := firstBroken(d, []func(*serverDraft) *Error{certificateIsUsable}); err != nil {
				return err
			}
			if err := s.completeCertificate(d); err != nil {
				return err
			}
		}
		if err := firstBroken(d, []func(*serverDraft) *Error{authTypeIsFree}); err != nil {
			return err
		}
		if d.PortShare != v.PortShare || d.SecondFactor != v.SecondFactor || d.AuthType != v.AuthType {
			if err := firstBroken(d, optionRules); err != nil {
				return err
			}
		}
		if err := renewControlKey(&d.VPNServer, &v, s.random); err != nil {
			return err
		}
		s.touch(&d.Meta)
		return tx.putServer(d.VPNServer)
	})
}

// readBelow reads what belongs to the server.
func (d *serverDraft) readBelow(tx *transaction) (err error) {
	if d.users, err = tx.users(d.Project, d.ID); err != nil {
		return err
	}
	if d.groups, err = tx.userGroups(d.Project, d.ID); err != nil {
		return err
	}
	d.policies, err = tx.accessPolicies(d.Project, d.ID)
	return err
}

// mergeCertificate reads the id of another certificate. A server whose
// certificate our own CA signed has none, and its empty id is no change.
func mergeCertificate(v *VPNServer, id *string) error {
	p := &parser{}
	p.shortID("server_certificate.id", id)
	if err := p.result(); err != nil {
		return err
	}
	switch {
	case id == nil || *id == v.Certificate.ID:
		return nil
	case *id == "":
		return refuse("VPN.1100", "The server certificate cannot be empty.")
	}
	v.Certificate = ServerCertificate{Source: CertificateCCM, ID: *id}
	return nil
}

// shortID reads an id that may be empty.
func (p *parser) shortID(field string, v *string) {
	if v != nil && len(*v) > 64 {
		p.fail(field, "must have at most 64 characters")
	}
}

// readyServer returns a server that is in one of the wanted states, with its
// gateway, or the refusal that either is not ready.
func (tx *transaction) readyServer(project, id string, wanted ...ServerState) (VPNServer, P2CGateway, error) {
	v, err := tx.server(project, id)
	if err != nil {
		return v, P2CGateway{}, err
	}
	states := []P2CGatewayState{P2CActive}
	if slices.Contains(wanted, ServerFault) {
		states = append(states, P2CFault)
	}
	g, err := tx.readyP2CGateway(project, v.GatewayID, states...)
	if err != nil {
		return v, g, err
	}
	status, err := tx.serverStatus(v.Meta)
	if err != nil {
		return v, g, err
	}
	if state := v.State(status, &g); !slices.Contains(wanted, state) {
		return v, g, serverInState(state)
	}
	return v, g, nil
}
