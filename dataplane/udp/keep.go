//go:build linux

package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// SocketStore keeps sockets when the process ends, for the next one. The kernel takes
// ESP out of UDP for as long as the socket of Decapsulate is there.
type SocketStore interface {
	// Keep keeps a duplicate of a descriptor under a name.
	Keep(name string, fd int) error
	// Drop closes what is kept under a name.
	Drop(name string) error
}

// name is what the socket of a path is kept under. It is not read again: the socket
// itself knows its path.
func (k pathKey) name() string {
	return fmt.Sprintf("esp-in-udp-%x-%d-%x-%d",
		k.local.Addr().AsSlice(), k.local.Port(), k.remote.Addr().AsSlice(), k.remote.Port())
}

// inherit takes the sockets of Decapsulate that a process before has left, by their
// paths. Others are closed.
func (m *Mux) inherit(files []*os.File) {
	for _, f := range files {
		key, err := m.pathOf(f)
		if err != nil || m.inherited[key] != nil {
			m.log.Warn("inherited descriptor not used", "name", f.Name(), "error", err)
			f.Close()
			continue
		}
		m.inherited[key] = f
	}
}

// pathOf returns the path of a socket that a process before has prepared for the
// kernel's decapsulation.
func (m *Mux) pathOf(f *os.File) (key pathKey, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return key, err
	}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	note(conn.Control(func(fd uintptr) {
		encapsulation, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, udpEncap)
		note(err)
		if err == nil && encapsulation != udpEncapESPInUDP {
			note(errors.New("does not take ESP out of UDP"))
		}
		local, err := unix.Getsockname(int(fd))
		note(err)
		remote, err := unix.Getpeername(int(fd))
		note(err)
		key = pathKey{addrPortOf(local), addrPortOf(remote)}
	}))
	if err := errors.Join(errs...); err != nil {
		return key, err
	}
	if !m.options.Decapsulation || key.local.Port() != m.options.NATTPort || !key.remote.IsValid() {
		return key, fmt.Errorf("path from %s to %s is not one of ours", key.remote, key.local)
	}
	return key, nil
}

func addrPortOf(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// adopt makes a socket one that a process before has left.
func (s *socket) adopt(f *os.File) error {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("inherited socket: %w", err)
	}
	if s.watch, err = newWatch(fd); err != nil {
		unix.Close(fd) //nolint:errcheck // The first error is the one to report.
		return fmt.Errorf("inherited socket: %w", err)
	}
	s.conn.fd, s.conn.open = fd, true
	return nil
}

// DropInherited closes the sockets of Options.Inherited that Decapsulate was not
// called for.
func (m *Mux) DropInherited() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, f := range m.inherited {
		if _, wanted := m.decapsulated[key]; !wanted {
			delete(m.inherited, key)
			f.Close()
			m.drop(key)
		}
	}
}

// keep has the socket of a path kept. The caller holds mu.
func (m *Mux) keep(key pathKey, s *socket) {
	if m.options.Store == nil {
		return
	}
	err := s.conn.Control(func(fd uintptr) {
		if err := m.options.Store.Keep(key.name(), int(fd)); err != nil {
			m.log.Warn("socket of a peer not kept for the next process", "peer", key.remote, "error", err)
		}
	})
	if err != nil {
		m.log.Warn("socket of a peer not kept for the next process", "peer", key.remote, "error", err)
	}
}

// drop is the reverse of keep. The caller holds mu.
func (m *Mux) drop(key pathKey) {
	if m.options.Store == nil {
		return
	}
	if err := m.options.Store.Drop(key.name()); err != nil {
		m.log.Warn("socket of a peer still kept for the next process", "peer", key.remote, "error", err)
	}
}
