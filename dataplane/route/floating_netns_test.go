//go:build netns

package route

import (
	"bytes"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNetNSFloatingLifetime goes through the life of floating addresses: they
// come and go as wanted, by themselves when nobody renews them, and nothing
// else on the device is touched.
func TestNetNSFloatingLifetime(t *testing.T) {
	newNamespace(t)
	ip(t, "link add eth0 type veth peer name far")
	ip(t, "link set far up")
	ip(t, "link set eth0 up")
	ip(t, "addr add 192.0.2.1/24 dev eth0")
	ip(t, "addr add 192.0.2.7/32 dev eth0") // somebody else's, and wanted below
	m := newManager(t)
	at := func(a string) Address { return Address{"eth0", netip.MustParsePrefix(a + "/32")} }
	set := func(m *Manager, lifetime time.Duration, want ...Address) {
		t.Helper()
		for _, err := range m.SetFloating(want, lifetime) {
			t.Error(err)
		}
	}
	has := func(a string, want bool) {
		t.Helper()
		if got := strings.Contains(ip(t, "-o addr show dev eth0"), " "+a+"/"); got != want {
			t.Errorf("%s is there: %v, want %v", a, got, want)
		}
	}

	set(m, time.Minute, at("192.0.2.5"), at("192.0.2.6"), at("192.0.2.7"))
	if err := m.Set(State{}); err != nil { // knows nothing of them
		t.Fatal(err)
	}
	has("192.0.2.5", true)
	text := ip(t, "addr show dev eth0 to 192.0.2.5")
	left := regexp.MustCompile(`valid_lft (\d+)sec`).FindStringSubmatch(text)
	if left == nil {
		t.Fatalf("the address has no lifetime: %s", text)
	}
	if seconds, err := strconv.Atoi(left[1]); err != nil || seconds > 60 {
		t.Errorf("the lifetime is not a minute, or what is left of it: %s", text)
	}
	if text := ip(t, "addr show dev eth0 to 192.0.2.7"); !strings.Contains(text, "valid_lft forever") {
		t.Errorf("somebody else's address was changed: %s", text)
	}
	set(m, time.Minute, at("192.0.2.6"))
	has("192.0.2.5", false)
	has("192.0.2.6", true)

	// Another process, the first one having died, takes over what it finds.
	next := newManager(t)
	set(next, time.Minute, at("192.0.2.5"))
	has("192.0.2.5", true)
	has("192.0.2.6", false)
	has("192.0.2.7", true)
	set(next, time.Second, at("192.0.2.5")) // for the last time
	for start := time.Now(); strings.Contains(ip(t, "-o addr show dev eth0"), "192.0.2.5/"); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("an address that nobody renews stays")
		}
	}
	has("192.0.2.1", true)

	failed := next.SetFloating([]Address{{"missing", netip.MustParsePrefix("192.0.2.9/32")}, at("192.0.2.5")}, time.Minute)
	if len(failed) != 1 || failed[netip.MustParseAddr("192.0.2.9")] == nil {
		t.Errorf("failed: %v, want that of the missing device", failed)
	}
	has("192.0.2.5", true)
}

// TestNetNSFloatingAnnounced checks that the neighbours hear of an address.
func TestNetNSFloatingAnnounced(t *testing.T) {
	newNamespace(t)
	ip(t, "link add eth0 type veth peer name neighbour")
	ip(t, "link set eth0 up")
	ip(t, "link set neighbour up")
	settled(t, "link show eth0", "state UP")
	heard, err := net.InterfaceByName("neighbour")
	if err != nil {
		t.Fatal(err)
	}
	sender, err := net.InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	arp := uint16(unix.ETH_P_ARP>>8 | unix.ETH_P_ARP&0xff<<8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(arp))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arp, Ifindex: heard.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		t.Fatal(err)
	}
	m := newManager(t)
	address := netip.MustParseAddr("192.0.2.5")
	for _, err := range m.SetFloating([]Address{{"eth0", netip.PrefixFrom(address, 32)}}, time.Minute) {
		t.Fatal(err)
	}
	for _, operation := range []byte{arpRequest, arpReply} {
		packet := make([]byte, 64)
		n, _, err := unix.Recvfrom(fd, packet, 0)
		if err != nil {
			t.Fatalf("no announcement: %v", err)
		}
		packet = packet[:min(n, 28)]
		if len(packet) != 28 || packet[7] != operation || !bytes.Equal(packet[8:14], sender.HardwareAddr) ||
			!bytes.Equal(packet[14:18], address.AsSlice()) || !bytes.Equal(packet[24:28], address.AsSlice()) {
			t.Errorf("announcement % x, want operation %d of %s by %s", packet, operation, address, sender.HardwareAddr)
		}
	}
}
