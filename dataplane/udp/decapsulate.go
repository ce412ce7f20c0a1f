package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Socket options of linux/udp.h.
const (
	udpEncap         = 100 // UDP_ENCAP
	udpEncapESPInUDP = 2   // UDP_ENCAP_ESPINUDP, RFC 3948
)

// pathKey is both ends of a path in UDP.
type pathKey struct{ local, remote netip.AddrPort }

// Decapsulate has the kernel take the ESP that comes in UDP from one peer to one
// local address and port, for SAs that are in the kernel's SAD, or ends that. The
// peer gets a connected socket of its own, which the kernel prefers: so of other
// peers of the same address and port nothing changes, and what is not ESP, such
// as IKE, is received as ever. It holds while the address is served. It needs
// Options.Decapsulation.
func (m *Mux) Decapsulate(local, remote netip.AddrPort, on bool) error {
	key := pathKey{unmap(local), unmap(remote)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("udp: closed")
	}
	s, known := m.decapsulated[key]
	switch {
	case !on:
		delete(m.decapsulated, key)
		if f := m.inherited[key]; f != nil {
			delete(m.inherited, key)
			m.drop(key)
			return f.Close()
		}
		if s != nil {
			m.drop(key)
			s.close()
		}
		return nil
	case known && s != nil:
		return nil
	case !m.options.Decapsulation || key.local.Port() != m.options.NATTPort:
		return fmt.Errorf("udp: %s: sockets there are not prepared for the kernel's decapsulation", key.local)
	}
	m.decapsulated[key] = nil
	if m.hosts[key.local.Addr()] == nil {
		return nil
	}
	return m.openDecapsulated(key)
}

// openDecapsulated opens the socket of one peer. The caller holds mu.
func (m *Mux) openDecapsulated(key pathKey) error {
	s := &socket{mux: m, kind: kindNATT, local: key.local, v6: key.local.Addr().Is6(), decapsulates: key.remote}
	inherited := m.inherited[key]
	delete(m.inherited, key)
	open := s.open
	if inherited != nil {
		open = func() error { return s.adopt(inherited) }
	}
	if err := open(); err != nil {
		return fmt.Errorf("ESP in UDP from %s for the kernel: %w", key.remote, err)
	}
	if inherited == nil {
		m.keep(key, s)
	}
	m.decapsulated[key] = s
	m.done.Go(s.run)
	return nil
}

// SetRawESP opens or closes the sockets for IP protocol 50 of all addresses, now
// and to come. The kernel gives such a socket a copy of each ESP packet, also of
// those that its own SAs take: without SAs of others, the copies are a waste.
func (m *Mux) SetRawESP(on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("udp: closed")
	}
	if on != m.noRaw || m.options.NoRawESP {
		return nil
	}
	m.noRaw = !on
	var errs []error
	var gone []*socket
	for a, sockets := range m.hosts {
		if !on {
			raw := func(s *socket) bool { return s.kind.raw() }
			for _, s := range sockets {
				if raw(s) {
					gone = append(gone, s)
				}
			}
			m.hosts[a] = slices.DeleteFunc(sockets, raw)
			continue
		}
		raw, err := m.openRaw(a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m.hosts[a] = append(m.hosts[a], raw...)
		m.done.Go(raw[0].run)
	}
	m.publish()
	for _, s := range gone {
		s.close()
	}
	return errors.Join(errs...)
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
