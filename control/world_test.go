package control

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// Ids of the inventory and project of the tests.
const (
	project   = "0605767b5780d5762fc5c0118072a564"
	vpcID     = "0d9e1c5e-1b0e-4bd1-8d05-111111111111"
	subnetID  = "0d9e1c5e-1b0e-4bd1-8d05-222222222222"
	otherVPC  = "0d9e1c5e-1b0e-4bd1-8d05-333333333333"
	otherNet  = "0d9e1c5e-1b0e-4bd1-8d05-444444444444"
	eip1      = "0d9e1c5e-1b0e-4bd1-8d05-e00000000001"
	eip2      = "0d9e1c5e-1b0e-4bd1-8d05-e00000000002"
	eip3      = "0d9e1c5e-1b0e-4bd1-8d05-e00000000003"
	eip4      = "0d9e1c5e-1b0e-4bd1-8d05-e00000000004"
	eipFast   = "0d9e1c5e-1b0e-4bd1-8d05-e00000000005"
	eipShared = "0d9e1c5e-1b0e-4bd1-8d05-e00000000006"
	sharedID  = "0d9e1c5e-1b0e-4bd1-8d05-b00000000001"
	nobody    = "0d9e1c5e-1b0e-4bd1-8d05-000000000000"

	goodPSK = "Secret-of-the-test-1"
	goodPPK = "a-post-quantum-key-of-32-octets!"
)

func inventory(t *testing.T) *Inventory {
	t.Helper()
	eip := func(id, address string, mbps int) EIP {
		return EIP{ID: id, Address: netip.MustParseAddr(address), BandwidthMbps: mbps}
	}
	inv := &Inventory{
		AvailabilityZones: []string{"az1", "az2", "az3"},
		VPCs: []VPC{
			{ID: vpcID, CIDR: netip.MustParsePrefix("10.10.0.0/16"), Subnets: []Subnet{{ID: subnetID, CIDR: netip.MustParsePrefix("10.10.0.0/24")}}},
			{ID: otherVPC, CIDR: netip.MustParsePrefix("10.20.0.0/16"), Subnets: []Subnet{{ID: otherNet, CIDR: netip.MustParsePrefix("10.20.0.0/24")}}},
		},
		EIPs: []EIP{
			eip(eip1, "203.0.113.1", 300), eip(eip2, "203.0.113.2", 300), eip(eip3, "203.0.113.3", 300), eip(eip4, "203.0.113.4", 50),
			eip(eipFast, "203.0.113.5", 301), eip(eipShared, "203.0.113.6", 300),
		},
	}
	shared := &inv.EIPs[5]
	shared.Shared, shared.BandwidthID, shared.Type = true, sharedID, "5_sbgp"
	if err := inv.Validate(); err != nil {
		t.Fatal(err)
	}
	return inv
}

// world is a Service on a store of its own, whose clock stands still unless a
// test moves it, and a stand-in for the reconciler.
type world struct {
	*Service
	t     *testing.T
	store store.Store
	key   *SealingKey
	clock time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, store.NewMemory())
}

func newWorldOn(t *testing.T, s store.Store) *world {
	t.Helper()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	key, err := newSealingKey(make([]byte, sealingKeySize))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: s, key: key, clock: time.Date(2026, 11, 23, 10, 0, 0, 123456789, time.UTC)}
	w.Service, err = NewService(ServiceOptions{
		Objects:   NewObjects(s, key),
		Inventory: inventory(t),
		Random:    rand.NewChaCha8([32]byte{1}),
		Now:       func() time.Time { return w.clock },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unspoilt(t, w.objects.gateways, store.NewTable[Gateway](s, prefixGateways))
		unspoilt(t, w.objects.customerGateways, store.NewTable[CustomerGateway](s, prefixCustomerGateways))
		unspoilt(t, w.objects.connections, store.NewTable[storedConnection](s, prefixConnections))
		unspoilt(t, w.objects.connectionStatus, store.NewTable[ConnectionStatus](s, prefixConnectionStatus))
		unspoilt(t, w.objects.monitors, store.NewTable[Monitor](s, prefixMonitors))
		unspoilt(t, w.objects.p2c.gateways, store.NewTable[P2CGateway](s, prefixP2CGateways))
		unspoilt(t, w.objects.p2c.servers, store.NewTable[storedServer](s, prefixServers))
		unspoilt(t, w.objects.p2c.users, store.NewTable[storedUser](s, prefixUsers))
		unspoilt(t, w.objects.p2c.groups, store.NewTable[UserGroup](s, prefixUserGroups))
		unspoilt(t, w.objects.p2c.policies, store.NewTable[AccessPolicy](s, prefixAccessPolicies))
	})
	return w
}

// unspoilt fails the test when somebody changed a value of a shared table in
// its place.
func unspoilt[T any](t *testing.T, shared, fresh store.Table[T]) {
	t.Helper()
	have, _, err := shared.List(context.Background(), "")
	if errors.Is(err, store.ErrClosed) {
		return
	}
	want, _, _ := fresh.List(context.Background(), "") // which errs as the other does
	if !reflect.DeepEqual(have, want) {
		t.Errorf("values of the table %s were changed in their place", shared.Prefix())
	}
}

func gatewayRequest() GatewayCreate {
	return GatewayCreate{
		VPCID:         new(vpcID),
		ConnectSubnet: new(subnetID),
		LocalSubnets:  []string{"10.10.0.0/24"},
		EIP1:          &EIPRequest{ID: new(eip1)},
		EIP2:          &EIPRequest{ID: new(eip2)},
	}
}

// gateway makes a gateway that is ACTIVE.
func (w *world) gateway(edit ...func(*GatewayCreate)) GatewayView {
	w.t.Helper()
	req := gatewayRequest()
	for _, e := range edit {
		e(&req)
	}
	v, err := w.CreateGateway(w.t.Context(), project, req)
	if err != nil {
		w.t.Fatalf("create gateway: %v", err)
	}
	w.settleGateway(v.Project, v.ID, false)
	return v
}

// settleGateway does what the reconciler does once it has applied a gateway.
func (w *world) settleGateway(project, id string, fault bool) {
	w.t.Helper()
	v, err := w.ShowGateway(w.t.Context(), project, id)
	if err != nil {
		w.t.Fatal(err)
	}
	status := GatewayStatus{Observed: v.Generation, Fault: fault, AppliedAt: w.clock}
	if err := w.objects.SetGatewayStatus(w.t.Context(), project, id, status); err != nil {
		w.t.Fatal(err)
	}
}

// peer makes a customer gateway.
func (w *world) peer(idValue string) CustomerGateway {
	w.t.Helper()
	req := CustomerGatewayCreate{IDValue: &idValue}
	if _, err := netip.ParseAddr(idValue); err != nil {
		req.IDType = new("fqdn")
	}
	c, err := w.CreateCustomerGateway(w.t.Context(), project, req)
	if err != nil {
		w.t.Fatalf("create customer gateway: %v", err)
	}
	return c
}

func connectionRequest(gatewayID, cgwID string) ConnectionCreate {
	return ConnectionCreate{
		VgwID:       &gatewayID,
		VgwIP:       new(eip1),
		CgwID:       &cgwID,
		PeerSubnets: []string{"192.168.10.0/24"},
		PSK:         new(NewSecret(goodPSK)),
	}
}

// connection makes a connection that the reconciler reports in a state.
func (w *world) connection(gatewayID, cgwID string, edit ...func(*ConnectionCreate)) ConnectionView {
	w.t.Helper()
	req := connectionRequest(gatewayID, cgwID)
	for _, e := range edit {
		e(&req)
	}
	v, err := w.CreateConnection(w.t.Context(), project, req)
	if err != nil {
		w.t.Fatalf("create connection: %v", err)
	}
	w.settleConnection(v.ID, ConnectionDown)
	return v
}

func (w *world) settleConnection(id string, state ConnectionState) {
	w.t.Helper()
	v, err := w.ShowConnection(w.t.Context(), project, id)
	if err != nil {
		w.t.Fatal(err)
	}
	status := ConnectionStatus{Observed: v.Generation, Applied: state != ConnectionError, State: state, Resets: v.Resets}
	if err := w.objects.SetConnectionStatus(w.t.Context(), project, id, status); err != nil {
		w.t.Fatal(err)
	}
}

// alterGateway changes a stored gateway past all rules, into what no request
// of this release can make.
func (w *world) alterGateway(id string, edit func(*Gateway)) {
	w.t.Helper()
	err := w.objects.change(w.t.Context(), func(tx *transaction) error {
		g, err := tx.gateway(project, id)
		if err != nil {
			return err
		}
		edit(&g)
		return tx.putGateway(g)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) alterPeer(id string, edit func(*CustomerGateway)) {
	w.t.Helper()
	err := w.objects.change(w.t.Context(), func(tx *transaction) error {
		c, err := tx.customerGateway(project, id)
		if err != nil {
			return err
		}
		edit(&c)
		return tx.putCustomerGateway(c)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) alterConnection(id string, edit func(*Connection)) {
	w.t.Helper()
	err := w.objects.change(w.t.Context(), func(tx *transaction) error {
		c, err := get(tx.ctx, w.objects.connections, project, id)
		if err != nil {
			return err
		}
		edit(&c.Connection)
		return put(tx, w.objects.connections, c.Meta, c)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// stored returns a connection with its secret, as the reconciler reads it.
func (w *world) stored(id string) Connection {
	w.t.Helper()
	s, err := w.objects.Snapshot(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range s.Connections {
		if c.ID == id {
			return c
		}
	}
	w.t.Fatalf("connection %s is not in the snapshot", id)
	return Connection{}
}

func (w *world) revision() int64 {
	w.t.Helper()
	_, rev, err := w.store.List(context.Background(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	return rev
}

// wantRefusal checks that an error is a refusal with this code that says all
// of these words; no code means that there is no error.
func wantRefusal(t *testing.T, err error, code string, words ...string) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Errorf("got %v, want success", err)
		}
		return
	}
	var refusal *Error
	if !errors.As(err, &refusal) {
		t.Errorf("got %v, want a refusal %s with %q", err, code, words)
		return
	}
	if want := map[string]int{CodeInvalid: 400, CodeForbidden: 403, CodeNotFound: 404, CodeBusy: 400, CodeRepeated: 400}[code]; refusal.Code != code || refusal.Status != want {
		t.Errorf("got %s (%d): %s; want %s (%d)", refusal.Code, refusal.Status, refusal.Message, code, want)
	}
	for _, word := range words {
		if !strings.Contains(refusal.Message, word) {
			t.Errorf("message %q does not say %q", refusal.Message, word)
		}
	}
}

// wantInvalid checks that a request was refused for a field, and why. An empty
// field means that it was not refused.
func wantInvalid(t *testing.T, err error, field, why string) {
	t.Helper()
	if field == "" {
		wantRefusal(t, err, "")
		return
	}
	wantRefusal(t, err, CodeInvalid, "invalid request: "+field+": ", why)
}

func many[T any](n int, make func(i int) T) []T {
	out := []T{}
	for i := range n {
		out = append(out, make(i))
	}
	return out
}
