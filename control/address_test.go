package control

import (
	"net/netip"
	"testing"
)

// privateRequest asks for a private gateway with two addresses.
func privateRequest(first, second string) GatewayCreate {
	req := gatewayRequest()
	req.EIP1, req.EIP2, req.NetworkType = nil, nil, new("private")
	req.AccessPrivateIP1, req.AccessPrivateIP2 = &first, &second
	return req
}

func TestOneAddressOfTheNodeIsOneGateways(t *testing.T) {
	w := newWorld(t)
	inv := inventory(t)
	inv.EIPs[0].PrivateAddress = netip.MustParseAddr("10.10.0.4")
	w.SetInventory(inv)
	_, err := w.CreateGateway(t.Context(), "stranger", privateRequest("10.10.0.4", "10.10.0.5"))
	wantInvalid(t, err, "access_private_ip_1", "address of an EIP")
	if _, err = w.CreateGateway(t.Context(), "stranger", privateRequest("10.10.0.6", "10.10.0.7")); err != nil {
		t.Fatal(err)
	}
	_, err = w.CreateGateway(t.Context(), project, privateRequest("10.10.0.8", "10.10.0.7"))
	wantInvalid(t, err, "access_private_ip_2", "taken")
	inv = inventory(t)
	inv.EIPs[0].PrivateAddress = netip.MustParseAddr("10.10.0.6")
	w.SetInventory(inv)
	_, err = w.CreateGateway(t.Context(), project, gatewayRequest())
	wantInvalid(t, err, "eip1.id", "private address of a gateway")
}

func TestNetworksBehindAGatewayAreNotReserved(t *testing.T) {
	w := newWorld(t)
	g, c := w.gateway(), w.peer("198.51.100.7")
	for source, word := range map[string]string{
		"0.0.0.0/0": "all traffic of the node", "127.0.0.0/8": "reserved", "224.0.0.0/4": "reserved", "96.0.0.0/5": "reserved",
	} {
		req := connectionRequest(g.ID, c.ID)
		req.Style, req.PolicyRules = new("policy"), []PolicyRuleRequest{{Source: source, Destination: []string{"0.0.0.0/0"}}}
		_, err := w.CreateConnection(t.Context(), project, req)
		wantInvalid(t, err, "policy_rules[0].source", word)
		_, err = w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{LocalSubnets: []string{"10.9.0.0/16", source}})
		wantInvalid(t, err, "local_subnets[1]", word)
	}
}

func TestGatewayIsNotItsOwnPeer(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	_, err := w.CreateConnection(t.Context(), project, connectionRequest(g.ID, w.peer("203.0.113.2").ID))
	wantInvalid(t, err, "cgw_id", "203.0.113.2")
}

func TestFaultyGatewayTakesOtherEIPs(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	inv := inventory(t)
	inv.EIPs = inv.EIPs[2:]
	w.SetInventory(inv)
	w.settleGateway(project, g.ID, true)
	if _, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{Name: new("n")}); err == nil {
		t.Error("a name was changed in FAULT")
	}
	v, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{EIPID1: new(eip3), EIPID2: new(eip4)})
	if err != nil || v.EIPs[0].ID != eip3 || v.EIPs[1].ID != eip4 {
		t.Errorf("EIPs %v: %v", v.EIPs, err)
	}
}

func TestEmptyListsChangeNothing(t *testing.T) {
	w := newWorld(t)
	c := w.connection(w.gateway().ID, w.peer("198.51.100.7").ID)
	v, err := w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{PolicyRules: []PolicyRuleRequest{}, PolicyRulesV6: []PolicyRuleRequest{}})
	if err != nil || v.Generation != c.Generation {
		t.Errorf("generation %d, was %d: %v", v.Generation, c.Generation, err)
	}
}
