package wire

import (
	"slices"
	"strconv"
	"strings"
)

// Proto is IV_PROTO of the peer info: what a client promises to understand.
type Proto uint32

// Promises of IV_PROTO.
const (
	ProtoDataV2      Proto = 1 << 1  // DataV2 and peer-id
	ProtoRequestPush Proto = 1 << 2  // takes PUSH_REPLY without asking
	ProtoTLSExporter Proto = 1 << 3  // data keys by TLS exporter
	ProtoAuthPending Proto = 1 << 4  // AUTH_PENDING with a timeout
	ProtoNoPull      Proto = 1 << 5  // negotiates as an equal: takes no push
	ProtoExitNotify  Proto = 1 << 7  // EXIT as a message, and protocol-flags
	ProtoAuthTemp    Proto = 1 << 8  // AUTH_FAILED,TEMP
	ProtoDynTLSCrypt Proto = 1 << 9  // dynamic tls-crypt
	ProtoEpochData   Proto = 1 << 10 // epoch data format
	ProtoDNS         Proto = 1 << 11 // the dns option in its final form
	ProtoPushUpdate  Proto = 1 << 12 // PUSH_UPDATE
)

// Has reports whether all of want are promised.
func (p Proto) Has(want Proto) bool { return p&want == want }

// PeerInfo is what a client says of itself. All of it is unproven text: it may
// decide how to talk to the client, never what the client may do.
type PeerInfo struct {
	Version  string   // IV_VER
	Platform string   // IV_PLAT
	Proto    Proto    // IV_PROTO
	Ciphers  []string // IV_CIPHERS, upper case
	NCP      int      // IV_NCP: 2 stands for both AES-GCM ciphers
	MTU      int      // IV_MTU: the largest tun-mtu that it can be pushed, 0 when not said
	StubV2   bool     // IV_COMP_STUBv2
}

// ParsePeerInfo reads lines of NAME=value. Lines that it does not know, or that
// make no sense, are passed over, as stock servers do.
func ParsePeerInfo(s string) PeerInfo {
	var p PeerInfo
	for line := range strings.Lines(s) {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		if !ok || !printable(value) {
			continue
		}
		switch name {
		case "IV_VER":
			p.Version = shorten(value, 64)
		case "IV_PLAT":
			p.Platform = shorten(value, 64)
		case "IV_PROTO":
			if v, err := strconv.ParseUint(value, 10, 32); err == nil {
				p.Proto = Proto(v)
			}
		case "IV_CIPHERS":
			p.Ciphers = strings.Split(strings.ToUpper(value), ":")
		case "IV_NCP":
			p.NCP, _ = strconv.Atoi(value)
		case "IV_MTU":
			p.MTU, _ = strconv.Atoi(value)
		case "IV_COMP_STUBv2":
			p.StubV2 = value == "1"
		}
	}
	return p
}

// Supports reports whether the client may be pushed a cipher. options is its
// options string, which counts only for clients that negotiate nothing.
func (p *PeerInfo) Supports(cipher, options string) bool {
	switch {
	case len(p.Ciphers) > 0:
		return slices.Contains(p.Ciphers, cipher)
	case p.NCP >= 2:
		return cipher == "AES-256-GCM" || cipher == "AES-128-GCM"
	}
	return slices.Contains(strings.Split(options, ","), "cipher "+cipher)
}

// Negotiates reports whether the client understands a pushed cipher.
func (p *PeerInfo) Negotiates() bool { return len(p.Ciphers) > 0 || p.NCP >= 2 }

// UpdatesDNS reports whether the client installs the DNS servers of a PUSH_UPDATE.
// OpenVPN 2.7 forgets on taking them which program it installs DNS servers with, so
// that those of before stay even when it has ended; on Windows and Android it has no
// such program.
func (p *PeerInfo) UpdatesDNS() bool {
	return p.Proto.Has(ProtoPushUpdate) &&
		(!strings.HasPrefix(p.Version, "2.") || p.Platform == "win" || p.Platform == "android")
}

// printable reports whether s has nothing but printable ASCII.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func shorten(s string, n int) string { return s[:min(len(s), n)] }
