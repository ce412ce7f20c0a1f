package route

import (
	"fmt"
	"net/netip"
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
	thrown := func(p netip.Prefix) bool {
		for _, other := range s.Routes {
			if other.Table == r.Table && other.Type == Throw && other.Dst.Bits() > r.Dst.Bits() &&
				other.Dst.Bits() <= p.Bits() && other.Dst.Contains(p.Addr()) {
				return true
			}
		}
		return false
	}
	for _, outer := range s.Outer {
		fromUs := !rule.From.IsValid() || rule.From.Contains(outer.Local)
		if fromUs && rule.IfIn == "" && effective.Contains(outer.Remote) &&
			!thrown(netip.PrefixFrom(outer.Remote, outer.Remote.BitLen())) {
			return fmt.Errorf("would, by rule %s, lead the tunnel's own packets to %s into a tunnel", rule, outer.Remote)
		}
	}
	for _, c := range h.connected {
		inside := c.prefix.Bits() <= effective.Bits() && r.Type != Blackhole
		within := !rule.From.IsValid() || rule.From.Overlaps(c.prefix)
		if effective.Overlaps(c.prefix) && (inside || within) && !thrown(longer(c.prefix, effective)) {
			return fmt.Errorf("would, by rule %s, take over %s, which is connected to %s, unless a throw route spares it",
				rule, c.prefix, c.link)
		}
	}
	return nil
}

func longer(a, b netip.Prefix) netip.Prefix {
	if a.Bits() > b.Bits() {
		return a
	}
	return b
}
