package main

import "github.com/vpngw/vpngw/sslvpn/wire"

// defaultDevice is empty: the system numbers its utun interfaces.
const defaultDevice = ""

func newHostNetwork(device string, p *wire.Push) (hostNetwork, error) {
	return newMacNetwork(device, p, runAll), nil
}
