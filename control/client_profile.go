package control

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
)

// ClientProfile performs ExportClientConfig: the OpenVPN profile of the clients
// of a server. It is one for all systems.
func (s *Service) ClientProfile(ctx context.Context, project, serverID string) (string, error) {
	tx := s.read(ctx)
	v, err := tx.server(project, serverID)
	if err != nil {
		return "", err
	}
	g, err := tx.p2cGateway(project, v.GatewayID)
	if err != nil {
		return "", err
	}
	d := &serverDraft{VPNServer: v, gateway: g, inventory: s.inventory.Load()}
	if err := gatewayHasEIP(d); err != nil {
		return "", err
	}
	chain := d.inventory.serverChain(&v.Certificate)
	if len(chain) == 0 {
		return "", refuse("VPN.1112", "Server certificate %s is not found.", v.Certificate.ID)
	}
	return profile(&v, g.EIP.Address, chain), nil
}

// profile writes a profile with the options of the API's reference, in its
// order. Clients trust the issuers of the server's certificate, or itself when
// it has none.
func profile(v *VPNServer, address netip.Addr, chain []*x509.Certificate) string {
	if len(chain) > 1 {
		chain = chain[1:]
	}
	options := []string{
		"client",
		"dev tun",
		"proto tcp",
		fmt.Sprintf("remote %s %d", address, v.Port),
		"resolv-retry infinite",
		"nobind",
		"persist-key",
		"persist-tun",
		"remote-cert-tls server",
		"data-ciphers " + v.Cipher,
		"auth " + v.AuthenticationAlgorithm(),
		"verb 3",
	}
	if v.AuthType == ClientAuthPassword {
		options = append(options, "auth-user-pass")
	}
	options = append(options,
		"<ca>",
		strings.TrimSuffix(encodeCertificates(chain...), "\n"),
		"</ca>",
		"", // where a client with a certificate puts it and its key
		"",
		"reneg-sec 0",
		"# Add a comment character (#) in front of disable-dco when OpenVPN 2.5 or earlier is used.",
		"disable-dco",
	)
	return strings.Join(options, "\n") + "\n"
}
