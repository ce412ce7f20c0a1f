//go:build netns

package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// TestNetNSConnectToOpenVPN connects a host to a stock server: packets go both ways,
// and none is lost while the server renegotiates.
func TestNetNSConnectToOpenVPN(t *testing.T) {
	for _, tt := range []struct {
		name, proto string
		newer       bool // OpenVPN 2.7, and not 2.6
		server      []string
	}{
		{"TCP", "tcp", false, []string{"--local", "198.51.100.1", "--proto", "tcp-server", "--topology", "net30"}},
		{"UDP", "udp", false, []string{"--local", "198.51.100.1", "--proto", "udp", "--topology", "subnet"}},
		{
			"UDP, auth-token, TLS 1.2", "udp", false,
			[]string{"--local", "198.51.100.1", "--proto", "udp", "--topology", "subnet", "--auth-gen-token", "0", "120", "--tls-version-max", "1.2"},
		},
		{"2.7, TCP beside UDP", "tcp", true, []string{"--local", "198.51.100.1", "1194", "tcp", "--local", "198.51.100.1", "1194", "udp", "--topology", "net30"}},
		{"2.7, UDP beside TCP", "udp", true, []string{"--local", "198.51.100.1", "1194", "tcp", "--local", "198.51.100.1", "1194", "udp", "--topology", "subnet"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			connectToOpenVPN(t, tt.proto, tt.newer, tt.server)
		})
	}
}

func connectToOpenVPN(t *testing.T, proto string, newer bool, options []string) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	lab, err := netlab.Open(ctx)
	check(err)
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	server, err := lab.Namespace(ctx, "server")
	check(err)
	client, err := lab.Namespace(ctx, "client")
	check(err)
	check(server.Link(ctx, "wire", client, "wire", 1500))
	check(server.IP(ctx, "addr add 198.51.100.1/24 dev wire", "addr add 10.1.0.1/32 dev lo"))
	check(client.IP(ctx, "addr add 198.51.100.2/24 dev wire"))

	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		check(os.WriteFile(file, []byte(content), 0o600))
		return file
	}
	cert, ca := serverCertificate(t)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	check(err)
	login, caFile := write("login", "alice\nwonderland\n"), write("ca.pem", ca)
	management := filepath.Join(dir, "management")
	command := append([]string{
		"openvpn", "--dev", "tun9", "--dev-type", "tun", "--port", "1194", "--server", "10.9.0.0", "255.255.255.0",
		"--push", "route 10.1.0.0 255.255.255.0", "--keepalive", "10", "60", "--data-ciphers", "AES-256-GCM", "--disable-dco",
		"--dh", "none", "--ca", caFile, "--cert", caFile, "--key", write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))),
		// The client's login, in a file, has to be the same as ours.
		"--verify-client-cert", "none", "--script-security", "2", "--auth-user-pass-verify", "/usr/bin/cmp -s " + login, "via-file",
		"--reneg-sec", "2", "--verb", "4", "--management", management, "unix",
	}, options...)
	if newer {
		command = netlab.NewerDebian(command...)
	}
	openvpn, err := server.Start("openvpn", nil, command...)
	check(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the server:\n%s", openvpn.Output())
		}
	})
	logged := func(text string, times int) {
		t.Helper()
		err := netlab.Poll(ctx, 20*time.Millisecond, func() (bool, error) { return strings.Count(openvpn.Output(), text) >= times, nil })
		if err != nil {
			t.Fatalf("the server never says %q: %v", text, err)
		}
	}
	logged("Initialization Sequence Completed", 1)

	profile := write("client.ovpn", fmt.Sprintf("client\ndev tun\nproto %s\nremote 198.51.100.1 1194\nremote-cert-tls server\n"+
		"data-ciphers AES-256-GCM\nauth-user-pass login\n<ca>\n%s</ca>\n", proto, ca))
	connected, stop := context.WithCancel(ctx)
	defer stop()
	ended := within(client, func() error {
		c := newCommand(func(string) string { return "" })
		c.SetArgs([]string{"connect", profile, "--login", login, "--device", "vpn0", "--once"})
		return c.ExecuteContext(connected)
	})
	host := netip.MustParseAddr("10.1.0.1")
	check(client.WaitPing(ctx, netip.Addr{}, host))
	logged("Data Channel: cipher 'AES-256-GCM'", 1)
	out, err := client.Run(ctx, "ip", "-o", "-4", "addr", "show", "dev", "vpn0")
	check(err)
	_, rest, _ := strings.Cut(out, " inet ")
	text, _, _ := strings.Cut(strings.Fields(rest + " none")[0], "/")
	virtual, err := netip.ParseAddr(text)
	if err != nil || !netip.MustParsePrefix("10.9.0.0/24").Contains(virtual) {
		t.Fatalf("the address of the device, %v: %s", err, out)
	}
	check(server.WaitPing(ctx, host, virtual))

	// Both ways, and large ones.
	up, err := client.StartPing("up", netip.Addr{}, host, 50*time.Millisecond)
	check(err)
	down, err := server.StartPing("down", host, virtual, 50*time.Millisecond)
	check(err)
	negotiations := strings.Count(openvpn.Output(), "Control Channel: TLSv1")
	logged("Control Channel: TLSv1", negotiations+3)
	_, err = client.Run(ctx, "ping", "-n", "-q", "-c", "1", "-w", "20", "-s", "8000", host.String())
	check(err)
	if newer {
		logged("Outgoing Epoch Data key 1:", 1)
		console, err := net.Dial("unix", management)
		check(err)
		defer console.Close()
		// Where a renegotiation begins before it has sent the message, the server forgets it.
		check(netlab.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
			if _, err := fmt.Fprintln(console, `push-update-broad "route 10.1.0.0 255.255.255.0,route 10.2.0.0 255.255.255.0"`); err != nil {
				return false, err
			}
			routes, err := client.Run(ctx, "ip", "-4", "route")
			return strings.Contains(routes, "10.1.0.0/24 ") && strings.Contains(routes, "10.2.0.0/24 "), err
		}))
	}
	for _, p := range []*netlab.Ping{up, down} {
		if report, err := p.Finish(ctx); err != nil || report.Sent < 20 || len(report.Lost) > 0 {
			t.Errorf("%v, %v", report, err)
		}
	}
	if n := strings.Count(openvpn.Output(), "Peer Connection Initiated"); n != 1 {
		t.Errorf("connected %d times", n)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
