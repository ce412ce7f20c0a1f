package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ServerCreate is a request for the server of a client-to-cloud gateway. A nil
// member was not sent.
type ServerCreate struct {
	TunnelProtocol *string
	ClientCIDR     *string
	LocalSubnets   []string
	AuthType       *string
	Certificate    *ServerCertificateRequest
	ClientCAs      []ClientCARequest
	SSL            SSLOptionsRequest
	DNSServers     []string
	SecondFactor   *string
	Network        NetworkOptionsRequest
}

// ServerCertificateRequest names a certificate of the inventory, or asks our own
// CA for one.
type ServerCertificateRequest struct {
	Source *string
	ID     *string
}

// SSLOptionsRequest holds the options of the tunnel.
type SSLOptionsRequest struct {
	Protocol   *string
	Port       *int
	Cipher     *string
	Compressed *bool // fixed at creation

	// Beyond the API.
	UDPPorts    []int // empty: none
	ControlWrap *string
	PortShare   *string

	RevokedClientKeys []string // empty: none
}

// ServerUpdate is a change of a server. A nil member stays as it is.
type ServerUpdate struct {
	ClientCIDR    *string
	LocalSubnets  []string
	AuthType      *string
	CertificateID *string
	SSL           SSLOptionsRequest
	DNSServers    []string
	SecondFactor  *string
	Network       NetworkOptionsRequest
}

// What the options of a tunnel may be.
const (
	tunnelSSL    = "SSL"
	protocolTCP  = "TCP"
	cipherAES128 = "AES-128-GCM"
	cipherAES256 = "AES-256-GCM"
	defaultPort  = 443
)

var serverPorts = []int{defaultPort, 1194}

// serverDefaults is the specification of a server of which nothing was said.
func serverDefaults() VPNServer {
	return VPNServer{AuthType: ClientAuthPassword, Protocol: protocolTCP, Port: defaultPort, Cipher: cipherAES128}
}

// parseServer reads a request for a server over its defaults. The certificates
// are left to others, as is what concerns several members.
func parseServer(req *ServerCreate, v VPNServer) (VPNServer, error) {
	p := &parser{}
	protocol := tunnelSSL
	text(p, "tunnel_protocol", req.TunnelProtocol, &protocol, tunnelSSL)
	p.required("client_cidr", req.ClientCIDR)
	text(p, "client_auth_type", req.AuthType, &v.AuthType, ClientAuthCertificate, ClientAuthPassword, ClientAuthBoth)
	p.sslOptions(&v, req.SSL)
	p.extraOptions(&v, req.SSL, req.SecondFactor)
	p.networkOptions(&v, req.Network)
	boolean(req.SSL.Compressed, &v.Compressed)
	p.dnsServers(&v, req.DNSServers)
	if err := p.result(); err != nil {
		return v, err
	}
	return v, parseNetworks(&v, req.ClientCIDR, req.LocalSubnets)
}

// mergeServer reads a change of a server over its present specification.
func mergeServer(req *ServerUpdate, v VPNServer) (VPNServer, error) {
	p := &parser{}
	text(p, "client_auth_type", req.AuthType, &v.AuthType, ClientAuthCertificate, ClientAuthPassword, ClientAuthBoth)
	p.sslOptions(&v, req.SSL)
	p.extraOptions(&v, req.SSL, req.SecondFactor)
	p.networkOptions(&v, req.Network)
	p.dnsServers(&v, req.DNSServers)
	if err := p.result(); err != nil {
		return v, err
	}
	return v, parseNetworks(&v, req.ClientCIDR, req.LocalSubnets)
}

func (p *parser) sslOptions(v *VPNServer, req SSLOptionsRequest) {
	text(p, "ssl_options.protocol", req.Protocol, &v.Protocol, protocolTCP)
	text(p, "ssl_options.encryption_algorithm", req.Cipher, &v.Cipher, cipherAES128, cipherAES256)
	if req.Port == nil {
		return
	}
	if !slices.Contains(serverPorts, *req.Port) {
		p.fail("ssl_options.port", "must be one of %s", strings.Trim(fmt.Sprint(serverPorts), "[]"))
	}
	v.Port = *req.Port
}

// dnsServers reads the list that was sent, which may be empty.
func (p *parser) dnsServers(v *VPNServer, list []string) {
	if list == nil {
		return
	}
	if len(list) > maxDNSServers {
		p.fail("dns_servers", "must be at most %d", maxDNSServers)
		return
	}
	v.DNSServers = nil
	for i, s := range list {
		field := fmt.Sprintf("dns_servers[%d]", i)
		a := p.ipv4(field, s)
		if a.IsValid() && !isPeerAddress(a) {
			p.fail(field, "must be the address of a server")
		}
		v.DNSServers = append(v.DNSServers, a)
	}
}

// parseNetworks reads the networks that were sent. Host bits do not count: the
// reference's own examples set them.
func parseNetworks(v *VPNServer, clientCIDR *string, localSubnets []string) error {
	if sent(clientCIDR) {
		n, err := parseCIDR(*clientCIDR)
		if err != nil {
			return err
		}
		v.ClientCIDR = n
	}
	if localSubnets == nil {
		return nil
	}
	v.LocalSubnets = make([]netip.Prefix, len(localSubnets))
	for i, s := range localSubnets {
		n, err := parseCIDR(s)
		if err != nil {
			return err
		}
		v.LocalSubnets[i] = n
	}
	return nil
}

func parseCIDR(s string) (netip.Prefix, error) {
	n, err := netip.ParsePrefix(s)
	if err != nil || !n.Addr().Is4() {
		return netip.Prefix{}, refuse("VPN.1103", "CIDR block %s is invalid.", s)
	}
	return n.Masked(), nil
}
