package main

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/control/store/etcd"
)

// goodHost lacks nothing for wholeConfig.
func goodHost(t *testing.T) *host {
	t.Helper()
	h := &host{
		root: t.TempDir(),
		addresses: func() (map[netip.Addr]net.Interface, error) {
			return map[netip.Addr]net.Interface{netip.MustParseAddr("203.0.113.10"): {Name: "eth0", MTU: 1500}}, nil
		},
		bindUDP: func(netip.AddrPort) error { return nil },
		bindTCP: func(netip.AddrPort) error { return nil },
		offload: func() (error, error) { return nil, nil },
		openTUN: func() error { return nil },
		reach:   func(etcd.Options) error { return nil },
	}
	for path, text := range map[string]string{
		"proc/self/status":                         "Name:\tvpngwd\nCapEff:\t000001ffffffffff\n",
		"proc/sys/net/ipv4/ip_forward":             "1\n",
		"proc/sys/net/ipv6/conf/all/forwarding":    "1\n",
		"proc/sys/net/ipv4/conf/all/rp_filter":     "0\n",
		"proc/sys/net/ipv4/conf/default/rp_filter": "2\n",
		"proc/sys/net/ipv4/conf/eth0/rp_filter":    "1\n",
		"proc/sys/net/core/rmem_max":               "8388608\n",
		"proc/sys/net/core/wmem_max":               "8388608\n",
		"var/lib/vpngw/.keep":                      "",
	} {
		h.write(t, path, text)
	}
	return h
}

func (h *host) write(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDoctor(t *testing.T) {
	c, err := loadConfig(writeConfig(t, wholeConfig), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		ail     func(*host)
		verdict verdict // of the one finding that is not ok
		detail  string
		fix     string
	}{
		{"healthy", func(*host) {}, verdictOK, "", ""},
		{
			"no TUN", func(h *host) { h.openTUN = func() error { return fs.ErrNotExist } },
			verdictFail, "no /dev/net/tun", "modprobe tun",
		},
		{
			"no right to the TUN", func(h *host) { h.openTUN = func() error { return unix.EPERM } },
			verdictFail, "not permitted", "root",
		},
		{
			"no CAP_NET_ADMIN", func(h *host) { h.write(t, "proc/self/status", "CapEff:\t000001ffffffefff\n") },
			verdictFail, "links", "AmbientCapabilities=CAP_NET_ADMIN",
		},
		{
			"no forwarding", func(h *host) { h.write(t, "proc/sys/net/ipv4/ip_forward", "0\n") },
			verdictFail, "is off", "sysctl -w net.ipv4.ip_forward=1",
		},
		{
			"no forwarding of IPv6", func(h *host) { h.write(t, "proc/sys/net/ipv6/conf/all/forwarding", "0\n") },
			verdictWarn, "is off", "sysctl -w net.ipv6.conf.all.forwarding=1",
		},
		{
			"strict reverse path", func(h *host) { h.write(t, "proc/sys/net/ipv4/conf/all/rp_filter", "1\n") },
			verdictWarn, "strict on tunnels", "net.ipv4.conf.all.rp_filter = 0",
		},
		{
			"strict on new devices", func(h *host) { h.write(t, "proc/sys/net/ipv4/conf/default/rp_filter", "1\n") },
			verdictWarn, "strict on tunnels", "net.ipv4.conf.default.rp_filter = 2",
		},
		{
			"no reverse path filter on the uplink", func(h *host) { h.write(t, "proc/sys/net/ipv4/conf/eth0/rp_filter", "0\n") },
			verdictWarn, "not strict on eth0", "net.ipv4.conf.eth0.rp_filter = 1",
		},
		{
			"loose everywhere", func(h *host) { h.write(t, "proc/sys/net/ipv4/conf/all/rp_filter", "2\n") },
			verdictWarn, "not strict on eth0", "net.ipv4.conf.all.rp_filter = 0",
		},
		{
			"old kernel", func(h *host) { h.offload = func() (error, error) { return nil, unix.ENOPROTOOPT } },
			verdictWarn, "slow", "",
		},
		{
			"small buffers", func(h *host) { h.write(t, "proc/sys/net/core/rmem_max", "212992\n") },
			verdictWarn, "net.core.rmem_max is 212992", "sysctl -w net.core.rmem_max=4194304",
		},
		{
			"port taken", func(h *host) {
				h.bindUDP = func(a netip.AddrPort) error {
					if a.Port() == 4500 {
						return unix.EADDRINUSE
					}
					return nil
				}
			},
			verdictFail, "taken", "ss -ulnp sport = :4500",
		},
		{
			"port of clients taken", func(h *host) {
				h.bindTCP = func(a netip.AddrPort) error {
					if a.Port() == 443 {
						return unix.EADDRINUSE
					}
					return nil
				}
			},
			verdictWarn, "no VPN server can have it", "ss -tlnp sport = :443",
		},
		{
			"address missing", func(h *host) {
				h.addresses = func() (map[netip.Addr]net.Interface, error) { return nil, nil }
			},
			verdictFail, "not on this host (EIP e1)", "ip address add 203.0.113.10/32 dev eth0",
		},
		{
			"address elsewhere", func(h *host) {
				h.addresses = func() (map[netip.Addr]net.Interface, error) {
					return map[netip.Addr]net.Interface{netip.MustParseAddr("203.0.113.10"): {Name: "lo", MTU: 65536}}, nil
				}
			},
			verdictWarn, "is on lo, and the inventory says eth0", "",
		},
		{
			"small MTU", func(h *host) {
				h.addresses = func() (map[netip.Addr]net.Interface, error) {
					return map[netip.Addr]net.Interface{netip.MustParseAddr("203.0.113.10"): {Name: "eth0", MTU: 1200}}, nil
				}
			},
			verdictFail, "MTU 1200", "ip link set eth0 mtu 1500",
		},
		{
			"data directory is a file", func(h *host) {
				if err := errors.Join(os.RemoveAll(filepath.Join(h.root, "var/lib/vpngw"))); err != nil {
					t.Fatal(err)
				}
				h.write(t, "var/lib/vpngw", "")
			},
			verdictFail, "not a directory", "",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := goodHost(t)
			tc.ail(h)
			findings := h.examine(c)
			var bad []finding
			for _, f := range findings {
				if f.Verdict != verdictOK {
					bad = append(bad, f)
				}
			}
			var out strings.Builder
			if healthy := report(&out, findings); healthy != (tc.verdict != verdictFail) {
				t.Errorf("healthy is %t:\n%s", healthy, &out)
			}
			if tc.verdict == verdictOK {
				if len(bad) != 0 {
					t.Errorf("a healthy host has %+v", bad)
				}
				return
			}
			if len(bad) != 1 || bad[0].Verdict != tc.verdict || !strings.Contains(bad[0].Detail, tc.detail) ||
				!strings.Contains(bad[0].Fix, tc.fix) {
				t.Errorf("findings %+v, want %s with %q and fix %q", bad, tc.verdict, tc.detail, tc.fix)
			}
			if tc.fix != "" && !strings.Contains(out.String(), tc.fix) {
				t.Errorf("the report lacks the fix:\n%s", &out)
			}
		})
	}
}

func TestDoctorWithoutConfiguration(t *testing.T) {
	findings := goodHost(t).examine(nil)
	var ports int
	for _, f := range findings {
		if strings.HasPrefix(f.Subject, "UDP 0.0.0.0:") {
			ports++
		}
	}
	if ports != 2 {
		t.Errorf("%d ports were looked at, want 500 and 4500", ports)
	}
}

func TestOpenSecrets(t *testing.T) {
	path := writeConfig(t, wholeConfig)
	c, err := loadConfig(path, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if w := c.openSecrets(path); w != "" {
		t.Errorf("a file of mode 0600 gives %q", w)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if w := c.openSecrets(path); !strings.Contains(w, "chmod o-r") {
		t.Errorf("a file of mode 0644 gives %q", w)
	}
}

// TestDoctorOfAFleet looks at what a node of a fleet needs besides.
func TestDoctorOfAFleet(t *testing.T) {
	fleetConfig := strings.NewReplacer("store: {backend: bbolt}", "store: {backend: etcd, endpoints: ['http://127.0.0.1:2379']}",
		"address: 203.0.113.10,", "address: 203.0.113.20, floating: true,").Replace(wholeConfig)
	look := func(h *host, text string) string {
		t.Helper()
		c, err := loadConfig(writeConfig(t, text), noEnv)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		report(&out, h.examine(c))
		return out.String()
	}
	h := goodHost(t)
	h.write(t, "var/lib/vpngw/sealing.key", "")
	out := look(h, fleetConfig)
	for _, want := range []string{"ok    etcd", "ok    sealing key", "ok    address 203.0.113.20", "warn  API for other nodes"} {
		if !strings.Contains(out, want) {
			t.Errorf("%s\nlacks %q", out, want)
		}
	}
	h = goodHost(t)
	h.reach = func(etcd.Options) error { return errors.New("no answer") }
	out = look(h, strings.ReplaceAll(fleetConfig, "interface: eth0", "interface: eth7"))
	for _, want := range []string{"FAIL  etcd", "warn  sealing key", "FAIL  address 203.0.113.20"} {
		if !strings.Contains(out, want) {
			t.Errorf("%s\nlacks %q", out, want)
		}
	}
}
