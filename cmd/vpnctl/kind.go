package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// projectKinds are the kinds of which a project has a list, with the short words
// for them.
var projectKinds = []struct {
	client.Kind
	short string
}{
	{client.Gateways, "gw"},
	{client.CustomerGateways, "cgw"},
	{client.Connections, "conn"},
	{client.P2CGateways, "p2c"},
	{client.Servers, "servers"},
}

// serverKinds are the kinds of which each server has a list.
var serverKinds = []func(serverID string) client.Kind{client.UsersOf, client.UserGroupsOf, client.AccessPoliciesOf}

func kindNames() []string {
	var names []string
	for _, k := range projectKinds {
		names = append(names, k.Plural)
	}
	for _, of := range serverKinds {
		names = append(names, of("").Plural)
	}
	return names
}

// gatewayFlag adds the flag that says which server is meant.
func gatewayFlag(c *cobra.Command, gateway *string) {
	c.Flags().StringVar(gateway, "gateway", "", "`name` or id of the client-to-cloud gateway whose users, user-groups or access-policies are meant; needed when there are several")
}

// kindOf understands a kind in the singular, the plural and in short. One of a
// server is made with its id.
func kindOf(word string) (of func(serverID string) client.Kind, ofServer bool, err error) {
	for _, k := range projectKinds {
		if word == k.Name || word == k.Plural || word == k.short {
			return func(string) client.Kind { return k.Kind }, false, nil
		}
	}
	for _, of := range serverKinds {
		if k := of(""); word == k.Name || word == k.Plural {
			return of, true, nil
		}
	}
	return nil, false, usageError{fmt.Errorf("%q is not one of %s", word, strings.Join(kindNames(), ", "))}
}

// checkKind finds what is wrong with the words for a kind before any call.
func checkKind(word, gateway string) error {
	_, ofServer, err := kindOf(word)
	if err == nil && !ofServer && gateway != "" {
		err = usageError{fmt.Errorf("gateway: %s are not of a client-to-cloud gateway's server", word)}
	}
	return err
}

func checkDeletable(word, gateway string) error {
	if err := checkKind(word, gateway); err != nil {
		return err
	}
	if of, _, _ := kindOf(word); of("").Name == client.Servers.Name {
		return usageError{errors.New("a vpn-server is deleted with its gateway")}
	}
	return nil
}

// findKind returns the kind of a word that checkKind accepted, of the server of a
// gateway or of the only server that there is.
func findKind(ctx context.Context, api *client.Client, word, gateway string) (client.Kind, error) {
	of, ofServer, err := kindOf(word)
	switch {
	case err != nil:
		return client.Kind{}, err
	case !ofServer:
		return of(""), nil
	}
	server, err := findServer(ctx, api, gateway)
	if err != nil {
		return client.Kind{}, err
	}
	return of(server.ID()), nil
}

// findServer returns the server of an id, or that of a gateway with that name or
// id. With no word it is the only one that there is.
func findServer(ctx context.Context, api *client.Client, word string) (client.Object, error) {
	all, err := api.List(ctx, client.Servers)
	if err != nil {
		return nil, err
	}
	if word != "" {
		if i := slices.IndexFunc(all, func(o client.Object) bool { return o.ID() == word }); i >= 0 {
			return all[i], nil
		}
		g, err := api.Find(ctx, client.P2CGateways, word)
		if err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(o client.Object) bool { return o.Text("p2c_vgw_id") != g.ID() })
	}
	switch {
	case len(all) == 0:
		return nil, &client.Error{Status: http.StatusNotFound, Message: "there is no server"}
	case len(all) > 1:
		return nil, usageError{fmt.Errorf("gateway: there are %d servers: say which one by the name or id of its gateway", len(all))}
	}
	return all[0], nil
}
