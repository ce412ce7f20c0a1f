package declare

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// Plan is what Apply would do to site-to-cloud VPN.
type Plan struct {
	Objects []PlannedObject `json:"objects"` // gateways and customer gateways that would change
	Tunnels []PlannedTunnel `json:"tunnels"` // all that the file has or that change
}

// PlannedObject is an object that a tunnel refers to.
type PlannedObject struct {
	Kind   string   `json:"kind"`
	Name   string   `json:"name"`
	Action Action   `json:"action"`
	Fields []string `json:"fields,omitempty"`
}

// PlannedTunnel is a connection, with what becomes of its tunnel.
type PlannedTunnel struct {
	Name        string          `json:"name"`
	ID          string          `json:"id,omitempty"`
	Action      Action          `json:"action"`
	Disruption  string          `json:"disruption"` // in the API's words
	Established bool            `json:"established"`
	Changes     []PlannedChange `json:"changes,omitempty"`
}

// PlannedChange is a field that would change, and the most that this does. A
// pre-shared key has no values.
type PlannedChange struct {
	Field      string `json:"field"`
	Disruption string `json:"disruption"`
	Have       string `json:"have,omitempty"`
	Want       string `json:"want,omitempty"`
}

// Disruptions that need no asking: of a tunnel that is new, or left alone, and of one
// that goes.
const (
	disruptsNothing = "nothing"
	disruptsAll     = "drop"
)

// Empty reports whether nothing would change.
func (p *Plan) Empty() bool {
	return len(p.Objects) == 0 && !slices.ContainsFunc(p.Tunnels, func(t PlannedTunnel) bool { return t.Action != Unchanged })
}

// edit is a change of one object.
type edit struct {
	body        client.Object
	differences []Difference
}

// planner has what a plan is made of.
type planner struct {
	*Applier
	plan  Plan
	have  map[string][]client.Object // by kind
	edits map[string]edit            // of gateways and customer gateways, by id
}

// Plan tells what Apply would do to gateways, customer gateways and connections, and
// asks the API what that does to each tunnel. It changes nothing.
func (a *Applier) Plan(ctx context.Context, f *File) (*Plan, error) {
	p := &planner{Applier: a, plan: Plan{Objects: []PlannedObject{}, Tunnels: []PlannedTunnel{}}, have: map[string][]client.Object{}, edits: map[string]edit{}}
	for _, kind := range client.Kinds {
		all, err := a.Client.List(ctx, kind)
		if err != nil {
			return nil, err
		}
		p.have[kind.Name] = all
	}
	for _, g := range f.Gateways {
		if err := p.object(ctx, client.Gateways, g.Name, g); err != nil {
			return nil, err
		}
	}
	for _, c := range f.CustomerGateways {
		if err := p.object(ctx, client.CustomerGateways, c.Name, c); err != nil {
			return nil, err
		}
	}
	named := map[string]bool{}
	for i := range f.Connections {
		c := &f.Connections[i]
		named[c.Name] = true
		if err := p.connection(ctx, c); err != nil {
			return nil, err
		}
	}
	for _, o := range p.have[client.Connections.Name] {
		if named[o.Name()] {
			continue
		}
		if a.Prune {
			p.add(PlannedTunnel{Name: o.Name(), ID: o.ID(), Action: Deleted, Disruption: disruptsAll, Established: o.Status() == "ACTIVE"})
		} else if err := p.tunnel(ctx, o, edit{}, Unchanged); err != nil {
			return nil, err
		}
	}
	if a.Prune {
		p.prune(f)
	}
	return &p.plan, nil
}

func (p *planner) add(t PlannedTunnel) { p.plan.Tunnels = append(p.plan.Tunnels, t) }

// object notes what becomes of a gateway or customer gateway.
func (p *planner) object(ctx context.Context, kind client.Kind, name string, spec any) error {
	want, err := fields(spec)
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind.Name, name, err)
	}
	have, err := client.Pick(p.have[kind.Name], kind, name)
	if client.IsNotFound(err) {
		p.plan.Objects = append(p.plan.Objects, PlannedObject{Kind: kind.Name, Name: name, Action: Created})
		return nil
	}
	if err == nil {
		have, err = p.Client.Get(ctx, kind, have.ID()) // a list leaves out members
	}
	if err != nil {
		return err
	}
	e := edit{}
	if e.differences, e.body, err = p.changes(kind, name, have, want); err != nil || len(e.body) == 0 {
		return err
	}
	o := PlannedObject{Kind: kind.Name, Name: name, Action: Updated}
	for _, d := range e.differences {
		o.Fields = append(o.Fields, d.String())
	}
	p.plan.Objects = append(p.plan.Objects, o)
	p.edits[have.ID()] = e
	return nil
}

// connection plans a connection of the file.
func (p *planner) connection(ctx context.Context, c *Connection) error {
	want, err := fields(*c)
	if err != nil {
		return fmt.Errorf("connection %s: %w", c.Name, err)
	}
	have, err := client.Pick(p.have[client.Connections.Name], client.Connections, c.Name)
	if client.IsNotFound(err) {
		p.add(PlannedTunnel{Name: c.Name, Action: Created, Disruption: disruptsNothing})
		return nil
	}
	if err == nil {
		have, err = p.Client.Get(ctx, client.Connections, have.ID())
	}
	if err != nil {
		return err
	}
	gateway, err := client.Pick(p.have[client.Gateways.Name], client.Gateways, c.Gateway)
	if err != nil {
		return fmt.Errorf("connection %s: gateway: %w", c.Name, err)
	}
	want["vgw_id"] = gateway.ID()
	customer, err := client.Pick(p.have[client.CustomerGateways.Name], client.CustomerGateways, c.CustomerGateway)
	if client.IsNotFound(err) && slices.ContainsFunc(p.plan.Objects, func(o PlannedObject) bool {
		return o.Kind == client.CustomerGateways.Name && o.Name == c.CustomerGateway
	}) {
		// Of one that is yet to be made nothing can be asked.
		p.add(PlannedTunnel{
			Name: c.Name, ID: have.ID(), Action: Updated, Disruption: disruptsAll, Established: have.Status() == "ACTIVE",
			Changes: []PlannedChange{{Field: "vpn_connection.cgw_id", Disruption: disruptsAll, Have: have.Text("cgw_id"), Want: c.CustomerGateway + " (new)"}},
		})
		return nil
	}
	if err != nil {
		return fmt.Errorf("connection %s: customer_gateway: %w", c.Name, err)
	}
	want["cgw_id"] = customer.ID()
	if c.PSK != "" {
		want["psk"] = c.PSK
	}
	if c.PPK != "" {
		want["ppk"] = c.PPK
	}
	e := edit{}
	if e.differences, e.body, err = p.changes(client.Connections, c.Name, have, want); err != nil {
		return err
	}
	return p.tunnel(ctx, have, e, Updated)
}

// tunnel asks what becomes of the tunnel of a connection with an edit of its own, and
// with those of its gateway and customer gateway. One that nothing changes of is
// told of only when the file has it.
func (p *planner) tunnel(ctx context.Context, o client.Object, own edit, action Action) error {
	edits := map[string]edit{"vpn_connection": own, "vpn_gateway": p.edits[o.Text("vgw_id")], "customer_gateway": p.edits[o.Text("cgw_id")]}
	changes := map[string]any{}
	for object, e := range edits {
		if len(e.body) > 0 {
			changes[object] = e.body
		}
	}
	t := PlannedTunnel{Name: o.Name(), ID: o.ID(), Action: action, Disruption: disruptsNothing, Established: o.Status() == "ACTIVE"}
	if len(own.body) == 0 {
		t.Action = Unchanged
	}
	if len(changes) > 0 {
		answer, err := p.Client.Plan(ctx, o.ID(), changes)
		if err != nil {
			return err
		}
		t.Disruption = answer.Text("disruption")
		t.Established, _ = answer["established"].(bool)
		list, _ := answer["changes"].([]any)
		for _, one := range list {
			change, _ := one.(map[string]any)
			t.Changes = append(t.Changes, planned(client.Object(change), edits))
		}
	} else if action == Unchanged {
		return nil
	}
	p.add(t)
	return nil
}

// planned gives a change of the answer the values that it is between.
func planned(change client.Object, edits map[string]edit) PlannedChange {
	c := PlannedChange{Field: change.Text("field"), Disruption: change.Text("disruption")}
	object, field, _ := strings.Cut(c.Field, ".")
	for _, d := range edits[object].differences {
		if d.Field == field {
			c.Have, c.Want = d.Have, d.Want
		}
	}
	return c
}

// prune notes the gateways and customer gateways that the file does not name.
func (p *planner) prune(f *File) {
	named := map[string]bool{}
	for _, g := range f.Gateways {
		named[client.Gateways.Name+"/"+g.Name] = true
	}
	for _, c := range f.CustomerGateways {
		named[client.CustomerGateways.Name+"/"+c.Name] = true
	}
	for _, kind := range []client.Kind{client.Gateways, client.CustomerGateways} {
		for _, o := range p.have[kind.Name] {
			if !named[kind.Name+"/"+o.Name()] {
				p.plan.Objects = append(p.plan.Objects, PlannedObject{Kind: kind.Name, Name: o.Name(), Action: Deleted})
			}
		}
	}
}
