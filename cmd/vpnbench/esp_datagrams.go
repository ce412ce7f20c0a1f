package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// flowDatagram is the octets of a datagram, which begins with the number of its flow.
const flowDatagram = 1200

// openDatagrams begins to send datagrams in all flows of a load, one in each in turn,
// so that what is offered to them is equal whatever becomes of it.
func (p *pair) openDatagrams(ctx context.Context, l flowLoad) (f *flows, err error) {
	f = newFlows(p, l)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	var conn *net.UDPConn
	if err := p.b.Inside(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: flowsPort})
		return err
	}); err != nil {
		return f, err
	}
	f.keep(conn)
	if err := deepen(conn); err != nil {
		return f, err
	}
	f.running.Go(func() error { f.receive(conn); return nil })
	senders := make([]net.Conn, l.Flows)
	for i := range senders {
		to := netip.AddrPortFrom(p.to(l, i), flowsPort)
		if senders[i], err = p.a.DialContext(ctx, "udp4", to.String()); err != nil {
			return f, err
		}
		f.keep(senders[i])
	}
	f.running.Go(func() error { f.offer(senders); return nil })
	return f, nil
}

// deepen gives a socket room for what comes while its reader is not at work.
func deepen(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	}); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("set socket buffer: %w", failed)
	}
	return nil
}

// offer sends in all flows in turn until they are closed.
func (f *flows) offer(senders []net.Conn) {
	var datagram [flowDatagram]byte
	for {
		for i, conn := range senders {
			binary.BigEndian.PutUint32(datagram[:], uint32(i))
			n, err := conn.Write(datagram[:])
			if errors.Is(err, net.ErrClosed) {
				return
			}
			f.offered.Add(uint64(n)) // what fails otherwise is lost like others
		}
	}
}

// receive counts datagrams until the socket is closed.
func (f *flows) receive(conn *net.UDPConn) {
	buf := make([]byte, 2*flowDatagram)
	for {
		n, _, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if n != flowDatagram {
			continue
		}
		if flow := int(binary.BigEndian.Uint32(buf)); flow < len(f.arrived) {
			f.arrived[flow].Add(flowDatagram)
		}
	}
}
