package netlab

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"time"
)

// HostState is the part of a host's state that a gateway daemon touches.
type HostState map[string]string

// HostState reads links, addresses, rules, routes of all tables, IPsec states
// and policies, and the packet filter of the namespace.
func (n *Namespace) HostState(ctx context.Context) (HostState, error) {
	state := HostState{}
	for _, command := range []string{
		"ip -d link", "ip addr", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all",
		"ip xfrm state", "ip xfrm policy", "nft list ruleset",
		"sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv4.conf.default.rp_filter",
	} {
		out, err := n.Run(ctx, strings.Fields(command)...)
		if err != nil {
			return nil, err
		}
		state[command] = volatile.ReplaceAllString(out, "")
	}
	return state, nil
}

// HostStateDiff waits until the state of the host is what it was before, and
// returns how it differs still when it does not come to that: the kernel follows
// up on some changes from a work queue.
func (n *Namespace) HostStateDiff(ctx context.Context, before HostState) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	var diff string
	err := Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		now, err := n.HostState(ctx)
		if ctx.Err() != nil {
			return false, nil // the last whole look counts
		}
		diff = before.Diff(now)
		return diff == "", err
	})
	if errors.Is(err, context.DeadlineExceeded) && diff != "" {
		err = nil
	}
	return diff, err
}

// settling is how long the kernel may take until a host's state stands.
const settling = 10 * time.Second

// volatile is what changes by itself in these listings, and the index of a
// link, which a device that is made again does not get back.
var volatile = regexp.MustCompile(`(?m)^\d+: |(valid_lft|preferred_lft|expires) \S+|promiscuity \d+|cache .*|counter packets \d+ bytes \d+`)

// Diff lists the lines that one state has and the other has not: "-" for those
// that are gone, "+" for new ones. It is empty when the states are equal.
func (before HostState) Diff(after HostState) string {
	var b strings.Builder
	for command, old := range before {
		gone, come := missingLines(old, after[command]), missingLines(after[command], old)
		if len(gone)+len(come) == 0 {
			continue
		}
		b.WriteString(command + ":\n")
		for _, line := range gone {
			b.WriteString("  - " + line + "\n")
		}
		for _, line := range come {
			b.WriteString("  + " + line + "\n")
		}
	}
	return b.String()
}

// missingLines returns the lines of a, with repeats, that b lacks.
func missingLines(a, b string) []string {
	have := map[string]int{}
	for line := range strings.Lines(b) {
		have[strings.TrimSpace(line)]++
	}
	var missing []string
	for line := range strings.Lines(a) {
		line = strings.TrimSpace(line)
		if have[line] > 0 {
			have[line]--
			continue
		}
		missing = append(missing, line)
	}
	return missing
}
