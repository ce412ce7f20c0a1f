package control

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// ConnectionView is a connection as the API shows it. It has neither PSK nor PPK.
type ConnectionView struct {
	Connection
	Gateway         Gateway
	CustomerGateway CustomerGateway
	Status          ConnectionStatus
	State           ConnectionState

	VgwIP   string // id of the EIP, or private address
	LocalID string // in effect, empty where the flavor has none
	PeerID  string
}

// ConnectionFilter restricts a list. A zero member matches everything.
type ConnectionFilter struct {
	ID                   string
	GatewayID            string
	VgwIP                string
	EnterpriseProjectIDs []string
	Page                 Page
}

// CreateConnection performs CreateVpnConnection.
func (s *Service) CreateConnection(ctx context.Context, project string, req ConnectionCreate) (ConnectionView, error) {
	if err := validProject(project); err != nil {
		return ConnectionView{}, err
	}
	var view ConnectionView
	err := once(ctx, s, project, &view, func(tx *transaction) error {
		others, err := tx.connections(project)
		if err != nil {
			return err
		}
		view, err = s.addConnection(tx, project, &req, others, 0)
		return err
	})
	return view, err
}

// CreateConnections performs BatchCreateVpnConnection: all connections, which
// are of one gateway, or none of them. The views are in the order of the
// requests.
func (s *Service) CreateConnections(ctx context.Context, project string, reqs []ConnectionCreate) ([]ConnectionView, error) {
	if err := validProject(project); err != nil {
		return nil, err
	}
	if len(reqs) < 1 || len(reqs) > maxBatchConnections {
		return nil, Invalid("vpn_connections", "must have 1 to %d entries", maxBatchConnections)
	}
	var views []ConnectionView
	err := once(ctx, s, project, &views, func(tx *transaction) error {
		views = nil
		others, err := tx.connections(project)
		if err != nil {
			return err
		}
		for i := range reqs {
			place := fmt.Sprintf("vpn_connections[%d]", i)
			view, err := s.addConnection(tx, project, &reqs[i], others, i)
			if err != nil {
				return within(place, err)
			}
			if view.GatewayID != *reqs[0].VgwID {
				return Invalid(place+".vgw_id", "must be the same in all connections of a batch")
			}
			views = append(views, view)
			others = append(others, view.Connection)
		}
		return nil
	})
	return views, err
}

// addConnection decides on a new connection and has the transaction write it.
// others are the connections of the project so far, the last ones of which this
// transaction has added.
func (s *Service) addConnection(tx *transaction, project string, req *ConnectionCreate, others []Connection, added int) (ConnectionView, error) {
	var none ConnectionView
	for _, required := range []struct {
		field string
		value *string
	}{{"vgw_id", req.VgwID}, {"vgw_ip", req.VgwIP}, {"cgw_id", req.CgwID}} {
		if required.value == nil {
			return none, Invalid(required.field, "is required")
		}
	}
	g, err := tx.gateway(project, *req.VgwID)
	if err != nil {
		return none, err
	}
	cgw, err := tx.customerGateway(project, *req.CgwID)
	if err != nil {
		return none, err
	}
	if err := tx.gatewayTakesConnections(&g); err != nil {
		return none, err
	}
	defaults, err := connectionDefaults(&g, &cgw, s.random)
	if err != nil {
		return none, err
	}
	c, err := parseConnection(req, &g, defaults)
	if err != nil {
		return none, err
	}
	var ok bool
	if c.Slot, ok = g.SlotOf(*req.VgwIP); !ok {
		return none, Invalid("vgw_ip", "is none of the gateway: its are %s and %s", g.VgwIP(Slot1), g.VgwIP(Slot2))
	}
	d, err := s.connectionDraft(tx, c, &g, &cgw, others)
	if err != nil {
		return none, err
	}
	if err := d.decide(); err != nil {
		return none, err
	}
	if len(others) >= s.limits.connections() {
		return none, quotaExceeded("connections", s.limits.connections())
	}
	if limit := s.limits.OfFlavor(g.Flavor); len(connectionsOf(g.ID, others)) >= limit {
		return none, quotaExceeded("connections of a gateway of flavor "+string(g.Flavor), limit)
	}
	if err := completeTunnel(&d.Connection, others, s.random); err != nil {
		return none, err
	}
	d.Meta, err = s.newMeta(d.Meta, project, metas(others, func(c *Connection) Meta { return c.Meta }))
	if err != nil {
		return none, err
	}
	if req.EnableHealthCheck {
		if _, err := s.addMonitor(tx, &d.Connection, added); err != nil {
			return none, err
		}
	}
	return viewConnection(d.Connection, g, cgw, ConnectionStatus{}), tx.putConnection(d.Connection)
}

// gatewayTakesConnections refuses changes to connections while their gateway
// is being worked on, upgraded or frozen.
func (tx *transaction) gatewayTakesConnections(g *Gateway) error {
	status, err := tx.gatewayStatus(g.Meta)
	if err != nil {
		return err
	}
	state := g.State(status)
	if strings.HasPrefix(string(state), "PENDING_") || state == GatewayFreezed || g.Upgrade != nil {
		return NotReady("GATEWAY", g.ID, gerund(string(state)))
	}
	return nil
}

func (s *Service) connectionDraft(tx *transaction, c Connection, g *Gateway, cgw *CustomerGateway, others []Connection) (*connectionDraft, error) {
	peers, err := tx.customerGateways(g.Project)
	if err != nil {
		return nil, err
	}
	servers, err := tx.servers("")
	if err != nil {
		return nil, err
	}
	d := &connectionDraft{
		Connection:       c,
		gateway:          g,
		customerGateway:  cgw,
		inventory:        s.inventory.Load(),
		others:           others,
		servers:          servers,
		customerGateways: make(map[string]CustomerGateway, len(peers)),
	}
	for _, p := range peers {
		d.customerGateways[p.ID] = p
	}
	return d, nil
}

// decide returns the first rule that the connection breaks.
func (d *connectionDraft) decide() error {
	if err := firstBroken(d, connectionRules); err != nil {
		return err
	}
	if err := unsupportedConnection(d); err != nil {
		return err
	}
	return nil
}

// ShowConnection performs ShowVpnConnection.
func (s *Service) ShowConnection(ctx context.Context, project, id string) (ConnectionView, error) {
	tx := s.read(ctx)
	c, err := get(ctx, s.objects.connections, project, id)
	if err != nil {
		return ConnectionView{}, err
	}
	return tx.viewConnection(c.Connection, s.division())
}

// ListConnections performs ListVpnConnections.
func (s *Service) ListConnections(ctx context.Context, project string, f ConnectionFilter) (List[ConnectionView], error) {
	var none List[ConnectionView]
	if err := validProject(project); err != nil {
		return none, err
	}
	tx := s.read(ctx)
	all, err := tx.connections(project)
	if err != nil {
		return none, err
	}
	gateways, err := tx.gateways(project)
	if err != nil {
		return none, err
	}
	total := len(all)
	found := slices.DeleteFunc(all, func(c Connection) bool { return !f.matches(&c, gateways) })
	page, err := paginate(found, func(c *Connection) time.Time { return c.CreatedAt }, f.Page, maxConnectionPage)
	if err != nil {
		return none, err
	}
	views, err := tx.viewsOfConnections(project, gateways, s.division())
	if err != nil {
		return none, err
	}
	l := List[ConnectionView]{Items: make([]ConnectionView, 0, len(page.Items)), Total: total, NextMarker: page.NextMarker}
	for _, c := range page.Items {
		if v, ok := views(c); ok {
			l.Items = append(l.Items, v)
		}
	}
	return l, nil
}

// viewsOfConnections returns a function that shows a connection of a project;
// not ok says that its gateway or customer gateway was finalised meanwhile or
// cannot be read.
func (tx *transaction) viewsOfConnections(project string, gateways []Gateway, d *Division) (view func(Connection) (v ConnectionView, ok bool), err error) {
	customers, err := tx.customerGateways(project)
	if err != nil {
		return nil, err
	}
	statuses, err := statuses(tx.ctx, tx.objects.connectionStatus, project)
	if err != nil {
		return nil, err
	}
	gatewayOf := byID(gateways, func(g *Gateway) string { return g.ID })
	customerOf := byID(customers, func(c *CustomerGateway) string { return c.ID })
	return func(c Connection) (ConnectionView, bool) {
		g, cgw := gatewayOf[c.GatewayID], customerOf[c.CustomerGatewayID]
		if g == nil || cgw == nil {
			return ConnectionView{}, false
		}
		return viewConnection(c, *g, *cgw, d.current(statuses[c.ID], g, c.Slot)), true
	}, nil
}

func (f *ConnectionFilter) matches(c *Connection, gateways []Gateway) bool {
	if f.ID != "" && f.ID != c.ID || f.GatewayID != "" && f.GatewayID != c.GatewayID || !matches(f.EnterpriseProjectIDs, c.EnterpriseProjectID) {
		return false
	}
	return f.VgwIP == "" || slices.ContainsFunc(gateways, func(g Gateway) bool {
		return g.ID == c.GatewayID && g.VgwIP(c.Slot) == f.VgwIP
	})
}

// UpdateConnection performs UpdateVpnConnection.
func (s *Service) UpdateConnection(ctx context.Context, project, id string, req ConnectionUpdate) (ConnectionView, error) {
	var view ConnectionView
	err := s.objects.change(ctx, func(tx *transaction) error {
		stored, g, status, err := tx.readyConnection(project, id, "update")
		if err != nil {
			return err
		}
		c, err := s.objects.unseal(stored)
		if err != nil && req.PSK == nil {
			return err // with another PSK the lost one does not matter
		}
		d, err := s.changedConnection(tx, c, &g, &req)
		if err != nil {
			return err
		}
		if changed := !reflect.DeepEqual(d.Connection, c); changed {
			s.touch(&d.Meta)
			err = tx.putConnection(d.Connection)
		}
		view = viewConnection(d.Connection, g, *d.customerGateway, status)
		return err
	})
	return view, err
}

// changedConnection decides on a change of a connection.
func (s *Service) changedConnection(tx *transaction, c Connection, g *Gateway, req *ConnectionUpdate) (*connectionDraft, error) {
	before, err := tx.customerGateway(c.Project, c.CustomerGatewayID)
	if err != nil {
		return nil, err
	}
	after := before
	if req.CgwID != nil {
		if after, err = tx.customerGateway(c.Project, *req.CgwID); err != nil {
			return nil, err
		}
	}
	merged, err := mergeConnection(req, g, &before, &after, c)
	if err != nil {
		return nil, err
	}
	others, err := tx.connections(c.Project)
	if err != nil {
		return nil, err
	}
	d, err := s.connectionDraft(tx, merged, g, &after, others)
	if err != nil {
		return nil, err
	}
	return d, d.decide()
}

// DeleteConnection performs DeleteVpnConnection. The reconciler takes the
// connection down and then finalises it.
func (s *Service) DeleteConnection(ctx context.Context, project, id string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		c, _, _, err := tx.readyConnection(project, id, "delete")
		if err != nil {
			return err
		}
		c.DeletionRequested = true
		s.touch(&c.Meta)
		return put(tx, s.objects.connections, c.Meta, c)
	})
}

// ResetConnection performs ResetVpnConnection: its SAs are deleted and
// negotiated anew.
func (s *Service) ResetConnection(ctx context.Context, project, id string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		c, err := get(ctx, s.objects.connections, project, id)
		if err != nil {
			return err
		}
		status, err := tx.connectionStatus(c.Meta)
		if err != nil {
			return err
		}
		switch state := c.State(status); state {
		case ConnectionActive, ConnectionDown, ConnectionError:
			c.Resets++
			return put(tx, s.objects.connections, c.Meta, c)
		default:
			return NotReady("CONNECTION", id, gerund(string(state)))
		}
	})
}

// ConnectionLog performs ShowVpnConnectionLog: at most 200 lines, newest first.
func (s *Service) ConnectionLog(ctx context.Context, project, id string) ([]LogLine, error) {
	if _, err := get(ctx, s.objects.connections, project, id); err != nil {
		return nil, err
	}
	return s.objects.Log(ctx, project, id)
}

// readyConnection returns a connection that may be changed, with its gateway
// and status, or the refusal. Its secrets stay sealed: one that cannot be
// opened any more can still be deleted.
func (tx *transaction) readyConnection(project, id, verb string) (c storedConnection, g Gateway, status ConnectionStatus, err error) {
	if c, err = get(tx.ctx, tx.objects.connections, project, id); err != nil {
		return c, g, status, err
	}
	if status, err = tx.connectionStatus(c.Meta); err != nil {
		return c, g, status, err
	}
	if g, err = tx.gateway(project, c.GatewayID); err != nil {
		return c, g, status, err
	}
	switch state := c.State(status); {
	case state == ConnectionFreezed:
		err = invalidRequest("ILLEGAL not allowed " + verb + " vpnConnection")
	case strings.HasPrefix(string(state), "PENDING_"):
		err = NotReady("CONNECTION", id, gerund(string(state)))
	default:
		err = tx.gatewayTakesConnections(&g)
	}
	return c, g, status, err
}

func (tx *transaction) viewConnection(c Connection, d *Division) (ConnectionView, error) {
	g, err := tx.gateway(c.Project, c.GatewayID)
	if err != nil {
		return ConnectionView{}, err
	}
	cgw, err := tx.customerGateway(c.Project, c.CustomerGatewayID)
	if err != nil {
		return ConnectionView{}, err
	}
	status, err := tx.connectionStatus(c.Meta)
	return viewConnection(c, g, cgw, d.current(status, &g, c.Slot)), err
}

func viewConnection(c Connection, g Gateway, cgw CustomerGateway, status ConnectionStatus) ConnectionView {
	v := ConnectionView{
		Connection:      c,
		Gateway:         g,
		CustomerGateway: cgw,
		Status:          status,
		State:           c.State(status),
		VgwIP:           g.VgwIP(c.Slot),
	}
	v.PSK, v.PPK = Secret{}, Secret{}
	if !suiteOf(g.Flavor).withoutIdentity {
		v.LocalID, v.PeerID = c.EffectiveIDs(&g, &cgw)
	}
	return v
}
