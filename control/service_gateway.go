package control

import (
	"context"
	"reflect"
	"slices"
	"time"
)

// GatewayView is a gateway as the API shows it.
type GatewayView struct {
	Gateway
	Status GatewayStatus
	State  GatewayState

	ConnectionLimit int
	UsedConnections int
	// UsedGroups counts the pairs of connections: two of one customer gateway
	// are one group.
	UsedGroups       int
	SupportedFlavors []Flavor // that the gateway may be changed to
	Upgradable       bool     // there is a newer version to go to
}

// GatewayFilter restricts a list. A zero member matches everything.
type GatewayFilter struct {
	ID                   string
	EnterpriseProjectIDs []string
}

// CreateGateway performs CreateVgw.
func (s *Service) CreateGateway(ctx context.Context, project string, req GatewayCreate) (GatewayView, error) {
	if err := validProject(project); err != nil {
		return GatewayView{}, err
	}
	var view GatewayView
	err := once(ctx, s, project, &view, func(tx *transaction) error {
		defaults, err := gatewayDefaults(s.random)
		if err != nil {
			return err
		}
		g, err := parseGateway(&req, defaults)
		if err != nil {
			return err
		}
		d, err := s.gatewayDraft(tx, g)
		if err != nil {
			return err
		}
		if err := firstBroken(d, gatewayRules); err != nil {
			return err
		}
		if d.AvailabilityZones, err = asError(d.inventory.zones(req.AvailabilityZoneIDs)); err != nil {
			return err
		}
		if err := bindEIPs(d, req.EIP1, req.EIP2, s.random); err != nil {
			return err
		}
		if err := unsupportedGateway(d); err != nil {
			return err
		}
		own := slices.DeleteFunc(slices.Clone(d.others), func(o Gateway) bool { return o.Project != project })
		if len(own) >= s.limits.gateways() {
			return quotaExceeded("gateways", s.limits.gateways())
		}
		d.Meta, err = s.newMeta(d.Meta, project, metas(own, func(g *Gateway) Meta { return g.Meta }))
		if err != nil {
			return err
		}
		d.Version = s.version
		view = s.viewGateway(d.Gateway, GatewayStatus{}, nil)
		return tx.putGateway(d.Gateway)
	})
	return view, err
}

// asError turns a refusal, which may be nil, into an error.
func asError[T any](v T, e *Error) (T, error) {
	if e != nil {
		return v, e
	}
	return v, nil
}

func (s *Service) gatewayDraft(tx *transaction, g Gateway) (*gatewayDraft, error) {
	others, err := tx.gateways("")
	if err != nil {
		return nil, err
	}
	p2c, err := tx.p2cGateways("")
	return &gatewayDraft{Gateway: g, inventory: s.inventory.Load(), others: others, p2c: p2c}, err
}

// ShowGateway performs ShowVgw.
func (s *Service) ShowGateway(ctx context.Context, project, id string) (GatewayView, error) {
	tx := s.read(ctx)
	g, err := tx.gateway(project, id)
	if err != nil {
		return GatewayView{}, err
	}
	status, err := tx.gatewayStatus(g.Meta)
	if err != nil {
		return GatewayView{}, err
	}
	connections, err := tx.connections(project)
	if err != nil {
		return GatewayView{}, err
	}
	return s.viewGateway(g, status, connections), nil
}

// ListGateways performs ListVgws: all of them, newest first.
func (s *Service) ListGateways(ctx context.Context, project string, f GatewayFilter) ([]GatewayView, error) {
	if err := validProject(project); err != nil {
		return nil, err
	}
	tx := s.read(ctx)
	gateways, err := tx.gateways(project)
	if err != nil {
		return nil, err
	}
	connections, err := tx.connections(project)
	if err != nil {
		return nil, err
	}
	status, err := statuses(ctx, s.objects.gatewayStatus, project)
	if err != nil {
		return nil, err
	}
	var views []GatewayView
	for _, g := range gateways {
		if f.ID != "" && f.ID != g.ID || !matches(f.EnterpriseProjectIDs, g.EnterpriseProjectID) {
			continue
		}
		views = append(views, s.viewGateway(g, status[g.ID], connections))
	}
	newestFirst(views, func(v *GatewayView) time.Time { return v.CreatedAt })
	return views, nil
}

// UpdateGateway performs UpdateVgw.
func (s *Service) UpdateGateway(ctx context.Context, project, id string, req GatewayUpdate) (GatewayView, error) {
	var view GatewayView
	err := s.objects.change(ctx, func(tx *transaction) error {
		states := []GatewayState{GatewayActive}
		if req.EIPID1 != nil || req.EIPID2 != nil {
			states = append(states, GatewayFault) // which another EIP may mend
		}
		g, status, err := tx.readyGateway(project, id, states...)
		if err != nil {
			return err
		}
		connections, err := tx.connections(project)
		if err != nil {
			return err
		}
		d, err := s.changedGateway(tx, g, connections, &req)
		if err != nil {
			return err
		}
		if changed := !reflect.DeepEqual(d.Gateway, g); changed {
			s.touch(&d.Meta)
			err = tx.putGateway(d.Gateway)
		}
		view = s.viewGateway(d.Gateway, status, connections)
		return err
	})
	return view, err
}

// changedGateway decides on a change of a gateway. connections are those of its
// project.
func (s *Service) changedGateway(tx *transaction, g Gateway, connections []Connection, req *GatewayUpdate) (*gatewayDraft, error) {
	merged, err := mergeGateway(req, g)
	if err != nil {
		return nil, err
	}
	d, err := s.gatewayDraft(tx, merged)
	if err != nil {
		return nil, err
	}
	d.taken = connectionsOf(g.ID, connections)
	if req.LocalSubnets != nil || req.LocalSubnetsV6 != nil {
		if err := firstBroken(d, gatewayRules); err != nil {
			return nil, err
		}
	}
	if err := templateFitsConnections(&d.Gateway, d.taken); err != nil {
		return nil, err
	}
	if err := rebindEIPs(d, req.EIPID1, req.EIPID2); err != nil {
		return nil, err
	}
	return d, nil
}

// ChangeFlavor performs UpdatePostpaidVgwSpecification: the gateway gets one of
// the flavors that it can be changed to.
func (s *Service) ChangeFlavor(ctx context.Context, project, id string, flavor Flavor) (GatewayView, error) {
	var view GatewayView
	err := s.objects.change(ctx, func(tx *transaction) error {
		g, status, err := tx.readyGateway(project, id, GatewayActive)
		if err != nil {
			return err
		}
		connections, err := tx.connections(project)
		if err != nil {
			return err
		}
		allowed := supportedFlavors(&g)
		switch used := len(connectionsOf(id, connections)); {
		case len(allowed) == 0:
			return Invalid("flavor", "there is none that a gateway of flavor %s can be changed to", g.Flavor)
		case !slices.Contains(allowed, flavor):
			return Invalid("flavor", "must be one of %s, the flavors that this gateway can be changed to", oneOf(allowed))
		case used > s.limits.OfFlavor(flavor):
			return Invalid("flavor", "%s allows %d connections, the gateway has %d", flavor, s.limits.OfFlavor(flavor), used)
		}
		g.Flavor = flavor
		s.touch(&g.Meta)
		view = s.viewGateway(g, status, connections)
		return tx.putGateway(g)
	})
	return view, err
}

// DeleteGateway performs DeleteVgw. Its EIPs are free once the reconciler has
// taken the gateway down.
func (s *Service) DeleteGateway(ctx context.Context, project, id string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		g, _, err := tx.readyGateway(project, id, GatewayActive, GatewayFault)
		if err != nil {
			return err
		}
		connections, err := tx.connections(project)
		if err != nil {
			return err
		}
		if len(connectionsOf(id, connections)) > 0 {
			return invalidRequest("gateway " + id + " has connection")
		}
		g.DeletionRequested = true
		s.touch(&g.Meta)
		return tx.putGateway(g)
	})
}

// readyGateway returns a gateway that is in one of the wanted states, or the
// refusal that it is not ready.
func (tx *transaction) readyGateway(project, id string, wanted ...GatewayState) (Gateway, GatewayStatus, error) {
	g, err := tx.gateway(project, id)
	if err != nil {
		return g, GatewayStatus{}, err
	}
	status, err := tx.gatewayStatus(g.Meta)
	if err != nil {
		return g, status, err
	}
	if state := g.State(status); !slices.Contains(wanted, state) {
		return g, status, NotReady("GATEWAY", id, gerund(string(state)))
	}
	return g, status, nil
}

func connectionsOf(gatewayID string, connections []Connection) []Connection {
	return slices.DeleteFunc(slices.Clone(connections), func(c Connection) bool { return c.GatewayID != gatewayID })
}

// viewGateway completes a gateway with what follows from the connections of
// its project.
func (s *Service) viewGateway(g Gateway, status GatewayStatus, connections []Connection) GatewayView {
	v := GatewayView{
		Gateway:          g,
		Status:           status,
		State:            g.State(status),
		ConnectionLimit:  s.limits.OfFlavor(g.Flavor),
		SupportedFlavors: supportedFlavors(&g),
		Upgradable:       g.Upgrade == nil && s.upgradeTarget(g.Version, g.addresses()...) != "",
	}
	perPeer := map[string]int{}
	for _, c := range connectionsOf(g.ID, connections) {
		v.UsedConnections++
		perPeer[c.CustomerGatewayID]++
	}
	for _, n := range perPeer {
		v.UsedGroups += (n + 1) / 2
	}
	return v
}

// supportedFlavors returns the other flavors of the gateway's class that fit
// its network and the bandwidth of its EIPs.
func supportedFlavors(g *Gateway) []Flavor {
	if g.Flavor == FlavorGM || g.Flavor.NonFixedIP() {
		return nil
	}
	var out []Flavor
	for _, f := range []Flavor{FlavorBasic, FlavorProfessional1, FlavorProfessional2} {
		fits := max(g.EIPs[0].BandwidthMbps, g.EIPs[1].BandwidthMbps) <= flavorBandwidth[f]
		candidate := gatewayDraft{Gateway: *g}
		candidate.Flavor = f
		if f != g.Flavor && fits && basicFlavorIsPublicVPC(&candidate) == nil {
			out = append(out, f)
		}
	}
	return out
}
