package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// column is one column of a table.
type column struct {
	title string
	value func(client.Object) string
}

func member(title, name string) column {
	return column{title, func(o client.Object) string { return o.Text(name) }}
}

func nested(title, outer, inner string) column {
	return column{title, func(o client.Object) string {
		m, _ := o[outer].(map[string]any)
		return client.Object(m).Text(inner)
	}}
}

// columns are those of a kind's table.
var columns = map[string][]column{
	client.Gateways.Name: {
		member("NAME", "name"), member("STATUS", "status"), member("FLAVOR", "flavor"), member("MODE", "ha_mode"),
		nested("ADDRESS 1", "eip1", "ip_address"), nested("ADDRESS 2", "eip2", "ip_address"),
		member("CONNECTIONS", "used_connection_number"), member("LOCAL SUBNETS", "local_subnets"), member("ID", "id"),
	},
	client.CustomerGateways.Name: {
		member("NAME", "name"), member("TYPE", "id_type"), member("VALUE", "id_value"), member("BGP ASN", "bgp_asn"), member("ID", "id"),
	},
	client.Connections.Name: {
		member("NAME", "name"), member("STATUS", "status"), member("STYLE", "style"),
		nested("IKE", "ikepolicy", "ike_version"), nested("ENCRYPTION", "ipsecpolicy", "encryption_algorithm"),
		nested("LOCAL ID", "ikepolicy", "local_id"), nested("PEER ID", "ikepolicy", "peer_id"),
		member("PEER SUBNETS", "peer_subnets"), member("ID", "id"),
	},
	client.P2CGateways.Name: {
		member("NAME", "name"), member("STATUS", "status"), member("FLAVOR", "flavor"), nested("ADDRESS", "eip", "ip_address"),
		member("CONNECTIONS", "current_connection_number"), member("AT MOST", "max_connection_number"), member("ID", "id"),
	},
	client.Servers.Name: {
		member("GATEWAY", "p2c_vgw_id"), member("STATUS", "status"), member("CLIENTS", "client_cidr"), member("AUTHENTICATION", "client_auth_type"),
		nested("PORT", "ssl_options", "port"), nested("CIPHER", "ssl_options", "encryption_algorithm"),
		member("LOCAL SUBNETS", "local_subnets"), member("ID", "id"),
	},
	client.UsersOf("").Name: {
		member("NAME", "name"), member("GROUP", "user_group_name"), member("ADDRESS", "static_ip"), member("DESCRIPTION", "description"), member("ID", "id"),
	},
	client.UserGroupsOf("").Name: {
		member("NAME", "name"), member("TYPE", "type"), member("USERS", "user_number"), member("DESCRIPTION", "description"), member("ID", "id"),
	},
	client.AccessPoliciesOf("").Name: {
		member("NAME", "name"), member("TYPE", "type"), member("GROUP", "user_group_name"), member("DESTINATIONS", "dest_ip_cidrs"),
		member("DESCRIPTION", "description"), member("ID", "id"),
	},
}

// show prints rows as a table, or whole in another format.
func (t *tool) show(w io.Writer, rows []client.Object, columns []column, whole any) error {
	switch t.output {
	case "json":
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(whole)
	case "yaml":
		b, err := yaml.Marshal(whole)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	fmt.Fprintln(table, strings.Join(titles, "\t"))
	for _, row := range rows {
		cells := make([]string, len(columns))
		for i, c := range columns {
			if cells[i] = c.value(row); cells[i] == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

// statusColumns are those of the table of states.
var statusColumns = []column{
	member("KIND", "kind"), member("NAME", "name"), member("STATUS", "status"), member("GATEWAY", "gateway"),
	member("LOCAL ID", "local"), member("PEER ID", "peer"),
	{"SA, OR WHY IT IS NOT AS WANTED AND WHAT IS DONE", func(o client.Object) string { return o.Text("sa") + o.Text("reason") }},
}

func (t *tool) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status [CONNECTION]",
		Short: "Show how gateways and connections are, why one is not as wanted, and what is being done about it",
		Args:  arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			connections, err := api.List(ctx, client.Connections)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				one, err := client.Pick(connections, client.Connections, args[0])
				if err != nil {
					return err
				}
				connections = []client.Object{one}
			}
			gateways, err := api.List(ctx, client.Gateways)
			if err != nil {
				return err
			}
			rows, err := states(ctx, api, gateways, connections)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				others, err := statesOfGateways(ctx, api, gateways)
				if err != nil {
					return err
				}
				rows = append(others, rows...)
			}
			return t.show(cmd.OutOrStdout(), rows, statusColumns, rows)
		},
	}
}

// statesOfGateways gathers how gateways and servers are.
func statesOfGateways(ctx context.Context, api *client.Client, gateways []client.Object) ([]client.Object, error) {
	var rows []client.Object
	add := func(kind client.Kind, objects []client.Object) {
		for _, o := range objects {
			row := client.Object{"kind": kind.Name, "name": o.Name(), "id": o.ID(), "status": o.Status()}
			if message := o.StatusMessage(); message != "" {
				row["reason"] = message
			}
			rows = append(rows, row)
		}
	}
	add(client.Gateways, gateways)
	for _, kind := range []client.Kind{client.P2CGateways, client.Servers} {
		objects, err := api.List(ctx, kind)
		if err != nil {
			return nil, err
		}
		names := map[string]string{}
		for _, row := range rows {
			names[row.ID()] = row.Name()
		}
		add(kind, objects)
		for i, o := range objects {
			if gateway := names[o.Text("p2c_vgw_id")]; gateway != "" {
				rows[len(rows)-len(objects)+i]["gateway"] = gateway
			}
		}
	}
	return rows, nil
}

// states gathers for each connection what tells how it is.
func states(ctx context.Context, api *client.Client, gateways, connections []client.Object) ([]client.Object, error) {
	names := map[string]string{}
	for _, g := range gateways {
		names[g.ID()] = g.Name()
	}
	rows := []client.Object{}
	for _, c := range connections {
		policy, _ := c["ikepolicy"].(map[string]any)
		row := client.Object{
			"kind": client.Connections.Name, "name": c.Name(), "id": c.ID(), "status": c.Status(), "gateway": names[c.Text("vgw_id")],
			"local": client.Object(policy).Text("local_id"), "peer": client.Object(policy).Text("peer_id"),
		}
		active := c.Status() == "ACTIVE"
		if message := c.StatusMessage(); !active && message != "" {
			row["reason"] = message
			rows = append(rows, row)
			continue
		}
		lines, err := api.Log(ctx, c.ID())
		if err != nil {
			return nil, err
		}
		if active {
			row["sa"] = lastAgreed(lines)
			if message := c.StatusMessage(); message != "" {
				row["sa"] = message + "; " + lastAgreed(lines)
			}
		} else {
			row["reason"] = reasonOf(lines)
		}
		rows = append(rows, row)
	}
	return rows, nil
}
