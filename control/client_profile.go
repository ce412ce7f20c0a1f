package control

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// ClientProfile performs ExportClientConfig: the OpenVPN profile of the clients
// of a server. It is one for all systems. With WrapTLSCryptV2 each call makes a
// key, which only this profile has.
func (s *Service) ClientProfile(ctx context.Context, project, serverID string) (string, error) {
	tx := s.read(ctx)
	v, err := tx.server(project, serverID)
	if err == nil && v.ControlWrap != WrapNone {
		v, err = tx.serverWithKeys(project, serverID)
	}
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
	wrap, err := s.profileWrap(&v)
	if err != nil {
		return "", err
	}
	return profile(&v, g.EIP.Address, chain) + wrap, nil
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
	}
	for _, port := range v.UDPPorts { // which is the faster one where it comes through
		options = append(options, fmt.Sprintf("remote %s %d udp", address, port))
	}
	options = append(options, fmt.Sprintf("remote %s %d", address, v.Port))
	if len(v.UDPPorts) > 0 {
		options = append(options, fmt.Sprintf("server-poll-timeout %d", remotePatience))
	}
	options = append(options,
		"resolv-retry infinite",
		"nobind",
		"persist-key",
		"persist-tun",
		"remote-cert-tls server",
		"data-ciphers "+v.Cipher,
		"auth "+v.AuthenticationAlgorithm(),
		"verb 3",
	)
	if v.AuthType.Passwords() {
		options = append(options, "auth-user-pass")
	}
	if v.SecondFactor == FactorTOTP {
		options = append(options, `static-challenge "One-time code" 1`)
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

// remotePatience is how many seconds a client waits for one of several
// transports to answer.
const remotePatience = 10

// profileWrap writes the key of the control channel, where the server has one.
func (s *Service) profileWrap(v *VPNServer) (string, error) {
	switch v.ControlWrap {
	case WrapTLSCrypt:
		return inline(string(WrapTLSCrypt), encodeStaticKey([]byte(v.ControlKey.Reveal()))), nil
	case WrapTLSCryptV2:
		if s.wrapKey == nil {
			return "", errors.New("keys of clients cannot be wrapped here")
		}
		key := make([]byte, WrapTLSCrypt.keyLen())
		defer clear(key)
		if _, err := io.ReadFull(s.random, key); err != nil {
			return "", fmt.Errorf("key of a client: %w", err)
		}
		wrapped, id, err := s.wrapKey([]byte(v.ControlKey.Reveal()), key, s.now())
		if err != nil {
			return "", fmt.Errorf("key of a client: %w", err)
		}
		block := &pem.Block{Type: "OpenVPN tls-crypt-v2 client key", Bytes: slices.Concat(key, wrapped)}
		return "# client key " + id + "\n" + inline(string(WrapTLSCryptV2), string(pem.EncodeToMemory(block))), nil
	case WrapNone:
	}
	return "", nil
}

func inline(option, content string) string {
	return "<" + option + ">\n" + content + "</" + option + ">\n"
}

// encodeStaticKey writes a key in the form of openvpn --genkey secret.
func encodeStaticKey(key []byte) string {
	text := "-----BEGIN OpenVPN Static key V1-----\n"
	for line := range slices.Chunk(key, 16) {
		text += hex.EncodeToString(line) + "\n"
	}
	return text + "-----END OpenVPN Static key V1-----\n"
}
