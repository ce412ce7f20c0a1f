//go:build e2e

package interop

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// swanSettings let strongSwan do what the matrix asks for, beyond its defaults:
// aggressive mode with a pre-shared key as responder, and many peers at one
// address at once. Routes are the router's own business.
var swanSettings = map[string]string{
	"i_dont_care_about_security_and_use_aggressive_mode_psk": "yes",
	"dos_protection":     "no",
	"install_routes":     "no",
	"retransmit_tries":   "8",
	"retransmit_timeout": "4.0",
}

var anywhere = netip.MustParsePrefix("0.0.0.0/0")

func (s *strongSwan) start(ctx context.Context, r *router) error {
	var connections []netlab.SwanConnection
	for _, c := range r.cells {
		connections = append(connections, s.connection(c))
	}
	var err error
	start := r.StartStrongSwan
	if s.newer {
		start = r.StartNewerStrongSwan
	}
	if s.daemon, err = start(ctx, r.name, netlab.SwanConfig(connections...), swanSettings); err != nil {
		return err
	}
	if s.daemon.KernelESP {
		return r.vti(ctx)
	}
	return r.IP(ctx, fmt.Sprintf("route add %s dev ipsec0", cloudSubnets[0]))
}

func (s *strongSwan) connection(c cell) netlab.SwanConnection {
	swan := netlab.SwanConnection{
		Name: c.name(), Local: c.local(), Remote: c.gateway(), LocalID: c.id(), RemoteID: c.gateway().String(), PSK: c.psk(),
		V1: c.v1(), Aggressive: c.Mode == v1Aggressive,
		Proposal:    swanCiphers[c.Cipher] + "-" + swanHashes[c.Hash] + "-" + swanKeyExchange(c.Group),
		ESPProposal: swanCiphers[c.ESPCipher],
	}
	if isAEAD(c.Cipher) {
		swan.Proposal = swanCiphers[c.Cipher] + "-prf" + swanHashes[c.Hash] + "-" + swanKeyExchange(c.Group)
	}
	if c.ESPHash != noHash {
		swan.ESPProposal += "-" + swanHashes[c.ESPHash]
	}
	if c.PFS != noPFS {
		swan.ESPProposal += "-" + swanKeyExchange(c.PFS)
	}
	if c.hasPPK() {
		swan.PPK, swan.PPKID, swan.PPKRequired = c.ppk(), c.name(), c.PPK == "required"
	}
	child := netlab.SwanChild{Name: c.name(), Local: []netip.Prefix{c.subnet()}, Remote: cloudSubnets[:1]}
	if c.Style == "route" {
		child.Local, child.Remote = []netip.Prefix{anywhere}, []netip.Prefix{anywhere}
		if s.vti {
			child.Mark = uint32(c.Number)
		}
	}
	swan.Children = []netlab.SwanChild{child}
	return swan
}

// swanKeyExchange is a group in strongSwan's words, and what is beside it.
func swanKeyExchange(choice string) string {
	group, mlkem := keyExchange(choice)
	if mlkem {
		return swanGroups[group] + "-ke1_mlkem768"
	}
	return swanGroups[group]
}

func (s *strongSwan) initiate(ctx context.Context, c cell) error {
	return s.daemon.Initiate(ctx, c.name(), patience)
}

func (s *strongSwan) rekeyChild(ctx context.Context, c cell) error {
	return s.daemon.RekeyChild(ctx, c.name())
}

func (s *strongSwan) tunnels(ctx context.Context) (map[string]view, error) {
	sas, err := s.daemon.SAs(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]view{}
	for _, ike := range sas {
		v := all[ike.Name]
		v.ikeSAs++
		v.initiator, v.ike, v.ppk = byGateway, ike.InitiatorSPI+ike.ResponderSPI, ike.PPK
		if ike.Initiator {
			v.initiator = byPeer
		}
		v.cipher = swanCipher(ike.Encryption, ike.EncryptionBits)
		v.hash, v.group = swanListedHashes[ike.Integrity], swanListedKeyExchange(ike.Group, ike.Additional)
		if isAEAD(v.cipher) {
			v.hash = swanListedHashes[ike.PRF]
		}
		for _, child := range ike.Children {
			if child.State != "INSTALLED" {
				continue
			}
			v.childSAs++
			v.child = child.SPIIn
			v.espCipher = swanCipher(child.Encryption, child.EncryptionBits)
			v.espHash, v.pfs = swanListedHashes[child.Integrity], swanListedKeyExchange(child.Group, child.Additional)
			v.encapsulated = child.Encap
			v.in = counters{child.PacketsIn, child.BytesIn}
			v.out = counters{child.PacketsOut, child.BytesOut}
		}
		all[ike.Name] = v
	}
	return all, nil
}

// swanListedKeyExchange returns the choice that a list of strongSwan shows.
func swanListedKeyExchange(group, additional string) string {
	switch additional {
	case "":
		return swanListedGroups[group]
	case "ML_KEM_768":
		return swanListedGroups[group] + withMLKEM
	}
	return group + ", " + additional
}

// swanCipher returns the API's word for a cipher, or strongSwan's own where the
// API has none.
func swanCipher(name, bits string) string {
	if bits != "" {
		name += "-" + bits
	}
	if word, ok := swanListedCiphers[name]; ok {
		return word
	}
	return name
}

func (s *strongSwan) version(ctx context.Context) (string, error) {
	version, err := s.daemon.Version(ctx)
	return "strongSwan " + version, err
}

func (s *strongSwan) log() string { return s.daemon.Log() }
