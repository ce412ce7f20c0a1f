package reconcile

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// fieldEdit is a change of one field of a connection of style policy, after others
// that make room for it.
type fieldEdit struct {
	field  string // of control.Edits, with its object
	before control.ConnectionUpdate
	change control.ConnectionUpdate
	static bool // for a connection of style static instead
}

func ikeEdit(p control.IKEPolicyRequest) control.ConnectionUpdate {
	return control.ConnectionUpdate{IKEPolicy: &p}
}

func ipsecEdit(p control.IPsecPolicyRequest) control.ConnectionUpdate {
	return control.ConnectionUpdate{IPsecPolicy: &p}
}

var toV1 = ikeEdit(control.IKEPolicyRequest{IKEVersion: ptr("v1")})

var withPPK = control.ConnectionUpdate{
	PPK: ptr(control.NewSecret("the-ppk-of-32-octets-or-more-0123")), IKEPolicy: &control.IKEPolicyRequest{PPKID: ptr("quantum")},
}

// fieldEdits has a change of every field of a connection that has an effect on a
// tunnel and is supported; TestApplyIsNoWorseThanThePlan finds one that is missing.
var fieldEdits = []fieldEdit{
	{field: "name", change: control.ConnectionUpdate{Name: ptr("other")}},
	{field: "peer_subnets", change: control.ConnectionUpdate{PeerSubnets: []string{"192.168.7.0/24"}}, static: true},
	{field: "tunnel_local_address", change: control.ConnectionUpdate{TunnelLocalAddress: ptr("169.254.99.1/30"), TunnelPeerAddress: ptr("169.254.99.2/30")}, static: true},
	{field: "tunnel_peer_address", change: control.ConnectionUpdate{TunnelLocalAddress: ptr("169.254.99.1/30"), TunnelPeerAddress: ptr("169.254.99.2/30")}, static: true},
	{field: "enable_nqa", change: control.ConnectionUpdate{EnableNQA: ptr(true)}, static: true},
	{field: "psk", change: control.ConnectionUpdate{PSK: ptr(control.NewSecret("Another-PSK-of-32-octets-0123456"))}},
	{field: "policy_rules", change: control.ConnectionUpdate{PolicyRules: []control.PolicyRuleRequest{{Source: "10.10.0.0/25", Destination: []string{"192.168.10.0/24"}}}}},
	{field: "ikepolicy.ike_version", change: toV1},
	{field: "ikepolicy.phase1_negotiation_mode", before: toV1, change: ikeEdit(control.IKEPolicyRequest{Phase1NegotiationMode: ptr("aggressive")})},
	{field: "ikepolicy.authentication_algorithm", change: ikeEdit(control.IKEPolicyRequest{AuthenticationAlgorithm: ptr("sha2-512")})},
	{field: "ikepolicy.encryption_algorithm", change: ikeEdit(control.IKEPolicyRequest{EncryptionAlgorithm: ptr("aes-256")})},
	{field: "ikepolicy.dh_group", change: ikeEdit(control.IKEPolicyRequest{DHGroup: ptr("group20")})},
	{field: "ikepolicy.additional_key_exchange", change: ikeEdit(control.IKEPolicyRequest{AdditionalKeyExchange: ptr("mlkem768")})},
	{field: "ikepolicy.ppk_id", change: withPPK},
	{field: "ppk", before: withPPK, change: control.ConnectionUpdate{PPK: ptr(control.NewSecret("another-ppk-of-32-octets-01234567"))}},
	{field: "ikepolicy.ppk_required", before: withPPK, change: ikeEdit(control.IKEPolicyRequest{PPKRequired: ptr(true)})},
	{field: "ikepolicy.lifetime_seconds", change: ikeEdit(control.IKEPolicyRequest{LifetimeSeconds: ptr(7777)})},
	{field: "ikepolicy.local_id_type", change: ikeEdit(control.IKEPolicyRequest{LocalIDType: ptr("fqdn"), LocalID: ptr("cloud.example")})},
	{field: "ikepolicy.local_id", change: ikeEdit(control.IKEPolicyRequest{LocalID: ptr("192.0.2.99")})},
	{field: "ikepolicy.peer_id_type", change: ikeEdit(control.IKEPolicyRequest{PeerIDType: ptr("fqdn"), PeerID: ptr("office.example")})},
	{field: "ikepolicy.peer_id", change: ikeEdit(control.IKEPolicyRequest{PeerID: ptr("192.0.2.98")})},
	{field: "ikepolicy.dpd.timeout", change: ikeEdit(control.IKEPolicyRequest{DPD: &control.DPDRequest{Timeout: ptr(11)}})},
	{field: "ikepolicy.dpd.interval", change: ikeEdit(control.IKEPolicyRequest{DPD: &control.DPDRequest{Interval: ptr(99)}})},
	{field: "ikepolicy.dpd.msg", change: ikeEdit(control.IKEPolicyRequest{DPD: &control.DPDRequest{Msg: ptr("seq-notify-hash")}})},
	{field: "ipsecpolicy.authentication_algorithm", change: ipsecEdit(control.IPsecPolicyRequest{AuthenticationAlgorithm: ptr("sha2-512")})},
	{field: "ipsecpolicy.encryption_algorithm", change: ipsecEdit(control.IPsecPolicyRequest{EncryptionAlgorithm: ptr("aes-256")})},
	{field: "ipsecpolicy.pfs", change: ipsecEdit(control.IPsecPolicyRequest{PFS: ptr("disable")})},
	{field: "ipsecpolicy.additional_key_exchange", change: ipsecEdit(control.IPsecPolicyRequest{AdditionalKeyExchange: ptr("mlkem768")})},
	{field: "ipsecpolicy.udp_encapsulation", change: ipsecEdit(control.IPsecPolicyRequest{UDPEncapsulation: ptr("always")})},
	{field: "ipsecpolicy.lifetime_seconds", change: ipsecEdit(control.IPsecPolicyRequest{LifetimeSeconds: ptr(777)})},
}

// withoutEdit are fields that no change of a tunnel comes from, and why.
var withoutEdit = map[string]string{
	"cgw_id":                         "has a test of its own",
	"peer_subnets_v6":                "of gateways that are not supported",
	"policy_rules_v6":                "of gateways that are not supported",
	"enable_hub":                     "of a style that is not supported",
	"ipsecpolicy.transform_protocol": "has one value",
	"ipsecpolicy.encapsulation_mode": "has one value",
}

// TestApplyIsNoWorseThanThePlan plans each change, applies it, and compares what the
// key exchange was given before and after.
func TestApplyIsNoWorseThanThePlan(t *testing.T) {
	covered := map[string]bool{}
	for _, edit := range fieldEdits {
		covered[edit.field] = true
		t.Run(edit.field, func(t *testing.T) {
			inWorld(t, func(w *world) {
				id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"), func(c *control.ConnectionCreate) {
					if edit.static {
						return
					}
					c.Style, c.PolicyRules = ptr("policy"), []control.PolicyRuleRequest{{Source: "10.10.0.0/24", Destination: []string{"192.168.10.0/24"}}}
				})
				w.settle()
				if edit.before.IKEPolicy != nil {
					w.update(id, edit.before)
				}
				w.engines.up(id)
				w.settle()
				w.expectNoWorse(id, edit.field, control.PlanRequest{Connection: &edit.change}, func() { w.update(id, edit.change) })
			})
		})
	}
	for _, e := range control.Edits {
		if e.Object == control.EditConnection && !covered[e.Field] && withoutEdit[e.Field] == "" {
			t.Errorf("no change of %s is tried", e.Field)
		}
	}
}

func (w *world) update(id string, change control.ConnectionUpdate) {
	w.Helper()
	if _, err := w.service.UpdateConnection(w.ctx, project, id, change); err != nil {
		w.Fatal(err)
	}
	w.settle()
}

func (w *world) expectNoWorse(id, field string, request control.PlanRequest, apply func()) {
	w.Helper()
	plan, err := w.planner().PlanConnection(w.ctx, project, id, request)
	if err != nil {
		w.Fatal(err)
	}
	at := slices.IndexFunc(plan.Changes, func(e control.Edit) bool { return e.Field == field })
	if at < 0 || !plan.Established {
		w.Fatalf("the plan does not have the change: %+v", plan)
	}
	worst := control.DisruptNothing
	for _, e := range plan.Changes {
		if e.Disruption.Compare(worst) > 0 {
			worst = e.Disruption
		}
	}
	if plan.Disruption.Compare(worst) > 0 {
		w.Errorf("the engines say %s, of fields that do %s at most", plan.Disruption, worst)
	}
	before := w.engines.applied(id)
	apply()
	after := w.engines.applied(id)
	if done := disruptions[before.EffectOf(&after)]; done != plan.Disruption {
		w.Errorf("the plan says %s, and %s was done", plan.Disruption, done)
	}
}

// planner is a service that asks the engines.
func (w *world) planner() *control.Service {
	w.Helper()
	s, err := control.NewService(control.ServiceOptions{Objects: w.objects, Inventory: inventory(w.T), Engines: w.r})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (e *engines) applied(id string) sa.Connection {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.connections[id]
}

// A connection that goes over to another customer gateway drops, unless that is at
// the same address.
func TestPlanOfAnotherCustomerGateway(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		id := w.connection(gateway, eip1, w.customer("198.51.100.7"))
		w.settle()
		w.engines.up(id)
		w.settle()
		other := w.customer("198.51.100.8")
		change := control.ConnectionUpdate{CgwID: &other}
		w.expectNoWorse(id, "cgw_id", control.PlanRequest{Connection: &change}, func() { w.update(id, change) })
		if a := w.engines.applied(id).Remote; a != netip.MustParseAddr("198.51.100.8") {
			t.Errorf("the peer is %s", a)
		}
		// What is not established is not disrupted.
		w.engines.down(id, sa.Event{Kind: sa.IKEDown})
		w.settle()
		plan, err := w.planner().PlanConnection(w.ctx, project, id, control.PlanRequest{Connection: &control.ConnectionUpdate{PSK: ptr(control.NewSecret("Another-PSK-of-32-octets-0123456"))}})
		if err != nil || plan.Disruption != control.DisruptNothing || plan.Established || len(plan.Changes) != 1 {
			t.Errorf("%+v, %v", plan, err)
		}
	})
}

// The device of a tunnel goes with its data plane, and what stands on it.
func TestPlanOfAnotherDataPlane(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		w.start(func(e *engines) {
			e.plane = func(esp ipsec.Proposal, _ netip.Addr, limited bool) (ipsec.Plane, string, error) {
				if !limited {
					t.Error("the EIP has no bandwidth")
				}
				if slices.Contains(esp.Transforms, ipsec.Encryption(ipsec.EncryptionAESCBC, 256)) {
					return ipsec.PlaneUserspace, "lacking", nil
				}
				return ipsec.PlaneKernel, "there", nil
			}
		})
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.settle()
		w.engines.up(id)
		w.settle()
		for algorithm, want := range map[string]control.Disruption{"aes-192": control.DisruptChild, "aes-256": control.DisruptAll} {
			change := ipsecEdit(control.IPsecPolicyRequest{EncryptionAlgorithm: &algorithm})
			plan, err := w.planner().PlanConnection(w.ctx, project, id, control.PlanRequest{Connection: &change})
			if err != nil || plan.Disruption != want {
				t.Errorf("%s: %+v, %v", algorithm, plan, err)
			}
		}
	})
}
