package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
)

// errDiffers is the outcome of a plan that has something to do. Its exit code is
// that of diff for files that differ.
var errDiffers = errors.New("there is something to change")

// planError is a failure of a plan, which must not look like one that has something
// to do.
type planError struct{ error }

func (e planError) Unwrap() error { return e.error }

func (t *tool) planCommand() *cobra.Command {
	var file string
	var prune, resend bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Tell what apply would do to each tunnel, and change nothing",
		Long: "Tell what apply with the same file and flags would change of gateways, customer\n" +
			"gateways and connections, and what that does to each tunnel as it stands: nothing,\n" +
			"child_rekey, make_before_break or drop.\n\n" +
			"The exit code is 0 when there is nothing to change, 1 when there is something, and\n" +
			"greater when that cannot be told.",
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted, err := t.readFile(cmd, file)
			if err != nil {
				return err
			}
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			ctx, cancel := patience(cmd.Context(), timeout)
			defer cancel()
			a := declare.Applier{Client: api, Prune: prune, ResendPSK: resend, Every: t.every}
			plan, err := a.Plan(ctx, wanted)
			if err != nil {
				return planError{err}
			}
			if err := t.showPlan(cmd.OutOrStdout(), plan); err != nil {
				return planError{err}
			}
			if len(wanted.P2CGateways) > 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "vpnctl: the client-to-cloud gateways of the file are not part of the plan")
			}
			if !plan.Empty() {
				return errDiffers
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "YAML `file`, or - for standard input")
	c.Flags().BoolVar(&prune, "prune", false, "as of apply --prune")
	c.Flags().BoolVar(&resend, "resend-psk", false, "as of apply --resend-psk")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait in all")
	return c
}

// showPlan prints a plan: a line for each object and each tunnel, and below it the
// fields that change.
func (t *tool) showPlan(w io.Writer, plan *declare.Plan) error {
	if t.output != "table" {
		text, err := json.Marshal(plan)
		if err != nil {
			return err
		}
		var whole any // with the same names in YAML
		if err := json.Unmarshal(text, &whole); err != nil {
			return err
		}
		return t.show(w, nil, nil, whole)
	}
	for _, o := range plan.Objects {
		line := fmt.Sprintf("%s %s is to be %s", o.Kind, o.Name, o.Action)
		if len(o.Fields) > 0 {
			line += ": " + strings.Join(o.Fields, ", ")
		}
		fmt.Fprintln(w, line)
	}
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "TUNNEL\tACTION\tUP\tDISRUPTION\tBECAUSE OF")
	for _, tn := range plan.Tunnels {
		up := "no"
		if tn.Established {
			up = "yes"
		}
		first := ""
		if len(tn.Changes) > 0 {
			first = because(tn.Changes[0])
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", tn.Name, tn.Action, up, tn.Disruption, first)
		for _, c := range tn.Changes[min(1, len(tn.Changes)):] {
			fmt.Fprintf(table, "\t\t\t\t%s\n", because(c))
		}
	}
	return table.Flush()
}

// because reads "vpn_connection.ikepolicy.dh_group group14 → group19 (make_before_break)".
func because(c declare.PlannedChange) string {
	return fmt.Sprintf("%s (%s)", declare.Difference{Field: c.Field, Have: c.Have, Want: c.Want}, c.Disruption)
}
