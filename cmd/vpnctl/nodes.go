package main

import (
	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// nodeColumns are those of the table of nodes.
var nodeColumns = []column{
	{"NODE", func(o client.Object) string {
		if o.Text("self") == "true" {
			return o.Text("name") + " *"
		}
		return o.Text("name")
	}},
	member("ZONE", "availability_zone"), member("VERSION", "version"), member("STARTED", "started_at"),
	{"LEASE", func(o client.Object) string {
		lease, _ := o["lease"].(map[string]any)
		if lease == nil {
			return ""
		}
		l := client.Object(lease)
		return l.Text("age_seconds") + "s of " + l.Text("ttl_seconds") + "s"
	}},
	member("SERVES", "addresses"), member("CARRIES", "gateways"), member("CAN HAVE", "can_have"), member("API", "api_url"),
}

func (t *tool) nodesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "Show the nodes that share the store, and what each does for the project",
		Long: "Show the nodes that are alive, the age of the lease by which each is, and what each\n" +
			"does for the project. An asterisk marks the node that answers.",
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			nodes, err := api.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			return t.show(cmd.OutOrStdout(), nodes, nodeColumns, nodes)
		},
	}
}
