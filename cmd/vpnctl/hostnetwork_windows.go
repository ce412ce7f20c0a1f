package main

import "github.com/vpngw/vpngw/sslvpn/wire"

// defaultDevice is empty: the first adapter of tap-windows6.
const defaultDevice = ""

func newHostNetwork(device string, p *wire.Push) (hostNetwork, error) {
	return newWindowsNetwork(device, p, runAll), nil
}
