package control

import (
	"cmp"
	"encoding/json"
	"reflect"
	"strings"
)

//go:generate go run edit_document.go ../docs/edits.md

// Disruption says what an edit does to a tunnel.
type Disruption string

// Disruptions, from the least.
const (
	// DisruptNothing leaves all SAs as they are.
	DisruptNothing Disruption = "nothing"
	// DisruptChild has new CHILD_SAs take over from old ones.
	DisruptChild Disruption = "child_rekey"
	// DisruptIKE has a new IKE SA take over from the old one.
	DisruptIKE Disruption = "make_before_break"
	// DisruptAll ends the tunnel before it is negotiated anew.
	DisruptAll Disruption = "drop"
)

// Disruptions are all of them, from the least.
var Disruptions = []Disruption{DisruptNothing, DisruptChild, DisruptIKE, DisruptAll}

// Compare is negative when the one does less to a tunnel than the other.
func (d Disruption) Compare(e Disruption) int { return cmp.Compare(d.rank(), e.rank()) }

func (d Disruption) rank() int {
	for i, one := range Disruptions {
		if d == one {
			return i
		}
	}
	return len(Disruptions)
}

// Objects whose edits concern tunnels, as the bodies of updates call them.
const (
	EditConnection      = "vpn_connection"
	EditGateway         = "vpn_gateway"
	EditCustomerGateway = "customer_gateway"
)

// Edit is a field of an object that can be changed, and the most that a change of
// it does to a tunnel.
type Edit struct {
	Object     string
	Field      string // dotted
	Disruption Disruption
	Note       string // for the reader of the documentation
}

// Edits are all fields of site-to-cloud VPN that can be changed. Nothing else says
// what an edit does: docs/edits.md is made of it, plans are, and the tests of the
// engines hold these to it.
var Edits = []Edit{
	{EditConnection, "name", DisruptNothing, ""},
	{EditConnection, "cgw_id", DisruptAll, "The peer is another one: what stands with the old one ends. It does less where both customer gateways have the same address."},
	{EditConnection, "peer_subnets", DisruptNothing, "Routes to new subnets come before those to old ones go."},
	{EditConnection, "peer_subnets_v6", DisruptNothing, "As `peer_subnets`."},
	{EditConnection, "tunnel_local_address", DisruptNothing, "What the node itself sends from the old address ends."},
	{EditConnection, "tunnel_peer_address", DisruptNothing, "With `enable_nqa` the tunnel carries traffic until the new address is known not to answer."},
	{EditConnection, "enable_nqa", DisruptNothing, "A tunnel that carries traffic goes on to until its peer is known not to answer."},
	{EditConnection, "enable_hub", DisruptNothing, "Of style bgp only."},
	{EditConnection, "psk", DisruptIKE, "Never returned. While the peer has the old key, the IKE SA that stands goes on to the end of its life."},
	{EditConnection, "ppk", DisruptIKE, "Never returned. As `psk`."},
	{EditConnection, "policy_rules", DisruptChild, "Only the CHILD_SAs of rules that differ. The traffic of what is taken out ends."},
	{EditConnection, "policy_rules_v6", DisruptChild, "As `policy_rules`."},
	{EditConnection, "ikepolicy.ike_version", DisruptIKE, "The IKE SA of one version carries until that of the other has all CHILD_SAs."},
	{EditConnection, "ikepolicy.phase1_negotiation_mode", DisruptIKE, ""},
	{EditConnection, "ikepolicy.authentication_algorithm", DisruptIKE, ""},
	{EditConnection, "ikepolicy.encryption_algorithm", DisruptIKE, ""},
	{EditConnection, "ikepolicy.dh_group", DisruptIKE, ""},
	{EditConnection, "ikepolicy.additional_key_exchange", DisruptIKE, ""},
	{EditConnection, "ikepolicy.ppk_id", DisruptIKE, ""},
	{EditConnection, "ikepolicy.ppk_required", DisruptIKE, ""},
	{EditConnection, "ikepolicy.lifetime_seconds", DisruptNothing, "Counts from the next rekey."},
	{EditConnection, "ikepolicy.local_id_type", DisruptIKE, ""},
	{EditConnection, "ikepolicy.local_id", DisruptIKE, ""},
	{EditConnection, "ikepolicy.peer_id_type", DisruptIKE, ""},
	{EditConnection, "ikepolicy.peer_id", DisruptIKE, ""},
	{EditConnection, "ikepolicy.dpd.timeout", DisruptNothing, "Counts at once."},
	{EditConnection, "ikepolicy.dpd.interval", DisruptNothing, "Counts at once."},
	{EditConnection, "ikepolicy.dpd.msg", DisruptNothing, "Counts from the next IKE SA."},
	{EditConnection, "ipsecpolicy.authentication_algorithm", DisruptChild, ""},
	{EditConnection, "ipsecpolicy.encryption_algorithm", DisruptChild, ""},
	{EditConnection, "ipsecpolicy.pfs", DisruptChild, ""},
	{EditConnection, "ipsecpolicy.additional_key_exchange", DisruptChild, ""},
	{EditConnection, "ipsecpolicy.transform_protocol", DisruptNothing, "There is one value only."},
	{EditConnection, "ipsecpolicy.lifetime_seconds", DisruptNothing, "Counts from the next rekey."},
	{EditConnection, "ipsecpolicy.encapsulation_mode", DisruptNothing, "There is one value only."},
	{EditConnection, "ipsecpolicy.udp_encapsulation", DisruptIKE, ""},

	{EditGateway, "name", DisruptNothing, ""},
	{EditGateway, "local_subnets", DisruptNothing, "Routes from new subnets come before those from old ones go."},
	{EditGateway, "local_subnets_v6", DisruptNothing, "As `local_subnets`."},
	{EditGateway, "eip_id_1", DisruptAll, "The tunnels of this address end: it is another one."},
	{EditGateway, "eip_id_2", DisruptAll, "As `eip_id_1`."},
	{EditGateway, "policy_template.ike_policy.authentication_algorithm", DisruptIKE, "Of tunnels by policy template, at the peer's next authentication."},
	{EditGateway, "policy_template.ike_policy.encryption_algorithm", DisruptIKE, "As above."},
	{EditGateway, "policy_template.ike_policy.dh_group", DisruptIKE, "As above."},
	{EditGateway, "policy_template.ike_policy.lifetime_seconds", DisruptNothing, "Counts from the next rekey."},
	{EditGateway, "policy_template.ipsec_policy.authentication_algorithm", DisruptChild, "Of tunnels by policy template."},
	{EditGateway, "policy_template.ipsec_policy.encryption_algorithm", DisruptChild, "As above."},
	{EditGateway, "policy_template.ipsec_policy.pfs", DisruptChild, "As above."},
	{EditGateway, "policy_template.ipsec_policy.lifetime_seconds", DisruptNothing, "Counts from the next rekey."},
	{EditGateway, "flavor", DisruptNothing, "By UpdatePostpaidVgwSpecification."},

	{EditCustomerGateway, "name", DisruptNothing, ""},
	{EditCustomerGateway, "ca_certificate", DisruptAll, "With gateways of flavor GM only. What proved the peer is not trusted any more."},
}

// TunnelSpec is all that a tunnel is made of.
type TunnelSpec struct {
	Connection      Connection
	Gateway         Gateway
	CustomerGateway CustomerGateway
}

// EditsBetween returns the fields in which two specifications of one tunnel differ.
func EditsBetween(before, after *TunnelSpec) []Edit {
	var changed []Edit
	old, next := before.values(), after.values()
	another := before.CustomerGateway.ID != after.CustomerGateway.ID
	for _, e := range Edits {
		if e.Object == EditCustomerGateway && another {
			continue // that another one is referred to says it all
		}
		same := reflect.DeepEqual(e.value(old, before), e.value(next, after))
		switch {
		case e.Object == EditConnection && e.Field == "psk":
			same = before.Connection.PSK.Equal(after.Connection.PSK)
		case e.Object == EditConnection && e.Field == "ppk":
			same = before.Connection.PPK.Equal(after.Connection.PPK)
		}
		if !same {
			changed = append(changed, e)
		}
	}
	return changed
}

// values returns the objects as their JSON has them, which uses the API's names.
func (t *TunnelSpec) values() map[string]any {
	var all map[string]any
	text, err := json.Marshal(map[string]any{EditConnection: t.Connection, EditGateway: t.Gateway, EditCustomerGateway: t.CustomerGateway})
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil // no specification is such that it cannot be stored
	}
	return all
}

// value returns the value of the field among values, nil where there is none.
func (e *Edit) value(values map[string]any, t *TunnelSpec) any {
	switch {
	case e.Object == EditGateway && e.Field == "eip_id_1":
		return t.Gateway.EIPs[Slot1-1].ID
	case e.Object == EditGateway && e.Field == "eip_id_2":
		return t.Gateway.EIPs[Slot2-1].ID
	}
	name, six := strings.CutSuffix(e.Field, "_v6")
	if strings.Contains(e.Field, "subnets") || strings.Contains(e.Field, "policy_rules") {
		if six != (t.Gateway.IPVersion == IPv6) {
			return nil
		}
	}
	value := values[e.Object]
	for part := range strings.SplitSeq(name, ".") {
		members, _ := value.(map[string]any)
		value = members[part]
	}
	return value
}
