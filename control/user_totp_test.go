package control

import (
	"bytes"
	"encoding/base32"
	"net/url"
	"strings"
	"testing"
)

// A user is given a secret once; it is sealed in the store, and goes with other
// changes of the user, a deletion aside.
func TestEnrollUser(t *testing.T) {
	w := userWorld(t)
	u := w.addUser("alice.smith")
	e, err := w.EnrollUser(t.Context(), project, serverOfUsers, u.ID)
	wantP2C(t, err, "")
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(e.Secret)
	if err != nil || len(secret) != 20 {
		t.Errorf("secret %q, %v", e.Secret, err)
	}
	uri, err := url.Parse(e.URI)
	if err != nil || uri.Scheme != "otpauth" || uri.Host != "totp" || uri.Path != "/p2c-vpngw-1:alice.smith" ||
		uri.Query().Get("secret") != e.Secret || uri.Query().Get("issuer") != "p2c-vpngw-1" {
		t.Errorf("URI %q, %v", e.URI, err)
	}
	stored := func() VPNUser {
		t.Helper()
		s := w.snapshot()
		if len(s.Users) != 1 {
			t.Fatalf("%d users: %v", len(s.Users), s.Unreadable)
		}
		return s.Users[0]
	}
	if got := stored(); got.CodeSecret.Reveal() != string(secret) || !got.EnrolledAt.Equal(got.UpdatedAt) || got.Generation != u.Generation+1 {
		t.Errorf("stored: %+v", got)
	}
	entries, _, err := w.objects.store.List(t.Context(), "")
	wantP2C(t, err, "")
	for _, entry := range entries {
		if bytes.Contains(entry.Value, []byte(e.Secret)) || bytes.Contains(entry.Value, secret) {
			t.Errorf("%s holds the secret", entry.Key)
		}
	}
	view, err := w.ShowUser(t.Context(), project, serverOfUsers, u.ID)
	if err != nil || !view.CodeSecret.IsZero() || view.EnrolledAt.IsZero() {
		t.Errorf("shown: %+v, %v", view, err)
	}
	_, err = w.UpdateUser(t.Context(), project, serverOfUsers, u.ID, UserUpdate{Description: new("changed")})
	wantP2C(t, err, "")
	wantP2C(t, w.ResetPassword(t.Context(), project, serverOfUsers, u.ID, NewSecret("Another-1")), "")
	if got := stored(); got.CodeSecret.Reveal() != string(secret) {
		t.Error("the secret is lost with a change of the user")
	}

	again, err := w.EnrollUser(t.Context(), project, serverOfUsers, u.ID)
	wantP2C(t, err, "")
	if again.Secret == e.Secret || stored().CodeSecret.Reveal() == string(secret) {
		t.Error("the secret of before is still there")
	}
	for range 2 { // a user without a secret stays as it is
		wantP2C(t, w.UnenrollUser(t.Context(), project, serverOfUsers, u.ID), "")
	}
	if got := stored(); !got.CodeSecret.IsZero() || !got.EnrolledAt.IsZero() {
		t.Errorf("left: %+v", got)
	}
	_, err = w.EnrollUser(t.Context(), project, serverOfUsers, nobody)
	wantP2C(t, err, "VPN.1303")
	wantP2C(t, w.UnenrollUser(t.Context(), project, serverOfUsers, nobody), "VPN.1303")
}

func TestEnrollWithCertificates(t *testing.T) {
	w := userWorld(t)
	u := w.addUser("alice")
	w.bypass(func(tx *transaction) error {
		s, err := tx.server(project, serverOfUsers)
		if err != nil {
			return err
		}
		s.AuthType = ClientAuthCertificate
		return tx.putServer(s)
	})
	_, err := w.EnrollUser(t.Context(), project, serverOfUsers, u.ID)
	wantP2C(t, err, CodeInvalid, "must be LOCAL_PASSWORD or CERT_AND_LOCAL_PASSWORD")
	w.bypass(func(tx *transaction) error {
		s, err := tx.server(project, serverOfUsers)
		if err != nil {
			return err
		}
		s.AuthType = ClientAuthBoth
		return tx.putServer(s)
	})
	_, err = w.EnrollUser(t.Context(), project, serverOfUsers, u.ID)
	wantP2C(t, err, "")
}

// A secret that cannot be opened is told of, and given anew.
func TestUnreadableCodeSecret(t *testing.T) {
	w := userWorld(t)
	u := w.addUser("alice")
	_, err := w.EnrollUser(t.Context(), project, serverOfUsers, u.ID)
	wantP2C(t, err, "")
	w.bypass(func(tx *transaction) error {
		s, err := get(tx.ctx, w.objects.p2c.users, project, u.ID)
		if err != nil {
			return err
		}
		s.SealedCodeSecret[20] ^= 1
		return put(tx, w.objects.p2c.users, s.Meta, s)
	})
	s := w.snapshot()
	if len(s.Users) != 0 || s.Unreadable[u.ID] == nil || !strings.Contains(s.Unreadable[u.ID].Error(), "secret of one-time codes") {
		t.Errorf("users %v, unreadable %v", s.Users, s.Unreadable)
	}
	_, err = w.EnrollUser(t.Context(), project, serverOfUsers, u.ID)
	wantP2C(t, err, "")
	if s := w.snapshot(); len(s.Users) != 1 || len(s.Users[0].Passwords) != 1 {
		t.Errorf("users %v, unreadable %v", s.Users, s.Unreadable)
	}
}
