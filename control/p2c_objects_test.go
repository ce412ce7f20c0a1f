package control

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vpngw/vpngw/control/store"
)

// p2cTree stores a gateway with a server of which our own CA signed the
// certificate, and users, groups and policies, past all rules.
func (w *world) p2cTree(gatewayID string, users int) {
	w.t.Helper()
	meta := func(id string) Meta { return Meta{ID: id, Project: project, Generation: 1} }
	serverID := "server-of-" + gatewayID
	var ops []func(*transaction) error
	add := func(op func(*transaction) error) { ops = append(ops, op) }
	add(func(tx *transaction) error { return tx.putP2CGateway(P2CGateway{Meta: meta(gatewayID)}) })
	add(func(tx *transaction) error {
		return tx.putServer(VPNServer{
			Meta: meta(serverID), GatewayID: gatewayID, ClientCIDR: netip.MustParsePrefix("172.16.0.0/24"),
			Certificate: ServerCertificate{
				Source: CertificateServiceSign, Chain: "chain", Key: NewSecret("key of the leaf"), CAKey: NewSecret("key of the ca"),
			},
		})
	})
	for i := range users {
		add(func(tx *transaction) error {
			return tx.putUser(VPNUser{Meta: meta(fmt.Sprintf("user-%d-of-%s", i, gatewayID)), ServerID: serverID})
		})
	}
	add(func(tx *transaction) error {
		return tx.putUserGroup(UserGroup{Meta: meta("group-of-" + gatewayID), ServerID: serverID, Type: TypeDefault})
	})
	add(func(tx *transaction) error {
		return tx.putAccessPolicy(AccessPolicy{Meta: meta("policy-of-" + gatewayID), ServerID: serverID, Type: TypeDefault})
	})
	for _, op := range ops {
		if err := w.objects.change(w.t.Context(), op); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) snapshot() *Snapshot {
	w.t.Helper()
	s, err := w.objects.Snapshot(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func TestP2CSnapshot(t *testing.T) {
	w := newWorld(t)
	w.p2cTree("g", 1)
	hash, err := HashPassword(NewSecret("Qwerasdf"), nil)
	if err != nil {
		t.Fatal(err)
	}
	err = w.objects.change(t.Context(), func(tx *transaction) error {
		u, err := tx.user(project, "user-0-of-g")
		if err != nil {
			return err
		}
		u.Passwords = []PasswordHash{hash}
		return tx.putUser(u)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.objects.SetServerStatus(t.Context(), project, "server-of-g", ServerStatus{Observed: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.SetP2CGatewayStatus(t.Context(), project, "g", P2CGatewayStatus{Observed: 1}); err != nil {
		t.Fatal(err)
	}
	s := w.snapshot()
	if len(s.P2CGateways) != 1 || len(s.Servers) != 1 || len(s.Users) != 1 || len(s.UserGroups) != 1 || len(s.AccessPolicies) != 1 {
		t.Fatalf("snapshot %+v", s)
	}
	c := s.Servers[0].Certificate
	if c.Key.Reveal() != "key of the leaf" || c.CAKey.Reveal() != "key of the ca" {
		t.Errorf("the keys of the certificate are lost")
	}
	if !s.Users[0].Passwords[0].Matches(NewSecret("Qwerasdf")) {
		t.Errorf("the password is lost")
	}
	if s.ServerStatus["server-of-g"].Observed != 1 || s.P2CGatewayStatus["g"].Observed != 1 {
		t.Errorf("status %+v, %+v", s.ServerStatus, s.P2CGatewayStatus)
	}
	entries, _, err := w.store.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if bytes.Contains(e.Value, []byte("key of the")) || bytes.Contains(e.Value, []byte("Qwerasdf")) {
			t.Errorf("%s holds a secret: %s", e.Key, e.Value)
		}
	}
}

// A change of another member leaves what is sealed as it is, and another
// certificate without its key is refused.
func TestServerKeepsItsSealedKeys(t *testing.T) {
	w := newWorld(t)
	w.p2cTree("g", 0)
	read := func() storedServer {
		s, err := get(t.Context(), w.objects.p2c.servers, project, "server-of-g")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := read()
	edit := func(change func(*VPNServer)) error {
		return w.objects.change(t.Context(), func(tx *transaction) error {
			s, err := tx.server(project, "server-of-g")
			if err != nil {
				return err
			}
			change(&s)
			return tx.putServer(s)
		})
	}
	if err := edit(func(s *VPNServer) { s.Port = 1194 }); err != nil {
		t.Fatal(err)
	}
	if after := read(); after.Port != 1194 || !bytes.Equal(after.SealedKey, before.SealedKey) || !bytes.Equal(after.SealedCAKey, before.SealedCAKey) {
		t.Errorf("the sealed keys changed with the port")
	}
	if err := edit(func(s *VPNServer) { s.Certificate.Chain = "other" }); err == nil {
		t.Errorf("another chain without its key was taken")
	}
	if err := edit(func(s *VPNServer) { s.Certificate = ServerCertificate{Source: CertificateCCM, ID: "scs1"} }); err != nil {
		t.Fatal(err)
	}
	if after := read(); after.SealedKey != nil || after.SealedCAKey != nil {
		t.Errorf("the keys of a certificate that is gone are still there")
	}
}

// A server whose keys cannot be opened stands in the snapshot without them.
func TestUnreadableServerKeys(t *testing.T) {
	w := newWorld(t)
	w.p2cTree("g", 0)
	err := w.objects.change(t.Context(), func(tx *transaction) error {
		s, err := get(tx.ctx, w.objects.p2c.servers, project, "server-of-g")
		s.SealedKey[0] ^= 1
		if err != nil {
			return err
		}
		return put(tx, w.objects.p2c.servers, s.Meta, s)
	})
	if err != nil {
		t.Fatal(err)
	}
	s := w.snapshot()
	if len(s.Servers) != 1 || s.Unreadable["server-of-g"] == nil || !s.Servers[0].Certificate.Key.IsZero() {
		t.Errorf("servers %+v, unreadable %v", s.Servers, s.Unreadable)
	}
}

func TestFinalizeP2CGateway(t *testing.T) {
	w := newWorld(t)
	w.p2cTree("g", 2*finalizeBatch+1)
	w.p2cTree("other", 3)
	if err := w.objects.FinalizeP2CGateway(t.Context(), project, "g"); err == nil {
		t.Fatal("a gateway that nobody asked to delete was removed")
	}
	if err := w.objects.SetServerStatus(t.Context(), project, "server-of-g", ServerStatus{Observed: 1}); err != nil {
		t.Fatal(err)
	}
	err := w.objects.change(t.Context(), func(tx *transaction) error {
		g, err := tx.p2cGateway(project, "g")
		g.DeletionRequested = true
		if err != nil {
			return err
		}
		return tx.putP2CGateway(g)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // one that is gone is no error
		if err := w.objects.FinalizeP2CGateway(t.Context(), project, "g"); err != nil {
			t.Fatal(err)
		}
	}
	s := w.snapshot()
	if len(s.P2CGateways) != 1 || len(s.Servers) != 1 || len(s.Users) != 3 || len(s.UserGroups) != 1 || len(s.AccessPolicies) != 1 || len(s.ServerStatus) != 0 {
		t.Errorf("left are %d gateways, %d servers, %d users, %d groups, %d policies, status %v",
			len(s.P2CGateways), len(s.Servers), len(s.Users), len(s.UserGroups), len(s.AccessPolicies), s.ServerStatus)
	}
	if err := w.objects.SetServerStatus(t.Context(), project, "server-of-g", ServerStatus{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("status of a server that is gone: %v", err)
	}
}
