package route

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Protocol is the routing protocol number (rtm_protocol) that marks what is
// ours. It is none of those that rt_protos of iproute2 and FRR name.
const Protocol = 175

// TableMain is the kernel's main routing table.
const TableMain = 254

// State is all addresses, routes and rules of ours.
type State struct {
	Addresses []Address
	Routes    []Route
	Rules     []Rule

	// Outer are the paths that tunnelled packets take. A route that would
	// lead one of them into a tunnel again is refused.
	Outer []OuterPath
}

// OuterPath is the outer addresses of a tunnel.
type OuterPath struct{ Local, Remote netip.Addr }

// Address is an address of a device.
type Address struct {
	Link   string
	Prefix netip.Prefix // the address itself with the length of its subnet
}

// String prints "169.254.70.1/30 on vpn1".
func (a Address) String() string { return fmt.Sprintf("%s on %s", a.Prefix, a.Link) }

// Type says what a route does with a packet.
type Type uint8

// Types of routes.
const (
	Unicast   Type = iota // sends it to a next hop
	Blackhole             // drops it
	Throw                 // ends the look-up in this table; that of the next rule follows
)

// String returns the word that iproute2 has for the type.
func (t Type) String() string {
	switch t {
	case Unicast:
		return "unicast"
	case Blackhole:
		return "blackhole"
	case Throw:
		return "throw"
	}
	return "invalid type"
}

// Route is one route. Table, Dst and Metric name it.
type Route struct {
	Table    int // zero: TableMain
	Dst      netip.Prefix
	Metric   int // of several routes to Dst, the lowest counts; IPv6 makes 1024 of zero
	Type     Type
	NextHops []NextHop  // of Unicast only; several share the flows by weight
	Src      netip.Addr // preferred source of what this host sends; may be invalid
	MTU      int        // octets; zero: the device's
}

// NextHop is a device, and a gateway on it where it needs one.
type NextHop struct {
	Link   string
	Via    netip.Addr // may be invalid
	Weight int        // 1 to 256; zero: 1
}

// String prints "10.1.0.0/16 table 254 metric 100".
func (r Route) String() string {
	return fmt.Sprintf("%s table %d metric %d", r.Dst, r.Table, r.Metric)
}

// Rule sends traffic to a routing table.
type Rule struct {
	Priority int          // rules are tried from the lowest up; the main table's has 32766
	From, To netip.Prefix // invalid ones match all; at least one says the family
	IfIn     string       // device that the packet came in by; empty: any
	Table    int
}

// String prints "100: from 10.1.0.0/16 to 10.9.0.0/16 table 7700".
func (r Rule) String() string {
	text := fmt.Sprintf("%d:", r.Priority)
	for _, side := range []struct {
		word   string
		prefix netip.Prefix
	}{{"from", r.From}, {"to", r.To}} {
		if side.prefix.IsValid() {
			text += fmt.Sprintf(" %s %s", side.word, side.prefix)
		}
	}
	if r.IfIn != "" {
		text += " iif " + r.IfIn
	}
	return fmt.Sprintf("%s table %d", text, r.Table)
}

// routeKey names a route in the kernel.
type routeKey struct {
	table  int
	dst    netip.Prefix
	metric int
}

func (r Route) key() routeKey { return routeKey{r.Table, r.Dst, r.Metric} }

func (r Route) equal(other Route) bool {
	return r.key() == other.key() && r.Type == other.Type && r.Src == other.Src && r.MTU == other.MTU &&
		slices.Equal(r.NextHops, other.NextHops)
}

// normalize returns the route as the kernel would list it, or what is wrong
// with it.
func (r Route) normalize() (Route, error) {
	if !r.Dst.IsValid() {
		return r, errors.New("destination: must be set")
	}
	r.Dst = r.Dst.Masked()
	if r.Table == 0 {
		r.Table = TableMain
	}
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		r.Metric = 1024
	}
	r.NextHops = slices.Clone(r.NextHops)
	switch {
	case r.Table < 0 || r.Metric < 0 || r.MTU < 0:
		return r, errors.New("table, metric and MTU: must not be negative")
	case r.Type > Throw:
		return r, errors.New("type: unknown")
	case r.Type != Unicast && (len(r.NextHops) > 0 || r.Src.IsValid() || r.MTU != 0):
		return r, fmt.Errorf("%s: takes no next hop, source or MTU", r.Type)
	case r.Type == Unicast && len(r.NextHops) == 0:
		return r, errors.New("next hop: must be set")
	case r.Src.IsValid() && r.Src.Is4() != r.Dst.Addr().Is4():
		return r, fmt.Errorf("source %s: is of another family", r.Src)
	}
	for i := range r.NextHops {
		hop := &r.NextHops[i]
		hop.Weight = max(hop.Weight, 1)
		switch {
		case hop.Link == "":
			return r, errors.New("next hop: device must be set")
		case hop.Weight > 256:
			return r, fmt.Errorf("next hop %s: weight %d is above 256", hop.Link, hop.Weight)
		case hop.Via.IsValid() && hop.Via.Is4() != r.Dst.Addr().Is4():
			return r, fmt.Errorf("next hop %s: gateway %s is of another family", hop.Link, hop.Via)
		}
	}
	if len(r.NextHops) == 1 {
		r.NextHops[0].Weight = 1 // has a meaning among several only
	}
	slices.SortFunc(r.NextHops, func(a, b NextHop) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.Via.Compare(b.Via))
	})
	return r, nil
}

// normalize returns the rule as the kernel would list it, or what is wrong
// with it. A prefix of length zero stays in one place only, to say the family.
func (r Rule) normalize() (Rule, error) {
	for _, p := range []*netip.Prefix{&r.From, &r.To} {
		if p.IsValid() {
			*p = p.Masked()
		}
	}
	switch {
	case !r.From.IsValid() && !r.To.IsValid():
		return r, errors.New("source or destination: one must be set")
	case r.From.IsValid() && r.To.IsValid() && r.From.Addr().Is4() != r.To.Addr().Is4():
		return r, errors.New("source and destination: must be of one family")
	case r.Priority <= 0 || r.Priority >= 32766:
		return r, fmt.Errorf("priority %d: must lie between those of the local and the main table, 0 and 32766", r.Priority)
	case r.Table <= 0:
		return r, fmt.Errorf("table %d: must be positive", r.Table)
	}
	family := r.family()
	if r.To.IsValid() && r.To.Bits() == 0 {
		r.To = netip.Prefix{}
	}
	if r.From.IsValid() && r.From.Bits() == 0 {
		r.From = netip.Prefix{}
	}
	if !r.From.IsValid() && !r.To.IsValid() {
		r.From = family
	}
	return r, nil
}

// family returns the prefix of length zero of the rule's family.
func (r Rule) family() netip.Prefix {
	addr := r.From.Addr()
	if !addr.IsValid() {
		addr = r.To.Addr()
	}
	return netip.PrefixFrom(addr, 0).Masked()
}

func (a Address) validate() error {
	switch {
	case !a.Prefix.IsValid():
		return errors.New("prefix: must be set")
	case a.Link == "":
		return errors.New("device: must be set")
	}
	return nil
}

// normalize returns the state without what is wrong in it, and the errors that
// say what that is.
func (s State) normalize() (State, []error) {
	var errs []error
	good := State{Outer: s.Outer}
	for _, a := range s.Addresses {
		switch err := a.validate(); {
		case err != nil:
			errs = append(errs, fmt.Errorf("address %s: %w", a, err))
		case !slices.Contains(good.Addresses, a):
			good.Addresses = append(good.Addresses, a)
		}
	}
	keys := map[routeKey]Route{}
	for _, given := range s.Routes {
		r, err := given.normalize()
		if err != nil {
			errs = append(errs, fmt.Errorf("route %s: %w", given, err))
			continue
		}
		if other, ok := keys[r.key()]; ok {
			if !other.equal(r) {
				errs = append(errs, fmt.Errorf("route %s: is wanted twice with different next hops", r))
			}
			continue
		}
		keys[r.key()] = r
		good.Routes = append(good.Routes, r)
	}
	for _, given := range s.Rules {
		r, err := given.normalize()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("rule %s: %w", given, err))
		case !slices.Contains(good.Rules, r):
			good.Rules = append(good.Rules, r)
		}
	}
	return good, errs
}
