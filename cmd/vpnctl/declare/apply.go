package declare

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// Action says what was done to an object.
type Action string

// Actions.
const (
	Created   Action = "created"
	Updated   Action = "updated"
	Unchanged Action = "unchanged"
	Deleted   Action = "deleted"
)

// Change tells of one object.
type Change struct {
	Action Action
	Kind   client.Kind
	Name   string
	ID     string
	Fields []Difference // of Updated
}

// Difference is one field that is not as wanted. A pre-shared key has no
// values.
type Difference struct {
	Field      string // dotted, such as "ikepolicy.dh_group"
	Have, Want string
}

// String reads "ikepolicy.dh_group group14 → group20".
func (d Difference) String() string {
	if d.Have == "" && d.Want == "" {
		return d.Field
	}
	have := d.Have
	if have == "" {
		have = "(none)"
	}
	return fmt.Sprintf("%s %s → %s", d.Field, have, d.Want)
}

// Applier brings a project to a File.
type Applier struct {
	Client *client.Client
	// Report, when set, is called for each object as soon as it is done.
	Report func(Change)
	// Prune deletes the objects that the file does not name.
	Prune bool
	// ResendPSK sends the pre-shared keys of connections that exist. The API
	// never returns one, so a change of it alone cannot be seen.
	ResendPSK bool
	// ResendPasswords likewise resets the passwords of users who exist, except
	// to one that a user has or had not long ago.
	ResendPasswords bool
	// Every is the pause between two looks at an object in work; zero means a
	// second.
	Every time.Duration
}

// updatable are the fields that a PUT takes; nested ones follow their parent.
var updatable = map[string][]string{
	client.Gateways.Name:         {"name", "local_subnets", "local_subnets_v6", "policy_template"},
	client.CustomerGateways.Name: {"name"},
	client.Connections.Name: {
		"name", "cgw_id", "peer_subnets", "peer_subnets_v6", "tunnel_local_address", "tunnel_peer_address",
		"enable_nqa", "enable_hub", "psk", "ppk", "policy_rules", "policy_rules_v6", "ikepolicy", "ipsecpolicy",
	},
	client.P2CGateways.Name: {"name"},
	client.Servers.Name: {
		"client_cidr", "local_subnets", "client_auth_type", "server_certificate", "ssl_options", "dns_servers", "second_factor",
		"client_cidr_v6", "local_subnets_v6", "topology", "dns_domain",
	},
	client.UserGroupsOf("").Name:     {"name", "description"},
	client.UsersOf("").Name:          {"description", "user_group_id", "static_ip"},
	client.AccessPoliciesOf("").Name: {"name", "user_group_id", "description", "dest_ip_cidrs"},
}

// updateOnly are the fields that a POST does not take.
var updateOnly = map[string][]string{client.Gateways.Name: {"policy_template"}}

// fixed are parts of updatable fields that cannot be changed.
var fixed = []string{"ikepolicy.authentication_method", "ssl_options.is_compressed"}

// Apply creates and updates what differs, in the order gateways, customer
// gateways, connections, client-to-cloud gateways with all they have, and
// deletes in the opposite one. It stops at the first failure; applying again
// goes on from there. A connection that ends in ERROR is told of when all are
// done.
func (a *Applier) Apply(ctx context.Context, f *File) error {
	faults, err := a.applySites(ctx, f)
	if err != nil {
		return err
	}
	return errors.Join(faults, a.applyClients(ctx, f))
}

// applySites does site-to-cloud VPN. Faults are those of connections, which do
// not keep others back.
func (a *Applier) applySites(ctx context.Context, f *File) (faults, err error) {
	have := map[string][]client.Object{}
	for _, kind := range client.Kinds {
		all, err := a.Client.List(ctx, kind)
		if err != nil {
			return nil, err
		}
		have[kind.Name] = all
	}
	if a.Prune {
		if err := a.prune(ctx, f, have); err != nil {
			return nil, err
		}
	}
	gateways, customers := have[client.Gateways.Name], have[client.CustomerGateways.Name]
	for _, g := range f.Gateways {
		o, err := a.object(ctx, client.Gateways, g.Name, g, nil, gateways)
		if err != nil {
			return nil, err
		}
		// Nothing can be built on a gateway before it is ready.
		if o, err = a.Client.WaitSettled(ctx, client.Gateways, o.ID(), a.Every); err != nil {
			return nil, err
		}
		if o.Status() != "ACTIVE" {
			return nil, failed(client.Gateways, o)
		}
		gateways = replace(gateways, o)
	}
	for _, c := range f.CustomerGateways {
		o, err := a.object(ctx, client.CustomerGateways, c.Name, c, nil, customers)
		if err != nil {
			return nil, err
		}
		customers = replace(customers, o)
	}
	var broken []error
	for _, c := range f.Connections {
		gateway, err := client.Pick(gateways, client.Gateways, c.Gateway)
		if err != nil {
			return nil, fmt.Errorf("connection %s: gateway: %w", c.Name, err)
		}
		customer, err := client.Pick(customers, client.CustomerGateways, c.CustomerGateway)
		if err != nil {
			return nil, fmt.Errorf("connection %s: customer_gateway: %w", c.Name, err)
		}
		extra := client.Object{"vgw_id": gateway.ID(), "cgw_id": customer.ID()}
		if c.PSK != "" {
			extra["psk"] = c.PSK
		}
		if c.PPK != "" {
			extra["ppk"] = c.PPK
		}
		o, err := a.object(ctx, client.Connections, c.Name, c, extra, have[client.Connections.Name])
		if err != nil {
			return nil, err
		}
		// A gateway takes one change after the other.
		if o, err = a.Client.WaitSettled(ctx, client.Connections, o.ID(), a.Every); err != nil {
			return nil, err
		}
		if o.Status() == "ERROR" {
			broken = append(broken, failed(client.Connections, o))
		}
	}
	return errors.Join(broken...), nil
}

// failed says that an object is not as it should be, and why.
func failed(kind client.Kind, o client.Object) error {
	if message := o.StatusMessage(); message != "" {
		return fmt.Errorf("%s %s is %s: %s", kind.Name, o.Name(), o.Status(), message)
	}
	return fmt.Errorf("%s %s is %s", kind.Name, o.Name(), o.Status())
}

// object creates or updates one object and returns it as it is then.
func (a *Applier) object(ctx context.Context, kind client.Kind, name string, spec any, extra client.Object, all []client.Object) (client.Object, error) {
	want, err := fields(spec)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind.Name, name, err)
	}
	for k, v := range extra {
		want[k] = v
	}
	have, err := client.Pick(all, kind, name)
	if client.IsNotFound(err) {
		at := maps.Clone(want)
		for _, field := range updateOnly[kind.Name] {
			delete(at, field)
		}
		made, err := a.Client.Create(ctx, kind, at)
		if err != nil {
			return nil, err
		}
		a.report(Change{Action: Created, Kind: kind, Name: name, ID: made.ID()})
		if len(at) == len(want) {
			return made, nil
		}
		return a.update(ctx, kind, name, made, want)
	}
	if err != nil {
		return nil, err
	}
	return a.update(ctx, kind, name, have, want)
}

// update makes an object that is there what it should be, and returns it.
func (a *Applier) update(ctx context.Context, kind client.Kind, name string, have, want client.Object) (client.Object, error) {
	// A list may lag behind an object in work.
	have, err := a.Client.WaitSettled(ctx, kind, have.ID(), a.Every)
	if err != nil {
		return nil, err
	}
	differences, change, err := a.changes(kind, name, have, want)
	if err != nil {
		return nil, err
	}
	if len(change) == 0 {
		a.report(Change{Action: Unchanged, Kind: kind, Name: name, ID: have.ID()})
		return have, nil
	}
	if _, err := a.Client.Update(ctx, kind, have.ID(), change); err != nil {
		return nil, err
	}
	a.report(Change{Action: Updated, Kind: kind, Name: name, ID: have.ID(), Fields: differences})
	return have, nil
}

// changes returns how an object differs from what it should be, and what to send for
// that.
func (a *Applier) changes(kind client.Kind, name string, have, want client.Object) ([]Difference, client.Object, error) {
	differences := slices.DeleteFunc(diff("", have, want), func(d Difference) bool {
		return (d.Field == "psk" || d.Field == "ppk") && !a.ResendPSK || d.Field == "password"
	})
	change := client.Object{}
	for i, d := range differences {
		top, _, _ := strings.Cut(d.Field, ".")
		if _, told := have[top]; !told && !slices.Contains(updatable[kind.Name], top) {
			continue // the API does not tell it of an object of this sort
		}
		if !slices.Contains(updatable[kind.Name], top) || slices.Contains(fixed, d.Field) {
			return nil, nil, fmt.Errorf("%s %s: %s: is %q and cannot be changed to %q; delete the %s first",
				kind.Name, name, d.Field, d.Have, d.Want, kind.Name)
		}
		change[top] = want[top]
		if top == "psk" || top == "ppk" {
			differences[i] = Difference{Field: top}
		}
	}
	return differences, change, nil
}

// diff lists the members of want that have lacks or has otherwise. Members
// that want does not name are the API's own business. Style words are compared
// without case, since the API answers them in capitals.
func diff(prefix string, have, want map[string]any) []Difference {
	var all []Difference
	for _, key := range sortedKeys(want) {
		h, w := have[key], want[key]
		if wanted, ok := w.(map[string]any); ok {
			nested, _ := h.(map[string]any)
			all = append(all, diff(prefix+key+".", nested, wanted)...)
			continue
		}
		if equal(h, w) || key == "style" && strings.EqualFold(show(h), show(w)) {
			continue
		}
		all = append(all, Difference{Field: prefix + key, Have: show(h), Want: show(w)})
	}
	return all
}

// equal compares values as the API answers and takes them: an object answers
// more members than it was given.
func equal(have, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return false
		}
		for key := range w {
			if !equal(h[key], w[key]) {
				return false
			}
		}
		return true
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) != len(w) {
			return false
		}
		for i := range w {
			if !equal(h[i], w[i]) {
				return false
			}
		}
		return true
	default:
		return have == want
	}
}

func show(v any) string {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = show(e)
		}
		return "[" + strings.Join(parts, " ") + "]"
	case map[string]any:
		parts := make([]string, 0, len(v))
		for _, key := range sortedKeys(v) {
			parts = append(parts, key+"="+show(v[key]))
		}
		return "{" + strings.Join(parts, " ") + "}"
	default:
		return client.Object{"v": v}.Text("v")
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func replace(all []client.Object, o client.Object) []client.Object {
	if i := slices.IndexFunc(all, func(x client.Object) bool { return x.ID() == o.ID() }); i >= 0 {
		all[i] = o
		return all
	}
	return append(all, o)
}

// prune deletes the objects that the file does not name, those that refer to
// others first, and waits until they are gone.
func (a *Applier) prune(ctx context.Context, f *File, have map[string][]client.Object) error {
	named := map[string]map[string]bool{}
	name := func(kind client.Kind, name string) {
		if named[kind.Name] == nil {
			named[kind.Name] = map[string]bool{}
		}
		named[kind.Name][name] = true
	}
	for _, g := range f.Gateways {
		name(client.Gateways, g.Name)
	}
	for _, c := range f.CustomerGateways {
		name(client.CustomerGateways, c.Name)
	}
	for _, c := range f.Connections {
		name(client.Connections, c.Name)
	}
	for _, kind := range slices.Backward(client.Kinds) {
		for _, o := range have[kind.Name] {
			if named[kind.Name][o.Name()] {
				continue
			}
			if err := a.delete(ctx, kind, o); err != nil {
				return err
			}
		}
		have[kind.Name] = slices.DeleteFunc(have[kind.Name], func(o client.Object) bool { return !named[kind.Name][o.Name()] })
	}
	return nil
}

// Delete deletes the objects that the file names, connections before their
// gateways, and all that client-to-cloud gateways have with these. Those that do
// not exist are none of its business.
func (a *Applier) Delete(ctx context.Context, f *File) error {
	if err := a.deleteClients(ctx, f); err != nil {
		return err
	}
	names := map[string][]string{}
	for _, g := range f.Gateways {
		names[client.Gateways.Name] = append(names[client.Gateways.Name], g.Name)
	}
	for _, c := range f.CustomerGateways {
		names[client.CustomerGateways.Name] = append(names[client.CustomerGateways.Name], c.Name)
	}
	for _, c := range f.Connections {
		names[client.Connections.Name] = append(names[client.Connections.Name], c.Name)
	}
	for _, kind := range slices.Backward(client.Kinds) {
		for _, name := range names[kind.Name] {
			o, err := a.Client.Find(ctx, kind, name)
			if client.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			if err := a.delete(ctx, kind, o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Applier) delete(ctx context.Context, kind client.Kind, o client.Object) error {
	if err := a.Client.Delete(ctx, kind, o.ID()); err != nil && !client.IsNotFound(err) {
		return err
	}
	if err := a.Client.WaitGone(ctx, kind, o.ID(), a.Every); err != nil {
		return err
	}
	a.report(Change{Action: Deleted, Kind: kind, Name: o.Name(), ID: o.ID()})
	return nil
}

func (a *Applier) report(c Change) {
	if a.Report != nil {
		a.Report(c)
	}
}
