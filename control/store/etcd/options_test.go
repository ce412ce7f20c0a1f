package etcd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vpngw/vpngw/control/store/etcd"
)

func TestOptions(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	https := []string{"https://192.0.2.1:2379"}
	for _, test := range []struct {
		name    string
		options etcd.Options
		want    string
	}{
		{"no endpoint", etcd.Options{}, "no endpoint"},
		{"endpoint without scheme", etcd.Options{Endpoints: []string{"192.0.2.1:2379"}}, "endpoint 1: wanted"},
		{"endpoint without port", etcd.Options{Endpoints: []string{"https://192.0.2.1"}}, "endpoint 1: wanted"},
		{"endpoint with a path", etcd.Options{Endpoints: []string{https[0], "https://192.0.2.1:2379/a"}}, "endpoint 2: wanted"},
		{"endpoint with a password", etcd.Options{Endpoints: []string{"https://root:secret@192.0.2.1:2379"}}, "endpoint 1: wanted"},
		{"endpoint of another protocol", etcd.Options{Endpoints: []string{"ftp://192.0.2.1:2379"}}, "endpoint 1: wanted"},
		{"two schemes", etcd.Options{Endpoints: []string{https[0], "http://127.0.0.1:2379"}}, "some are https"},
		{"plaintext to another host", etcd.Options{Endpoints: []string{"http://192.0.2.1:2379"}}, "not allowed"},
		{"certificates without TLS", etcd.Options{Endpoints: []string{"http://127.0.0.1:2379"}, CAFile: text}, "have no use"},
		{"no certificate of a CA", etcd.Options{Endpoints: https, CAFile: text}, "no certificate in PEM"},
		{"no file of a CA", etcd.Options{Endpoints: https, CAFile: text + "2"}, "ca file"},
		{"no client certificate", etcd.Options{Endpoints: https, CertFile: text, KeyFile: text}, "client certificate"},
		{"no key", etcd.Options{Endpoints: https, CertFile: text}, "client certificate"},
		{"username alone", etcd.Options{Endpoints: https, Username: "root"}, "one without the other"},
		{"password alone", etcd.Options{Endpoints: https, Password: "secret"}, "one without the other"},
		{"long prefix", etcd.Options{Endpoints: https, Prefix: strings.Repeat("p", 129)}, "at most 128"},
		{"negative timeout", etcd.Options{Endpoints: https, Timeout: -1}, "negative"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := etcd.Open(t.Context(), test.options)
			if err == nil || s != nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want an error with %q", err, test.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

// Nobody answers: Open says where, within its time-out, and obeys its context.
func TestOpenWithoutCluster(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, addr := range map[string]string{"refused": freeAddresses(t, 1)[0], "silent": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			o := etcd.Options{Endpoints: []string{"http://" + addr}, Timeout: 300 * time.Millisecond}
			if _, err := etcd.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), addr) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want an error that names %s and is not the caller's", err, addr)
			}
			for _, login := range []string{"", "root"} {
				o.Username, o.Password, o.Timeout = login, login, time.Minute
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if _, err := etcd.Open(ctx, o); !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled, user %q: %v, want context.Canceled", login, err)
				}
			}
		})
	}
}

// authority signs certificates for 127.0.0.1, both of servers and of clients.
type authority struct {
	dir         string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{dir: t.TempDir()}
	a.certificate, a.key = a.issue(t, "ca", &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// issue writes NAME.pem and NAME.key. The first certificate signs itself.
func (a *authority) issue(t *testing.T, name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		a.cert(name):  {Type: "CERTIFICATE", Bytes: der},
		a.keyOf(name): {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func (a *authority) issueEndEntity(t *testing.T, name string) {
	t.Helper()
	a.issue(t, name, &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
}

func (a *authority) cert(name string) string  { return filepath.Join(a.dir, name+".pem") }
func (a *authority) keyOf(name string) string { return filepath.Join(a.dir, name+".key") }

func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	for _, name := range []string{"server", "client"} {
		ours.issueEndEntity(t, name)
		theirs.issueEndEntity(t, name)
	}
	server := startServers(t, 1, "https", "--cert-file", ours.cert("server"), "--key-file", ours.keyOf("server"),
		"--client-cert-auth", "--trusted-ca-file", ours.cert("ca"))[0]
	endpoints := []string{server.endpoint}
	s := open(t, etcd.Options{Endpoints: endpoints, CAFile: ours.cert("ca"), CertFile: ours.cert("client"), KeyFile: ours.keyOf("client")})
	rev := put(t, s, "key", "value")
	if e, err := s.Get(t.Context(), "key"); err != nil || e.Modified != rev {
		t.Errorf("got %+v, %v", e, err)
	}
	for _, test := range []struct {
		name    string
		options etcd.Options
		want    string
	}{
		{"server of an unknown authority", etcd.Options{CAFile: theirs.cert("ca"), CertFile: ours.cert("client"), KeyFile: ours.keyOf("client")}, "certificate signed by unknown authority"},
		{"server unknown to the system", etcd.Options{CertFile: ours.cert("client"), KeyFile: ours.keyOf("client")}, "certificate signed by unknown authority"},
		{"client of an unknown authority", etcd.Options{CAFile: ours.cert("ca"), CertFile: theirs.cert("client"), KeyFile: theirs.keyOf("client")}, "no answer within 5s: "},
		{"client without certificate", etcd.Options{CAFile: ours.cert("ca")}, "no answer within 5s: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.options.Endpoints, test.options.Timeout = endpoints, 5*time.Second
			if _, err := etcd.Open(t.Context(), test.options); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

// The files of the client's certificate are read for every connection: the
// servers come to trust another authority, and the files follow.
func TestRenewedCertificate(t *testing.T) {
	t.Parallel()
	before, after := newAuthority(t), newAuthority(t)
	before.issueEndEntity(t, "server")
	before.issueEndEntity(t, "client")
	server := startServers(t, 1, "https", "--cert-file", before.cert("server"), "--key-file", before.keyOf("server"),
		"--client-cert-auth", "--trusted-ca-file", before.cert("ca"))[0]
	s := open(t, etcd.Options{Endpoints: []string{server.endpoint}, CAFile: before.cert("ca"), CertFile: before.cert("client"), KeyFile: before.keyOf("client")})
	rev := put(t, s, "key", "value")

	server.kill(t)
	server.args[len(server.args)-1] = after.cert("ca")
	after.dir = before.dir
	after.issueEndEntity(t, "client")
	server.start(t)
	server.waitListening(t)
	if e, err := s.Get(t.Context(), "key"); err != nil || e.Modified != rev {
		t.Errorf("with a renewed certificate: %+v, %v", e, err)
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	endpoint := startServers(t, 1, "http")[0].endpoint
	const password, reader = "s3cret-word", "s3cret-other"
	administer(t, endpoint, func(ctx context.Context, client *clientv3.Client) error {
		_, userErr := client.UserAdd(ctx, "root", password)
		_, grantErr := client.UserGrantRole(ctx, "root", "root")
		_, otherErr := client.UserAdd(ctx, "other", reader)
		_, enableErr := client.AuthEnable(ctx)
		return errors.Join(userErr, grantErr, otherErr, enableErr)
	})
	s := open(t, etcd.Options{Endpoints: []string{endpoint}, Username: "root", Password: password})
	rev := put(t, s, "key", "value")
	ch, err := s.Watch(t.Context(), "", rev-1)
	if err != nil {
		t.Fatal(err)
	}
	if events := <-ch; len(events) != 1 || events[0].Modified != rev {
		t.Errorf("watched %+v", events)
	}
	for _, test := range []struct{ name, username, password, want string }{
		{"no user", "", "", "user name is empty"},
		{"wrong password", "root", reader, "authentication failed"},
		{"user without a role", "other", reader, "permission denied"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{endpoint}, Username: test.username, Password: test.password})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want an error with %q", err, test.want)
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}
