package api

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

// marked sends a request with a client token.
func (b *bench) marked(accessKey, token, target string, body any) *answer {
	b.t.Helper()
	r, content := request(b.t, http.MethodPost, target, body)
	r.Header.Set(headerClientToken, token)
	b.now = b.now.Add(time.Second) // no two signatures are equal
	signRequest(r, content, accessKey, testSecret+accessKey, b.now)
	return b.send(r)
}

func TestRepeatedCreations(t *testing.T) {
	const token1, token2, token3 = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0001", "5F0F6F5A-0C1D-4A52-9A3E-2B5A4F1C0002", "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0003"
	const token4, token5 = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0004", "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0005"
	b := newBench(t)
	gatewayBody := vgw(smallestGateway())
	first := b.marked("admin", token1, path("vpn-gateways"), gatewayBody).want(http.StatusCreated)
	gateway := first.text("vpn_gateway", "id")
	b.applied(gateway)
	again := b.marked("admin", token1, path("vpn-gateways"), gatewayBody).want(http.StatusCreated)
	if encoded(t, again.at("vpn_gateway")) != encoded(t, first.at("vpn_gateway")) {
		t.Errorf("the second answer is %s, want %s", again.Text, first.Text)
	}
	peerBody := cgw(object{"id_value": "198.51.100.7"})
	first = b.marked("admin", token2, path("customer-gateways"), peerBody).want(http.StatusCreated)
	peer := first.text("customer_gateway", "id")
	if again = b.marked("admin", token2, path("customer-gateways"), peerBody).want(http.StatusCreated); again.text("customer_gateway", "id") != peer {
		t.Errorf("the second answer is %s, want %s", again.Text, first.Text)
	}
	connectionBody := vpn(smallestConnection(gateway, peer))
	first = b.marked("admin", token3, path("vpn-connection"), connectionBody).want(http.StatusCreated)
	again = b.marked("admin", token3, path("vpn-connection"), connectionBody).want(http.StatusCreated)
	if encoded(t, again.at("vpn_connection")) != encoded(t, first.at("vpn_connection")) {
		t.Errorf("the second answer is %s, want %s", again.Text, first.Text)
	}

	connection := first.text("vpn_connection", "id")
	batchBody := object{"vpn_connections": []object{with(smallestConnection(gateway, peer), "vgw_ip", eip2ID)}}
	first = b.marked("admin", token4, path("vpn-connections", "batch-create"), batchBody).want(http.StatusCreated)
	again = b.marked("admin", token4, path("vpn-connections", "batch-create"), batchBody).want(http.StatusCreated)
	if encoded(t, again.at("vpn_connections")) != encoded(t, first.at("vpn_connections")) {
		t.Errorf("the second answer is %s, want %s", again.Text, first.Text)
	}
	monitorBody := object{"connection_monitor": object{"vpn_connection_id": connection}}
	first = b.marked("admin", token5, path("connection-monitors"), monitorBody).want(http.StatusCreated)
	again = b.marked("admin", token5, path("connection-monitors"), monitorBody).want(http.StatusCreated)
	if encoded(t, again.at("connection_monitor")) != encoded(t, first.at("connection_monitor")) {
		t.Errorf("the second answer is %s, want %s", again.Text, first.Text)
	}

	b.marked("admin", token2, path("customer-gateways"), cgw(object{"id_value": "198.51.100.8"})).
		wantError(http.StatusBadRequest, "VPN.0031", "Repeated operation.")
	b.marked("admin", token2, path("vpn-gateways"), gatewayBody).wantError(http.StatusBadRequest, "VPN.0031", "Repeated operation.")
	other := b.marked("operator", token2, path("customer-gateways"), peerBody).want(http.StatusCreated)
	if other.text("customer_gateway", "id") == peer {
		t.Error("a caller got what another one's token stands for")
	}
	b.marked("readonly", token2, path("customer-gateways"), peerBody).wantError(http.StatusForbidden, "VPN.0003", "role readonly")
	for _, token := range []string{"1", token1 + "0", "5f0f6f5a+0c1d-4a52-9a3e-2b5a4f1c0001"} {
		b.marked("admin", token, path("customer-gateways"), peerBody).
			wantError(http.StatusBadRequest, "VPN.0001", "header parameter X-Client-Token: must match")
	}
	if n := len(b.call(http.MethodGet, path("customer-gateways"), nil).list("customer_gateways")); n != 2 {
		t.Errorf("there are %d customer gateways, want 2", n)
	}
	if n := len(b.call(http.MethodGet, path("vpn-connection"), nil).list("vpn_connections")); n != 2 {
		t.Errorf("there are %d connections, want 2", n)
	}
}

// Of what answers 201, all can be repeated but a login, a certificate and the
// membership of groups: they make no object.
func TestEveryCreationIsRepeatable(t *testing.T) {
	operations, err := document()
	check(t, err)
	for _, op := range operations {
		creates := op.route.Operation.Responses.Status(http.StatusCreated) != nil && !op.public &&
			!slices.Contains([]string{"CreateVgwCertificate", "AddVpnUsersToGroup", "RemoveVpnUsersFromGroup"}, op.id)
		if op.repeatable != creates {
			t.Errorf("%s is repeatable: %v, want %v", op.id, op.repeatable, creates)
		}
	}
}
