package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

var (
	p2cServer = netip.MustParseAddr("198.51.100.1")
	p2cClient = netip.MustParseAddr("198.51.100.2")
	p2cHost   = netip.MustParseAddr("10.1.0.1") // behind the server
	p2cRoute  = netip.MustParsePrefix("10.1.0.0/24")
	p2cPool   = netip.MustParsePrefix("10.96.0.0/15")
)

const (
	p2cPort   = 1194
	p2cDevice = "p2c0"
	// p2cClientDevice is the start of the names of the clients' devices.
	p2cClientDevice = "tun"
	p2cPatience     = 2 * time.Minute
)

// p2cLab is a server and clients in two namespaces.
type p2cLab struct {
	lab             *netlab.Lab
	server, clients *netlab.Namespace
	udp             bool
	newer           bool // OpenVPN is the newer one
	serverProcess   *netlab.Process
	clientProcesses []*netlab.Process
	addresses       []netip.Addr // virtual, of each client
	ca              *authority
}

func openP2CLab(ctx context.Context, udp bool) (l *p2cLab, err error) {
	l = &p2cLab{udp: udp}
	if l.lab, err = netlab.Open(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.lab.Close())
		}
	}()
	if l.server, err = l.lab.Namespace(ctx, "server"); err != nil {
		return nil, err
	}
	if l.clients, err = l.lab.Namespace(ctx, "clients"); err != nil {
		return nil, err
	}
	if err := l.server.Link(ctx, "wire", l.clients, "wire", 1500); err != nil {
		return nil, err
	}
	if err := l.server.IP(ctx, fmt.Sprintf("addr add %s/24 dev wire", p2cServer), fmt.Sprintf("addr add %s/32 dev lo", p2cHost)); err != nil {
		return nil, err
	}
	if err := l.clients.IP(ctx, fmt.Sprintf("addr add %s/24 dev wire", p2cClient)); err != nil {
		return nil, err
	}
	l.ca, err = newCA()
	return l, err
}

func (l *p2cLab) close() error { return l.lab.Close() }

// start starts a program and waits until it prints a word.
func (l *p2cLab) start(ctx context.Context, ns *netlab.Namespace, name, word string, args ...string) (*netlab.Process, error) {
	process, err := ns.Start(name, nil, args...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p2cPatience)
	defer cancel()
	err = netlab.Poll(ctx, 10*time.Millisecond, func() (bool, error) {
		select {
		case <-process.Done():
			return false, errors.New("it ended at once")
		default:
			return strings.Contains(process.Output(), word), nil
		}
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w: %s%s", name, err, process.Output(), process.Errors())
	}
	return process, nil
}

// startServerNode starts our own server.
func (l *p2cLab) startServerNode(ctx context.Context) (*netlab.Process, error) {
	return l.startNode(ctx, l.server, "server", "server", x509.ExtKeyUsageServerAuth,
		p2cNode{Device: p2cDevice, Pool: p2cPool, Routes: []netip.Prefix{p2cRoute}})
}

// startClientsNode starts sessions of our own in a process of that name.
func (l *p2cLab) startClientsNode(ctx context.Context, name string, n p2cNode) (*netlab.Process, error) {
	n.Prefix = p2cClientDevice
	return l.startNode(ctx, l.clients, name, "clients", x509.ExtKeyUsageClientAuth, n)
}

func (l *p2cLab) startNode(ctx context.Context, ns *netlab.Namespace, name, role string, use x509.ExtKeyUsage, n p2cNode) (*netlab.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n.Server, n.UDP, n.CA = netip.AddrPortFrom(p2cServer, p2cPort), l.udp, l.ca.pem
	if n.Certificate, n.Key, err = l.ca.issue(name, use); err != nil {
		return nil, err
	}
	content, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(l.lab.Dir, name+".json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return nil, err
	}
	return l.start(ctx, ns, name, "ready\n", self, "p2c-node", role, file)
}

// credentials writes what an OpenVPN process needs and returns the options that
// name it.
func (l *p2cLab) credentials(name string, use x509.ExtKeyUsage) ([]string, error) {
	cert, key, err := l.ca.issue(name, use)
	if err != nil {
		return nil, err
	}
	var options []string
	for option, content := range map[string][]byte{"--ca": l.ca.pem, "--cert": cert, "--key": key} {
		file := filepath.Join(l.lab.Dir, name+option+".pem")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return nil, err
		}
		options = append(options, option, file)
	}
	return options, nil
}

func (l *p2cLab) proto(tcp, udp string) string {
	if l.udp {
		return udp
	}
	return tcp
}

const openVPNReady = "Initialization Sequence Completed"

// openVPN returns the command of an OpenVPN with options.
func (l *p2cLab) openVPN(options ...string) []string {
	command := append([]string{"openvpn"}, options...)
	if l.newer {
		return netlab.NewerDebian(command...)
	}
	return command
}

// startServer starts the server of a kind.
func (l *p2cLab) startServer(ctx context.Context, kind string) (err error) {
	if kind == ours {
		l.serverProcess, err = l.startServerNode(ctx)
		return err
	}
	credentials, err := l.credentials("server", x509.ExtKeyUsageServerAuth)
	if err != nil {
		return err
	}
	// 16 bits are as many addresses as OpenVPN lends.
	l.serverProcess, err = l.start(ctx, l.server, "server", openVPNReady, l.openVPN(append([]string{
		"--dev", p2cDevice, "--dev-type", "tun", "--proto", l.proto("tcp-server", "udp"),
		"--local", p2cServer.String(), "--port", fmt.Sprint(p2cPort), "--server", p2cPool.Addr().String(), "255.255.0.0",
		"--topology", "net30", "--max-clients", "16000", "--dh", "none", "--duplicate-cn", "--data-ciphers", "AES-128-GCM", "--disable-dco",
		"--keepalive", "10", "60", "--push", fmt.Sprintf("route %s 255.255.255.0", p2cRoute.Addr()),
	}, credentials...)...)...)
	return err
}

// startClients starts as many clients of a kind and gives each a routing table
// of its own, so that the source address of a flow says which of them carries
// it.
func (l *p2cLab) startClients(ctx context.Context, kind string, count int) error {
	if kind == ours {
		process, err := l.startClientsNode(ctx, "clients", p2cNode{Sessions: count, Parallel: 8, Devices: count})
		if err != nil {
			return err
		}
		l.clientProcesses = append(l.clientProcesses, process)
	} else {
		for i := range count {
			name := fmt.Sprintf("client%d", i)
			credentials, err := l.credentials(name, x509.ExtKeyUsageClientAuth)
			if err != nil {
				return err
			}
			process, err := l.start(ctx, l.clients, name, openVPNReady, l.openVPN(append([]string{
				"--client", "--dev", fmt.Sprintf("%s%d", p2cClientDevice, i), "--dev-type", "tun",
				"--proto", l.proto("tcp-client", "udp"), "--remote", p2cServer.String(), fmt.Sprint(p2cPort), "--nobind",
				"--remote-cert-tls", "server", "--data-ciphers", "AES-128-GCM", "--disable-dco", "--route-noexec",
			}, credentials...)...)...)
			if err != nil {
				return err
			}
			l.clientProcesses = append(l.clientProcesses, process)
		}
	}
	for i := range count {
		if err := l.routeClient(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// routeClient waits for a client's address and makes its table.
func (l *p2cLab) routeClient(ctx context.Context, i int) error {
	dev := fmt.Sprintf("%s%d", p2cClientDevice, i)
	var address netip.Addr
	waiting, cancel := context.WithTimeout(ctx, p2cPatience)
	defer cancel()
	err := netlab.Poll(waiting, 20*time.Millisecond, func() (bool, error) {
		out, err := l.clients.Run(waiting, "ip", "-o", "-4", "addr", "show", "dev", dev)
		if err != nil {
			return false, nil //nolint:nilerr // The device may not be there yet.
		}
		// 7: tun0    inet 10.96.0.6 peer 10.96.0.5/32 scope global tun0
		fields := strings.Fields(out)
		if len(fields) < 4 {
			return false, nil
		}
		text, _, _ := strings.Cut(fields[3], "/")
		address, err = netip.ParseAddr(text)
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("address of %s: %w", dev, err)
	}
	l.addresses = append(l.addresses, address)
	table := 1000 + i
	if err := l.clients.IP(ctx, fmt.Sprintf("rule add from %s table %d", address, table),
		fmt.Sprintf("route add %s dev %s table %d", p2cRoute, dev, table)); err != nil {
		return err
	}
	return l.clients.WaitPing(waiting, address, p2cHost)
}

// roundTrip returns the mean time of pings for some seconds, in milliseconds.
func roundTrip(ctx context.Context, from *netlab.Namespace, source, target netip.Addr, seconds int) (float64, error) {
	const each = 5 // a second
	out, err := from.Run(ctx, "ping", "-n", "-q", "-i", "0.2", "-c", fmt.Sprint(each*seconds), "-w", fmt.Sprint(seconds+5),
		"-I", source.String(), target.String())
	if err != nil && out == "" {
		return 0, err // lost pings alone are no failure
	}
	return parseRoundTrip(out)
}

// parseRoundTrip reads what ping -q prints at the end.
func parseRoundTrip(out string) (float64, error) {
	// rtt min/avg/max/mdev = 0.045/0.060/0.083/0.012 ms
	_, figures, ok := strings.Cut(out, "min/avg/max/mdev = ")
	parts := strings.Split(figures, "/")
	if !ok || len(parts) < 4 {
		return 0, fmt.Errorf("no ping was answered: %q", out)
	}
	return strconv.ParseFloat(parts[1], 64)
}

// p2cTimes are CPU times used so far: of the server, of all clients and of
// everything on the machine.
type p2cTimes struct{ server, clients, machine time.Duration }

// since returns what was used after an earlier time.
func (t p2cTimes) since(before p2cTimes) p2cTimes {
	return p2cTimes{t.server - before.server, t.clients - before.clients, t.machine - before.machine}
}

// cpu returns the CPU times so far.
func (l *p2cLab) cpu() (t p2cTimes, err error) {
	if t.server, err = processTime(fmt.Sprint(l.serverProcess.PID)); err != nil {
		return t, err
	}
	for _, p := range l.clientProcesses {
		used, err := processTime(fmt.Sprint(p.PID))
		if err != nil {
			return t, err
		}
		t.clients += used
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	t.machine, err = busyTime(string(stat))
	return t, err
}
