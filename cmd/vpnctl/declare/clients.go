package declare

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// applyClients does client-to-cloud VPN.
func (a *Applier) applyClients(ctx context.Context, f *File) error {
	if len(f.P2CGateways) == 0 && !a.Prune {
		return nil
	}
	gateways, err := a.Client.List(ctx, client.P2CGateways)
	if err != nil {
		return err
	}
	if a.Prune {
		named := names(f.P2CGateways, func(g *P2CGateway) string { return g.Name })
		if gateways, err = a.pruneKind(ctx, client.P2CGateways, gateways, named); err != nil {
			return err
		}
	}
	for i := range f.P2CGateways {
		g := &f.P2CGateways[i]
		o, err := a.object(ctx, client.P2CGateways, g.Name, g, nil, gateways)
		if err != nil {
			return err
		}
		if o, err = a.active(ctx, client.P2CGateways, o.ID()); err != nil {
			return err
		}
		if g.Server == nil {
			continue
		}
		if err := a.server(ctx, o.ID(), g); err != nil {
			return err
		}
	}
	return nil
}

// active waits until an object is no longer in work, and returns it if it is
// ACTIVE then: nothing can be built on another one.
func (a *Applier) active(ctx context.Context, kind client.Kind, id string) (client.Object, error) {
	o, err := a.Client.WaitSettled(ctx, kind, id, a.Every)
	if err == nil && o.Status() != "ACTIVE" {
		err = failed(kind, o)
	}
	return o, err
}

// server does the server of a gateway, whose name stands for it in reports, and
// all that it has.
func (a *Applier) server(ctx context.Context, gatewayID string, g *P2CGateway) error {
	kind := client.ServersOf(gatewayID)
	have, err := a.Client.List(ctx, kind)
	if err != nil {
		return err
	}
	want, err := fields(g.Server)
	if err != nil {
		return fmt.Errorf("server of %s: %w", g.Name, err)
	}
	var o client.Object
	if len(have) == 0 {
		if len(g.Server.ClientCAs) > 0 {
			want["client_ca_certificates"] = g.Server.ClientCAs
		}
		if o, err = a.Client.Create(ctx, kind, want); err != nil {
			return fmt.Errorf("server of %s: %w", g.Name, err)
		}
		a.report(Change{Action: Created, Kind: kind, Name: g.Name, ID: o.ID()})
	} else if o, err = a.update(ctx, kind, g.Name, have[0], want); err != nil {
		return fmt.Errorf("server of %s: %w", g.Name, err)
	}
	if o, err = a.active(ctx, kind, o.ID()); err != nil {
		return err
	}
	if err := a.clientCAs(ctx, kind, o, g.Server); err != nil {
		return fmt.Errorf("server of %s: %w", g.Name, err)
	}
	if err := a.roster(ctx, o.ID(), g.Server); err != nil {
		return fmt.Errorf("server of %s: %w", g.Name, err)
	}
	return nil
}

// clientCAs imports the certificates that the server has none of the name of,
// and with Prune deletes those that the file does not name.
func (a *Applier) clientCAs(ctx context.Context, kind client.Kind, server client.Object, want *Server) error {
	cas := client.ClientCAsOf(server.ID())
	have := map[string]string{} // ids by name
	list, _ := server["client_ca_certificates"].([]any)
	for _, entry := range list {
		o, _ := entry.(map[string]any)
		have[client.Object(o).Name()] = client.Object(o).ID()
	}
	for _, ca := range want.ClientCAs {
		if have[ca.Name] != "" {
			delete(have, ca.Name)
			continue
		}
		made, err := a.Client.Create(ctx, cas, client.Object{"name": ca.Name, "content": ca.Content})
		if err != nil {
			return err
		}
		a.report(Change{Action: Created, Kind: cas, Name: ca.Name, ID: made.ID()})
		if _, err := a.active(ctx, kind, server.ID()); err != nil {
			return err
		}
	}
	if !a.Prune {
		return nil
	}
	for name, id := range have {
		if err := a.Client.Delete(ctx, cas, id); err != nil {
			return err
		}
		a.report(Change{Action: Deleted, Kind: cas, Name: name, ID: id})
		if _, err := a.active(ctx, kind, server.ID()); err != nil {
			return err
		}
	}
	return nil
}

// roster does the groups, users and access policies of a server.
func (a *Applier) roster(ctx context.Context, serverID string, s *Server) error {
	groupKind, userKind, policyKind := client.UserGroupsOf(serverID), client.UsersOf(serverID), client.AccessPoliciesOf(serverID)
	if !a.Prune && len(s.Groups)+len(s.Users)+len(s.Policies) == 0 {
		return nil
	}
	groups, err1 := a.Client.List(ctx, groupKind)
	users, err2 := a.Client.List(ctx, userKind)
	policies, err3 := a.Client.List(ctx, policyKind)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	if a.Prune { // before others take their places
		var err error
		if policies, err = a.pruneKind(ctx, policyKind, policies, names(s.Policies, func(p *AccessPolicy) string { return p.Name })); err != nil {
			return err
		}
		if users, err = a.pruneKind(ctx, userKind, users, names(s.Users, func(u *User) string { return u.Name })); err != nil {
			return err
		}
	}
	for _, g := range s.Groups {
		o, err := a.object(ctx, groupKind, g.Name, g, nil, groups)
		if err != nil {
			return err
		}
		o["name"] = g.Name // of a new one the API says the id alone
		groups = replace(groups, o)
	}
	for i := range s.Users {
		if err := a.user(ctx, serverID, &s.Users[i], users, groups); err != nil {
			return err
		}
	}
	for _, p := range s.Policies {
		group, err := client.Pick(groups, groupKind, p.Group)
		if err != nil {
			return fmt.Errorf("access-policy %s: group: %w", p.Name, err)
		}
		if _, err := a.object(ctx, policyKind, p.Name, p, client.Object{"user_group_id": group.ID()}, policies); err != nil {
			return err
		}
	}
	if a.Prune { // after the policies that referred to them
		_, err := a.pruneKind(ctx, groupKind, groups, names(s.Groups, func(g *UserGroup) string { return g.Name }))
		return err
	}
	return nil
}

func (a *Applier) user(ctx context.Context, serverID string, u *User, users, groups []client.Object) error {
	kind := client.UsersOf(serverID)
	extra := client.Object{"user_group_id": ""}
	if u.Group != "" {
		group, err := client.Pick(groups, client.UserGroupsOf(serverID), u.Group)
		if err != nil {
			return fmt.Errorf("user %s: group: %w", u.Name, err)
		}
		extra["user_group_id"] = group.ID()
	}
	have, err := client.Pick(users, kind, u.Name)
	there := err == nil
	if !there && u.Password == "" {
		return fmt.Errorf("user %s: there is none yet, so give one of password, password_file and password_env", u.Name)
	}
	extra["password"] = u.Password
	if _, err := a.object(ctx, kind, u.Name, u, extra, users); err != nil {
		return err
	}
	if !there || !a.ResendPasswords || u.Password == "" {
		return nil
	}
	err = a.Client.ResetPassword(ctx, serverID, have.ID(), u.Password)
	var refusal *client.Error
	if errors.As(err, &refusal) && refusal.Code == client.CodePasswordUsed {
		return nil
	}
	if err != nil {
		return err
	}
	a.report(Change{Action: Updated, Kind: kind, Name: u.Name, ID: have.ID(), Fields: []Difference{{Field: "password"}}})
	return nil
}

// pruneKind deletes the objects that are not named, save those that each server
// has from the start, and returns the others.
func (a *Applier) pruneKind(ctx context.Context, kind client.Kind, have []client.Object, named map[string]bool) ([]client.Object, error) {
	stays := func(o client.Object) bool { return named[o.Name()] || o.Text("type") == "Default" }
	for _, o := range have {
		if stays(o) {
			continue
		}
		if err := a.delete(ctx, kind, o); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(have, func(o client.Object) bool { return !stays(o) }), nil
}

func names[T any](all []T, name func(*T) string) map[string]bool {
	named := map[string]bool{}
	for i := range all {
		named[name(&all[i])] = true
	}
	return named
}

// deleteClients deletes the client-to-cloud gateways that the file names; all
// they have goes with them.
func (a *Applier) deleteClients(ctx context.Context, f *File) error {
	for _, g := range f.P2CGateways {
		o, err := a.Client.Find(ctx, client.P2CGateways, g.Name)
		if client.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := a.delete(ctx, client.P2CGateways, o); err != nil {
			return err
		}
	}
	return nil
}
