package control

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Monitor is the specification of a connection monitor: the address of the
// gateway probes that of the customer gateway, outside the tunnel. A connection
// has one at most, and takes it along when it goes.
type Monitor struct {
	Meta

	ConnectionID string `json:"connection_id"`
}

// MonitorState is the status of a monitor as the API shows it.
type MonitorState string

// States of a monitor.
const (
	MonitorPendingCreate MonitorState = "PENDING_CREATE"
	MonitorActive        MonitorState = "ACTIVE"
	MonitorPendingDelete MonitorState = "PENDING_DELETE"
)

// MonitorStatus is what the reconciler reports of a monitor.
type MonitorStatus struct {
	// Observed is the generation that is in force.
	Observed int64 `json:"observed"`
	// Destination is what is probed; the zero Addr while the address of a peer
	// that is known by name has not been learned.
	Destination netip.Addr `json:"destination,omitzero"`
}

// State derives what the API shows.
func (m *Monitor) State(s MonitorStatus) MonitorState {
	switch {
	case m.DeletionRequested:
		return MonitorPendingDelete
	case s.Observed < m.Generation:
		return MonitorPendingCreate
	}
	return MonitorActive
}

// MonitorView is a monitor as the API shows it.
type MonitorView struct {
	Monitor
	State       MonitorState
	Source      netip.Addr // of the gateway, as peers see it
	Destination netip.Addr // of the customer gateway; invalid while it is not known
}

// MonitorFilter restricts a list. A zero member matches everything.
type MonitorFilter struct {
	ConnectionID         string
	EnterpriseProjectIDs []string
}

// CreateMonitor performs CreateConnectionMonitor.
func (s *Service) CreateMonitor(ctx context.Context, project, connectionID string) (MonitorView, error) {
	var view MonitorView
	err := once(ctx, s, project, &view, func(tx *transaction) error {
		c, err := get(ctx, s.objects.connections, project, connectionID)
		if err != nil {
			return err
		}
		if c.DeletionRequested {
			return NotReady("CONNECTION", connectionID, gerund(string(ConnectionPendingDelete)))
		}
		if c.MonitorID != "" {
			return Invalid("vpn_connection_id", "connection %s has monitor %s already", connectionID, c.MonitorID)
		}
		m, err := s.addMonitor(tx, &c.Connection, 0)
		if err != nil {
			return err
		}
		if err := put(tx, s.objects.connections, c.Meta, c); err != nil {
			return err
		}
		view, err = tx.viewMonitor(m)
		return err
	})
	return view, err
}

// addMonitor has the transaction write a monitor of a connection, and notes it
// there. before is how many the transaction has added so far.
func (s *Service) addMonitor(tx *transaction, c *Connection, before int) (Monitor, error) {
	others, err := tx.monitors(c.Project)
	if err != nil {
		return Monitor{}, err
	}
	m := Monitor{ConnectionID: c.ID}
	m.Meta, err = s.newMeta(m.Meta, c.Project, metas(others, func(m *Monitor) Meta { return m.Meta }))
	if err != nil {
		return Monitor{}, err
	}
	m.CreatedAt = m.CreatedAt.Add(time.Duration(before) * time.Millisecond)
	m.UpdatedAt = m.CreatedAt
	c.MonitorID = m.ID
	return m, put(tx, s.objects.monitors, m.Meta, m)
}

// ShowMonitor performs ShowConnectionMonitor.
func (s *Service) ShowMonitor(ctx context.Context, project, id string) (MonitorView, error) {
	m, err := get(ctx, s.objects.monitors, project, id)
	if err != nil {
		return MonitorView{}, err
	}
	return s.read(ctx).viewMonitor(m)
}

// ListMonitors performs ListConnectionMonitors: all of them, newest first.
func (s *Service) ListMonitors(ctx context.Context, project string, f MonitorFilter) ([]MonitorView, error) {
	if err := validProject(project); err != nil {
		return nil, err
	}
	tx := s.read(ctx)
	monitors, err := tx.monitors(project)
	if err != nil {
		return nil, err
	}
	connections, err := tx.connections(project)
	if err != nil {
		return nil, err
	}
	gateways, err := tx.gateways(project)
	if err != nil {
		return nil, err
	}
	customers, err := tx.customerGateways(project)
	if err != nil {
		return nil, err
	}
	status, err := statuses(ctx, s.objects.monitorStatus, project)
	if err != nil {
		return nil, err
	}
	connectionOf := byID(connections, func(c *Connection) string { return c.ID })
	gatewayOf := byID(gateways, func(g *Gateway) string { return g.ID })
	customerOf := byID(customers, func(c *CustomerGateway) string { return c.ID })
	var views []MonitorView
	for _, m := range monitors {
		c := connectionOf[m.ConnectionID]
		if f.ConnectionID != "" && f.ConnectionID != m.ConnectionID || c == nil || !matches(f.EnterpriseProjectIDs, c.EnterpriseProjectID) {
			continue
		}
		g, cgw := gatewayOf[c.GatewayID], customerOf[c.CustomerGatewayID]
		if g == nil || cgw == nil {
			continue // they cannot be read
		}
		views = append(views, viewMonitor(m, c, g, cgw, status[m.ID]))
	}
	newestFirst(views, func(v *MonitorView) time.Time { return v.CreatedAt })
	return views, nil
}

// DeleteMonitor performs DeleteConnectionMonitor. The reconciler stops probing
// and then finalises the monitor.
func (s *Service) DeleteMonitor(ctx context.Context, project, id string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		m, err := get(ctx, s.objects.monitors, project, id)
		if err != nil {
			return err
		}
		if m.DeletionRequested {
			return NotReady("CONNECTION_MONITOR", id, gerund(string(MonitorPendingDelete)))
		}
		m.DeletionRequested = true
		s.touch(&m.Meta)
		return put(tx, s.objects.monitors, m.Meta, m)
	})
}

// monitors returns those of a project.
func (tx *transaction) monitors(project string) ([]Monitor, error) {
	return list(tx.ctx, tx.objects.monitors, project)
}

func (tx *transaction) viewMonitor(m Monitor) (MonitorView, error) {
	status, err := tx.objects.monitorStatusOf(tx.ctx, m.Meta)
	if err != nil {
		return MonitorView{}, err
	}
	c, err := get(tx.ctx, tx.objects.connections, m.Project, m.ConnectionID)
	if err != nil {
		return MonitorView{}, err
	}
	g, err := tx.gateway(m.Project, c.GatewayID)
	if err != nil {
		return MonitorView{}, err
	}
	cgw, err := tx.customerGateway(m.Project, c.CustomerGatewayID)
	if err != nil {
		return MonitorView{}, err
	}
	return viewMonitor(m, &c.Connection, &g, &cgw, status), nil
}

func viewMonitor(m Monitor, c *Connection, g *Gateway, cgw *CustomerGateway, status MonitorStatus) MonitorView {
	v := MonitorView{Monitor: m, State: m.State(status), Source: g.Address(c.Slot), Destination: cgw.Address()}
	if c.DeletionRequested {
		v.State = MonitorPendingDelete
	}
	if !v.Destination.IsValid() {
		v.Destination = status.Destination
	}
	return v
}

// finalizeMonitor has the transaction remove a monitor and its status.
func (tx *transaction) finalizeMonitor(project, id string) {
	key := project + "/" + id
	tx.ops = append(tx.ops, tx.objects.monitors.Delete(key), tx.objects.monitorStatus.Delete(key))
}

// FinalizeMonitor removes a monitor that no longer probes: it must have been
// asked to be deleted. One that is gone is no error. It is for the reconciler
// alone.
func (o *Objects) FinalizeMonitor(ctx context.Context, project, id string) error {
	return o.change(ctx, func(tx *transaction) error {
		m, err := get(ctx, o.monitors, project, id)
		switch {
		case isNotFound(err):
			return nil
		case err != nil:
			return err
		case !m.DeletionRequested:
			return fmt.Errorf("monitor %s: its deletion was not asked for", id)
		}
		tx.finalizeMonitor(project, id)
		c, err := get(ctx, o.connections, project, m.ConnectionID)
		if isNotFound(err) || err == nil && c.MonitorID != id {
			return nil
		}
		if err != nil {
			return err
		}
		c.MonitorID = ""
		return put(tx, o.connections, c.Meta, c)
	})
}

// SetMonitorStatus writes the status of a monitor. It is for the reconciler
// alone. It fails with store.ErrNotFound when the monitor is gone.
func (o *Objects) SetMonitorStatus(ctx context.Context, project, id string, s MonitorStatus) error {
	return setStatus(ctx, o, o.monitorStatus, prefixMonitors, project, id, s)
}
