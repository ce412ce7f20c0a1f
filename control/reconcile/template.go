package reconcile

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// maxAgreed bounds the flows of one connection that a peer chooses. What is beyond
// them is not routed.
const maxAgreed = 1000

// effective returns a connection with the policies that count: those of style
// policy-template have the algorithms and lifetimes of their gateway's template.
func effective(c *control.Connection, g *control.Gateway) (*control.Connection, error) {
	if c.Style != control.StylePolicyTemplate {
		return c, nil
	}
	t := g.Template
	if t == nil {
		return nil, errors.New("style: the gateway has no policy_template")
	}
	e := *c
	e.IKE.Authentication, e.IKE.Encryption, e.IKE.Group = t.IKE.Authentication, t.IKE.Encryption, t.IKE.Group
	e.IKE.LifetimeSeconds = t.IKE.LifetimeSeconds
	e.IPsec.Authentication, e.IPsec.Encryption, e.IPsec.PFS = t.IPsec.Authentication, t.IPsec.Encryption, t.IPsec.PFS
	e.IPsec.LifetimeSeconds = t.IPsec.LifetimeSeconds
	return &e, nil
}

// policyTemplate gives the tunnel a template of which the peer makes CHILD_SAs,
// between the local subnets and the peer's. What one peer has got no other one
// gets, whichever of the gateways it is at: this node has one routing table.
func (t *translator) policyTemplate(tn *tunnel, s subject, esp ipsec.Proposal) error {
	tn.template = true
	tn.flows = flowsOf(s.connection, s.gateway)
	tn.connection.Claimant = s.customer.ID
	selectors := func(list []netip.Prefix) (out []ipsec.TrafficSelector) {
		for _, p := range list {
			out = append(out, ipsec.SelectorFromPrefix(p.Masked()))
		}
		return out
	}
	return t.children(tn, s, anyChild, selectors(s.gateway.LocalSubnets), selectors(s.connection.PeerSubnets), esp)
}

// agreedFlows returns the traffic of a CHILD_SA.
func agreedFlows(child *sa.ChildStatus) (flows []flow) {
	var destinations []netip.Prefix
	for _, ts := range child.Remote {
		destinations = append(destinations, ts.Prefixes()...)
	}
	for _, ts := range child.Local {
		for _, source := range ts.Prefixes() {
			for _, destination := range destinations {
				if source.Addr().Is4() == destination.Addr().Is4() && len(flows) < maxAgreed {
					flows = append(flows, flow{source, destination})
				}
			}
		}
	}
	return flows
}

// agreed returns the tunnels as far as traffic is concerned: one with a template
// drops what the template is for, and carries what its peer has agreed on. What
// overlaps a flow that another tunnel is for by its configuration stays with that
// one: the key exchange refuses it, too.
func (r *Reconciler) agreed(tunnels []*tunnel) []*tunnel {
	if !slices.ContainsFunc(tunnels, func(tn *tunnel) bool { return tn.template }) {
		return tunnels
	}
	var out []*tunnel
	for _, tn := range tunnels {
		if !tn.template {
			out = append(out, tn)
			continue
		}
		out = append(out, &tunnel{id: tn.id, gatewayID: tn.gatewayID, flows: tn.flows})
		l := r.subjects[tn.id]
		if l == nil || len(l.condition.agreed) == 0 {
			continue
		}
		carrier := *tn
		carrier.flows = slices.DeleteFunc(slices.Clone(l.condition.agreed), func(f flow) bool { return configured(tunnels, f, tn.connection.Claimant) })
		out = append(out, &carrier)
	}
	return out
}

// configured reports whether traffic is, in part or whole, that of a tunnel of
// another peer by its configuration, or as a whole that of any.
func configured(tunnels []*tunnel, f flow, claimant string) bool {
	return slices.ContainsFunc(tunnels, func(tn *tunnel) bool {
		return !tn.template && slices.ContainsFunc(tn.flows, func(other flow) bool {
			if tn.connection.Reservation.Claimant == claimant {
				return other == f
			}
			return other.source.Overlaps(f.source) && other.destination.Overlaps(f.destination)
		})
	})
}

// reservation returns the traffic of a tunnel, which no peer of a template gets but
// the same one.
func reservation(peer string, flows []flow) sa.Reservation {
	r := sa.Reservation{Claimant: peer}
	for _, f := range flows {
		r.Flows = append(r.Flows, sa.Flow{
			Local:  []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(f.source)},
			Remote: []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(f.destination)},
		})
	}
	return r
}
