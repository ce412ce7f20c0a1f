package control

import (
	"context"
	"slices"
	"time"
)

// P2CGatewayView is a client-to-cloud gateway as the API shows it.
type P2CGatewayView struct {
	P2CGateway
	Status P2CGatewayStatus
	State  P2CGatewayState
	// BoundEIP is the EIP, nil when it is no longer in the inventory: then it
	// was taken away.
	BoundEIP    *EIPBinding
	Connections int // clients that are connected; of another node's as of a moment ago
	// RunningVersion is that of the node which serves the gateway.
	RunningVersion string
	Upgradable     bool // there is a newer version to go to
}

// CreateP2CGateway performs CreateP2cVgw.
func (s *Service) CreateP2CGateway(ctx context.Context, project string, req P2CGatewayCreate) (Meta, error) {
	if err := validProject(project); err != nil {
		return Meta{}, err
	}
	var created Meta
	err := once(ctx, s, project, &created, func(tx *transaction) error {
		defaults, err := p2cGatewayDefaults(s.random)
		if err != nil {
			return err
		}
		g, err := parseP2CGateway(&req, defaults)
		if err != nil {
			return err
		}
		d, err := s.p2cGatewayDraft(tx, g)
		if err != nil {
			return err
		}
		if err := firstBroken(d, p2cGatewayRules); err != nil {
			return err
		}
		if d.AvailabilityZones, err = asError(d.inventory.p2cZones(req.AvailabilityZoneIDs)); err != nil {
			return err
		}
		if err := bindP2CEIP(d, req.EIP, s.random); err != nil {
			return err
		}
		own := slices.DeleteFunc(slices.Clone(d.others), func(o P2CGateway) bool { return o.Project != project })
		if len(own) >= s.limits.p2cGateways() {
			return refuse("VPN.0513", "Insufficient gateway quota.")
		}
		d.Meta, err = s.newMeta(d.Meta, project, metas(own, func(g *P2CGateway) Meta { return g.Meta }))
		if err != nil {
			return err
		}
		d.Version = s.version
		created = d.Meta
		return tx.putP2CGateway(d.P2CGateway)
	})
	return created, err
}

func (s *Service) p2cGatewayDraft(tx *transaction, g P2CGateway) (*p2cGatewayDraft, error) {
	others, err := tx.p2cGateways("")
	if err != nil {
		return nil, err
	}
	others = slices.DeleteFunc(others, func(o P2CGateway) bool { return o.ID == g.ID })
	sites, err := tx.gateways("")
	return &p2cGatewayDraft{P2CGateway: g, inventory: s.inventory.Load(), others: others, sites: sites}, err
}

// ShowP2CGateway performs ShowP2cVgw.
func (s *Service) ShowP2CGateway(ctx context.Context, project, id string) (P2CGatewayView, error) {
	tx := s.read(ctx)
	g, err := tx.p2cGateway(project, id)
	if err != nil {
		return P2CGatewayView{}, err
	}
	status, err := tx.p2cGatewayStatus(g.Meta)
	return s.viewP2CGateway(g, status), err
}

// ListP2CGateways performs ListP2cVgws: newest first.
func (s *Service) ListP2CGateways(ctx context.Context, project string, page Page) (List[P2CGatewayView], error) {
	if err := validProject(project); err != nil {
		return List[P2CGatewayView]{}, err
	}
	tx := s.read(ctx)
	all, err := tx.p2cGateways(project)
	if err != nil {
		return List[P2CGatewayView]{}, err
	}
	cut, err := paginateP2C(all, func(g *P2CGateway) time.Time { return g.CreatedAt }, page)
	if err != nil {
		return List[P2CGatewayView]{}, err
	}
	status, err := statuses(ctx, s.objects.p2c.gatewayStatus, project)
	if err != nil {
		return List[P2CGatewayView]{}, err
	}
	l := List[P2CGatewayView]{Total: cut.Total, NextMarker: cut.NextMarker}
	for _, g := range cut.Items {
		l.Items = append(l.Items, s.viewP2CGateway(g, status[g.ID]))
	}
	return l, nil
}

func (s *Service) viewP2CGateway(g P2CGateway, status P2CGatewayStatus) P2CGatewayView {
	v := P2CGatewayView{P2CGateway: g, Status: status, State: g.State(status), RunningVersion: s.version}
	if d := s.division(); d != nil && d.OwnerOf(g.EIP.Address) != "" {
		v.RunningVersion = d.Nodes[d.OwnerOf(g.EIP.Address)].Version
	}
	v.Upgradable = g.Upgrade == nil && s.upgradeTarget(g.Version, g.EIP.Address) != ""
	if s.hasEIP(&g) {
		v.BoundEIP = &v.EIP
	}
	served := false
	if s.engines != nil {
		var clients []ClientConnection
		clients, served = s.engines.ClientConnections(g.ID)
		v.Connections = len(clients)
	}
	if owner := s.division().OwnerOf(g.EIP.Address); !served && owner != "" && owner != s.division().Name() {
		v.Connections = status.Clients
	}
	return v
}

// hasEIP tells whether the EIP of a gateway is still there.
func (s *Service) hasEIP(g *P2CGateway) bool {
	_, there := s.inventory.Load().EIP(g.EIP.ID)
	return there
}

// UpdateP2CGateway performs UpdateP2cVgw. A new name is in force at once, so the
// gateway is not worked on.
func (s *Service) UpdateP2CGateway(ctx context.Context, project, id string, req P2CGatewayUpdate) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		states := []P2CGatewayState{P2CActive}
		if sent(req.EIPID) {
			states = append(states, P2CFault) // which another EIP may mend
		}
		g, err := tx.readyP2CGateway(project, id, states...)
		if err != nil {
			return err
		}
		d, err := s.p2cGatewayDraft(tx, g)
		if err != nil {
			return err
		}
		p := &parser{}
		p.plainName("name", req.Name, &d.Name)
		if err := p.result(); err != nil {
			return err
		}
		if sent(req.EIPID) {
			if err := rebindP2CEIP(d, *req.EIPID); err != nil {
				return err
			}
		}
		switch {
		case d.EIP != g.EIP:
			s.touch(&d.Meta)
		case d.Name != g.Name:
			s.touchQuietly(&d.Meta)
		default:
			return nil
		}
		return tx.putP2CGateway(d.P2CGateway)
	})
}

// DeleteP2CGateway performs DeleteP2cVgw. The server of the gateway and all that
// belongs to it go along, and its EIP is free, once the reconciler has taken the
// gateway down.
func (s *Service) DeleteP2CGateway(ctx context.Context, project, id string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		g, err := tx.readyP2CGateway(project, id, P2CActive, P2CFault, P2CFrozen)
		if err != nil {
			return err
		}
		g.DeletionRequested = true
		s.touch(&g.Meta)
		return tx.putP2CGateway(g)
	})
}

// readyP2CGateway returns a gateway that is in one of the wanted states, or the
// refusal that it is not.
func (tx *transaction) readyP2CGateway(project, id string, wanted ...P2CGatewayState) (P2CGateway, error) {
	g, err := tx.p2cGateway(project, id)
	if err != nil {
		return g, err
	}
	status, err := tx.p2cGatewayStatus(g.Meta)
	if err != nil {
		return g, err
	}
	if state := g.State(status); !slices.Contains(wanted, state) {
		return g, gatewayInState(state)
	}
	return g, nil
}

// P2CZones performs ListP2cVgwAvailabilityZones.
func (s *Service) P2CZones(_ context.Context, project string) ([]string, error) {
	if err := validProject(project); err != nil {
		return nil, err
	}
	return slices.Clone(s.inventory.Load().AvailabilityZones), nil
}
