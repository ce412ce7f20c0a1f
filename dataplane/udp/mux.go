//go:build linux

package udp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// Ports of IKE (RFC 7296, section 2) and of IKE and ESP in UDP (RFC 3948).
const (
	PortIKE  = 500
	PortNATT = 4500
)

// Origin is where an ESP packet came from.
type Origin struct {
	Local, Remote netip.AddrPort // the ports are zero without UDP
	Encap         bool           // carried in UDP
	TOS           uint8          // type of service or traffic class of the outer header
}

// Receiver takes the ESP packets of one socket. Its methods are called by that
// socket's goroutine.
type Receiver interface {
	// ReceiveESP takes one packet, from the SPI on. The packet may be changed
	// and stays valid until FlushESP returns; from does not outlast the call.
	ReceiveESP(from *Origin, packet []byte)
	// FlushESP is called when no more packets are at hand.
	FlushESP()
	// Close is called when the socket is gone.
	Close()
}

// IKEHandler takes an IKE message without its non-ESP marker. The datagram is
// the handler's to keep. It is called by the goroutines of several sockets and
// must not block.
type IKEHandler func(local, remote netip.AddrPort, datagram []byte)

// Options of a Mux. The zero value has the standard ports.
type Options struct {
	Logger *slog.Logger // nil: no log
	// Sockets on UDP 4500 of each address; the kernel spreads peers over them,
	// so that several cores receive. Zero means 1.
	Sockets int
	// NoRawESP leaves out the sockets for IP protocol 50, which need
	// CAP_NET_RAW.
	NoRawESP bool
	// Decapsulation prepares the sockets on UDP 4500 for Decapsulate.
	Decapsulation bool
	// Store keeps the sockets of Decapsulate beyond the end of the process, and
	// Inherited are those that a process before has left there, which the Mux closes.
	// nil: none are kept.
	Store     SocketStore
	Inherited []*os.File
	// Guard tells whether a local address may be used at this moment. While it
	// may not, nothing is sent from it and what arrives there is dropped. It is
	// asked for each batch before it is sent and after it was received, so that
	// of a process that was stopped one batch of each goroutine, which it had
	// in hand, is all that still passes. It must not block. nil: every address
	// may be used always.
	Guard func(local netip.Addr) bool
	// IKEPort and NATTPort take the place of PortIKE and PortNATT, for tests
	// without privileges.
	IKEPort, NATTPort uint16
}

// Mux owns the outer sockets of all local addresses. Its methods may be called
// by several goroutines.
type Mux struct {
	options Options
	log     *slog.Logger
	ike     atomic.Pointer[IKEHandler]
	esp     atomic.Pointer[func() Receiver]
	table   atomic.Pointer[socketTable]
	stats   counters

	mu     sync.Mutex
	hosts  map[netip.Addr][]*socket // guarded by mu
	closed bool                     // guarded by mu
	noRaw  bool                     // guarded by mu; see SetRawESP
	// decapsulated are the sockets of Decapsulate; nil where the local address is
	// not served. guarded by mu
	decapsulated map[pathKey]*socket
	inherited    map[pathKey]*os.File // guarded by mu; of Options.Inherited, not used so far
	done         sync.WaitGroup
}

// socketTable finds the sockets to send from: by address and port, the port
// being zero for raw ESP. It does not change once published.
type socketTable map[netip.AddrPort][]*socket

// New returns a Mux without sockets.
func New(o Options) *Mux {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Sockets < 1 {
		o.Sockets = 1
	}
	if o.IKEPort == 0 {
		o.IKEPort = PortIKE
	}
	if o.NATTPort == 0 {
		o.NATTPort = PortNATT
	}
	m := &Mux{
		options: o, log: o.Logger, noRaw: o.NoRawESP,
		hosts: map[netip.Addr][]*socket{}, decapsulated: map[pathKey]*socket{}, inherited: map[pathKey]*os.File{},
	}
	m.inherit(o.Inherited)
	m.table.Store(&socketTable{})
	return m
}

// OnIKE sets who gets the IKE messages. Without a handler they are dropped and
// counted.
func (m *Mux) OnIKE(h IKEHandler) { m.ike.Store(&h) }

// OnESP sets who gets the ESP packets. newReceiver is called once for each
// socket, when its first ESP packet arrives. Without one they are dropped and
// counted.
func (m *Mux) OnESP(newReceiver func() Receiver) { m.esp.Store(&newReceiver) }

// SetAddresses opens and closes sockets so that exactly these local addresses
// are served; sockets of addresses that stay are not touched. It goes on past
// an address that fails and joins the errors.
func (m *Mux) SetAddresses(want []netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("udp: closed")
	}
	var errs []error
	keep := map[netip.Addr]bool{}
	for _, a := range want {
		a = a.Unmap()
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			errs = append(errs, fmt.Errorf("udp: address %s: must be a unicast address of this host", a))
			continue
		}
		keep[a] = true
		if m.hosts[a] != nil {
			continue
		}
		sockets, err := m.open(a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m.hosts[a] = sockets
		m.log.Info("listening", "address", a, "ike_port", m.options.IKEPort,
			"natt_port", m.options.NATTPort, "raw_esp", !m.noRaw)
		for key, s := range m.decapsulated {
			if key.local.Addr() == a && s == nil {
				errs = append(errs, m.openDecapsulated(key))
			}
		}
	}
	var gone []*socket
	for a, sockets := range m.hosts {
		if !keep[a] {
			gone = append(gone, sockets...)
			delete(m.hosts, a)
			for key, s := range m.decapsulated {
				if key.local.Addr() == a && s != nil {
					gone = append(gone, s)
					m.drop(key)
					m.decapsulated[key] = nil
				}
			}
			m.log.Info("no longer listening", "address", a)
		}
	}
	m.publish()
	for _, s := range gone {
		m.stats.overflow.Add(s.overflow())
		s.close()
	}
	return errors.Join(errs...)
}

// Addresses returns the local addresses served.
func (m *Mux) Addresses() []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []netip.Addr
	for a := range m.hosts {
		list = append(list, a)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

// open opens all sockets of an address and starts their goroutines.
func (m *Mux) open(a netip.Addr) (sockets []*socket, err error) {
	defer func() {
		if err != nil {
			for _, s := range sockets {
				s.close()
			}
		}
	}()
	add := func(kind socketKind, port uint16) error {
		s, err := openSocket(m, kind, netip.AddrPortFrom(a, port))
		if err != nil {
			return err
		}
		sockets = append(sockets, s)
		return nil
	}
	if err := add(kindIKE, m.options.IKEPort); err != nil {
		return sockets, err
	}
	for range m.options.Sockets {
		if err := add(kindNATT, m.options.NATTPort); err != nil {
			return sockets, err
		}
	}
	if !m.noRaw {
		raw, err := m.openRaw(a)
		if err != nil {
			return sockets, err
		}
		sockets = append(sockets, raw...)
	}
	for _, s := range sockets {
		if s.kind.receives() {
			m.done.Go(s.run)
		}
	}
	return sockets, nil
}

// openRaw opens the sockets for IP protocol 50 of an address: the one that receives
// and that which goes with it.
func (m *Mux) openRaw(a netip.Addr) ([]*socket, error) {
	local := netip.AddrPortFrom(a, 0)
	raw, err := openSocket(m, kindRaw, local)
	if err != nil {
		return nil, err
	}
	kind := kindRawSend
	if a.Is6() {
		kind = kindPathMTU
	}
	other, err := openSocket(m, kind, local)
	if err != nil {
		raw.close()
		return nil, err
	}
	if kind == kindRawSend {
		raw.sends = other
	}
	return []*socket{raw, other}, nil
}

// publish makes the table that senders read. The caller holds mu.
func (m *Mux) publish() {
	table := socketTable{}
	for _, sockets := range m.hosts {
		for _, s := range sockets {
			if s.kind.receives() {
				table[s.local] = append(table[s.local], s)
			}
		}
	}
	m.table.Store(&table)
}

// Close closes all sockets and waits for their goroutines.
func (m *Mux) Close() error {
	m.mu.Lock()
	m.closed = true
	for a, sockets := range m.hosts {
		for _, s := range sockets {
			m.stats.overflow.Add(s.overflow())
			s.close()
		}
		delete(m.hosts, a)
	}
	for key, s := range m.decapsulated {
		if s != nil {
			s.close()
		}
		delete(m.decapsulated, key)
	}
	for key, f := range m.inherited {
		f.Close()
		delete(m.inherited, key)
	}
	m.publish()
	m.mu.Unlock()
	m.done.Wait()
	return nil
}

// find returns a socket to send from. Of several it is always the same one for
// the same number, so that packets of one path keep their order.
func (m *Mux) find(local netip.AddrPort, number uint32) (*socket, error) {
	sockets := (*m.table.Load())[local]
	if len(sockets) == 0 {
		return nil, &NoSocketError{local}
	}
	if !m.mayUse(local.Addr()) {
		m.stats.fenced.Add(1)
		return nil, ErrFenced
	}
	return sockets[number%uint32(len(sockets))], nil
}

// ErrFenced says that Options.Guard did not let a local address be used.
var ErrFenced = errors.New("udp: this host may not use the local address at the moment")

func (m *Mux) mayUse(local netip.Addr) bool { return m.options.Guard == nil || m.options.Guard(local) }

// NoSocketError says that there is no socket on a local address.
type NoSocketError struct{ Local netip.AddrPort }

func (e *NoSocketError) Error() string {
	if e.Local.Port() == 0 {
		return fmt.Sprintf("udp: no socket for raw ESP on %s", e.Local.Addr())
	}
	return fmt.Sprintf("udp: no socket on %s", e.Local)
}

// SendIKE sends an IKE message from a local address and port, with the
// non-ESP marker before it on port 4500. The one octet 0xff, a NAT keepalive,
// goes as it is. Nothing is said about arrival: only local faults are errors.
func (m *Mux) SendIKE(local, remote netip.AddrPort, datagram []byte) error {
	s, err := m.find(local, 0)
	if err != nil {
		return err
	}
	if s.kind == kindNATT && !isKeepalive(datagram) {
		marked := make([]byte, markerLen+len(datagram))
		copy(marked[markerLen:], datagram)
		datagram = marked
	}
	if err := s.sendTo(remote, datagram); err != nil {
		m.stats.sendErrors.Add(1)
		return fmt.Errorf("udp: send %d octets from %s to %s: %w", len(datagram), local, remote, err)
	}
	return nil
}

const (
	markerLen     = 4    // octets of the non-ESP marker, all zero
	keepaliveByte = 0xff // RFC 3948, section 2.3
)

func isKeepalive(datagram []byte) bool {
	return len(datagram) == 1 && datagram[0] == keepaliveByte
}

// counters are kept where they are rare enough to be shared by all sockets.
type counters struct {
	ikeReceived, keepalives, short, ikeDropped, espDropped, truncated, receiveErrors, sendErrors atomic.Uint64

	fenced atomic.Uint64

	overflow atomic.Uint64 // of sockets that are closed
}

// Stats are counts since New, in datagrams.
type Stats struct {
	IKEReceived   uint64
	Keepalives    uint64
	Short         uint64 // too short to be IKE or ESP
	Truncated     uint64 // longer than any datagram may be
	IKEDropped    uint64 // IKE without a handler
	ESPDropped    uint64 // ESP without a receiver
	ReceiveErrors uint64 // failed system calls
	SendErrors    uint64
	Fenced        uint64 // batches that Options.Guard did not let in or out
	Overflow      uint64 // of all kinds, dropped by the kernel since the socket's buffer was full
}

// Stats returns the counts.
func (m *Mux) Stats() Stats {
	c := &m.stats
	m.mu.Lock()
	overflow := c.overflow.Load()
	for _, sockets := range m.hosts {
		for _, s := range sockets {
			overflow += s.overflow()
		}
	}
	m.mu.Unlock()
	return Stats{
		IKEReceived: c.ikeReceived.Load(), Keepalives: c.keepalives.Load(), Short: c.short.Load(),
		Truncated: c.truncated.Load(), IKEDropped: c.ikeDropped.Load(), ESPDropped: c.espDropped.Load(),
		ReceiveErrors: c.receiveErrors.Load(), SendErrors: c.sendErrors.Load(),
		Fenced: c.fenced.Load(), Overflow: overflow,
	}
}
