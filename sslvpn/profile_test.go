package sslvpn

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

// exported is a profile as the API exports it, with a client's certificate
// added.
func exported(t testing.TB) string {
	ca := newAuthority(t, "CA")
	cert := ca.client("alice", nil)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return `client
dev tun
proto tcp
remote 203.0.113.10 443
resolv-retry infinite
nobind
remote-cert-tls server
data-ciphers AES-128-GCM
auth SHA256
<ca>
` + ca.pem() + `</ca>
<cert>
` + certificatePEM(cert.Certificate[0]) + `</cert>
<key>
` + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})) + `</key>
reneg-sec 0
# disable-dco has to be commented out for OpenVPN 2.5
disable-dco
`
}

func noFiles(string) ([]byte, error) { return nil, os.ErrNotExist }

func TestParseProfile(t *testing.T) {
	p, err := ParseProfile(exported(t), noFiles)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(p.Servers) != "[{203.0.113.10 443 false}]" || !slices.Equal(p.Ciphers, []Cipher{AES128GCM}) || p.Login {
		t.Errorf("%+v", p)
	}
	o, err := p.Options()
	if err != nil || o.Certificate == nil {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestParseProfileOfManyKinds(t *testing.T) {
	files := map[string]string{"ca.pem": "the CA", "c.pem": "the certificate", "k.pem": "the key"}
	p, err := ParseProfile(`
; a comment
port 5000
proto udp
remote vpn.example.org
remote "other.example.org" 443 tcp-client
ca ca.pem
cert c.pem
key 'k.pem'
auth-user-pass login.txt
data-ciphers AES-256-GCM:?CHACHA20-POLY1305:BF-CBC:AES-256-GCM
comp-lzo no
setenv CLIENT_CERT 0
`, func(name string) ([]byte, error) { return []byte(files[name]), nil })
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(p.Servers) != "[{vpn.example.org 5000 true} {other.example.org 443 false}]" ||
		!slices.Equal(p.Ciphers, []Cipher{AES256GCM, ChaCha20Poly1305}) || !p.Login || p.LoginFile != "login.txt" ||
		string(p.CA) != "the CA" || string(p.Certificate) != "the certificate" || string(p.Key) != "the key" {
		t.Errorf("%+v", p)
	}
	if _, err := p.Options(); err == nil || !strings.Contains(err.Error(), "no PEM") {
		t.Errorf("%v", err)
	}
	p.CA = []byte(newAuthority(t, "CA").pem())
	if _, err := p.Options(); err == nil || !strings.Contains(err.Error(), "options cert and key") {
		t.Errorf("%v", err)
	}
}

func TestProfilesThatAreWrong(t *testing.T) {
	const whole = "remote a\n<ca>\nx\n</ca>\n"
	for _, tt := range []struct{ text, want string }{
		{"", "no option remote"},
		{"remote a", "no option ca"},
		{"remote \"\"", "host must not be empty"},
		{whole + "<cert>\nx\n</cert>", "one of the options cert and key"},
		{"\nremote", "line 2: option remote: needs 1 values"},
		{"<ca>\nx\n", "line 1: <ca> has no end"},
		{"remote a 0\n" + whole, `remote a: port "0": must be 1 to 65535`},
		{"remote a 1 sctp\n" + whole, `protocol "sctp"`},
		{"port x", "line 1: port"},
		{"proto icmp", "line 1: protocol"},
		{"dev tap0", "option dev tap0: must be tun"},
		{"data-ciphers BF-CBC", "none is of AES-128-GCM"},
		{"tls-auth ta.key 1", "option tls-auth: is not spoken here"},
		{"<tls-crypt>\nx\n</tls-crypt>", "option tls-crypt: is no OpenVPN static key"},
		{"<tls-crypt-v2>\nx\n</tls-crypt-v2>", "option tls-crypt-v2: is no OpenVPN tls-crypt-v2 client key"},
		{"static-challenge Code", "option static-challenge: needs 2 values"},
		{"comp-lzo", "nothing is compressed"},
		{"compress lz4-v2", "nothing is compressed"},
		{"ca missing.pem", "option ca: file does not exist"},
		{strings.Repeat("#\n", maxProfile), "at most"},
	} {
		if _, err := ParseProfile(tt.text, noFiles); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40q: %v, want %q", tt.text, err, tt.want)
		}
	}
}

func FuzzParseProfile(f *testing.F) {
	target := fuzztest.New(f)
	target.Add("client\nremote a 443\n<ca>\nx\n</ca>\nproto udp\n")
	target.Add("remote\n<cert>\n</cert>\ncomp-lzo no\n\"\n<\n")
	target.Fuzz(func(t *testing.T, text string) {
		p, err := ParseProfile(text, func(string) ([]byte, error) { return nil, errors.New("no files") })
		if err != nil {
			return
		}
		for _, s := range p.Servers {
			if s.Host == "" || s.Port == 0 {
				t.Errorf("server %+v", s)
			}
		}
		_, _ = p.Options()
	})
}
