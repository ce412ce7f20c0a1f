package tun

import "github.com/songgao/water"

// waterConfig names the driver of OpenVPN, tap-windows6.
func waterConfig(o PlainOptions) water.Config {
	return water.Config{DeviceType: water.TUN, PlatformSpecificParams: water.PlatformSpecificParams{
		ComponentID: "tap0901", InterfaceName: o.Name, Network: o.Network.String(),
	}}
}
