//go:build linux

package udp

import (
	"fmt"
	"log/slog"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Slack is the octets behind each datagram, at the least, that a
// DatagramReceiver may use for as long as it has one.
const Slack = 16

// DatagramReceiver takes the datagrams of one socket of a Port. Its methods are
// called by that socket's goroutine.
type DatagramReceiver interface {
	// Receive takes one datagram. It may be changed and stays valid until Flush
	// returns. Its capacity reaches over those behind it.
	Receive(from netip.AddrPort, datagram []byte)
	// Flush is called when no more datagrams are at hand.
	Flush()
}

// PortOptions are what a Port can do without.
type PortOptions struct {
	Logger *slog.Logger // nil: no log
	// Sockets of the port; the kernel spreads peers over them, so that several
	// cores receive. Zero means 1.
	Sockets int
	// Guard is that of Options.
	Guard func(local netip.Addr) bool
}

// Port is the sockets on one local address and UDP port. Its methods may be
// called by several goroutines.
type Port struct {
	mux   *Mux
	local netip.AddrPort
}

// Listen opens a Port; port 0 is one that the kernel chooses. newReceiver is
// called once for each socket.
func Listen(local netip.AddrPort, newReceiver func() DatagramReceiver, o PortOptions) (*Port, error) {
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	if !local.Addr().IsValid() || local.Addr().IsMulticast() {
		return nil, fmt.Errorf("udp: address %s: must be a unicast address of this host", local)
	}
	m := New(Options{Logger: o.Logger, Sockets: o.Sockets, Guard: o.Guard})
	var sockets []*socket
	for range m.options.Sockets {
		s, err := openSocket(m, kindDatagram, local)
		if err != nil {
			for _, s := range sockets {
				s.close()
			}
			return nil, err
		}
		s.newReceiver = newReceiver
		sockets = append(sockets, s)
		local = s.local
	}
	m.hosts[local.Addr()] = sockets
	m.publish()
	for _, s := range sockets {
		m.done.Go(s.run)
	}
	return &Port{m, local}, nil
}

// Local returns the address and port.
func (p *Port) Local() netip.AddrPort { return p.local }

// NewSender returns a Sender for one more goroutine. Its paths have to begin
// at Local and be in UDP.
func (p *Port) NewSender() *Sender { return p.mux.NewSender() }

// Stats returns the counts of the sockets.
func (p *Port) Stats() Stats { return p.mux.Stats() }

// Close closes the sockets and waits for their goroutines.
func (p *Port) Close() error { return p.mux.Close() }

// bound returns the address that a socket is bound to.
func bound(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask for the address: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("ask for the address: family of %T", sa)
}
