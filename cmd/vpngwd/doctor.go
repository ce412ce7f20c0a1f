package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/control/store/etcd"
	"github.com/vpngw/vpngw/ipsec/xfrm"
)

// verdict is how bad a finding of the doctor is.
type verdict string

const (
	verdictOK   verdict = "ok"
	verdictWarn verdict = "warn" // works, but not well or not always
	verdictFail verdict = "FAIL" // tunnels will not carry traffic
)

// finding is one line of the doctor's report. Fix is the exact line to run or
// to add; it is empty when nothing is wrong.
type finding struct {
	Verdict verdict
	Subject string
	Detail  string
	Fix     string
}

// host is where the doctor looks. Tests give it another root and sockets.
type host struct {
	root      string // "" or a directory that holds proc and dev
	addresses func() (map[netip.Addr]net.Interface, error)
	bindUDP   func(netip.AddrPort) error
	bindTCP   func(netip.AddrPort) error
	offload   func() (send, receive error) // UDP_SEGMENT and UDP_GRO
	openTUN   func() error
	reach     func(etcd.Options) error       // a cluster
	kernel    func() (xfrm.Abilities, error) // its data plane; nil: not looked at
}

func thisHost() *host {
	return &host{
		addresses: hostAddresses,
		bindUDP: func(a netip.AddrPort) error {
			conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
			if err == nil {
				err = conn.Close()
			}
			return err
		},
		bindTCP: func(a netip.AddrPort) error {
			listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
			if err == nil {
				err = listener.Close()
			}
			return err
		},
		offload: udpOffload,
		reach:   reachEtcd,
		kernel:  askKernel,
		openTUN: func() error {
			f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
			if err == nil {
				err = f.Close()
			}
			return err
		},
	}
}

// examine looks at everything that the daemon needs of the host. The
// configuration may be nil: then what depends on it is left out.
func (h *host) examine(c *config) []finding {
	findings := []finding{h.tun()}
	findings = append(findings, h.capabilities()...)
	findings = append(findings, h.dataPlane(c)...)
	findings = append(findings, h.forwarding(), h.forwardingV6(), h.reversePath(c), h.offloads(), h.socketBuffers())
	if c == nil {
		a := netip.IPv4Unspecified()
		return append(append(findings, h.ports(a)...), h.clientPorts(a)...)
	}
	findings = append(findings, h.inventory(c)...)
	findings = append(findings, certificates(c.Inventory.Certificates, time.Now())...)
	findings = append(findings, h.dataDir(c.DataDir))
	if c.Store.Backend == storeEtcd {
		findings = append(findings, h.cluster(c)...)
	}
	return findings
}

// report writes the findings and tells whether the daemon can do its work.
func report(w io.Writer, findings []finding) bool {
	healthy := true
	for _, f := range findings {
		fmt.Fprintf(w, "%-5s %-28s %s\n", f.Verdict, f.Subject, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(w, "      %-28s %s\n", "  add:", f.Fix)
		}
		healthy = healthy && f.Verdict != verdictFail
	}
	return healthy
}

func (h *host) tun() finding {
	f := finding{Verdict: verdictOK, Subject: "TUN device", Detail: "/dev/net/tun opens"}
	err := h.openTUN()
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		f = finding{
			verdictFail, f.Subject, "there is no /dev/net/tun",
			"modprobe tun   # in a container: --device /dev/net/tun",
		}
	default:
		f = finding{verdictFail, f.Subject, err.Error(), "run as root, or with --device /dev/net/tun in a container"}
	}
	return f
}

// wantedCapabilities are those the daemon uses, with what for.
var wantedCapabilities = []struct {
	bit     uint
	name    string
	use     string
	verdict verdict
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "links, addresses, routes and rules", verdictFail},
	{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", "UDP port 500 and TCP port 443", verdictFail},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", "ESP without UDP (IP protocol 50) and ICMP probes", verdictFail},
}

func (h *host) capabilities() []finding {
	effective, err := h.effectiveCapabilities()
	if err != nil {
		return []finding{{verdictWarn, "capabilities", err.Error(), ""}}
	}
	var findings []finding
	for _, c := range wantedCapabilities {
		f := finding{Verdict: verdictOK, Subject: c.name, Detail: "for " + c.use}
		if effective&(1<<c.bit) == 0 {
			f.Verdict, f.Detail = c.verdict, "missing: needed for "+c.use
			f.Fix = "AmbientCapabilities=" + c.name + "   # in the systemd unit; in a container: --cap-add " +
				strings.TrimPrefix(c.name, "CAP_")
		}
		findings = append(findings, f)
	}
	return findings
}

func (h *host) effectiveCapabilities() (uint64, error) {
	status, err := os.Open(filepath.Join(h.root, "/proc/self/status"))
	if err != nil {
		return 0, err
	}
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, errors.New("/proc/self/status has no CapEff line")
}

// sysctl reads a number by its name, whose parts dots or else slashes part.
func (h *host) sysctl(name string) (int, error) {
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	b, err := os.ReadFile(filepath.Join(h.root, "/proc/sys", name))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// sysctlFix sets a value now and at each start of the host.
func sysctlFix(name string, value int) string {
	return fmt.Sprintf("echo '%s = %d' >> /etc/sysctl.d/90-vpngw.conf && sysctl -w %s=%d", name, value, name, value)
}

func (h *host) forwarding() finding {
	const name = "net.ipv4.ip_forward"
	value, err := h.sysctl(name)
	switch {
	case err != nil:
		return finding{verdictWarn, "IP forwarding", err.Error(), ""}
	case value != 1:
		return finding{verdictFail, "IP forwarding", "is off: hosts behind this node cannot use a tunnel", sysctlFix(name, 1)}
	}
	return finding{verdictOK, "IP forwarding", "is on", ""}
}

// forwardingV6 is wanted by gateways of ip_version ipv6, and servers with a
// client_cidr_v6, alone.
func (h *host) forwardingV6() finding {
	const subject, name = "IPv6 forwarding", "net.ipv6.conf.all.forwarding"
	value, err := h.sysctl(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return finding{verdictOK, subject, "is not there, nor is IPv6: gateways of ip_version ipv6 and servers with client_cidr_v6 would carry nothing of it", ""}
	case err != nil:
		return finding{verdictWarn, subject, err.Error(), ""}
	case value != 1:
		return finding{verdictWarn, subject, "is off: hosts behind this node cannot use IPv6 with a gateway of ip_version ipv6 or the clients of a server with client_cidr_v6", sysctlFix(name, 1)}
	}
	return finding{verdictOK, subject, "is on", ""}
}

// reversePath looks at source validation (RFC 3704), which decides what a packet
// in the clear can pass for. Strict on the uplinks, it drops there what had to
// come through a tunnel (RFC 4301, section 5.2); strict on the tunnels, it drops
// what arrives on the standby of two. The kernel takes the larger of the values
// for all and for the device, and gives new devices the default.
func (h *host) reversePath(c *config) finding {
	const subject = "reverse path filter"
	names := []string{rpFilter("all"), rpFilter("default")}
	wanted := []int{0, 2}
	uplinks := h.uplinks(c)
	for _, link := range uplinks {
		names, wanted = append(names, rpFilter(link)), append(wanted, 1)
	}
	values := make([]int, len(names))
	var fixes []string
	for i, name := range names {
		var err error
		if values[i], err = h.sysctl(name); err != nil {
			return finding{verdictWarn, subject, err.Error(), ""}
		}
		loose := name == rpFilter("default") && values[i] == 0 // does as well
		if values[i] != wanted[i] && !loose {
			fixes = append(fixes, sysctlFix(name, wanted[i]))
		}
	}
	fix := strings.Join(fixes, " && ")
	all := values[0]
	if all == 1 || values[1] == 1 {
		return finding{verdictWarn, subject, "is strict on tunnels: packets from the standby of two are dropped", fix}
	}
	for i, link := range uplinks {
		if max(all, values[2+i]) != 1 {
			return finding{
				verdictWarn, subject,
				"is not strict on " + link + ": packets that had to come through a tunnel are taken from there in the clear", fix,
			}
		}
	}
	return finding{verdictOK, subject, "does not drop tunnel traffic", ""}
}

// rpFilter names the setting for a device; one whose name has a dot needs slashes.
func rpFilter(device string) string {
	name := "net.ipv4.conf." + device + ".rp_filter"
	if strings.Contains(device, ".") {
		name = "net/ipv4/conf/" + device + "/rp_filter"
	}
	return name
}

// uplinks returns the devices that have the IPv4 addresses of the inventory.
func (h *host) uplinks(c *config) (names []string) {
	if c == nil {
		return nil
	}
	addresses, err := h.addresses()
	if err != nil {
		return nil // the inventory's finding tells
	}
	for _, e := range c.Inventory.EIPs {
		a := e.HostAddress()
		if link, here := addresses[a]; here && a.Is4() && link.Name != "lo" && !slices.Contains(names, link.Name) {
			names = append(names, link.Name)
		}
	}
	return names
}

func (h *host) offloads() finding {
	const subject = "UDP segmentation offload"
	send, receive := h.offload()
	if err := errors.Join(send, receive); err != nil {
		return finding{verdictWarn, subject, "the kernel has it not (Linux 5.0 has): tunnels will be slow", ""}
	}
	return finding{verdictOK, subject, "UDP_SEGMENT and UDP_GRO", ""}
}

// wantedSocketBuffer is what keeps a 10 Gbit/s burst of some milliseconds, in octets.
const wantedSocketBuffer = 4 << 20

func (h *host) socketBuffers() finding {
	for _, name := range []string{"net.core.rmem_max", "net.core.wmem_max"} {
		value, err := h.sysctl(name)
		if errors.Is(err, fs.ErrNotExist) {
			// Network namespaces of containers do not show them; CAP_NET_ADMIN
			// may exceed them by SO_RCVBUFFORCE.
			continue
		}
		if err != nil {
			return finding{verdictWarn, "socket buffers", err.Error(), ""}
		}
		if value < wantedSocketBuffer {
			return finding{
				verdictWarn, "socket buffers", fmt.Sprintf("%s is %d: bursts may be lost", name, value),
				sysctlFix(name, wantedSocketBuffer),
			}
		}
	}
	return finding{verdictOK, "socket buffers", "are large enough", ""}
}

// ikePorts are those of IKE and of IKE and ESP in UDP (RFC 3948).
var ikePorts = []uint16{500, 4500}

func (h *host) ports(a netip.Addr) []finding {
	var findings []finding
	for _, port := range ikePorts {
		at := netip.AddrPortFrom(a, port)
		f := finding{Verdict: verdictOK, Subject: fmt.Sprintf("UDP %s", at), Detail: "is free"}
		if err := h.bindUDP(at); errors.Is(err, unix.EADDRINUSE) {
			f.Verdict, f.Detail = verdictFail, "is taken by another process (by vpngwd itself while it runs)"
			f.Fix = fmt.Sprintf("ss -ulnp sport = :%d   # names the process; stop it", port)
		} else if err != nil {
			f.Verdict, f.Detail = verdictFail, err.Error()
		}
		findings = append(findings, f)
	}
	return findings
}

// serverPorts are those that servers of clients can have.
var serverPorts = []uint16{443, 1194}

// clientPorts looks at the ports of servers of clients. One that is taken is
// none the worse for an address without such a server.
func (h *host) clientPorts(a netip.Addr) []finding {
	var findings []finding
	for _, port := range serverPorts {
		at := netip.AddrPortFrom(a, port)
		f := finding{Verdict: verdictOK, Subject: fmt.Sprintf("TCP %s", at), Detail: "is free"}
		if err := h.bindTCP(at); errors.Is(err, unix.EADDRINUSE) {
			f.Verdict, f.Detail = verdictWarn, "is taken: no VPN server can have it (vpngwd itself has it while one does)"
			f.Fix = fmt.Sprintf("ss -tlnp sport = :%d   # names the process; stop it, or give the server the other port", port)
		} else if err != nil {
			f.Verdict, f.Detail = verdictWarn, err.Error()
		}
		findings = append(findings, f)
	}
	return findings
}

// inventory checks that the local address of each EIP is on this host, that
// its ports are free, and that packets of a useful size leave by its link.
func (h *host) inventory(c *config) []finding {
	addresses, err := h.addresses()
	if err != nil {
		return []finding{{verdictWarn, "addresses", err.Error(), ""}}
	}
	var findings []finding
	for _, e := range c.Inventory.EIPs {
		a := e.HostAddress()
		link, here := addresses[a]
		if !here && e.Floating && c.Store.Backend == storeEtcd {
			findings = append(findings, h.floating(e.ID, a, e.Interface, addresses))
			continue
		}
		if !here {
			device := e.Interface
			if device == "" {
				device = "DEVICE"
			}
			findings = append(findings, finding{
				verdictFail, "address " + a.String(), "is not on this host (EIP " + e.ID + ")",
				fmt.Sprintf("ip address add %s dev %s   # or give the EIP's private_address, if a NAT is in front",
					netip.PrefixFrom(a, a.BitLen()), device),
			})
			continue
		}
		f := finding{Verdict: verdictOK, Subject: "address " + a.String(), Detail: fmt.Sprintf("on %s, MTU %d", link.Name, link.MTU)}
		switch {
		case e.Interface != "" && e.Interface != link.Name:
			f.Verdict, f.Detail = verdictWarn, fmt.Sprintf("is on %s, and the inventory says %s", link.Name, e.Interface)
		case link.MTU < minOuterMTU:
			f.Verdict, f.Detail = verdictFail, fmt.Sprintf("%s has MTU %d, below %d", link.Name, link.MTU, minOuterMTU)
			f.Fix = fmt.Sprintf("ip link set %s mtu 1500", link.Name)
		}
		findings = append(findings, f)
		findings = append(append(findings, h.ports(a)...), h.clientPorts(a)...)
	}
	return findings
}

// dataDir checks that the directory, or the one it will be made in, can be
// written, without leaving anything there.
func (h *host) dataDir(dir string) finding {
	at := filepath.Join(h.root, dir)
	for {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			return finding{verdictFail, "data directory", at + " is not a directory", ""}
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return finding{verdictFail, "data directory", err.Error(), ""}
		}
		at = filepath.Dir(at)
	}
	if err := unix.Access(at, unix.W_OK); err != nil {
		return finding{
			verdictFail, "data directory", fmt.Sprintf("%s: %v", at, err),
			"install -d -m 0700 " + dir + "   # owned by the user that vpngwd runs as",
		}
	}
	return finding{verdictOK, "data directory", dir, ""}
}

// hostAddresses returns each address of the host with its link.
func hostAddresses() (map[netip.Addr]net.Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	found := make(map[netip.Addr]net.Interface)
	for _, link := range links {
		addresses, err := link.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if network, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(network.IP); ok {
					found[ip.Unmap()] = link
				}
			}
		}
	}
	return found, nil
}

// udpOffload asks the kernel for UDP_SEGMENT and UDP_GRO on a throw-away socket.
func udpOffload() (send, receive error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err, err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1200),
		unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
}

// openSecrets warns of a configuration file that holds secrets and that other
// users may read. It is empty when all is well.
func (c *config) openSecrets(path string) string {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o004 == 0 {
		return ""
	}
	inline := slices.ContainsFunc(c.API.Credentials, func(k credentialConfig) bool {
		return k.SecretKeyFile == "" && k.SecretKeyEnv == ""
	}) || slices.ContainsFunc(c.API.Users, func(u userConfig) bool {
		return u.PasswordFile == "" && u.PasswordEnv == ""
	})
	if !inline {
		return ""
	}
	return fmt.Sprintf("%s holds secrets and can be read by everybody: chmod o-r %[1]s", path)
}
