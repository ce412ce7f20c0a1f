package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// message is a line of a connection's log taken apart:
//
//	time host process: [address] sentence. (Key=[value], …) - parameter: …; ours: …; theirs: …
type message struct {
	sentence string
	values   map[string]string // of the parentheses
	detail   string            // behind the dash
}

func parseMessage(line string) message {
	m := message{values: map[string]string{}}
	_, rest, found := strings.Cut(line, "]: [")
	if found {
		_, rest, found = strings.Cut(rest, "] ")
	}
	if !found {
		m.sentence = line
		return m
	}
	sentence, values, found := strings.Cut(rest, " (")
	m.sentence = sentence
	if !found {
		return m
	}
	values, detail, found := strings.Cut(values, "])")
	if found {
		m.detail = strings.TrimPrefix(detail, " - ")
	}
	for pair := range strings.SplitSeq(values, ", ") {
		if key, value, ok := strings.Cut(pair, "=["); ok {
			m.values[key] = strings.TrimSuffix(value, "]")
		}
	}
	return m
}

// reason returns why a negotiation failed or an SA ended, with the parameter
// that differs; empty for other lines.
func (m message) reason() string {
	reason := m.values["Reason"]
	if reason == "" {
		reason = m.values["OfflineReason"]
	}
	if reason != "" && m.detail != "" {
		reason += ": " + m.detail
	}
	return reason
}

// reasonOf returns the newest reason of a log whose newest line comes first.
func reasonOf(lines []client.LogLine) string {
	for _, l := range lines {
		if reason := parseMessage(l.Text).reason(); reason != "" {
			return reason
		}
	}
	return ""
}

func downReason(ctx context.Context, api *client.Client, connection string) (string, error) {
	lines, err := api.Log(ctx, connection)
	return reasonOf(lines), err
}

// lastAgreed returns what the newest CHILD_SA of a log was agreed on.
func lastAgreed(lines []client.LogLine) string {
	for _, l := range lines {
		m := parseMessage(l.Text)
		if strings.HasPrefix(m.sentence, "An IPSec tunnel is established") || strings.HasPrefix(m.sentence, "An IPSec tunnel is rekeyed") {
			return m.detail
		}
	}
	return ""
}

// logs prints a log, the oldest line first, and goes on with what is new.
func (t *tool) logs(ctx context.Context, w io.Writer, api *client.Client, connection string, follow bool) error {
	var shown []client.LogLine // of the answer before
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for {
		lines, err := api.Log(ctx, connection)
		if ctx.Err() != nil && follow {
			return nil // interrupted, as the user wishes
		}
		if err != nil {
			return err
		}
		if err := t.showLines(w, unseen(lines, shown)); err != nil {
			return err
		}
		shown = lines
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// unseen returns the lines that were not in the answer before. Both have the
// newest first; the oldest drop out at the end.
func unseen(lines, before []client.LogLine) []client.LogLine {
	if len(before) == 0 {
		return lines
	}
	if i := slices.Index(lines, before[0]); i >= 0 {
		return lines[:i]
	}
	// The newest line of before was folded into a later one, or dropped out.
	return slices.DeleteFunc(slices.Clone(lines), func(l client.LogLine) bool { return slices.Contains(before, l) })
}

func (t *tool) showLines(w io.Writer, newestFirst []client.LogLine) error {
	if t.output != "table" {
		return t.show(w, nil, nil, newestFirst)
	}
	for _, l := range slices.Backward(newestFirst) {
		if _, err := fmt.Fprintln(w, l.Text); err != nil {
			return err
		}
	}
	return nil
}
