package control

import "context"

// PlanRequest is changes of a connection, and of what it refers to, that are to be
// made together. A nil member is no change.
type PlanRequest struct {
	Connection      *ConnectionUpdate
	Gateway         *GatewayUpdate
	CustomerGateway *CustomerGatewayUpdate
}

// Plan tells what changes would do to a tunnel.
type Plan struct {
	ConnectionID string
	// Disruption is what the engines would do to the tunnel as it stands, at most
	// that of the changes. One that is not established is not disrupted.
	Disruption  Disruption
	Established bool
	Changes     []Edit // the fields that differ from what they are
}

// PlanConnection performs PlanVpnConnection: it decides on changes as their
// requests do, makes none of them, and asks the engines what they would do to the
// tunnel. It fails with *Elsewhere when another node serves the connection.
func (s *Service) PlanConnection(ctx context.Context, project, id string, req PlanRequest) (Plan, error) {
	tx := s.read(ctx)
	before, after, err := s.planned(tx, project, id, &req)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{ConnectionID: id, Disruption: DisruptNothing, Changes: EditsBetween(before, after)}
	served := false
	if s.engines != nil {
		var d Disruption
		if d, plan.Established, served = s.engines.Disruption(before, after); plan.Established {
			plan.Disruption = d
		}
	}
	if !served {
		d := s.division()
		if owner := d.Owner(&before.Gateway, before.Connection.Slot); owner != "" && owner != d.Node {
			return Plan{}, &Elsewhere{Node: d.Nodes[owner], Refusal: servedElsewhere(id, owner)}
		}
	}
	return plan, nil
}

// planned returns a tunnel as it is, and as it would be.
func (s *Service) planned(tx *transaction, project, id string, req *PlanRequest) (before, after *TunnelSpec, err error) {
	stored, err := get(tx.ctx, s.objects.connections, project, id)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.objects.unseal(stored)
	if err != nil && (req.Connection == nil || req.Connection.PSK == nil) {
		return nil, nil, err
	}
	g, err := tx.gateway(project, c.GatewayID)
	if err != nil {
		return nil, nil, err
	}
	cgw, err := tx.customerGateway(project, c.CustomerGatewayID)
	if err != nil {
		return nil, nil, err
	}
	before = &TunnelSpec{Connection: c, Gateway: g, CustomerGateway: cgw}
	if req.Gateway != nil {
		connections, err := tx.connections(project)
		if err != nil {
			return nil, nil, err
		}
		d, err := s.changedGateway(tx, g, connections, req.Gateway)
		if err != nil {
			return nil, nil, within(EditGateway, err)
		}
		g = d.Gateway
	}
	if req.Connection != nil {
		d, err := s.changedConnection(tx, c, &g, req.Connection)
		if err != nil {
			return nil, nil, within(EditConnection, err)
		}
		c, cgw = d.Connection, *d.customerGateway
	}
	if req.CustomerGateway != nil {
		if cgw, err = s.changedCustomerGateway(tx, cgw, req.CustomerGateway); err != nil {
			return nil, nil, within(EditCustomerGateway, err)
		}
	}
	return before, &TunnelSpec{Connection: c, Gateway: g, CustomerGateway: cgw}, nil
}
