package control

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestP2CGatewayRules(t *testing.T) {
	zones := func(z ...string) func(*P2CGatewayCreate) {
		return func(r *P2CGatewayCreate) { r.AvailabilityZoneIDs = z }
	}
	eip := func(e EIPRequest) func(*P2CGatewayCreate) { return func(r *P2CGatewayCreate) { r.EIP = &e } }
	name := func(s string) func(*P2CGatewayCreate) { return func(r *P2CGatewayCreate) { r.Name = &s } }
	clients := func(n int) func(*P2CGatewayCreate) { return func(r *P2CGatewayCreate) { r.MaxConnections = &n } }
	tags := func(v ...Tag) func(*P2CGatewayCreate) { return func(r *P2CGatewayCreate) { r.Tags = v } }
	newEIP := func(mbps int) EIPRequest { return EIPRequest{Type: new("5_bgp"), BandwidthSize: &mbps} }
	with := func(e EIPRequest, edit func(*EIPRequest)) EIPRequest { edit(&e); return e }
	for what, test := range map[string]struct {
		edit        func(*P2CGatewayCreate)
		code, words string
	}{
		"smallest":               {func(*P2CGatewayCreate) {}, "", ""},
		"name of 64":             {name(strings.Repeat("名", 64)), "", ""},
		"name of 65":             {name(strings.Repeat("n", 65)), "VPN.0001", "name: must have 1 to 64"},
		"empty name":             {name(""), "VPN.0001", "name: "},
		"name with a dot":        {name("a.b"), "VPN.0001", "name: may hold"},
		"vpc missing":            {func(r *P2CGatewayCreate) { r.VPCID = nil }, "VPN.0001", "vpc_id: is required"},
		"vpc unknown":            {func(r *P2CGatewayCreate) { r.VPCID = new(nobody) }, "VPN.0500", "VPC " + nobody + " is not found."},
		"subnet missing":         {func(r *P2CGatewayCreate) { r.ConnectSubnet = new("") }, "VPN.0001", "connect_subnet: is required"},
		"subnet unknown":         {func(r *P2CGatewayCreate) { r.ConnectSubnet = new(nobody) }, "VPN.0501", "Interconnection subnet " + nobody + " is not found."},
		"subnet of another":      {func(r *P2CGatewayCreate) { r.ConnectSubnet = new(otherNet) }, "VPN.0503", otherNet + " does not belong to the VPC " + vpcID},
		"flavor":                 {func(r *P2CGatewayCreate) { r.Flavor = new("Professional1") }, "", ""},
		"another flavor":         {func(r *P2CGatewayCreate) { r.Flavor = new("Basic") }, "VPN.0001", "flavor: "},
		"no clients":             {clients(0), "VPN.0001", "max_connection_number"},
		"one client":             {clients(1), "", ""},
		"500 clients":            {clients(500), "", ""},
		"501 clients":            {clients(501), "VPN.0504", "The number of connections exceeds the upper limit"},
		"two zones":              {zones("az3", "az1"), "", ""},
		"one zone":               {zones("az1"), "VPN.0514", "Two AZs must be specified."},
		"three zones":            {zones("az1", "az2", "az3"), "VPN.0514", ""},
		"no zone":                {zones([]string{}...), "VPN.0514", ""},
		"one zone twice":         {zones("az1", "az1"), "VPN.0515", "Duplicate AZs."},
		"unknown zone":           {zones("az1", "az9"), "VPN.0001", "availability_zone_ids[1]"},
		"enterprise project":     {func(r *P2CGatewayCreate) { r.EnterpriseProjectID = new(nobody) }, "", ""},
		"no enterprise project":  {func(r *P2CGatewayCreate) { r.EnterpriseProjectID = new("x") }, "VPN.0001", "enterprise_project_id"},
		"20 tags":                {tags(many(20, func(i int) Tag { return Tag{Key: fmt.Sprint("k", i)} })...), "", ""},
		"21 tags":                {tags(many(21, func(i int) Tag { return Tag{Key: fmt.Sprint("k", i)} })...), "VPN.0001", "tags: must be at most 20"},
		"a tag twice":            {tags(Tag{Key: "k"}, Tag{Key: "k"}), "VPN.0001", "tags[1].key: must be unique"},
		"a reserved tag":         {tags(Tag{Key: "_sys_k"}), "VPN.0001", "tags[0].key"},
		"a tag with a slash":     {tags(Tag{Key: "k", Value: "a/b"}), "", ""},
		"eip missing":            {func(r *P2CGatewayCreate) { r.EIP = nil }, "VPN.0001", "eip: is required"},
		"eip unknown":            {eip(EIPRequest{ID: new(nobody)}), "VPN.0551", "EIP " + nobody + " is not found."},
		"eip too fast":           {eip(EIPRequest{ID: new(eipFast)}), "VPN.0550", "The EIP bandwidth exceeds"},
		"eip shared":             {eip(EIPRequest{ID: new(eipShared)}), "VPN.0554", "does not have exclusive bandwidth."},
		"eip and type":           {eip(EIPRequest{ID: new(eip2), Type: new("5_bgp")}), "VPN.0559", "EIP parameter conflict."},
		"eip and size":           {eip(EIPRequest{ID: new(eip2), BandwidthSize: new(1)}), "VPN.0559", ""},
		"eip and name":           {eip(EIPRequest{ID: new(eip2), BandwidthName: new("b")}), "VPN.0559", ""},
		"eip and mode":           {eip(EIPRequest{ID: new(eip2), ChargeMode: new("traffic")}), "VPN.0559", ""},
		"eip and empty members":  {eip(EIPRequest{ID: new(eip2), Type: new(""), BandwidthName: new("")}), "", ""},
		"nothing of an eip":      {eip(EIPRequest{}), "VPN.0558", "Incomplete EIP parameters."},
		"new eip without type":   {eip(EIPRequest{BandwidthSize: new(5)}), "VPN.0558", ""},
		"new eip without size":   {eip(EIPRequest{Type: new("5_bgp")}), "VPN.0558", ""},
		"new eip of 0":           {eip(newEIP(0)), "VPN.0001", "eip.bandwidth_size"},
		"new eip of 1":           {eip(newEIP(1)), "", ""},
		"new eip of 300":         {eip(newEIP(300)), "", ""},
		"new eip of 301":         {eip(newEIP(301)), "VPN.0550", ""},
		"new eip of no type":     {eip(with(newEIP(5), func(e *EIPRequest) { e.Type = new("5_x") })), "VPN.0556", "EIP type 5_x is invalid."},
		"new eip sold out":       {eip(with(newEIP(5), func(e *EIPRequest) { e.Type = new("5_sbgp") })), "VPN.0557", "EIPs of the type 5_sbgp have been sold out."},
		"new eip by traffic":     {eip(with(newEIP(5), func(e *EIPRequest) { e.ChargeMode = new("traffic") })), "", ""},
		"new eip by the hour":    {eip(with(newEIP(5), func(e *EIPRequest) { e.ChargeMode = new("hour") })), "VPN.0001", "eip.charge_mode"},
		"new eip with a name":    {eip(with(newEIP(5), func(e *EIPRequest) { e.BandwidthName = new("b.w") })), "", ""},
		"new eip with no name":   {eip(with(newEIP(5), func(e *EIPRequest) { e.BandwidthName = new("") })), "", ""},
		"new eip with bad names": {eip(with(newEIP(5), func(e *EIPRequest) { e.BandwidthName = new("b w") })), "VPN.0001", "eip.bandwidth_name"},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			req := p2cGatewayRequest()
			test.edit(&req)
			_, err := w.CreateP2CGateway(t.Context(), project, req)
			wantCode(t, err, test.code, test.words)
		})
	}
	_, err := newWorld(t).CreateP2CGateway(t.Context(), "a/b", p2cGatewayRequest())
	wantCode(t, err, "VPN.0001", "project_id")
}

func TestP2CGatewayRulesOfTheInventory(t *testing.T) {
	for what, test := range map[string]struct {
		edit  func(*Inventory)
		req   func(*P2CGatewayCreate)
		code  string
		zones int
	}{
		"no zone":           {func(i *Inventory) { i.AvailabilityZones = nil }, nil, "VPN.0505", 0},
		"a single zone":     {func(i *Inventory) { i.AvailabilityZones = []string{"az1"} }, nil, "", 1},
		"the single zone":   {func(i *Inventory) { i.AvailabilityZones = []string{"az1"} }, func(r *P2CGatewayCreate) { r.AvailabilityZoneIDs = []string{"az1"} }, "", 1},
		"not the one zone":  {func(i *Inventory) { i.AvailabilityZones = []string{"az1"} }, func(r *P2CGatewayCreate) { r.AvailabilityZoneIDs = []string{"az1", "az2"} }, "VPN.0001", 0},
		"subnet of a host":  {func(i *Inventory) { i.VPCs[0].Subnets[0].CIDR = netip.MustParsePrefix("10.10.0.0/31") }, nil, "VPN.0502", 0},
		"subnet of a few":   {func(i *Inventory) { i.VPCs[0].Subnets[0].CIDR = netip.MustParsePrefix("10.10.0.0/30") }, nil, "", 2},
		"three zones there": {func(*Inventory) {}, nil, "", 2},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			inv := inventory(t)
			test.edit(inv)
			w.SetInventory(inv)
			req := p2cGatewayRequest()
			if test.req != nil {
				test.req(&req)
			}
			m, err := w.CreateP2CGateway(t.Context(), project, req)
			wantCode(t, err, test.code, "")
			if err == nil {
				if v, err := w.ShowP2CGateway(t.Context(), project, m.ID); err != nil || len(v.AvailabilityZones) != test.zones {
					t.Errorf("zones %v, %v", v.AvailabilityZones, err)
				}
			}
		})
	}
}

// An EIP has one gateway, of either kind, of whatever project.
func TestEIPHasOneGateway(t *testing.T) {
	w := newWorld(t)
	w.p2cGateway(t)
	_, err := w.CreateP2CGateway(t.Context(), "another", p2cGatewayRequest())
	wantCode(t, err, "VPN.0553", "EIP "+eip1+" has been bound to an instance.")
	_, err = w.CreateGateway(t.Context(), project, gatewayRequest())
	wantInvalid(t, err, "eip1.id", "is bound already")

	w = newWorld(t)
	w.gateway()
	for _, id := range []string{eip1, eip2} {
		req := p2cGatewayRequest()
		req.EIP.ID = &id
		_, err = w.CreateP2CGateway(t.Context(), project, req)
		wantCode(t, err, "VPN.0553", id)
	}
	// Of the free ones, the first that is fast enough is taken.
	v, err := w.ShowP2CGateway(t.Context(), project, w.p2cGateway(t, func(r *P2CGatewayCreate) {
		r.EIP = &EIPRequest{Type: new("5_bgp"), BandwidthSize: new(51)}
	}))
	if err != nil || v.EIP.ID != eip3 || v.EIP.BandwidthMbps != 51 {
		t.Errorf("bound is %+v, %v", v.EIP, err)
	}
}

func TestP2CGatewayQuota(t *testing.T) {
	w := newWorld(t)
	w.limits.P2CGateways = 1
	w.p2cGateway(t)
	second := p2cGatewayRequest()
	second.EIP.ID = new(eip2)
	_, err := w.CreateP2CGateway(t.Context(), project, second)
	wantCode(t, err, "VPN.0513", "Insufficient gateway quota.")
	_, err = w.CreateP2CGateway(t.Context(), "another", second)
	wantCode(t, err, "", "")
	if got := (Limits{}).p2cGateways(); got != 50 {
		t.Errorf("default quota is %d", got)
	}
}

func TestP2CGatewayStates(t *testing.T) {
	applied := time.Unix(1, 0)
	for _, test := range []struct {
		spec   P2CGateway
		status P2CGatewayStatus
		want   P2CGatewayState
		server ServerState
	}{
		{P2CGateway{Meta: Meta{Generation: 1}}, P2CGatewayStatus{}, P2CPendingCreate, ServerPendingCreate},
		{P2CGateway{Meta: Meta{Generation: 1}}, P2CGatewayStatus{Observed: 1, AppliedAt: applied}, P2CActive, ServerActive},
		{P2CGateway{Meta: Meta{Generation: 1}}, P2CGatewayStatus{Observed: 1, Fault: true}, P2CFault, ServerFault},
		{P2CGateway{Meta: Meta{Generation: 2}}, P2CGatewayStatus{Observed: 1, Fault: true}, P2CPendingCreate, ServerPendingCreate},
		{P2CGateway{Meta: Meta{Generation: 2}}, P2CGatewayStatus{Observed: 1, AppliedAt: applied}, P2CPendingUpdate, ServerPendingUpdate},
		{P2CGateway{Meta: Meta{Generation: 1, Frozen: true}}, P2CGatewayStatus{Observed: 1, AppliedAt: applied}, P2CFrozen, ServerFrozen},
		{P2CGateway{Meta: Meta{Generation: 1, Frozen: true, DeletionRequested: true}}, P2CGatewayStatus{Observed: 1}, P2CPendingDelete, ServerFrozen},
	} {
		if got := test.spec.State(test.status); got != test.want {
			t.Errorf("%+v with %+v is %s, want %s", test.spec.Meta, test.status, got, test.want)
		}
		v := VPNServer{Meta: Meta{Generation: test.spec.Generation}}
		status := ServerStatus{Observed: test.status.Observed, Fault: test.status.Fault, AppliedAt: test.status.AppliedAt}
		if got := v.State(status, &P2CGateway{Meta: test.spec.Meta}); got != test.server {
			t.Errorf("server of %+v with %+v is %s, want %s", test.spec.Meta, test.status, got, test.server)
		}
	}
}

// Each state refuses changes with its code; those that may mend a fault, and
// deletion, are not refused then.
func TestP2CGatewayChangesByState(t *testing.T) {
	type codes struct{ rename, rebind, remove, create, log string }
	for state, want := range map[P2CGatewayState]codes{
		P2CPendingCreate: {"VPN.0506", "VPN.0506", "VPN.0506", "VPN.0506", "VPN.0506"},
		P2CPendingUpdate: {"VPN.0507", "VPN.0507", "VPN.0507", "VPN.0507", "VPN.0507"},
		P2CPendingDelete: {"VPN.0508", "VPN.0508", "VPN.0508", "VPN.0508", "VPN.0508"},
		P2CFault:         {"VPN.0510", "VPN.0512", "", "VPN.0510", ""},
		P2CFrozen:        {"VPN.0511", "VPN.0511", "", "VPN.0511", "VPN.0511"},
		P2CActive:        {"", "VPN.0512", "", "", ""},
	} {
		t.Run(string(state), func(t *testing.T) {
			w := newWorld(t)
			id := w.p2cGateway(t)
			w.inState(t, id, state)
			wantCode(t, w.UpdateP2CGateway(t.Context(), project, id, P2CGatewayUpdate{Name: new("n")}), want.rename, "")
			wantCode(t, w.UpdateP2CGateway(t.Context(), project, id, P2CGatewayUpdate{EIPID: new(eip2)}), want.rebind, "")
			wantCode(t, w.RemoveLogConfig(t.Context(), project, id), want.log, "")
			_, err := w.CreateServer(t.Context(), project, id, serverRequest())
			wantCode(t, err, want.create, "")
			wantCode(t, w.DeleteP2CGateway(t.Context(), project, id), want.remove, "")
		})
	}
}

// inState makes an ACTIVE gateway one of another state.
func (w *world) inState(t *testing.T, id string, state P2CGatewayState) {
	t.Helper()
	status := P2CGatewayStatus{Observed: 1, AppliedAt: w.clock}
	err := w.objects.change(t.Context(), func(tx *transaction) error {
		g, err := tx.p2cGateway(project, id)
		if err != nil {
			return err
		}
		switch state {
		case P2CPendingCreate:
			status = P2CGatewayStatus{}
		case P2CPendingUpdate:
			g.Generation = 2
		case P2CPendingDelete:
			g.DeletionRequested = true
		case P2CFault:
			status.Fault = true
		case P2CFrozen:
			g.Frozen = true
		case P2CUpgrading:
			g.Upgrade = &Upgrade{Phase: PhaseUpgrading}
		case P2CPendingUpgradeConfirm:
			g.Upgrade = &Upgrade{Phase: PhaseConfirming}
		case P2CRollingBack:
			g.Upgrade = &Upgrade{Phase: PhaseRollingBack}
		case P2CActive:
		}
		return tx.putP2CGateway(g)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.objects.SetP2CGatewayStatus(t.Context(), project, id, status); err != nil {
		t.Fatal(err)
	}
}

// An EIP that was taken away no longer shows, and another one can be bound.
func TestP2CGatewayGetsAnotherEIP(t *testing.T) {
	w := newWorld(t)
	id := w.p2cGateway(t)
	w.clock = w.clock.Add(time.Minute)
	show := func() P2CGatewayView {
		v, err := w.ShowP2CGateway(t.Context(), project, id)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	update := func(u P2CGatewayUpdate) error { return w.UpdateP2CGateway(t.Context(), project, id, u) }
	before := show()
	wantCode(t, update(P2CGatewayUpdate{EIPID: new(eip1), Name: new(before.Name)}), "", "") // no change
	wantCode(t, update(P2CGatewayUpdate{EIPID: new("")}), "", "")
	if v := show(); v.UpdatedAt != before.UpdatedAt || v.Generation != 1 || v.BoundEIP == nil {
		t.Errorf("changed by nothing: %+v", v.Meta)
	}
	wantCode(t, update(P2CGatewayUpdate{Name: new("other")}), "", "")
	if v := show(); v.Name != "other" || v.Generation != 1 || !v.UpdatedAt.After(before.UpdatedAt) {
		t.Errorf("after a new name: %+v", v.Meta)
	}
	inv := inventory(t)
	inv.EIPs = inv.EIPs[1:]
	w.SetInventory(inv)
	if v := show(); v.BoundEIP != nil {
		t.Errorf("the EIP still shows: %+v", v.BoundEIP)
	}
	_, err := w.CreateServer(t.Context(), project, id, serverRequest())
	wantCode(t, err, "VPN.1121", "Gateway not bind eip.")
	for eip, code := range map[string]string{nobody: "VPN.0551", eipShared: "VPN.0554", eipFast: "VPN.0550"} {
		wantCode(t, update(P2CGatewayUpdate{EIPID: &eip}), code, "")
	}
	w.settleP2CGateway(t, id, true)
	wantCode(t, update(P2CGatewayUpdate{EIPID: new(eip2)}), "", "")
	if v := show(); v.EIP.ID != eip2 || v.State != P2CPendingUpdate {
		t.Errorf("after another EIP: %s with %+v", v.State, v.EIP)
	}
}
