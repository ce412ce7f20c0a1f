package route

import (
	"fmt"
	"net/netip"
	"slices"
)

// connectedSubnet is a subnet on a device that is not ours.
type connectedSubnet struct {
	prefix netip.Prefix
	link   string
}

// host is what of others a route of ours could do harm to.
type host struct {
	connected []connectedSubnet
	main      []netip.Prefix // destinations in the main table
	routed    []HostNetwork  // likewise, but for everything, link-local and multicast, and what is a tunnel's
}

// HostNetwork is a network that this host has by others than us.
type HostNetwork struct {
	Prefix   netip.Prefix
	Link     string // by which; empty: by several or none, as with a blackhole
	Attached bool   // it is connected to the link, or an address of it; else there is a route
}

func (n HostNetwork) String() string {
	switch {
	case n.Attached:
		return fmt.Sprintf("%s, which this host has on %s", n.Prefix, n.Link)
	case n.Link == "":
		return fmt.Sprintf("%s, which this host has a route to", n.Prefix)
	}
	return fmt.Sprintf("%s, which this host has a route to by %s", n.Prefix, n.Link)
}

// Conflicts reports whether the network is in the way of one whose hosts are
// only to be reached by a route of ours: a connected one, if they overlap, and a
// route if it takes a part of them away.
func (n HostNetwork) Conflicts(with netip.Prefix) bool {
	return n.Prefix.Overlaps(with) && (n.Attached || n.Prefix.Bits() >= with.Bits())
}

// check returns why a route must not be installed: it would lead tunnelled
// packets into a tunnel again, or take a subnet away from the device that it
// is connected to. A blackhole behind a rule is only refused where it would cut
// this host itself off: else what a refused route is for would leave in the
// clear. State and route are normalized.
func (h host) check(r Route, s State) error {
	if r.Type == Throw {
		return nil
	}
	if r.Table == TableMain {
		if err := h.checkMain(r, s); err != nil {
			return err
		}
	}
	for _, rule := range s.Rules {
		if rule.Table == r.Table && rule.Table != TableMain {
			if err := h.checkRule(r, rule, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkMain is for the main table, where the longest prefix wins.
func (h host) checkMain(r Route, s State) error {
	for _, c := range h.connected {
		if c.prefix.Bits() <= r.Dst.Bits() && c.prefix.Contains(r.Dst.Addr()) {
			return fmt.Errorf("would take over %s, which is connected to %s", c.prefix, c.link)
		}
	}
	for _, outer := range s.Outer {
		if !r.Dst.Contains(outer.Remote) {
			continue
		}
		longer := false
		for _, p := range h.main {
			longer = longer || p.Bits() > r.Dst.Bits() && p.Contains(outer.Remote)
		}
		if !longer {
			return fmt.Errorf("would lead the tunnel's own packets to %s into a tunnel", outer.Remote)
		}
	}
	return nil
}

// checkRule is for a table that a rule leads to before the main one, where
// even a short prefix wins over all that the main table has.
func (h host) checkRule(r Route, rule Rule, s State) error {
	effective := r.Dst
	if rule.To.IsValid() {
		if !r.Dst.Overlaps(rule.To) {
			return nil
		}
		effective = longer(r.Dst, rule.To)
	}
	for _, outer := range s.Outer {
		fromUs := !rule.From.IsValid() || rule.From.Contains(outer.Local)
		if fromUs && rule.IfIn == "" && effective.Contains(outer.Remote) &&
			!s.thrown(r, netip.PrefixFrom(outer.Remote, outer.Remote.BitLen())) {
			return fmt.Errorf("would, by rule %s, lead the tunnel's own packets to %s into a tunnel", rule, outer.Remote)
		}
	}
	for _, c := range h.connected {
		if !effective.Overlaps(c.prefix) || s.thrown(r, longer(c.prefix, effective)) {
			continue
		}
		within := rule.from(c.prefix)
		takes := within || c.prefix.Bits() <= effective.Bits()
		if r.Type == Blackhole {
			takes = within && c.prefix == effective
		}
		if takes {
			return fmt.Errorf("would, by rule %s, take over %s, which is connected to %s, unless a throw route spares it",
				rule, c.prefix, c.link)
		}
	}
	return nil
}

// spares returns the throw routes that a blackhole needs beside it, lest it
// cuts this host off from a connected subnet within.
func (h host) spares(r Route, s State) (throws []Route) {
	if r.Type != Blackhole {
		return nil
	}
	for _, rule := range s.Rules {
		if rule.Table != r.Table || rule.Table == TableMain {
			continue
		}
		for _, c := range h.connected {
			inside := r.Dst.Bits() < c.prefix.Bits() && r.Dst.Contains(c.prefix.Addr())
			if inside && rule.from(c.prefix) && (!rule.To.IsValid() || rule.To.Overlaps(c.prefix)) && !s.thrown(r, c.prefix) {
				throws = append(throws, Route{Table: r.Table, Dst: c.prefix, Metric: r.Metric, Type: Throw})
			}
		}
	}
	return throws
}

// from reports whether a rule is for some of the addresses of a subnet.
func (r Rule) from(subnet netip.Prefix) bool { return !r.From.IsValid() || r.From.Overlaps(subnet) }

// thrown reports whether a throw route spares a subnet a route of its table.
func (s State) thrown(r Route, subnet netip.Prefix) bool {
	return slices.ContainsFunc(s.Routes, func(other Route) bool {
		return other.Table == r.Table && other.Type == Throw && other.Dst.Bits() > r.Dst.Bits() &&
			other.Dst.Bits() <= subnet.Bits() && other.Dst.Contains(subnet.Addr())
	})
}

func longer(a, b netip.Prefix) netip.Prefix {
	if a.Bits() > b.Bits() {
		return a
	}
	return b
}
