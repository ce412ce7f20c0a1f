package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// subject is one kind of gateway. start makes a tunnel between the two sides
// of a pair and returns when it may be used.
type subject struct {
	name string
	// rival is the strongSwan that the subject is compared with, of the same
	// algorithms.
	rival string
	// programs are what it runs, apart from vpnbench itself and wireguard-go.
	programs []string
	start    func(ctx context.Context, p pair, o espOptions) error
}

var strongSwanPrograms = []string{"charon-systemd", "swanctl"}

const (
	gcm = "aes128gcm16"
	cbc = "aes128-sha256"

	libipsec    = "strongswan-libipsec"
	libipsecCBC = "strongswan-libipsec-cbc"
)

var subjects = []subject{
	{"vpngw", libipsec, nil, func(ctx context.Context, p pair, _ espOptions) error { return startVPNGW(ctx, p, gcm, true, 1) }},
	{"vpngw-raw-esp", libipsec, nil, func(ctx context.Context, p pair, _ espOptions) error { return startVPNGW(ctx, p, gcm, false, 1) }},
	{"vpngw-cbc", libipsecCBC, nil, func(ctx context.Context, p pair, _ espOptions) error { return startVPNGW(ctx, p, cbc, true, 1) }},
	{"vpngw-to-strongswan", libipsec, strongSwanPrograms, startMixed},
	{libipsec, "", strongSwanPrograms, func(ctx context.Context, p pair, _ espOptions) error { return startStrongSwan(ctx, p, gcm) }},
	{libipsecCBC, "", strongSwanPrograms, func(ctx context.Context, p pair, _ espOptions) error { return startStrongSwan(ctx, p, cbc) }},
	{baseline, libipsec, nil, startWireGuard},
}

func subjectNames() []string {
	var names []string
	for _, s := range subjects {
		names = append(names, s.name)
	}
	return names
}

// findPrograms checks that programs can be run. The error names all that cannot.
func findPrograms(names ...string) error {
	var errs []error
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		_, err := exec.LookPath(name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// prepare makes sure, before anything is measured, that all of the subjects can be
// started. What it builds is in dir.
func (o *espOptions) prepare(ctx context.Context, chosen []subject, dir string) error {
	programs := []string{"ip", "iperf3", "ping"}
	builds := false
	for _, s := range chosen {
		programs = append(programs, s.programs...)
		builds = builds || s.name == baseline && o.wireguard == ""
		if s.name == baseline && o.wireguard != "" {
			programs = append(programs, o.wireguard)
		}
	}
	if builds {
		programs = append(programs, "go")
	}
	if err := findPrograms(programs...); err != nil || !builds {
		return err
	}
	var err error
	o.wireguard, err = buildWireGuard(ctx, dir)
	return err
}

// startProgram starts a program on one side and waits until it prints "ready".
func (s *side) startProgram(ctx context.Context, args ...string) error {
	process, err := s.Start("gateway-"+s.role, nil, args...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = netlab.Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		select {
		case <-process.Done():
			return false, errors.New("it ended at once")
		default:
		}
		return strings.Contains(process.Output(), "ready\n"), nil
	})
	if err != nil {
		return fmt.Errorf("start %s on side %s: %w: %s", filepath.Base(args[0]), s.role, err, process.Errors())
	}
	return nil
}

// write puts a file into the lab's folder.
func (s *side) write(name string, content []byte) (string, error) {
	file := filepath.Join(s.lab.Dir, s.role+"-"+name)
	return file, os.WriteFile(file, content, 0o600)
}

// newSA makes keys for a suite.
func newSA(name string, spi uint32) nodeSA {
	algorithms := suites[name]
	sa := nodeSA{
		SPI: spi, EncryptionKey: make([]byte, algorithms.encryptKey), IntegrityKey: make([]byte, algorithms.integrityKey),
	}
	rand.Read(sa.EncryptionKey)
	rand.Read(sa.IntegrityKey)
	return sa
}

// startVPNGW runs this program's data plane on both sides, with tunnels of static
// SAs with random keys.
func startVPNGW(ctx context.Context, p pair, suite string, encap bool, tunnels int) error {
	a := nodeConfig{Local: p.a.outer, Remote: p.b.outer, Encap: encap, Suite: suite}
	b := nodeConfig{Local: p.b.outer, Remote: p.a.outer, Encap: encap, Suite: suite}
	for i := range tunnels {
		here, there := p.prefixes(i)
		out, in := newSA(suite, 0x1_0000+uint32(i)), newSA(suite, 0x2_0000+uint32(i))
		name := fmt.Sprintf("vpngw%d", i)
		a.Tunnels = append(a.Tunnels, nodeTunnel{Name: name, LocalPrefix: here, RemotePrefix: there, Outbound: out, Inbound: in})
		b.Tunnels = append(b.Tunnels, nodeTunnel{Name: name, LocalPrefix: there, RemotePrefix: here, Outbound: in, Inbound: out})
	}
	if err := p.a.startNode(ctx, a); err != nil {
		return err
	}
	return p.b.startNode(ctx, b)
}

// startNode runs this program's end of tunnels and routes their traffic to it.
func (s *side) startNode(ctx context.Context, c nodeConfig) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	file, err := s.write("node.json", content)
	if err != nil {
		return err
	}
	if err := s.startProgram(ctx, self, "esp-node", file); err != nil {
		return err
	}
	var routes []string
	for _, t := range c.Tunnels {
		routes = append(routes, fmt.Sprintf("route add %s dev %s src %s", t.RemotePrefix, t.Name, t.LocalPrefix.Addr().Next()))
	}
	return s.IP(ctx, routes...)
}

// startStrongSwan runs charon on both sides.
func startStrongSwan(ctx context.Context, p pair, suite string) error {
	secret := rand.Text()
	if _, err := p.b.startCharon(ctx, &p.a, suite, secret); err != nil {
		return err
	}
	initiator, err := p.a.startCharon(ctx, &p.b, suite, secret)
	if err != nil {
		return err
	}
	return initiator.Initiate(ctx, swanChild, time.Minute)
}

// startMixed runs vpngw on side a and charon on side b.
func startMixed(ctx context.Context, p pair, _ espOptions) error {
	secret := rand.Text()
	err := p.a.startNode(ctx, nodeConfig{
		Local: p.a.outer, Remote: p.b.outer, Encap: true, Suite: gcm, PSK: secret,
		Tunnels: []nodeTunnel{{Name: nodeInterface, LocalPrefix: p.a.prefix, RemotePrefix: p.b.prefix}},
	})
	if err != nil {
		return err
	}
	initiator, err := p.b.startCharon(ctx, &p.a, gcm, secret)
	if err != nil {
		return err
	}
	return initiator.Initiate(ctx, swanChild, time.Minute)
}

const swanChild = "net"

// startCharon runs a charon that carries ESP itself. Where the kernel has ESP this
// still has to measure libipsec, so the plugins are named.
func (s *side) startCharon(ctx context.Context, peer *side, suite, secret string) (*netlab.StrongSwan, error) {
	swan, err := s.StartStrongSwan(ctx, "charon-"+s.role, netlab.SwanConfig(netlab.SwanConnection{
		Name: "bench", Local: s.outer, Remote: peer.outer, PSK: secret,
		Proposal: "aes128-sha256-ecp256", ESPProposal: suite,
		Children: []netlab.SwanChild{{
			Name: swanChild, Local: []netip.Prefix{s.prefix}, Remote: []netip.Prefix{peer.prefix},
		}},
	}), nil)
	if err == nil && swan.KernelESP {
		err = errors.New("the kernel carries ESP here, and not kernel-libipsec")
	}
	return swan, err
}

// wireguardMTU is what WireGuard takes for an outer MTU of 1,500.
const wireguardMTU = "1420"

// startWireGuard runs wireguard-go on both sides.
func startWireGuard(ctx context.Context, p pair, o espOptions) error {
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	const port, link = 51820, "wg0"
	for i, end := range []struct{ s, peer *side }{{&p.a, &p.b}, {&p.b, &p.a}} {
		config := fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s\nallowed_ip=%s\n",
			hex.EncodeToString(keys[i].Bytes()), port, hex.EncodeToString(keys[1-i].PublicKey().Bytes()),
			netip.AddrPortFrom(end.peer.outer, port), end.peer.prefix)
		file, err := end.s.write("wireguard.conf", []byte(config))
		if err != nil {
			return err
		}
		if err := end.s.startProgram(ctx, o.wireguard, link, wireguardMTU, file); err != nil {
			return err
		}
		if err := end.s.IP(ctx, "link set "+link+" up"); err != nil {
			return err
		}
		if err := end.s.route(ctx, end.peer, link); err != nil {
			return err
		}
	}
	return nil
}

// wireguardModule is the module of the comparison program, seen from the
// repository's root.
const wireguardModule = "deploy/bench/wireguard"

func buildWireGuard(ctx context.Context, dir string) (string, error) {
	if _, err := os.Stat(filepath.Join(wireguardModule, "go.mod")); err != nil {
		return "", fmt.Errorf("%s: run it from the repository's root to build %s, or name a program with --wireguard: %w", baseline, wireguardModule, err)
	}
	program := filepath.Join(dir, "wireguard")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	cmd.Dir = wireguardModule
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", wireguardModule, err, out)
	}
	return program, nil
}
