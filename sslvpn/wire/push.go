package wire

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Push is the settings that a server gives a client, and that ParsePush finds.
type Push struct {
	Routes []netip.Prefix // IPv4
	DNS    []netip.Addr
	Domain string // of the client's resolver; empty: none
	// Local and Peer are the addresses of the point-to-point link (topology
	// net30): the client's own and the gateway that it sends to.
	Local, Peer netip.Addr
	// Ping is how often a side that has nothing to send says so, and
	// PingRestart how long the client waits for anything before it connects
	// anew; both in seconds.
	Ping, PingRestart int
	PeerID            uint32 // below UndefinedPeerID
	Cipher            string
	// Flags are words of protocol-flags. One that the client does not know
	// makes OpenVPN 3 give up.
	Flags []string
	// KeyDerivation is for clients with a TLS exporter but without
	// protocol-flags; empty: not pushed.
	KeyDerivation string
	TunMTU        int    // octets; 0: not pushed
	ExitNotify    bool   // UDP: the client says when it leaves
	Compress      string // argument of compress; empty: not pushed
	CompLZO       bool   // comp-lzo no, for clients that insist on its octet
	AuthToken     string // takes the place of the password from now on; empty: not pushed
}

// Words of protocol-flags.
const (
	FlagExitNotify  = "cc-exit"
	FlagTLSExporter = "tls-ekm"
)

// Options returns the options in the order in which they are pushed.
func (p *Push) Options() []string {
	var o []string
	add := func(format string, args ...any) { o = append(o, fmt.Sprintf(format, args...)) }
	for _, r := range p.Routes {
		add("route %s %s", r.Masked().Addr(), mask(r))
	}
	for _, d := range p.DNS {
		add("dhcp-option DNS %s", d)
	}
	if p.Domain != "" {
		add("dhcp-option DOMAIN %s", p.Domain)
	}
	add("topology net30")
	add("ping %d", p.Ping)
	add("ping-restart %d", p.PingRestart)
	add("ifconfig %s %s", p.Local, p.Peer)
	add("peer-id %d", p.PeerID)
	if p.Cipher != "" {
		add("cipher %s", p.Cipher)
	}
	if len(p.Flags) > 0 {
		add("protocol-flags %s", strings.Join(p.Flags, " "))
	}
	if p.KeyDerivation != "" {
		add("key-derivation %s", p.KeyDerivation)
	}
	if p.TunMTU > 0 {
		add("tun-mtu %d", p.TunMTU)
	}
	if p.ExitNotify {
		add("explicit-exit-notify 1")
	}
	if p.Compress != "" {
		add("compress %s", p.Compress)
	}
	if p.CompLZO {
		add("comp-lzo no")
	}
	if p.AuthToken != "" {
		add("auth-token %s", p.AuthToken)
	}
	return o
}

// Messages returns the PUSH_REPLY messages: one, or several that say so with
// push-continuation when the options do not fit one.
func (p *Push) Messages() []string { return pushMessages(p.Options()) }

const (
	morePushes = ",push-continuation 2"
	lastPush   = ",push-continuation 1"
)

func pushMessages(options []string) []string {
	room := MaxMessage - 1 - len(morePushes)
	var messages []string
	message := PushReply
	for _, o := range options {
		if len(message)+1+len(o) > room {
			messages = append(messages, message+morePushes)
			message = PushReply
		}
		message += "," + o
	}
	if len(messages) > 0 {
		message += lastPush
	}
	return append(messages, message)
}

// PushToken returns the message that gives a connected client another
// auth-token.
func PushToken(token string) string { return PushReply + ",auth-token " + token }

func mask(p netip.Prefix) netip.Addr {
	m := ^uint32(0) << (32 - p.Bits())
	if p.Bits() == 0 {
		m = 0
	}
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)})
}

// Add takes the options of one PUSH_REPLY message, as a client does. It reports
// whether more messages follow. Options that it does not know are passed over;
// an option that it knows and cannot read is an error.
func (p *Push) Add(message string) (more bool, err error) {
	options, ok := strings.CutPrefix(message, PushReply)
	if !ok {
		return false, fmt.Errorf("%w: not a PUSH_REPLY", ErrMalformed)
	}
	for option := range strings.SplitSeq(strings.TrimPrefix(options, ","), ",") {
		word := strings.Fields(option)
		if len(word) == 0 {
			continue
		}
		if word[0] == "push-continuation" {
			more = len(word) > 1 && word[1] == "2"
			continue
		}
		if err := p.addOption(word[0], word[1:]); err != nil {
			return false, fmt.Errorf("%w: option %s: %w", ErrMalformed, word[0], err)
		}
	}
	return more, nil
}

func (p *Push) addOption(name string, args []string) (err error) {
	need := map[string]int{
		"route": 1, "dhcp-option": 2, "ifconfig": 2, "ping": 1, "ping-restart": 1, "peer-id": 1,
		"cipher": 1, "key-derivation": 1, "tun-mtu": 1, "auth-token": 1,
	}[name]
	if len(args) < need {
		return fmt.Errorf("needs %d values", need)
	}
	switch name {
	case "route":
		netmask := "255.255.255.255"
		if len(args) > 1 {
			netmask = args[1]
		}
		r, err := parseRoute(args[0], netmask)
		if err != nil {
			return err
		}
		p.Routes = append(p.Routes, r)
	case "dhcp-option":
		switch args[0] {
		case "DNS":
			a, err := netip.ParseAddr(args[1])
			if err != nil {
				return err
			}
			p.DNS = append(p.DNS, a)
		case "DOMAIN":
			p.Domain = args[1]
		}
	case "ifconfig":
		if p.Local, err = netip.ParseAddr(args[0]); err != nil {
			return err
		}
		p.Peer, err = netip.ParseAddr(args[1])
	case "ping":
		p.Ping, err = seconds(args[0])
	case "ping-restart":
		p.PingRestart, err = seconds(args[0])
	case "tun-mtu":
		p.TunMTU, err = seconds(args[0])
	case "peer-id":
		var id uint64
		if id, err = strconv.ParseUint(args[0], 10, 24); err == nil {
			p.PeerID = uint32(id)
		}
	case "cipher":
		p.Cipher = args[0]
	case "protocol-flags":
		p.Flags = append(p.Flags, args...)
	case "key-derivation":
		p.KeyDerivation = args[0]
	case "explicit-exit-notify":
		p.ExitNotify = true
	case "compress":
		if p.Compress = "stub"; len(args) > 0 {
			p.Compress = args[0]
		}
	case "comp-lzo":
		p.CompLZO = true
	case "auth-token":
		p.AuthToken = args[0]
	}
	return err
}

// seconds reads a small number that is not negative.
func seconds(s string) (int, error) {
	v, err := strconv.ParseUint(s, 10, 31)
	return int(v), err
}

func parseRoute(network, netmask string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(network)
	if err != nil {
		return netip.Prefix{}, err
	}
	m, err := netip.ParseAddr(netmask)
	if err != nil {
		return netip.Prefix{}, err
	}
	if !a.Is4() || !m.Is4() {
		return netip.Prefix{}, fmt.Errorf("%s %s is not IPv4", network, netmask)
	}
	for bits := range 33 {
		if r := netip.PrefixFrom(a, bits); mask(r) == m {
			return r.Masked(), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("%s is no network mask", netmask)
}
