package sslvpn

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// openPlainUDP opens a socket that sends and receives one packet with a system call,
// as every system has it.
func openPlainUDP(local netip.AddrPort, h datagramHandler, o udpOptions) (udpSocket, error) {
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
	if err != nil {
		return nil, err
	}
	s := &plainSocket{conn: conn, at: conn.LocalAddr().(*net.UDPAddr).AddrPort(), guard: o.guard, log: o.log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.at = netip.AddrPortFrom(local.Addr(), s.at.Port())
	s.done.Go(func() { s.receive(&datagrams{handler: h}) })
	return s, nil
}

type plainSocket struct {
	conn  *net.UDPConn
	at    netip.AddrPort
	guard func(netip.Addr) bool
	log   *slog.Logger
	done  sync.WaitGroup
}

func (s *plainSocket) local() netip.AddrPort { return s.at }

func (s *plainSocket) allowed() bool { return s.guard == nil || s.guard(s.at.Addr()) }

func (s *plainSocket) close() error {
	err := s.conn.Close()
	s.done.Wait()
	return err
}

// receive hands packets over until the socket is closed.
func (s *plainSocket) receive(d *datagrams) {
	buf := make([]byte, maxFrame+tagLen)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf[:maxFrame])
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as an ICMP error about a packet of ours
			s.log.Debug("receive failed", "address", s.at.String(), "error", err)
		case s.allowed():
			d.Receive(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), buf[:n])
			d.Flush()
		}
	}
}

func (s *plainSocket) path(remote netip.AddrPort) (udpPath, error) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	if !remote.IsValid() || remote.Addr().Is4() != s.at.Addr().Is4() {
		return nil, fmt.Errorf("address %s: cannot be reached from %s", remote, s.at)
	}
	return &plainPath{s, remote}, nil
}

type plainPath struct {
	socket *plainSocket
	to     netip.AddrPort
}

func (p *plainPath) remote() netip.AddrPort { return p.to }

func (p *plainPath) send(packets []byte, size int) (failed int, err error) {
	if size <= 0 {
		return 0, nil
	}
	for packet := range slices.Chunk(packets, size) {
		if !p.socket.allowed() {
			failed, err = failed+1, errFenced
		} else if _, e := p.socket.conn.WriteToUDPAddrPort(packet, p.to); e != nil {
			failed, err = failed+1, e
		}
	}
	return failed, err
}
