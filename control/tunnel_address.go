package control

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
)

// Tunnel addresses come from 169.254.0.0/16 without 169.254.195.0/24, which
// the cloud keeps to itself, in networks of four addresses.
var (
	tunnelRange    = netip.MustParsePrefix("169.254.0.0/16")
	tunnelReserved = netip.MustParsePrefix("169.254.195.0/24")
)

const tunnelBits = 30

// tunnelAddress reads one address of a tunnel, with its prefix length.
func (p *parser) tunnelAddress(field string, v *string, to *netip.Prefix) {
	if v == nil {
		return
	}
	a, err := netip.ParsePrefix(*v)
	switch {
	case err != nil || a.Bits() != tunnelBits || !tunnelRange.Contains(a.Addr()):
		p.fail(field, "must be an address of %s with prefix length %d", tunnelRange, tunnelBits)
	case tunnelReserved.Contains(a.Addr()):
		p.fail(field, "must be outside %s", tunnelReserved)
	case !isHostOf(a.Addr(), a):
		p.fail(field, "must be a host address of %s", a.Masked())
	}
	*to = a
}

// completeTunnel gives a tunnel the addresses it lacks: the other host of the
// network of the one that was given, or a network that the gateway does not
// use, of which we take the first host.
func completeTunnel(c *Connection, others []Connection, random io.Reader) error {
	switch local, peer := c.TunnelLocal.IsValid(), c.TunnelPeer.IsValid(); {
	case local && peer:
		return nil
	case local:
		c.TunnelPeer = otherHost(c.TunnelLocal)
		return nil
	case peer:
		c.TunnelLocal = otherHost(c.TunnelPeer)
		return nil
	}
	used := map[netip.Prefix]bool{}
	for _, o := range others {
		if o.GatewayID == c.GatewayID {
			used[o.TunnelLocal.Masked()] = true
		}
	}
	// All networks are tried from a random one on, so it ends whatever the
	// source of randomness yields.
	const networks = 1 << (tunnelBits - 16)
	var b [2]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return fmt.Errorf("random tunnel address: %w", err)
	}
	for i := range networks {
		n := (int(binary.BigEndian.Uint16(b[:])) + i) % networks << (32 - tunnelBits)
		network := netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, byte(n >> 8), byte(n)}), tunnelBits)
		if used[network] || tunnelReserved.Contains(network.Addr()) {
			continue
		}
		c.TunnelLocal = netip.PrefixFrom(network.Addr().Next(), tunnelBits)
		c.TunnelPeer = otherHost(c.TunnelLocal)
		return nil
	}
	return invalidRequest("tunnel_local_address: all networks are in use on this gateway")
}

// otherHost returns the other one of the two host addresses of a /30.
func otherHost(a netip.Prefix) netip.Prefix {
	first := a.Masked().Addr().Next()
	if a.Addr() == first {
		return netip.PrefixFrom(first.Next(), tunnelBits)
	}
	return netip.PrefixFrom(first, tunnelBits)
}
