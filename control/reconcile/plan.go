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

// Disruption returns what it does to the tunnel of a connection to go over to
// another specification, and whether it is established; served is false where the
// key exchange does not know it. It may be called at any time.
func (r *Reconciler) Disruption(next *control.TunnelSpec) (d control.Disruption, established, served bool) {
	local, err := r.inventory.Load().LocalAddress(&next.Gateway, next.Connection.Slot)
	wanted := sa.Connection{Name: next.Connection.ID}
	var tn *tunnel
	if err == nil {
		t := r.newTranslator()
		s := subject{connection: &next.Connection, gateway: &next.Gateway, customer: &next.CustomerGateway, local: local}
		s.identity, s.identityErr = r.Objects.GatewayIdentity(s.gateway)
		tn, err = t.translate(s)
	}
	if err == nil {
		wanted = tn.connection
	}
	// What cannot be applied has no address in common with what stands: it ends.
	effect, established, served := r.KeyExchange.EffectOf(wanted)
	return disruptions[effect], established, served
}
