package control

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// What a server has beyond the API.

// ControlWrap is how the control channel of a server is protected beside TLS, by
// the option of OpenVPN.
type ControlWrap string

// Wraps of the control channel.
const (
	WrapNone       ControlWrap = ""
	WrapTLSCrypt   ControlWrap = "tls-crypt"    // one key that every profile has
	WrapTLSCryptV2 ControlWrap = "tls-crypt-v2" // a key for each profile
)

// keyLen is the octets of the key that the server has; 0: it has none.
func (w ControlWrap) keyLen() int {
	switch w {
	case WrapTLSCrypt:
		return 256
	case WrapTLSCryptV2:
		return 128
	case WrapNone:
	}
	return 0
}

// SecondFactor is what users prove besides their password.
type SecondFactor string

// Second factors.
const (
	FactorNone SecondFactor = ""
	FactorTOTP SecondFactor = "totp" // a code by time, RFC 6238
)

// optionOff is what the API calls none of the above.
const optionOff = "disable"

// maxUDPPorts is how many ports a server has on UDP.
const maxUDPPorts = 8

// maxRevokedKeys is how many profiles of a server can be revoked: for more, the
// wrap is switched off and on, and all profiles are made anew.
const maxRevokedKeys = 256

// clientKeyIDLen is the digits of the id of a client's key.
const clientKeyIDLen = 32

// ikePorts are used by site-to-cloud VPN.
var ikePorts = []int{500, 4500}

// extraOptions reads what was sent of the options beyond the API.
func (p *parser) extraOptions(v *VPNServer, req SSLOptionsRequest, factor *string) {
	before := v.ControlWrap
	option(p, "ssl_options.control_channel_wrap", req.ControlWrap, &v.ControlWrap, WrapTLSCrypt, WrapTLSCryptV2)
	if v.ControlWrap != before {
		v.RevokedClientKeys = nil // they were of another key of the server
	}
	p.revokedClientKeys(v, req.RevokedClientKeys)
	option(p, "second_factor", factor, &v.SecondFactor, FactorTOTP)
	if req.UDPPorts != nil {
		p.udpPorts(v, req.UDPPorts)
	}
	if req.PortShare != nil {
		v.PortShare = netip.AddrPort{}
		if s := *req.PortShare; s != optionOff && s != "" {
			to, err := netip.ParseAddrPort(s)
			if err != nil || !to.Addr().Is4() || to.Port() == 0 {
				p.fail("ssl_options.port_share", "must be an IPv4 address and a port, as 192.168.0.10:443, or %s", optionOff)
			}
			v.PortShare = to
		}
	}
}

// option reads a member that can be switched off.
func option[T ~string](p *parser, field string, v *string, to *T, allowed ...T) {
	if v != nil && *v == optionOff {
		*to = ""
		return
	}
	text(p, field, v, to, allowed...)
}

// revokedClientKeys reads which profiles are of no use any more.
func (p *parser) revokedClientKeys(v *VPNServer, ids []string) {
	const field = "ssl_options.revoked_client_keys"
	if ids == nil {
		return
	}
	v.RevokedClientKeys = nil
	if len(ids) > maxRevokedKeys {
		p.fail(field, "must be at most %d", maxRevokedKeys)
		return
	}
	for i, id := range ids {
		switch {
		case len(id) != clientKeyIDLen || strings.Trim(id, "0123456789abcdef") != "":
			p.fail(field, "must be ids of client keys, of %d hexadecimal digits in lower case", clientKeyIDLen)
			return
		case slices.Contains(ids[:i], id):
			p.fail(field, "%s is there twice", id)
			return
		}
	}
	if len(ids) > 0 {
		v.RevokedClientKeys = slices.Clone(ids)
		if v.ControlWrap != WrapTLSCryptV2 {
			p.fail(field, "needs the control_channel_wrap %s", WrapTLSCryptV2)
		}
	}
}

func (p *parser) udpPorts(v *VPNServer, ports []int) {
	const field = "ssl_options.udp_ports"
	if len(ports) > maxUDPPorts {
		p.fail(field, "must be at most %d", maxUDPPorts)
		return
	}
	for i, port := range ports {
		switch {
		case port < 1 || port > 65535:
			p.fail(field, "must be from 1 to 65535")
		case slices.Contains(ikePorts, port):
			p.fail(field, "%d is a port of site-to-cloud VPN", port)
		case slices.Contains(ports[:i], port):
			p.fail(field, "%d is there twice", port)
		}
	}
	v.UDPPorts = slices.Clone(ports)
}

// optionRules are the rules of the options beyond the API.
var optionRules = []func(*serverDraft) *Error{
	secondFactorHasPasswords,
	portShareIsInVPC,
}

func secondFactorHasPasswords(d *serverDraft) *Error {
	if d.SecondFactor != FactorNone && !d.AuthType.Passwords() {
		return Invalid("second_factor", "goes with a client_auth_type that has passwords")
	}
	return nil
}

// portShareIsInVPC: whoever may configure a server must not reach other hosts
// through this node, nor the node itself.
func portShareIsInVPC(d *serverDraft) *Error {
	to := d.PortShare.Addr()
	if !d.PortShare.IsValid() {
		return nil
	}
	if eip, ok := d.inventory.EIP(d.gateway.EIP.ID); ok && eip.HostAddress() == to {
		return Invalid("ssl_options.port_share", "must not be the gateway itself")
	}
	vpc, ok := d.inventory.VPC(d.gateway.VPCID)
	if !ok || !vpc.CIDR.Contains(to) && !slices.ContainsFunc(vpc.Subnets, func(s Subnet) bool { return s.CIDR.Contains(to) }) {
		return Invalid("ssl_options.port_share", "must be an address in the VPC of the gateway")
	}
	return nil
}

// renewControlKey gives a server whose control channel is wrapped otherwise than
// before a key for it.
func renewControlKey(v, before *VPNServer, random io.Reader) error {
	if before != nil && v.ControlWrap == before.ControlWrap {
		return nil
	}
	v.ControlKey = Secret{}
	if v.ControlWrap == WrapNone {
		return nil
	}
	key := make([]byte, v.ControlWrap.keyLen())
	defer clear(key)
	if _, err := io.ReadFull(random, key); err != nil {
		return fmt.Errorf("key of the control channel: %w", err)
	}
	v.ControlKey = NewSecret(string(key))
	return nil
}

// WrapClientKey wraps the key of a client for a server with WrapTLSCryptV2. made
// is told in it. The id, which tells the key from others of the server, is no
// secret.
type WrapClientKey func(serverKey, clientKey []byte, made time.Time) (wrapped []byte, id string, err error)
