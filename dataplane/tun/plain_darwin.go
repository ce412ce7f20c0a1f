package tun

import "github.com/songgao/water"

func waterConfig(o PlainOptions) water.Config {
	return water.Config{DeviceType: water.TUN, PlatformSpecificParams: water.PlatformSpecificParams{Name: o.Name, Driver: water.MacOSDriverSystem}}
}
