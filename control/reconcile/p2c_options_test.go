package reconcile

import (
	"fmt"
	"testing"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/sslvpn"
)

// The options of a server beyond the API reach the engine, and what users prove
// does so without a pass over everything.
func TestOptionsOfAServer(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway, server := w.clientGateway(eip1, "172.20.0.0/24")
		update := func(u control.ServerUpdate) sslvpn.Endpoint {
			t.Helper()
			if err := w.service.UpdateServer(w.ctx, project, server, u); err != nil {
				t.Fatal(err)
			}
			w.settle()
			w.wantServer(gateway, control.ServerActive, control.P2CActive)
			return w.clients.endpoints()[0]
		}
		both, totp, shared, own, backend := "CERT_AND_LOCAL_PASSWORD", "totp", "tls-crypt", "tls-crypt-v2", "10.10.0.9:443"
		e := update(control.ServerUpdate{AuthType: &both, SecondFactor: &totp, SSL: control.SSLOptionsRequest{
			UDPPorts: []int{1194, 53}, ControlWrap: &shared, PortShare: &backend,
		}})
		if e.Auth != sslvpn.AuthPassword|sslvpn.AuthCertificate || !e.OneTimeCodes || len(e.TLSCryptKey) != 256 || e.TLSCryptV2Key != nil ||
			e.PortShare.String() != backend || fmt.Sprint(e.UDP) != "["+address1+":1194 "+address1+":53]" {
			t.Errorf("the engine has %+v", e)
		}
		if e = update(control.ServerUpdate{SSL: control.SSLOptionsRequest{ControlWrap: &own}}); e.TLSCryptKey != nil || len(e.TLSCryptV2Key) != 128 {
			t.Errorf("the engine has keys of %d and %d octets", len(e.TLSCryptKey), len(e.TLSCryptV2Key))
		}

		name, password := "user001", control.NewSecret("Qwerasdf")
		u, err := w.service.CreateUser(w.ctx, project, server, control.UserCreate{Name: &name, Password: &password})
		if err != nil {
			t.Fatal(err)
		}
		passes := w.r.Stats().Passes
		secret := func() int {
			t.Helper()
			w.settle()
			users := w.clients.endpoints()[0].Users
			if len(users) != 1 {
				t.Fatalf("the engine has users %v", users)
			}
			return len(users[0].CodeSecret)
		}
		if n := secret(); n != 0 {
			t.Errorf("a secret of %d octets before there is one", n)
		}
		if _, err := w.service.EnrollUser(w.ctx, project, server, u.ID); err != nil {
			t.Fatal(err)
		}
		if n := secret(); n != 20 {
			t.Errorf("a secret of %d octets", n)
		}
		if err := w.service.UnenrollUser(w.ctx, project, server, u.ID); err != nil {
			t.Fatal(err)
		}
		if n := secret(); n != 0 {
			t.Errorf("a secret of %d octets is left", n)
		}
		if n := w.r.Stats().Passes - passes; n != 0 {
			t.Errorf("%d passes were made", n)
		}
	})
}
