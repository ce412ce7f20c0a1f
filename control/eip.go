package control

import (
	"fmt"
	"io"
	"slices"
)

// bindEIPs binds both EIPs of a public gateway: existing ones by id, new ones
// from those of the inventory that nobody uses. A private gateway has none,
// whatever was sent.
func bindEIPs(d *gatewayDraft, first, second *EIPRequest, random io.Reader) *Error {
	if d.NetworkType == NetworkPrivate {
		return nil
	}
	for i, req := range []*EIPRequest{first, second} {
		field := fmt.Sprintf("eip%d", i+1)
		if req == nil {
			return Invalid(field, "is required with network_type public")
		}
		var err *Error
		if req.ID != nil {
			err = d.bindExisting(i, field+".id", *req.ID, req)
		} else {
			err = d.bindNew(i, field, req, random)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bindExisting binds the EIP with an id. req holds what else was sent of it;
// nil when it was named by the id alone.
func (d *gatewayDraft) bindExisting(i int, field, id string, req *EIPRequest) *Error {
	if req != nil && (req.Type != nil || req.ChargeMode != nil || req.BandwidthSize != nil || req.BandwidthName != nil || req.BandwidthID != nil) {
		return Invalid(field, "must stand alone: with it no other member of the EIP may be given")
	}
	eip, ok := d.inventory.EIP(id)
	if !ok {
		return Invalid(field, "there is no EIP %s", id)
	}
	if d.isBound(id) {
		return Invalid(field, "EIP %s is bound already", id)
	}
	if d.hasPrivateAddress(eip.HostAddress()) {
		return Invalid(field, "EIP %s has an address of the node that is the private address of a gateway", id)
	}
	if limit := flavorBandwidth[d.Flavor]; eip.BandwidthMbps > limit {
		return Invalid(field, "has a bandwidth of %d Mbit/s, flavor %s allows %d", eip.BandwidthMbps, d.Flavor, limit)
	}
	d.EIPs[i] = eip.binding()
	return nil
}

// bindNew takes a free EIP that fits what was asked for.
func (d *gatewayDraft) bindNew(i int, field string, req *EIPRequest, random io.Reader) *Error {
	p := &parser{}
	binding := EIPBinding{ChargeMode: chargeModes[0]}
	if req.Type == nil {
		p.fail(field+".type", "is required for a new EIP")
	}
	text(p, field+".type", req.Type, &binding.Type, eipTypes...)
	if req.BandwidthID != nil {
		p.id(field+".bandwidth_id", req.BandwidthID, &binding.BandwidthID)
	} else {
		if req.BandwidthSize == nil {
			p.fail(field+".bandwidth_size", "is required for a new EIP without bandwidth_id")
		}
		text(p, field+".charge_mode", req.ChargeMode, &binding.ChargeMode, chargeModes...)
		number(p, field+".bandwidth_size", req.BandwidthSize, &binding.BandwidthMbps, 1, maxBandwidthMbps)
		p.name(field+".bandwidth_name", req.BandwidthName, &binding.BandwidthName)
	}
	if p.err != nil {
		return p.err
	}
	limit := flavorBandwidth[d.Flavor]
	if binding.BandwidthMbps > limit {
		return Invalid(field+".bandwidth_size", "must be at most %d, the limit of flavor %s", limit, d.Flavor)
	}
	for j := range d.inventory.EIPs {
		eip := &d.inventory.EIPs[j]
		// A new EIP is an IPv4 one, as the reference has no others.
		if eip.Type != binding.Type || !eip.Address.Is4() || d.isBound(eip.ID) || d.hasPrivateAddress(eip.HostAddress()) {
			continue
		}
		if req.BandwidthID != nil {
			if !eip.Shared || eip.BandwidthID != *req.BandwidthID || eip.BandwidthMbps > limit {
				continue
			}
			return d.bindExisting(i, field+".bandwidth_id", eip.ID, nil)
		}
		if eip.Shared || eip.BandwidthMbps < binding.BandwidthMbps {
			continue
		}
		binding.ID, binding.Address, binding.BandwidthID = eip.ID, eip.Address, eip.BandwidthID
		if binding.BandwidthName == "" {
			name, err := randomName("vpngw-bandwidth-", random)
			if err != nil {
				return &Error{Code: CodeInternal, Status: 500, Message: "server error: no random name"}
			}
			binding.BandwidthName = name
		}
		d.EIPs[i] = binding
		return nil
	}
	return Invalid(field, "there is no free EIP of this type and bandwidth")
}

// isBound tells whether an EIP is bound to any gateway, this one included.
func (d *gatewayDraft) isBound(id string) bool {
	return eipIsBound(id, append(slices.Clip(d.others), d.Gateway), d.p2c)
}

// rebindEIPs binds other EIPs to slots whose old EIP was taken away. The
// connections of the slot move along.
func rebindEIPs(d *gatewayDraft, first, second *string) *Error {
	for i, id := range []*string{first, second} {
		field := fmt.Sprintf("eip_id_%d", i+1)
		if id == nil || *id == d.EIPs[i].ID && d.NetworkType == NetworkPublic {
			continue
		}
		if d.NetworkType == NetworkPrivate {
			return Invalid(field, "must be absent with network_type private")
		}
		if _, there := d.inventory.EIP(d.EIPs[i].ID); there {
			return Invalid(field, "EIP %s is still bound there: unbind it first", d.EIPs[i].ID)
		}
		before := d.EIPs[i].Address
		if err := d.bindExisting(i, field, *id, nil); err != nil {
			return err
		}
		if after := d.EIPs[i].Address; before.Is4() != after.Is4() {
			return Invalid(field, "EIP %s has the address %s, which is not of the family of %s, the address so far: the peers cannot reach it", *id, after, before)
		}
	}
	return nil
}

// eipIsBound tells whether an EIP is bound to one of the gateways.
func eipIsBound(id string, gateways []Gateway, p2c []P2CGateway) bool {
	return slices.ContainsFunc(gateways, func(g Gateway) bool { return g.EIPs[0].ID == id || g.EIPs[1].ID == id }) ||
		slices.ContainsFunc(p2c, func(g P2CGateway) bool { return g.EIP.ID == id })
}

// binding returns what a gateway keeps of an EIP that is bound to it.
func (e *EIP) binding() EIPBinding {
	return EIPBinding{
		ID:            e.ID,
		Type:          e.Type,
		Address:       e.Address,
		ChargeMode:    e.ChargeMode,
		BandwidthID:   e.BandwidthID,
		BandwidthName: e.BandwidthName,
		BandwidthMbps: e.BandwidthMbps,
		Shared:        e.Shared,
	}
}
