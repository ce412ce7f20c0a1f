package reconcile

import (
	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
)

// disruptions are what effects of the key exchange are called in the API.
var disruptions = map[sa.Effect]control.Disruption{
	sa.EffectNone: control.DisruptNothing, sa.EffectChild: control.DisruptChild,
	sa.EffectIKE: control.DisruptIKE, sa.EffectDrop: control.DisruptAll,
}

// Disruption returns what it does to the tunnel of a connection to go over from
// its specification to another one, and whether it is established; served is
// false where the key exchange does not know it. It may be called at any time.
func (r *Reconciler) Disruption(before, next *control.TunnelSpec) (d control.Disruption, established, served bool) {
	wanted := sa.Connection{Name: next.Connection.ID}
	tn, err := r.specified(next)
	if err == nil {
		wanted = tn.connection
	}
	// What cannot be applied has no address in common with what stands: it ends.
	effect, established, served := r.KeyExchange.EffectOf(wanted)
	d = disruptions[effect]
	if old, fault := r.specified(before); err == nil && fault == nil && old.device.Plane != tn.device.Plane {
		d = control.DisruptAll // the device of a tunnel goes with its data plane
	}
	return d, established, served
}

// specified is the tunnel of a specification.
func (r *Reconciler) specified(spec *control.TunnelSpec) (*tunnel, error) {
	local, err := r.inventory.Load().LocalAddress(&spec.Gateway, spec.Connection.Slot)
	if err != nil {
		return nil, err
	}
	s := subject{connection: &spec.Connection, gateway: &spec.Gateway, customer: &spec.CustomerGateway, local: local}
	s.identity, s.identityErr = r.Objects.GatewayIdentity(s.gateway)
	return r.newTranslator().translate(s)
}
