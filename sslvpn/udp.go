package sslvpn

import (
	"errors"
	"net/netip"
)

type udpListener struct{}

func (l *udpListener) forget(*session) {}

func (ep *endpoint) listenUDP(addresses []netip.AddrPort) error {
	if len(addresses) > 0 {
		return errors.New("UDP is not served yet")
	}
	return nil
}
func (ep *endpoint) serveUDP() {}
func (ep *endpoint) closeUDP() {}
