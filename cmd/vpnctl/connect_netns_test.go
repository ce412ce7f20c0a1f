//go:build netns

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/deploy/netlab"
	"github.com/vpngw/vpngw/sslvpn"
)

// within starts f on a thread inside a namespace; sockets and devices that f
// makes are there.
func within(ns *netlab.Namespace, f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(filepath.Join("/run/netns", ns.Name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return done
}

// serverCertificate returns a certificate that is its own issuer.
func serverCertificate(t *testing.T) (*tls.Certificate, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestNetNSConnect connects a host by a profile: its address, its route and the
// way through the tunnel are there, and gone afterwards.
func TestNetNSConnect(t *testing.T) {
	lab, err := netlab.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	server, err := lab.Namespace(t.Context(), "server")
	check(err)
	client, err := lab.Namespace(t.Context(), "client")
	check(err)
	for _, ns := range []*netlab.Namespace{server, client} {
		check(ns.Sysctl(t.Context(), "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0"))
	}
	check(server.Link(t.Context(), "wire", client, "wire", 1500))
	check(server.IP(t.Context(), "addr add 198.51.100.1/24 dev wire", "addr add 10.1.0.1/32 dev lo", "addr add 10.2.0.1/32 dev lo",
		"addr add 2001:db8:1::1/128 dev lo nodad"))
	check(client.IP(t.Context(), "addr add 198.51.100.2/24 dev wire"))

	cert, ca := serverCertificate(t)
	route := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("2001:db8:1::/48")}
	more := netip.MustParsePrefix("10.2.0.0/24")
	at := netip.MustParseAddrPort("198.51.100.1:443")
	config := sslvpn.Config{Endpoints: []sslvpn.Endpoint{{
		ID: "e1", Device: "p2c0", Cipher: sslvpn.AES128GCM, Auth: sslvpn.AuthPassword, Certificate: cert,
		TCP: []netip.AddrPort{at}, UDP: []netip.AddrPort{at}, Pool: netip.MustParsePrefix("10.8.0.0/24"), Pool6: netip.MustParsePrefix("fd00:8::/64"), Routes: route,
		Users:    []sslvpn.User{{ID: "u1", Name: "alice", PasswordHash: "wonderland", Group: "g1"}},
		Policies: []sslvpn.Policy{{ID: "p1", Group: "g1", Destinations: append(route, more)}},
	}}}
	s := sslvpn.New(sslvpn.Options{VerifyPassword: func(hash, password string) bool { return hash == password }})
	check(s.Apply(config))
	ctx, stop := context.WithCancel(context.Background())
	serving := within(server, func() error { return s.Run(ctx) })
	t.Cleanup(func() {
		stop()
		if err := <-serving; err != nil {
			t.Error(err)
		}
	})
	const patience = 30 * time.Second
	starting, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(netlab.Poll(starting, 10*time.Millisecond, func() (bool, error) { return len(s.Snapshot()) == 1, nil }))
	check(server.IP(t.Context(), "route add 10.8.0.0/24 dev p2c0", "route add fd00:8::/64 dev p2c0"))

	dir := t.TempDir()
	login := filepath.Join(dir, "login")
	check(os.WriteFile(login, []byte("alice\nwonderland\n"), 0o600))
	for _, tt := range []struct{ proto, driver string }{
		{"tcp", "offload"}, {"udp", "offload"}, {"tcp", "plain"}, {"udp", "plain"},
	} {
		proto := tt.proto
		t.Run(proto+" "+tt.driver, func(t *testing.T) {
			profile := filepath.Join(dir, proto+".ovpn")
			text := fmt.Sprintf("client\ndev tun\nproto %s\nremote 198.51.100.1 443\nauth-user-pass login\n<ca>\n%s</ca>\n", proto, ca)
			check(os.WriteFile(profile, []byte(text), 0o600))
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			ended := within(client, func() error {
				c := newCommand(func(string) string { return "" })
				c.SetArgs([]string{"connect", profile, "--login", login, "--device", "vpn0", "--driver", tt.driver})
				return c.ExecuteContext(ctx)
			})
			waiting, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			check(client.WaitPing(waiting, netip.Addr{}, netip.MustParseAddr("10.1.0.1")))
			routes, err := client.Run(t.Context(), "ip", "route", "show", "10.1.0.0/24")
			check(err)
			if !strings.Contains(routes, "dev vpn0") || !strings.Contains(routes, "src 10.8.0.") {
				t.Errorf("routes: %s", routes)
			}
			check(client.WaitPing(waiting, netip.Addr{}, netip.MustParseAddr("2001:db8:1::1")))
			routes, err = client.Run(t.Context(), "ip", "-6", "route", "show", "2001:db8:1::/48")
			check(err)
			if !strings.Contains(routes, "dev vpn0") || !strings.Contains(routes, "src fd00:8::") {
				t.Errorf("routes: %s", routes)
			}
			// Large ones, for what a device cuts and joins.
			for _, target := range []string{"10.1.0.1", "2001:db8:1::1"} {
				_, err = client.Run(t.Context(), "ping", "-n", "-q", "-c", "1", "-w", "20", "-s", "8000", target)
				check(err)
			}
			// Another route comes, and goes, while the client is connected.
			for _, now := range [][]netip.Prefix{append(slices.Clone(route), more), route} {
				config.Endpoints[0].Routes = now
				check(<-within(server, func() error { return s.Apply(config) }))
				check(netlab.Poll(waiting, 20*time.Millisecond, func() (bool, error) {
					routes, err := client.Run(t.Context(), "ip", "route", "show", more.String())
					return strings.Contains(routes, "dev vpn0") == (len(now) > len(route)), err
				}))
				if len(now) > len(route) {
					check(client.WaitPing(waiting, netip.Addr{}, netip.MustParseAddr("10.2.0.1")))
				}
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if links, err := client.Run(t.Context(), "ip", "-o", "link"); err != nil || strings.Contains(links, "vpn0") {
				t.Errorf("links: %s, %v", links, err)
			}
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		check(os.WriteFile(login, []byte("alice\nlooking glass\n"), 0o600))
		err := <-within(client, func() error {
			c := newCommand(func(string) string { return "" })
			c.SetArgs([]string{"connect", filepath.Join(dir, "tcp.ovpn"), "--login", login})
			return c.ExecuteContext(t.Context())
		})
		if err == nil || !strings.Contains(err.Error(), "AUTH_FAILED") {
			t.Errorf("%v", err)
		}
	})
}
