package sslvpn

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// maxName is the longest name of a user, in octets.
const maxName = 128

// identity is who a client has proved to be.
type identity struct {
	name   string // of the user, or the common name of the certificate
	userID string // empty with certificates
	hash   string // of the password at the login
	proof  string // of the user at the login
	// first is when the user logged in by all that is asked for, of which an
	// auth-token reminds.
	first time.Time
	// The certificate's digest and its verified chains, each up to an anchor.
	certificate [sha256.Size]byte
	chains      [][]*x509.Certificate
}

// same reports whether two logins are by the same user, and certificate.
func (i *identity) same(as *identity) bool {
	return i.name == as.name && i.userID == as.userID && i.certificate == as.certificate
}

// authenticate judges who a client is: the one place where that happens.
func (s *session) authenticate(state *tls.ConnectionState, client *wire.ClientKeys) (*identity, error) {
	methods := s.ep.config().Auth
	var certificate, user *identity
	var err error
	if methods.Has(AuthCertificate) {
		if certificate, err = s.byCertificate(state); err != nil {
			return nil, err
		}
	}
	if methods.Has(AuthPassword) {
		if user, err = s.byPassword(client); err != nil {
			return nil, err
		}
	}
	switch {
	case user != nil && certificate != nil:
		user.certificate, user.chains = certificate.certificate, certificate.chains
		return user, nil
	case user != nil:
		return user, nil
	case certificate != nil:
		return certificate, nil
	}
	return nil, refuse(failedSettings, "the server has no authentication method")
}

// byCertificate names the client by its certificate, which the TLS handshake
// has verified.
func (s *session) byCertificate(state *tls.ConnectionState) (*identity, error) {
	if len(state.PeerCertificates) == 0 || len(state.VerifiedChains) == 0 {
		return nil, refuse(failedCertificate, "the client sent no certificate")
	}
	leaf := state.PeerCertificates[0]
	s.claim(leaf.Subject.CommonName)
	return &identity{
		name: leaf.Subject.CommonName, certificate: sha256.Sum256(leaf.Raw), chains: state.VerifiedChains,
	}, nil
}

// What a client is told when its login fails, whichever part of it was wrong.
const (
	loginRefused         = "user name or password is wrong"
	loginWithCodeRefused = "user name, password or one-time code is wrong"
)

// refused returns what a client is told whose login is wrong.
func (cfg *settings) refused() string {
	if cfg.OneTimeCodes {
		return wire.RefuseLogin(loginWithCodeRefused)
	}
	return wire.RefuseLogin(loginRefused)
}

// byPassword looks the user up and has the password checked, unless the client
// shows the auth-token that it was given in place of it.
func (s *session) byPassword(client *wire.ClientKeys) (*identity, error) {
	name := client.UserName
	told := s.ep.config().refused()
	if !validName(name) {
		return nil, &refusal{why: failedName, message: told, reason: "no user name, or one with control characters or of more than 128 octets"}
	}
	if _, known := s.ep.config().user(name); known {
		s.claim(name) // another name may be a password in the wrong field
	}
	password, code, err := wire.Password(client.Password)
	if err != nil {
		return nil, &refusal{why: failedName, message: told, reason: err.Error()}
	}
	defer clear(password)
	defer clear(code)
	now := time.Now()
	ep := s.ep
	if bytes.HasPrefix(password, []byte(tokenPrefix)) {
		user, known := ep.config().user(name)
		if !known || ep.config().OneTimeCodes && user.CodeSecret == nil {
			user, known = &User{}, false // the same work as for one that is known
		}
		first, valid := ep.server.tokens.check(now, string(password), ep.id, user)
		if !known || !valid || !s.loggedIn() && now.Sub(first) >= tokenLifetime {
			return nil, &refusal{why: failedToken, message: wire.RefuseToken("log in again"), reason: "the auth-token has expired, or is not this user's"}
		}
		return userIdentity(user, first), nil
	}
	if ep.config().OneTimeCodes && len(code) == 0 {
		return nil, refuse(failedCode, "a one-time code is needed besides the password, as the profile's static-challenge asks for it")
	}
	// One place among the running checks, so that guesses cannot overtake the
	// count of those that failed.
	defer ep.server.enterPasswordCheck()()
	if s.over() {
		return nil, errSessionEnded
	}
	from := s.address().Addr()
	if wait := ep.server.throttle.wait(time.Now(), name, from); wait > 0 {
		return nil, lockedOut(wait, client)
	}
	cfg := ep.config()
	before, known := cfg.user(name)
	hash := cfg.anyHash // so that an unknown user takes as long as a known one
	if known {
		hash = before.PasswordHash
	}
	right := ep.server.opts.VerifyPassword(hash, string(password))
	// The configuration may have changed while the password was checked.
	user, still := ep.config().user(name)
	switch {
	case !known:
		ep.server.throttle.failed(time.Now(), name, from)
		return nil, &refusal{why: failedUser, message: told, reason: "unknown user"}
	case !right || !still || user.proof() != before.proof():
		ep.server.throttle.failed(time.Now(), name, from)
		return nil, &refusal{why: failedPassword, message: told, reason: "wrong password"}
	}
	if r := ep.checkCode(user, code); r != nil {
		ep.server.throttle.failed(time.Now(), name, from)
		return nil, r
	}
	now = time.Now()
	ep.server.throttle.succeeded(now, name, from)
	return userIdentity(user, now), nil
}

// lockedOut refuses a login that comes too soon after failed ones.
func lockedOut(wait time.Duration, client *wire.ClientKeys) *refusal {
	seconds := int(wait/time.Second) + 1
	reason := fmt.Sprintf("too many failed logins: locked for %d s", seconds)
	message := wire.RefuseLogin(reason)
	if info := wire.ParsePeerInfo(client.PeerInfo); info.Proto.Has(wire.ProtoAuthTemp) {
		message = wire.RefuseForNow(seconds, reason)
	}
	return &refusal{why: failedLocked, message: message, reason: reason}
}

func userIdentity(u *User, first time.Time) *identity {
	return &identity{name: u.Name, userID: u.ID, hash: u.PasswordHash, proof: u.proof(), first: first}
}

// loggedIn reports whether the client has proved who it is before, and
// renegotiates now.
func (s *session) loggedIn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity != nil
}

// proof stands for all that a user has to know and to have. It changes with each
// of it.
func (u *User) proof() string {
	if u.CodeSecret == nil {
		return u.PasswordHash
	}
	sum := sha256.Sum256(u.CodeSecret)
	return u.PasswordHash + "\n" + string(sum[:])
}

// checkCode judges the one-time code of a user whose password is right, where
// one is asked for. Only that user learns that the code was right.
func (ep *endpoint) checkCode(u *User, code []byte) *refusal {
	cfg := ep.config()
	if !cfg.OneTimeCodes {
		return nil
	}
	if u.CodeSecret == nil {
		return &refusal{why: failedCode, message: cfg.refused(), reason: "the user has no second factor yet"}
	}
	switch ep.codes.take(time.Now(), u.ID, u.CodeSecret, code) {
	case codeRight:
		return nil
	case codeUsed:
		return refuse(failedCodeAgain, "the one-time code was used before, or is from before the server's start: wait for the next one")
	case codeWrong:
	}
	return &refusal{why: failedCode, message: cfg.refused(), reason: "wrong one-time code"}
}

// validName reports whether a name may be looked up and logged.
func validName(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

// checkClientCertificate is what the TLS handshake does not check of a
// certificate that it has verified.
func checkClientCertificate(cfg *settings, state *tls.ConnectionState) error {
	if !cfg.Auth.Has(AuthCertificate) {
		return nil
	}
	if len(state.PeerCertificates) == 0 {
		return errors.New("the client sent no certificate")
	}
	leaf := state.PeerCertificates[0]
	if err := checkCommonName(leaf); err != nil {
		return err
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return fmt.Errorf("the key usage of the certificate of %q lacks digitalSignature", leaf.Subject.CommonName)
	}
	return cfg.trusted(time.Now(), state.VerifiedChains)
}

// checkCommonName reports why a certificate names no user.
func checkCommonName(c *x509.Certificate) error {
	names := 0
	for _, attribute := range c.Subject.Names {
		if attribute.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
			names++
		}
	}
	if names != 1 || len(c.Subject.CommonName) > 64 || !validName(c.Subject.CommonName) {
		return errors.New("the subject of the certificate must have one common name of 1 to 64 printable characters")
	}
	return nil
}

// trusted reports why none of the chains of a client's certificate is good: it
// has to end at a client CA, and nothing in it may be revoked.
func (cfg *settings) trusted(now time.Time, chains [][]*x509.Certificate) error {
	err := errors.New("the certificate is signed by none of the client CAs")
	for _, chain := range chains {
		if !cfg.anchors[sha256.Sum256(chain[len(chain)-1].Raw)] {
			continue
		}
		if err = cfg.revoked(now, chain); err == nil {
			return nil
		}
	}
	return err
}

// revoked reports why a chain must not be used, by the revocation lists of its
// CAs. A list that is out of date revokes all: it may lack the latest.
func (cfg *settings) revoked(now time.Time, chain []*x509.Certificate) error {
	for i, c := range chain[:len(chain)-1] {
		for _, list := range cfg.ClientCRLs {
			if !bytes.Equal(list.RawIssuer, chain[i+1].RawSubject) || list.CheckSignatureFrom(chain[i+1]) != nil {
				continue
			}
			if !list.NextUpdate.IsZero() && now.After(list.NextUpdate) {
				return fmt.Errorf("the revocation list of %q expired on %s", list.Issuer.CommonName, list.NextUpdate.Format(time.DateOnly))
			}
			for _, entry := range list.RevokedCertificateEntries {
				if entry.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return fmt.Errorf("the certificate of %q was revoked on %s", c.Subject.CommonName, entry.RevocationTime.Format(time.DateOnly))
				}
			}
		}
	}
	return nil
}

// describeTLSError words what went wrong in a handshake, in terms of what to
// change. A certificate that was turned down is a refusal: the client has had
// its alert.
func (s *session) describeTLSError(err error) error {
	var bad *tls.CertificateVerificationError
	if errors.As(err, &bad) && len(bad.UnverifiedCertificates) > 0 {
		c := bad.UnverifiedCertificates[0]
		s.claim(c.Subject.CommonName)
		return &refusal{why: failedCertificate, reason: describeVerifyError(bad.Err, c)}
	}
	var own *certificateError
	if errors.As(err, &own) {
		s.claim(own.name)
		return &refusal{why: failedCertificate, reason: own.Error()}
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "didn't provide a certificate"):
		return &refusal{why: failedCertificate, reason: "the client sent no certificate"}
	case strings.Contains(text, "remote error"):
		return fmt.Errorf("the client broke off the TLS handshake: %s", strings.TrimPrefix(text, "remote error: tls: "))
	}
	return fmt.Errorf("TLS handshake: %w", err)
}

// certificateError is a verdict of checkClientCertificate.
type certificateError struct {
	name string
	err  error
}

func (e *certificateError) Error() string { return e.err.Error() }
func (e *certificateError) Unwrap() error { return e.err }

func describeVerifyError(err error, c *x509.Certificate) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return fmt.Sprintf("certificate of %q is signed by none of the client CAs: its issuer is %q", c.Subject.CommonName, c.Issuer.CommonName)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && time.Now().Before(c.NotBefore):
		return fmt.Sprintf("certificate of %q is valid from %s on", c.Subject.CommonName, c.NotBefore.UTC().Format(time.DateOnly))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("certificate of %q, or of a CA above it, has expired: its own date is %s", c.Subject.CommonName, c.NotAfter.UTC().Format(time.DateOnly))
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Sprintf("extended key usage of the certificate of %q lacks clientAuth", c.Subject.CommonName)
	}
	return fmt.Sprintf("certificate of %q: %s", c.Subject.CommonName, strings.TrimPrefix(err.Error(), "x509: "))
}

// over reports whether nobody waits for the verdict any more.
func (s *session) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase >= phaseLeaving
}

// claim notes who a client says it is, for the connection log.
func (s *session) claim(name string) {
	if !validName(name) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claimed = name
}

// equal compares in constant time.
func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
