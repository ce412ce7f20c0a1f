package main

import (
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

func TestReadLogin(t *testing.T) {
	write := func(name, content string) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	alice, bob := write("a", "alice\nwonder land\n"), write("b", "bob\nsecret")
	for _, tt := range []struct{ flag, profile, user, password, want string }{
		{alice, "", "alice", "wonder land", ""},
		{"", bob, "bob", "secret", ""},
		{alice, bob, "alice", "wonder land", ""},
		{"", "", "", "", "name a file with --login"},
		{write("c", "carol\n"), "", "", "", "needs a user name and a password"},
		{"/does/not/exist", "", "", "", "no such file"},
	} {
		user, password, err := readLogin(tt.flag, tt.profile)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v: %v", tt, err)
			}
			continue
		}
		if err != nil || user != tt.user || password != tt.password {
			t.Errorf("%+v: %q, %q, %v", tt, user, password, err)
		}
	}
}

func TestAskCode(t *testing.T) {
	in := strings.NewReader("123456\r\n 654321 \n" + strings.Repeat("7", maxCode+1))
	for _, want := range []string{"123456", "654321"} {
		var out strings.Builder
		if got, err := askCode(in, &out, "One-time code"); err != nil || got != want || out.String() != "One-time code: " {
			t.Errorf("got %q, %v, after %q; want %q", got, err, out.String(), want)
		}
	}
	for _, want := range []string{"more than 128 octets", "no answer"} {
		if got, err := askCode(in, io.Discard, "One-time code"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestConnectWithAWrongProfile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.ovpn")
	if err := os.WriteFile(file, []byte("remote a\n<ca>\nno certificate\n</ca>\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, want string }{
		{"connect", "accepts 1 arg"},
		{"connect /does/not/exist", "no such file"},
		{"connect " + file, "has no PEM certificate"},
		{"connect --driver wintun " + file, "must be one of auto, offload, plain"},
	} {
		c := newCommand(func(string) string { return "" })
		c.SetArgs(strings.Fields(tt.args))
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) || exitCode(err) != exitUsage {
			t.Errorf("%s: %v, exit code %d", tt.args, err, exitCode(err))
		}
	}
}

func TestRouteOverTheServer(t *testing.T) {
	p := wire.Push{Routes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
	o := &connectOptions{device: "never0", driver: driverAuto}
	if _, err := o.openHost(p, netip.MustParseAddr("198.51.100.7")); err == nil || !strings.Contains(err.Error(), "covers the server") {
		t.Errorf("%v", err)
	}
}
