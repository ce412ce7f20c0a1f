package wire

import "strings"

// maxServerOptions is the longest options string of a server, in octets.
const maxServerOptions = 511

// ServerOptions answers a client's options string. No client acts upon it, but
// old ones warn about each difference: so it is the client's own, seen from the
// other side.
func ServerOptions(client string) string {
	if len(client) > maxServerOptions || !printable(client) {
		return "V4,dev-type tun,key-method 2,tls-server"
	}
	var kept []string
	for option := range strings.SplitSeq(client, ",") {
		switch option {
		case "tls-client":
			option = "tls-server"
		case "proto TCPv4_CLIENT":
			option = "proto TCPv4_SERVER"
		case "proto TCPv6_CLIENT":
			option = "proto TCPv6_SERVER"
		case "comp-lzo":
			continue
		}
		kept = append(kept, option)
	}
	return strings.Join(kept, ",")
}

// FramesCompression reports whether a client's options string says that its
// data packets carry a compression octet, because its own configuration has
// comp-lzo or compress.
func FramesCompression(client string) bool {
	for option := range strings.SplitSeq(client, ",") {
		if option == "comp-lzo" {
			return true
		}
	}
	return false
}
