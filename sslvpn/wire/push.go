package wire

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Push is the settings that a server gives a client, and that ParsePush finds.
type Push struct {
	Routes []netip.Prefix // of both families
	DNS    []netip.Addr
	Domain string // of the client's resolver; empty: none
	// DNSOption says that DNS and Domain are pushed by the option dns, too, which
	// counts before dhcp-option where a client knows it (ProtoDNS).
	DNSOption bool
	// Local is the client's own address of IPv4. Its gateway is Peer, at the other
	// end of a point-to-point link (topology net30), or with a valid Network the
	// first host of that (topology subnet).
	Local, Peer netip.Addr
	Network     netip.Prefix
	// Local6 is the client's address of IPv6 with the length of its network, and
	// Gateway6 the server's; the zero values: none.
	Local6   netip.Prefix
	Gateway6 netip.Addr
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
	FlagEpochData   = "aead-epoch"
)

// Options returns the options in the order in which they are pushed.
func (p *Push) Options() []string {
	var o []string
	add := func(format string, args ...any) { o = append(o, fmt.Sprintf(format, args...)) }
	for _, kind := range changing {
		for _, value := range kind.values(p) {
			add("%s %s", kind.name, value)
		}
	}
	if p.Network.IsValid() {
		add("topology subnet")
		add("route-gateway %s", p.Network.Masked().Addr().Next())
	} else {
		add("topology net30")
	}
	add("ping %d", p.Ping)
	add("ping-restart %d", p.PingRestart)
	if p.Network.IsValid() {
		add("ifconfig %s %s", p.Local, mask(p.Network))
	} else {
		add("ifconfig %s %s", p.Local, p.Peer)
	}
	if p.Local6.IsValid() {
		add("ifconfig-ipv6 %s %s", p.Local6, p.Gateway6)
	}
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
func (p *Push) Messages() []string { return pushMessages(PushReply, p.Options()) }

const (
	morePushes = ",push-continuation 2"
	lastPush   = ",push-continuation 1"
)

func pushMessages(word string, options []string) []string {
	room := MaxMessage - 1 - len(morePushes)
	var messages []string
	message := word
	for _, o := range options {
		if len(message)+1+len(o) > room {
			messages = append(messages, message+morePushes)
			message = word
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
	return eachOption(message, PushReply, p.addOption)
}

// eachOption calls add with the options of a message that begins with a word, and
// reports whether more messages follow.
func eachOption(message, word string, add func(name string, args []string) error) (more bool, err error) {
	options, ok := strings.CutPrefix(message, word)
	if !ok || options != "" && options[0] != ',' {
		return false, fmt.Errorf("%w: not a %s", ErrMalformed, word)
	}
	for option := range strings.SplitSeq(strings.TrimPrefix(options, ","), ",") {
		words := strings.Fields(option)
		if len(words) == 0 {
			continue
		}
		if words[0] == "push-continuation" {
			more = len(words) > 1 && words[1] == "2"
			continue
		}
		if err := add(words[0], words[1:]); err != nil {
			return false, fmt.Errorf("%w: option %s: %w", ErrMalformed, words[0], err)
		}
	}
	return more, nil
}

// maxKept bounds the values of options of which there may be many, so that a server
// cannot have a client keep any number of them.
const maxKept = 4096

func (p *Push) addOption(name string, args []string) (err error) {
	if len(p.Routes)+len(p.DNS)+len(p.Flags)+len(args) > maxKept {
		return fmt.Errorf("is one of more than %d", maxKept)
	}
	need := map[string]int{
		"route": 1, "route-ipv6": 1, "dhcp-option": 2, "dns": 2, "ifconfig": 2, "ifconfig-ipv6": 1, "topology": 1, "ping": 1, "ping-restart": 1, "peer-id": 1,
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
	case "route-ipv6":
		r, err := netip.ParsePrefix(args[0])
		if err != nil {
			return err
		}
		if !r.Addr().Is6() || r.Addr().Is4In6() {
			return fmt.Errorf("%s is not IPv6", r)
		}
		p.Routes = append(p.Routes, r.Masked())
	case "dhcp-option":
		return p.addDHCPOption(args[0], args[1])
	case "dns":
		return p.addDNS(args)
	case "ifconfig":
		return p.addAddress(args[0], args[1])
	case "ifconfig-ipv6":
		if p.Local6, err = netip.ParsePrefix(args[0]); err == nil && len(args) > 1 {
			p.Gateway6, err = netip.ParseAddr(args[1])
		}
		if err == nil && (!p.Local6.Addr().Is6() || p.Local6.Addr().Is4In6()) {
			err = fmt.Errorf("%s is not IPv6", p.Local6)
		}
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

// addAddress reads the values of ifconfig: the other end of the link, or a
// network mask, says which topology it is.
func (p *Push) addAddress(local, other string) (err error) {
	if p.Local, err = netip.ParseAddr(local); err != nil {
		return err
	}
	if !p.Local.Is4() {
		return fmt.Errorf("%s is not IPv4", local)
	}
	p.Network, p.Peer = netip.Prefix{}, netip.Addr{}
	if network, err := parseRoute(local, other); err == nil && other != "0.0.0.0" {
		p.Network = network
		return nil
	}
	p.Peer, err = netip.ParseAddr(other)
	return err
}

func (p *Push) addDHCPOption(kind, value string) error {
	switch kind {
	case "DNS", "DNS6":
		return p.addServer(value)
	case "DOMAIN":
		return p.setDomain(value)
	}
	return nil
}

// setDomain takes a name that a client may hand to commands of its system: no
// option of theirs, and no character that means something else there.
func (p *Push) setDomain(name string) error {
	const characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	if len(name) > 254 || name[0] == '-' || name[0] == '.' || strings.Trim(name, characters) != "" {
		return fmt.Errorf("%q is no domain name", name)
	}
	p.Domain = name
	return nil
}

// addDNS reads a dns option: of several servers all count.
func (p *Push) addDNS(args []string) error {
	p.DNSOption = true
	switch {
	case args[0] == "search-domains":
		return p.setDomain(args[1])
	case args[0] == "server" && len(args) > 3 && args[2] == "address":
		for _, a := range args[3:] {
			if err := p.addServer(a); err != nil {
				return err
			}
		}
	}
	return nil
}

// addServer adds a DNS server that may be named by both kinds of options.
func (p *Push) addServer(text string) error {
	a, err := netip.ParseAddr(text)
	if err == nil && a.Zone() != "" {
		err = fmt.Errorf("%q has a zone, which is the client's own to choose", text)
	}
	if err == nil && !slices.Contains(p.DNS, a) {
		p.DNS = append(p.DNS, a)
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
