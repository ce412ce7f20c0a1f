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
	"strings"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// subject is one kind of gateway. start makes a tunnel between the two sides
// of a pair and returns when it may be used.
type subject struct {
	name  string
	start func(ctx context.Context, p pair, o espOptions) error
}

var subjects = []subject{
	{"vpngw", func(ctx context.Context, p pair, _ espOptions) error { return startVPNGW(ctx, p, true) }},
	{"vpngw-raw-esp", func(ctx context.Context, p pair, _ espOptions) error { return startVPNGW(ctx, p, false) }},
	{"strongswan-libipsec", startStrongSwan},
	{baseline, startWireGuard},
}

func subjectNames() []string {
	var names []string
	for _, s := range subjects {
		names = append(names, s.name)
	}
	return names
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

// startVPNGW runs this program's data plane on both sides, with SAs of random
// keys.
func startVPNGW(ctx context.Context, p pair, encap bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var there, back [gcmKeyLen]byte
	rand.Read(there[:])
	rand.Read(back[:])
	for _, end := range []struct {
		s, peer       *side
		sends, hears  []byte
		spiTo, spiFor uint32
	}{
		{&p.a, &p.b, there[:], back[:], 0x1001, 0x1002},
		{&p.b, &p.a, back[:], there[:], 0x1002, 0x1001},
	} {
		config, err := json.Marshal(nodeConfig{
			Local: end.s.outer, Remote: end.peer.outer, Encap: encap,
			LocalPrefix: end.s.prefix, RemotePrefix: end.peer.prefix,
			OutboundSPI: end.spiTo, OutboundKey: end.sends, InboundSPI: end.spiFor, InboundKey: end.hears,
		})
		if err != nil {
			return err
		}
		file, err := end.s.write("node.json", config)
		if err != nil {
			return err
		}
		if err := end.s.startProgram(ctx, self, "esp-node", file); err != nil {
			return err
		}
		if err := end.s.route(ctx, end.peer, nodeInterface); err != nil {
			return err
		}
	}
	return nil
}

// startStrongSwan runs charon on both sides. Where the kernel has ESP this
// still has to measure libipsec, so the plugins are named.
func startStrongSwan(ctx context.Context, p pair, _ espOptions) error {
	const child = "net"
	var initiator *netlab.StrongSwan
	secret := rand.Text()
	for _, end := range []struct{ s, peer *side }{{&p.b, &p.a}, {&p.a, &p.b}} {
		swan, err := end.s.StartStrongSwan(ctx, "charon-"+end.s.role, netlab.SwanConfig(netlab.SwanConnection{
			Name: "bench", Local: end.s.outer, Remote: end.peer.outer, PSK: secret,
			Proposal: "aes128-sha256-ecp256", ESPProposal: "aes128gcm16",
			Children: []netlab.SwanChild{{
				Name: child, Local: []netip.Prefix{end.s.prefix}, Remote: []netip.Prefix{end.peer.prefix},
			}},
		}), nil)
		if err != nil {
			return err
		}
		if swan.KernelESP {
			return errors.New("the kernel carries ESP here, and not kernel-libipsec")
		}
		initiator = swan
	}
	return initiator.Initiate(ctx, child, time.Minute)
}

// wireguardMTU is what WireGuard takes for an outer MTU of 1,500.
const wireguardMTU = "1420"

// startWireGuard runs wireguard-go on both sides.
func startWireGuard(ctx context.Context, p pair, o espOptions) error {
	program := o.wireguard
	if program == "" {
		var err error
		if program, err = buildWireGuard(ctx, p.a.lab.Dir); err != nil {
			return err
		}
	}
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
		if err := end.s.startProgram(ctx, program, link, wireguardMTU, file); err != nil {
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
	program := filepath.Join(dir, "wireguard")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	cmd.Dir = wireguardModule
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", wireguardModule, err, out)
	}
	return program, nil
}
