//go:build !linux

package sslvpn

import "net/netip"

func openUDP(local netip.AddrPort, h datagramHandler, o udpOptions) (udpSocket, error) {
	return openPlainUDP(local, h, o)
}
