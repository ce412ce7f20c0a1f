package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

func (t *tool) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain CONNECTION",
		Short: "Tell how a connection is, why, and what would change it",
		Long: "Tell how a connection is and why: of one that is up the facts, of one that is down the\n" +
			"diagnosis, with the smallest change at either end by which both agree.",
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			o, err := api.Find(cmd.Context(), client.Connections, args[0])
			if err != nil {
				return err
			}
			x, err := api.Explain(cmd.Context(), o.ID())
			if err != nil {
				return err
			}
			if t.output != "table" {
				return t.show(cmd.OutOrStdout(), nil, nil, x)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), explanationText(&x))
			return err
		},
	}
}

// explanationText is an explanation for people.
func explanationText(x *client.Explanation) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-18s %s\n", name, value)
		}
	}
	fmt.Fprintf(&b, "%s is %s (%s)\n", x.Name, x.Status, x.Situation)
	if d := x.Diagnosis; d != nil {
		line("cause", d.Cause)
		line("exchange", joined(d.Exchange, ", begun by the ", string(d.BegunBy)))
		line("parameter", d.Parameter)
		line("ours", d.Ours)
		line("theirs", d.Theirs)
		line("detail", d.Detail)
		remediesText(line, "change here", d.Changes, d.AnyOf)
		remediesText(line, "or at the peer", d.PeerChanges, d.AnyOf)
		if x.Count > 1 {
			line("repeated", fmt.Sprintf("%d times since %s, the last one %s", x.Count, clock(x.First), clock(x.Last)))
		}
	} else {
		line("summary", x.Summary)
	}
	for _, f := range x.Facts {
		line(f.Name, f.Value)
	}
	next := x.Next
	if !x.NextTry.IsZero() {
		next += ", next at " + clock(x.NextTry)
	}
	line("next", next)
	return b.String()
}

// remediesText lists the changes of one side: all of them, or one of them, are
// needed.
func remediesText(line func(name, value string), name string, list []client.Remedy, anyOf bool) {
	for i, r := range list {
		text := remedyText(r)
		if i > 0 {
			name = "  and"
			if anyOf {
				name = "  or"
			}
		}
		line(name, text)
	}
}

func remedyText(r client.Remedy) string {
	switch {
	case r.From == "":
		return joined(r.Field, ": ", r.To)
	case r.To == "":
		return r.Field + ": remove " + r.From
	}
	return r.Field + ": " + r.From + " → " + r.To
}

// joined joins two texts, if there is a second one.
func joined(a, separator, b string) string {
	if b == "" {
		return a
	}
	return a + separator + b
}

func clock(t time.Time) string { return t.Local().Format(time.DateTime) }

func (t *tool) historyCommand() *cobra.Command {
	var since string
	var limit int
	c := &cobra.Command{
		Use:   "history CONNECTION",
		Short: "Show what happened to the SAs of a connection, the oldest event first",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := parseSince(since, time.Now())
			if err != nil {
				return usageError{err}
			}
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			o, err := api.Find(cmd.Context(), client.Connections, args[0])
			if err != nil {
				return err
			}
			events, err := api.History(cmd.Context(), o.ID(), from, limit)
			if err != nil {
				return err
			}
			slices.Reverse(events)
			if t.output != "table" {
				return t.show(cmd.OutOrStdout(), nil, nil, events)
			}
			for i := range events {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), eventText(&events[i])); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&since, "since", "", "only events from a `time` on: 2h, 2026-01-02 or 2026-01-02T15:04:05Z")
	c.Flags().IntVar(&limit, "limit", 200, "at most so many events, the latest ones")
	return c
}

// parseSince reads a point in time, or how long ago it is.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("since: %q is neither a duration such as 2h nor a time such as 2026-01-02T15:04:05Z", text)
}

// eventText is one event in one line.
func eventText(e *client.Event) string {
	parts := []string{e.Event}
	add := func(text string) {
		if text != "" {
			parts = append(parts, text)
		}
	}
	add(e.Child)
	if e.BegunBy != "" {
		add("begun by the " + string(e.BegunBy))
	}
	if e.IKEVersion > 0 && e.Child == "" {
		add(fmt.Sprintf("IKEv%d", e.IKEVersion))
	}
	add(joined(e.Local, " - ", e.Peer))
	if e.InitiatorSPI != "" && e.Child == "" {
		add("SPIs " + joined(e.InitiatorSPI, " ", e.ResponderSPI))
	}
	if e.SPIIn != "" {
		add("SPIs in " + e.SPIIn + " out " + e.SPIOut)
	}
	add(e.Proposal)
	if len(e.LocalSelectors) > 0 {
		add(strings.Join(e.LocalSelectors, ",") + " - " + strings.Join(e.PeerSelectors, ","))
	}
	if e.UDP {
		add("ESP in UDP")
	}
	if e.Gateway != "" {
		add("to " + e.Gateway)
	}
	add(e.Reason)
	if d := e.Diagnosis; d != nil {
		add(joined(d.Parameter, " in ", d.Exchange))
		if d.Ours != "" || d.Theirs != "" {
			add("ours " + cmp.Or(d.Ours, "not shown") + ", theirs " + cmp.Or(d.Theirs, "not told"))
		}
		add(d.Detail)
	}
	line := clock(e.Time) + "  " + strings.Join(parts, "; ")
	if e.Count > 1 {
		line += fmt.Sprintf(" (%d times since %s)", e.Count, clock(e.Since))
	}
	return line
}
