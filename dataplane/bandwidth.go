package dataplane

import (
	"fmt"
	"net/netip"

	"github.com/vpngw/vpngw/dataplane/policer"
	"github.com/vpngw/vpngw/ipsec"
)

// limit polices the traffic of one ipsec.Bandwidth.
type limit struct{ out, in policer.Policer }

// SetBandwidths takes the place of all limits; a local address without one has
// none. What is above a limit is dropped and counted as "bandwidth". An error
// names the bandwidth that is wrong, and nothing is changed then.
func (e *Engine) SetBandwidths(want []ipsec.Bandwidth) error {
	names := map[string]*limit{}
	addresses := map[netip.Addr]*limit{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range want {
		if b.Mbps < 1 {
			return fmt.Errorf("bandwidth %s: %d Mbit/s: must be at least 1", b.Name, b.Mbps)
		}
		if names[b.Name] != nil {
			return fmt.Errorf("bandwidth %s: the name is used twice", b.Name)
		}
		// One that stays keeps its account of what has passed.
		l := e.limits[b.Name]
		if l == nil {
			l = &limit{}
		}
		names[b.Name] = l
		for _, a := range b.Addresses {
			if a = a.Unmap(); addresses[a] != nil {
				return fmt.Errorf("bandwidth %s: address %s has one already", b.Name, a)
			}
			addresses[a] = l
		}
	}
	for _, b := range want {
		names[b.Name].out.Set(b.Mbps)
		names[b.Name].in.Set(b.Mbps)
	}
	e.limits, e.limited = names, addresses
	for _, a := range e.sas {
		e.police(a)
	}
	return nil
}

// police gives an SA the limit of its local address. The caller holds mu.
func (e *Engine) police(a *association) {
	a.limit.Store(e.limited[a.path.Load().Local.Addr()])
}

// limitOf returns an SA's limit, or nil, and the time to ask it for.
func (a *association) limitOf() (l *limit, now int64) {
	if l = a.limit.Load(); l != nil {
		now = policer.Now()
	}
	return l, now
}
