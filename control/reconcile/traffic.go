package reconcile

import (
	"fmt"
	"net/netip"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ipsec"
)

// ChildSAs returns the CHILD_SAs of a connection that are in use; served is
// false where the key exchange does not know it. It may be called at any time.
func (r *Reconciler) ChildSAs(connection string) (list []control.ChildSA, served bool) {
	for _, status := range r.KeyExchange.Snapshot() {
		if status.Name != connection {
			continue
		}
		for _, child := range status.Children {
			if !serves(child.State) {
				continue
			}
			list = append(list, control.ChildSA{
				ID:    fmt.Sprintf("%s-%s", child.In.SPI, child.Out.SPI),
				Local: networks(child.Local), Remote: networks(child.Remote),
				Sent:     control.Traffic{Packets: child.Outbound.Packets, Octets: child.Outbound.Bytes},
				Received: control.Traffic{Packets: child.Inbound.Packets, Octets: child.Inbound.Bytes},
			})
		}
		return list, true
	}
	return nil, false
}

// networks returns the networks that make up the selectors.
func networks(selectors []ipsec.TrafficSelector) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range selectors {
		list = append(list, s.Prefixes()...)
	}
	return list
}
