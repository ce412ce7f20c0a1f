package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// ikeOptions are the flags of `vpnbench ike`.
type ikeOptions struct {
	tunnels    int
	rounds     int
	groups     []string
	responders []string
	initiators []string
	json       bool

	flood   int // first messages a second; zero: none
	seconds int
}

// Ends of the tunnels of `vpnbench ike`.
const (
	endVPNGW      = "vpngw"
	endStrongSwan = "strongswan"
)

var ikeEnds = []string{endVPNGW, endStrongSwan}

func newIKECommand() *cobra.Command {
	var o ikeOptions
	cmd := &cobra.Command{
		Use:   "ike",
		Short: "setups of tunnels: vpngw and strongSwan as responder; floods of first messages",
		Long: `Sets many tunnels (IKEv2, pre-shared keys, AES-128-CBC with SHA2-256; CHILD_SAs
of AES-128-GCM) up at once, from an initiator in one network namespace to a
responder in another, and prints the responder's share: CPU time for each setup,
and memory for each tunnel that is up and idle. Each initiator meets each
responder. Both run on this machine and share its CPUs.

Responders and initiators: ` + strings.Join(ikeEnds, ", ") + `
Groups: ` + strings.Join(ikeGroupNames(), ", ") + `

With --flood, a vpngw whose connections take peers from any address gets that
many first messages a second from forged addresses, of which each is new, while
a strongSwan sets its tunnel up; printed are what came of it and how the
responder's memory grew.

Needs root, iproute2 and strongSwan (charon-systemd, swanctl, the plugin
kernel-libipsec).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if o.flood > 0 {
				return printed(cmd, o.json, floodTable, func() ([]floodResult, error) { return runFloods(cmd.Context(), o) })
			}
			return printed(cmd, o.json, ikeTable, func() ([]ikeResult, error) { return runIKE(cmd.Context(), o) })
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.tunnels, "tunnels", 1000, "how many tunnels")
	f.IntVar(&o.rounds, "rounds", 1, "measure all that often, in turn, and print medians")
	f.StringSliceVar(&o.groups, "groups", []string{"modp2048", "curve25519"}, "key exchanges to measure")
	f.StringSliceVar(&o.responders, "responders", ikeEnds, "what to measure")
	f.StringSliceVar(&o.initiators, "initiators", ikeEnds, "what to measure it with")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.IntVar(&o.flood, "flood", 0, "first messages a second of a flood")
	f.IntVar(&o.seconds, "seconds", 10, "length of a flood")
	return cmd
}

// printed prints results as JSON or as a table.
func printed[T any](cmd *cobra.Command, asJSON bool, table func([]T) string, run func() ([]T, error)) error {
	results, err := run()
	if err != nil {
		return err
	}
	if asJSON {
		out := json.NewEncoder(cmd.OutOrStdout())
		out.SetIndent("", "  ")
		return out.Encode(results)
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), table(results))
	return err
}

func (o *ikeOptions) check() error {
	if o.tunnels < 1 || o.tunnels > maxIKETunnels {
		return fmt.Errorf("--tunnels %d: must be 1 to %d", o.tunnels, maxIKETunnels)
	}
	if o.rounds < 1 {
		return fmt.Errorf("--rounds %d: must be at least 1", o.rounds)
	}
	if o.flood > 0 && o.groups[0] == "curve25519" {
		return errors.New("--groups curve25519: IKEv1 has no number for it, and a flood is of IKEv1, too")
	}
	if o.flood < 0 || o.seconds < 1 {
		return fmt.Errorf("--flood %d --seconds %d: must not be negative, and at least 1", o.flood, o.seconds)
	}
	for _, set := range []struct {
		flag        string
		given, know []string
	}{
		{"groups", o.groups, ikeGroupNames()}, {"responders", o.responders, ikeEnds}, {"initiators", o.initiators, ikeEnds},
	} {
		for _, name := range set.given {
			if !slices.Contains(set.know, name) {
				return fmt.Errorf("--%s %s: must be of %s", set.flag, name, strings.Join(set.know, ", "))
			}
		}
	}
	return nil
}

// ikeResult is what one responder needed for the tunnels of one initiator.
type ikeResult struct {
	Responder string `json:"responder"`
	Initiator string `json:"initiator"`
	Group     string `json:"group"`
	// SetupsPerSecond is bounded by what both ends need together.
	SetupsPerSecond float64 `json:"setups_per_second"`
	// CPU is of the responder, in milliseconds for each setup.
	CPU float64 `json:"responder_cpu_ms_per_setup"`
	// Memory is by how much the responder's resident set grew, in kB for each
	// tunnel that is up and idle.
	Memory float64 `json:"responder_kb_per_tunnel"`
	// Ratio is CPU to that of strongSwan as responder, with the same initiator and
	// group; zero without one.
	Ratio float64 `json:"cpu_ratio,omitempty"`
}

// runIKE measures every responder with every initiator and group.
func runIKE(ctx context.Context, o ikeOptions) ([]ikeResult, error) {
	var results []ikeResult
	for range o.rounds {
		for _, group := range o.groups {
			for _, initiator := range o.initiators {
				for _, responder := range o.responders {
					r := ikeResult{Responder: responder, Initiator: initiator, Group: group}
					fmt.Fprintf(os.Stderr, "%s to %s, %s, %d tunnels …\n", initiator, responder, group, o.tunnels)
					if err := r.measure(ctx, o.tunnels); err != nil {
						return nil, fmt.Errorf("%s to %s, %s: %w", initiator, responder, group, err)
					}
					results = append(results, r)
				}
			}
		}
	}
	results = ikeMedians(results)
	for i, r := range results {
		for _, base := range results {
			if base.Responder == endStrongSwan && base.Initiator == r.Initiator && base.Group == r.Group {
				results[i].Ratio = r.CPU / base.CPU
			}
		}
	}
	return results, nil
}

// ikeMedians folds the rounds: of each combination, the measurement of median CPU
// time stays.
func ikeMedians(results []ikeResult) []ikeResult {
	var order []ikeResult
	groups := map[ikeResult][]ikeResult{}
	for _, r := range results {
		key := ikeResult{Responder: r.Responder, Initiator: r.Initiator, Group: r.Group}
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], r)
	}
	for i, key := range order {
		group := groups[key]
		slices.SortFunc(group, func(x, y ikeResult) int { return cmp.Compare(x.CPU, y.CPU) })
		order[i] = group[len(group)/2]
	}
	return order
}

// measure sets the tunnels up once.
func (r *ikeResult) measure(ctx context.Context, tunnels int) (err error) {
	lab, err := newIKELab(ctx, tunnels, r.Group)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, lab.Close()) }()
	responder, err := lab.responder(ctx, r.Responder)
	if err != nil {
		return err
	}
	initiator, err := lab.initiator(ctx, r.Initiator)
	if err != nil {
		return err
	}
	before, err := responder.usage(ctx)
	if err != nil {
		return err
	}
	took, err := initiator.initiate(ctx)
	if err != nil {
		return err
	}
	select { // what comes after the last message of a setup is the responder's work, too
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Second):
	}
	after, err := responder.usage(ctx)
	if err != nil {
		return err
	}
	r.SetupsPerSecond = float64(tunnels) / took.Seconds()
	r.CPU = float64((after.cpu - before.cpu).Microseconds()) / 1000 / float64(tunnels)
	r.Memory = float64(after.resident-before.resident) / 1000 / float64(tunnels)
	return nil
}

// ikeTable prints results for people.
func ikeTable(results []ikeResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %-12s %-12s %9s %13s %11s %10s\n", "", "", "", "", "responder", "responder", "")
	fmt.Fprintf(&b, "%-12s %-12s %-12s %9s %13s %11s %10s\n", "responder", "initiator", "group", "setups/s", "CPU ms/setup", "kB/tunnel", "CPU ratio")
	for _, r := range results {
		ratio := ""
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(&b, "%-12s %-12s %-12s %9.0f %13.2f %11.1f %10s\n", r.Responder, r.Initiator, r.Group, r.SetupsPerSecond, r.CPU, r.Memory, ratio)
	}
	fmt.Fprintf(&b, "CPU ratio: responder's CPU time to that of %s in this run\n", endStrongSwan)
	return b.String()
}
