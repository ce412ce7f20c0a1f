package api

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

// full is an API with many connections of one gateway, two to each customer
// gateway.
func full(b *testing.B, connections int) (t *bench, gateway, customerGateway string) {
	b.Helper()
	t = newBenchOn(b, store.NewMemory(), control.Limits{
		CustomerGateways: connections, GatewayConnections: map[control.Flavor]int{control.FlavorProfessional1: 100_000}, Connections: 100_000,
	})
	gateway = t.createGateway()
	for i := range connections {
		if i%2 == 0 {
			customerGateway = t.createCustomerGateway(fmt.Sprintf("198.18.%d.%d", i/250, 1+i%250))
		}
		c := with(smallestConnection(gateway, customerGateway), "vgw_ip", []string{eip1ID, eip2ID}[i%2],
			"peer_subnets", []string{fmt.Sprintf("172.%d.%d.0/24", 16+i/512, i/2%256)})
		id := t.call(http.MethodPost, path("vpn-connection"), vpn(c)).want(http.StatusCreated).text("vpn_connection", "id")
		t.report(id, control.ConnectionStatus{State: control.ConnectionDown})
	}
	return t, gateway, customerGateway
}

// quick sends a request without the checks that send makes of every answer.
func (b *bench) quick(method, target string, body any) {
	b.t.Helper()
	r, content := request(b.t, method, target, body)
	b.now = b.now.Add(time.Second)
	signRequest(r, content, "admin", testSecret+"admin", b.now)
	w := &recorderOf{header: http.Header{}}
	b.server.Handler().ServeHTTP(w, r)
	if w.status >= http.StatusBadRequest {
		b.t.Fatal(w.body.String())
	}
}

func BenchmarkListConnections(b *testing.B) {
	t, _, _ := full(b, 1000)
	for b.Loop() {
		t.quick(http.MethodGet, path("vpn-connection"), nil)
	}
}

func BenchmarkUpdateConnection(b *testing.B) {
	t, _, _ := full(b, 1000)
	id := t.call(http.MethodGet, path("vpn-connection")+"?limit=1", nil).list("vpn_connections")[0].(object)["id"].(string)
	n := 0
	for b.Loop() {
		n++
		t.quick(http.MethodPut, path("vpn-connection", id), vpn(object{"name": fmt.Sprintf("name-%d", n)}))
	}
}
