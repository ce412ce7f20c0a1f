package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// clientColumns are those of the table of connected clients.
var clientColumns = []column{
	member("USER", "client_user_name"), member("FROM", "client_ip"), member("ADDRESS", "client_virtual_ip"),
	member("SINCE", "connection_established_time"), member("BYTES IN", "inbound_bytes"), member("BYTES OUT", "outbound_bytes"),
	member("ID", "connection_id"),
}

func (t *tool) profileCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "profile [GATEWAY|SERVER]",
		Short: "Print the OpenVPN profile of the clients of a server",
		Long: "Print the OpenVPN profile of the clients of a server, which is given by its id or by\n" +
			"the name or id of its gateway, and may be left out when there is but one. The profile\n" +
			"has no secret but the key of the control channel, where the server has one: a client\n" +
			"adds its user and password, or its certificate and key. With tls-crypt-v2 each profile\n" +
			"has a key of its own, for one client.",
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			server, err := findServer(cmd.Context(), api, optional(args, 0))
			if err != nil {
				return err
			}
			profile, err := api.ClientProfile(cmd.Context(), server.ID())
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), profile)
			return err
		},
	}
}

func (t *tool) totpCommand() *cobra.Command {
	var gateway string
	var remove bool
	c := &cobra.Command{
		Use:   "totp USER",
		Short: "Give a user a secret of one-time codes, for an authenticator app",
		Long: "Give a user of a server a secret of one-time codes, as authenticator apps make them (TOTP),\n" +
			"and print it with its otpauth URI, which nothing shows again. One from before is replaced.\n" +
			"Codes are asked for when the server has second_factor totp.",
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			server, err := findServer(cmd.Context(), api, gateway)
			if err != nil {
				return err
			}
			user, err := api.Find(cmd.Context(), client.UsersOf(server.ID()), args[0])
			if err != nil {
				return err
			}
			if remove {
				return api.UnenrollUser(cmd.Context(), server.ID(), user.ID())
			}
			totp, err := api.EnrollUser(cmd.Context(), server.ID(), user.ID())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", totp.Secret, totp.URI)
			return err
		},
	}
	c.Flags().StringVar(&gateway, "server", "", "`name` or id of the gateway, or id of the server, where there is more than one")
	c.Flags().BoolVar(&remove, "remove", false, "take the user's secret away instead")
	return c
}

func (t *tool) clientsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "clients [GATEWAY|SERVER]",
		Short: "Show the clients that are connected to a server, the newest first",
		Args:  arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			server, err := findServer(cmd.Context(), api, optional(args, 0))
			if err != nil {
				return err
			}
			all, err := api.List(cmd.Context(), client.ClientConnectionsOf(server.Text("p2c_vgw_id")))
			if err != nil {
				return err
			}
			return t.show(cmd.OutOrStdout(), all, clientColumns, all)
		},
	}
}

func (t *tool) disconnectCommand() *cobra.Command {
	var gateway string
	c := &cobra.Command{
		Use:   "disconnect USER|ID",
		Short: "End the connections of a user, or one by its id",
		Long: "End the connections of a user, or one by its id. Clients may come back at once: to\n" +
			"keep one out, delete the user, or reset the password first.",
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			server, err := findServer(cmd.Context(), api, gateway)
			if err != nil {
				return err
			}
			ended, err := disconnect(cmd.Context(), api, server.Text("p2c_vgw_id"), args[0])
			for _, o := range ended {
				fmt.Fprintf(cmd.OutOrStdout(), "%s from %s is disconnected (%s)\n", o.Text("client_user_name"), o.Text("client_ip"), o.Text("connection_id"))
			}
			return err
		},
	}
	c.Flags().StringVar(&gateway, "gateway", "", "`name` or id of the client-to-cloud gateway; needed when there are several")
	return c
}

// disconnect ends the connections of a user, or that with an id, and returns
// those that it ended. A client that has left meanwhile is none of them, and no
// failure.
func disconnect(ctx context.Context, api *client.Client, gatewayID, userOrID string) (ended []client.Object, err error) {
	all, err := api.List(ctx, client.ClientConnectionsOf(gatewayID))
	if err != nil {
		return nil, err
	}
	found := false
	for _, o := range all {
		if o.Text("connection_id") != userOrID && o.Text("client_user_name") != userOrID {
			continue
		}
		found = true
		err := api.Disconnect(ctx, gatewayID, o.Text("connection_id"))
		switch {
		case err == nil:
			ended = append(ended, o)
		case !client.IsNotFound(err):
			return ended, err
		}
	}
	if !found {
		return nil, &client.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no client with the user name or connection id %q is connected", userOrID)}
	}
	return ended, nil
}

// optional returns an argument that may be left out.
func optional(args []string, i int) string {
	if i >= len(args) {
		return ""
	}
	return args[i]
}
