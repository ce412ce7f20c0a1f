package sslvpn

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Profile is what an OpenVPN client profile says that a Connection needs.
type Profile struct {
	Servers []ProfileServer // to be tried in order
	// CA is what the server's certificate has to come from, Certificate and Key
	// are the client's own, all in PEM; the latter two may be empty.
	CA, Certificate, Key []byte
	// Login says that the server wants a user name and a password. LoginFile
	// holds them in two lines, or is empty.
	Login     bool
	LoginFile string
	// Challenge is what a person is asked for besides the password; empty:
	// nothing.
	Challenge string
	Ciphers   []Cipher // that the server may choose; empty: any
	// The keys of the control channel, as ConnectOptions has them; nil: none.
	TLSCryptKey, TLSCryptV2Key []byte
}

// ProfileServer is one server of a profile.
type ProfileServer struct {
	Host string // name or address
	Port uint16
	UDP  bool
}

// maxProfile bounds a profile, in octets.
const maxProfile = 1 << 20

// ParseProfile reads a profile. Certificates and keys that it does not hold
// itself are read with readFile. Options that would change what is on the wire,
// and that a Connection does not speak, are errors; others that it does not
// know are passed over. Errors name the line.
func ParseProfile(text string, readFile func(name string) ([]byte, error)) (*Profile, error) {
	if len(text) > maxProfile {
		return nil, fmt.Errorf("profile of %d octets, at most %d", len(text), maxProfile)
	}
	p := profileParser{readFile: readFile, port: 1194}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxProfile)
	for lines.Scan() {
		p.line++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		var err error
		if name, ok := strings.CutPrefix(line, "<"); ok {
			err = p.inline(strings.TrimSuffix(name, ">"), lines)
		} else {
			words := splitWords(line)
			err = p.option(words[0], words[1:])
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", p.line, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return p.finish()
}

// splitWords splits a line at its spaces, but for those between quotes. The line
// is not empty.
func splitWords(line string) []string {
	var words []string
	var word strings.Builder
	quote, inside := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, inside = r, true
		case quote == 0 && (r == ' ' || r == '\t'):
			if inside {
				words, inside = append(words, word.String()), false
				word.Reset()
			}
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	if inside {
		words = append(words, word.String())
	}
	return words
}

type profileParser struct {
	Profile
	readFile func(name string) ([]byte, error)
	line     int
	udp      bool
	port     uint16
	remotes  [][]string
}

// inline reads what stands between <name> and </name>.
func (p *profileParser) inline(name string, lines *bufio.Scanner) error {
	begun, content := p.line, strings.Builder{}
	for lines.Scan() {
		p.line++
		if strings.TrimSpace(lines.Text()) == "</"+name+">" {
			return p.content(name, []byte(content.String()))
		}
		content.WriteString(lines.Text() + "\n")
	}
	p.line = begun
	return fmt.Errorf("<%s> has no end", name)
}

func (p *profileParser) content(name string, content []byte) (err error) {
	switch name {
	case "ca":
		p.CA = content
	case "cert":
		p.Certificate = content
	case "key":
		p.Key = content
	case "tls-crypt":
		p.TLSCryptKey, err = parseStaticKey(content)
	case "tls-crypt-v2":
		p.TLSCryptV2Key, err = parseClientKey(content)
	case "tls-auth", "secret", "pkcs12":
		return fmt.Errorf("option %s: is not spoken here", name)
	}
	if err != nil {
		return fmt.Errorf("option %s: %w", name, err)
	}
	return nil
}

// parseStaticKey reads a key in hexadecimal digits between the lines that begin
// and end it.
func parseStaticKey(content []byte) ([]byte, error) {
	_, rest, begun := strings.Cut(string(content), "-----BEGIN OpenVPN Static key V1-----")
	digits, _, ended := strings.Cut(rest, "-----END OpenVPN Static key V1-----")
	key, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
	if !begun || !ended || err != nil || len(key) != wire.StaticKeyLen {
		return nil, fmt.Errorf("is no OpenVPN static key of %d octets", wire.StaticKeyLen)
	}
	return key, nil
}

// parseClientKey reads a client's key of tls-crypt-v2 with the wrapped one.
func parseClientKey(content []byte) ([]byte, error) {
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "OpenVPN tls-crypt-v2 client key" || len(block.Bytes) <= wire.StaticKeyLen {
		return nil, errors.New("is no OpenVPN tls-crypt-v2 client key")
	}
	return block.Bytes, nil
}

func (p *profileParser) option(name string, args []string) (err error) {
	need := func(n int) error {
		if len(args) < n {
			return fmt.Errorf("option %s: needs %d values", name, n)
		}
		return nil
	}
	switch name {
	case "remote":
		if err := need(1); err != nil {
			return err
		}
		p.remotes = append(p.remotes, args)
	case "port", "rport":
		if err := need(1); err != nil {
			return err
		}
		p.port, err = parsePort(args[0])
	case "proto":
		if err := need(1); err != nil {
			return err
		}
		p.udp, err = parseProto(args[0])
	case "dev":
		if len(args) > 0 && !strings.HasPrefix(args[0], "tun") && args[0] != "null" {
			return fmt.Errorf("option dev %s: must be tun", args[0])
		}
	case "ca", "cert", "key", "tls-crypt", "tls-crypt-v2":
		if err := need(1); err != nil {
			return err
		}
		if args[0] == "[inline]" {
			return nil
		}
		content, err := p.readFile(args[0])
		if err != nil {
			return fmt.Errorf("option %s: %w", name, err)
		}
		return p.content(name, content)
	case "auth-user-pass":
		p.Login = true
		if len(args) > 0 {
			p.LoginFile = args[0]
		}
	case "data-ciphers", "ncp-ciphers":
		if err := need(1); err != nil {
			return err
		}
		return p.dataCiphers(args[0])
	case "static-challenge":
		if err := need(2); err != nil {
			return err
		}
		p.Challenge = args[0]
	case "tls-auth", "secret", "fragment", "pkcs12":
		return fmt.Errorf("option %s: is not spoken here", name)
	case "comp-lzo", "compress":
		if len(args) > 0 && (args[0] == "no" || strings.HasPrefix(args[0], "stub")) {
			return nil
		}
		return fmt.Errorf("option %s: nothing is compressed here", name)
	}
	return err
}

// dataCiphers takes those of a list that are known.
func (p *profileParser) dataCiphers(list string) error {
	p.Ciphers = nil
	for name := range strings.SplitSeq(list, ":") {
		c := Cipher(strings.ToUpper(strings.TrimPrefix(name, "?")))
		if c.keyLen() != 0 && !slices.Contains(p.Ciphers, c) {
			p.Ciphers = append(p.Ciphers, c)
		}
	}
	if len(p.Ciphers) == 0 {
		return fmt.Errorf("option data-ciphers %s: none is of %s, %s, %s", list, AES128GCM, AES256GCM, ChaCha20Poly1305)
	}
	return nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: must be 1 to 65535", s)
	}
	return uint16(n), nil
}

func parseProto(s string) (udp bool, err error) {
	switch s {
	case "udp", "udp4", "udp6":
		return true, nil
	case "tcp", "tcp4", "tcp6", "tcp-client", "tcp4-client", "tcp6-client":
		return false, nil
	}
	return false, fmt.Errorf("protocol %q: must be tcp or udp", s)
}

// finish looks at the whole.
func (p *profileParser) finish() (*Profile, error) {
	for _, args := range p.remotes {
		s := ProfileServer{Host: args[0], Port: p.port, UDP: p.udp}
		if s.Host == "" {
			return nil, errors.New("option remote: the host must not be empty")
		}
		var err error
		if len(args) > 1 {
			if s.Port, err = parsePort(args[1]); err != nil {
				return nil, fmt.Errorf("remote %s: %w", s.Host, err)
			}
		}
		if len(args) > 2 {
			if s.UDP, err = parseProto(args[2]); err != nil {
				return nil, fmt.Errorf("remote %s: %w", s.Host, err)
			}
		}
		p.Servers = append(p.Servers, s)
	}
	switch {
	case len(p.Servers) == 0:
		return nil, errors.New("the profile has no option remote")
	case len(p.CA) == 0:
		return nil, errors.New("the profile has no option ca")
	case p.TLSCryptKey != nil && p.TLSCryptV2Key != nil:
		return nil, errors.New("the options tls-crypt and tls-crypt-v2 exclude each other")
	case (len(p.Certificate) == 0) != (len(p.Key) == 0):
		return nil, errors.New("the profile has one of the options cert and key, and not the other")
	}
	return &p.Profile, nil
}

// Options returns what to connect with, but for the address and the login.
func (p *Profile) Options() (ConnectOptions, error) {
	o := ConnectOptions{
		RootCAs: x509.NewCertPool(), Ciphers: p.Ciphers, TLSCryptKey: p.TLSCryptKey, TLSCryptV2Key: p.TLSCryptV2Key,
	}
	if !o.RootCAs.AppendCertsFromPEM(p.CA) {
		return o, errors.New("option ca: has no PEM certificate")
	}
	if len(p.Certificate) > 0 {
		pair, err := tls.X509KeyPair(p.Certificate, p.Key)
		if err != nil {
			return o, fmt.Errorf("options cert and key: %w", err)
		}
		o.Certificate = &pair
	}
	return o, nil
}
