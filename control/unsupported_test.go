package control

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// What is refused here is complete but for the data plane: each request would
// be accepted otherwise.
func TestUnsupportedGateways(t *testing.T) {
	for field, edit := range map[string]func(*GatewayCreate){
		"attachment_type":     func(r *GatewayCreate) { r.AttachmentType, r.ERID, r.LocalSubnets = new("er"), new("er-1"), nil },
		"access_private_ip_1": func(r *GatewayCreate) { r.NetworkType, r.EIP1, r.EIP2 = new("private"), nil, nil },
	} {
		w := newWorld(t)
		req := gatewayRequest()
		edit(&req)
		_, err := w.CreateGateway(t.Context(), project, req)
		wantInvalid(t, err, field, "this release does not support")
	}
}

func TestUnsupportedConnections(t *testing.T) {
	tests := []struct {
		field string
		edit  func(*ConnectionCreate)
	}{
		{"style", func(r *ConnectionCreate) { r.Style, r.EnableHub = new("BGP"), new(true) }},
	}
	w := newWorld(t)
	g := w.gateway()
	peer, err := w.CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IDValue: new("198.51.100.7"), BGPASN: new(int64(65000))})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		req := connectionRequest(g.ID, peer.ID)
		test.edit(&req)
		_, err := w.CreateConnection(t.Context(), project, req)
		wantInvalid(t, err, test.field, "this release does not support")
	}
}

// Generated tunnel networks are valid ones that the gateway does not use, for
// any randomness, until all are taken.
func TestCompleteTunnel(t *testing.T) {
	random := rand.NewChaCha8([32]byte{3})
	c := Connection{GatewayID: "g"}
	var others []Connection
	seen := map[netip.Prefix]bool{}
	const networks = 1<<14 - 64 // of the /16, without those of the reserved /24
	for range 2000 {
		made := c
		if err := completeTunnel(&made, others, random); err != nil {
			t.Fatal(err)
		}
		p := &parser{}
		p.tunnelAddress("local", new(made.TunnelLocal.String()), new(netip.Prefix))
		p.tunnelAddress("peer", new(made.TunnelPeer.String()), new(netip.Prefix))
		if p.err != nil || seen[made.TunnelLocal.Masked()] || made.TunnelPeer != otherHost(made.TunnelLocal) {
			t.Fatalf("made %s and %s: %v", made.TunnelLocal, made.TunnelPeer, p.err)
		}
		seen[made.TunnelLocal.Masked()] = true
		others = append(others, made)
	}
	others = nil
	var last Connection
	for n := range 1 << 14 {
		network := netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, byte(n >> 6), byte(n << 2)}), 30)
		if !tunnelReserved.Contains(network.Addr()) {
			last = Connection{GatewayID: "g", TunnelLocal: netip.PrefixFrom(network.Addr().Next(), 30)}
			others = append(others, last)
		}
	}
	if len(others) != networks {
		t.Fatalf("%d networks, want %d", len(others), networks)
	}
	made := c
	wantInvalid(t, completeTunnel(&made, others, random), "tunnel_local_address", "all networks are in use")
	if err := completeTunnel(&made, others[:networks-1], random); err != nil || made.TunnelLocal != last.TunnelLocal {
		t.Errorf("the last network: %s, %v; want %s", made.TunnelLocal, err, last.TunnelLocal)
	}
	others[0].GatewayID = "another" // its networks do not count
	made = c
	if err := completeTunnel(&made, others, random); err != nil || made.TunnelLocal != others[0].TunnelLocal {
		t.Errorf("the network that only another gateway uses: %s, %v", made.TunnelLocal, err)
	}
}

func TestErrorTexts(t *testing.T) {
	for _, test := range []struct {
		err  *Error
		want string
	}{
		{Invalid("psk", "must have %d", 8), "VPN.0001 400 invalid request: psk: must have 8"},
		{NotFound(), "VPN.0004 404 resource not found"},
		{Forbidden("no %s", "way"), "VPN.0003 403 Authentication failed: no way"},
		{Unauthenticated("no"), "VPN.0003 401 Authentication failed: no"},
		{Busy(), "VPN.0030 400 The system is busy, please try later."},
		{NotReady("GATEWAY", "id", gerund("PENDING_CREATE")), "VPN.0003 403 resource (type=GATEWAY, ID=id) is not ready, currently CREATING"},
		{NotReady("GATEWAY", "id", gerund("FAULT")), "VPN.0003 403 resource (type=GATEWAY, ID=id) is not ready, currently FAULT"},
		{NotReady("CONNECTION", "id", gerund("PENDING_DELETE")), "VPN.0003 403 resource (type=CONNECTION, ID=id) is not ready, currently DELETING"},
	} {
		if got := fmt.Sprint(test.err.Code, " ", test.err.Status, " ", test.err.Message); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
