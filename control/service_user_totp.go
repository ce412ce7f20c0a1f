package control

import (
	"context"
	"encoding/base32"
	"fmt"
	"io"
	"net/url"
	"time"
)

// codeSecretLen is the octets of a secret of one-time codes (RFC 4226, 4, R6).
const codeSecretLen = 20

// Enrollment is what a person's authenticator app is given. Nothing tells it
// again.
type Enrollment struct {
	Secret string // base32 without padding
	URI    string // otpauth://totp/…, for a QR code
}

// EnrollUser performs CreateVpnUserTotp: it gives a user a new secret of
// one-time codes. The one before, if there was one, ends with what was logged in
// by it.
func (s *Service) EnrollUser(ctx context.Context, project, serverID, userID string) (Enrollment, error) {
	secret := make([]byte, codeSecretLen)
	defer clear(secret)
	if _, err := io.ReadFull(s.random, secret); err != nil {
		return Enrollment{}, fmt.Errorf("secret of one-time codes: %w", err)
	}
	var e Enrollment
	err := s.objects.change(ctx, func(tx *transaction) error {
		r, err := tx.rosterToExtend(project, serverID)
		if err != nil {
			return err
		}
		u, err := tx.userOf(project, serverID, userID)
		if err != nil {
			return err
		}
		e = enrollment(secret, r.gateway.Name, u.Name)
		s.touch(&u.Meta)
		u.CodeSecret, u.EnrolledAt = NewSecret(string(secret)), u.UpdatedAt
		return tx.putUser(u)
	})
	if err != nil {
		return Enrollment{}, err
	}
	return e, nil
}

// enrollment words a secret for authenticator apps, which show the issuer and
// the account.
func enrollment(secret []byte, issuer, account string) Enrollment {
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret)
	values := url.Values{
		"secret": {text}, "issuer": {issuer}, "algorithm": {"SHA1"}, "digits": {"6"}, "period": {"30"},
	}
	label := url.PathEscape(issuer) + ":" + url.PathEscape(account)
	return Enrollment{Secret: text, URI: "otpauth://totp/" + label + "?" + values.Encode()}
}

// UnenrollUser performs DeleteVpnUserTotp. A user without a secret stays as it
// is.
func (s *Service) UnenrollUser(ctx context.Context, project, serverID, userID string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		if _, err := tx.rosterToChange(project, serverID); err != nil {
			return err
		}
		u, err := tx.userOf(project, serverID, userID)
		if err != nil || u.EnrolledAt.IsZero() {
			return err
		}
		u.CodeSecret, u.EnrolledAt = Secret{}, time.Time{}
		s.touch(&u.Meta)
		return tx.putUser(u)
	})
}
