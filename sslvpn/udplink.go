package sslvpn

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/vpngw/vpngw/dataplane/udp"
)

const (
	// undefinedPeerID is the peer id of packets that have none.
	undefinedPeerID = 0xffffff
	// udpMaxSegment keeps a packet of TCP inside within a datagram of 1,492
	// octets with its headers, as stock OpenVPN does (mssfix).
	udpMaxSegment = 1400
)

// datagramHandler gets what arrives on a udpSocket. Packets are valid until it
// returns, and may be changed. Its methods are called by several goroutines,
// but for one client's address always by the same.
type datagramHandler interface {
	// control takes a packet that is not of a data channel.
	control(from netip.AddrPort, packet []byte)
	// data takes DATA packets of one source and one peer id that came together.
	data(from netip.AddrPort, peerID uint32, packets [][]byte)
}

// udpSocket is one local address and port.
type udpSocket struct {
	port    *udp.Port
	senders sync.Pool // of *udp.Sender
}

// listenUDP opens a socket for a number of cores to receive on.
func listenUDP(local netip.AddrPort, cores int, h datagramHandler, log *slog.Logger) (*udpSocket, error) {
	return listenGuardedUDP(local, h, udp.PortOptions{Logger: log, Sockets: cores})
}

// listenGuardedUDP is listenUDP with all options of a port.
func listenGuardedUDP(local netip.AddrPort, h datagramHandler, o udp.PortOptions) (*udpSocket, error) {
	port, err := udp.Listen(local, func() udp.DatagramReceiver { return &datagrams{handler: h} }, o)
	if err != nil {
		return nil, err
	}
	s := &udpSocket{port: port}
	s.senders.New = func() any { return port.NewSender() }
	return s, nil
}

// local returns the address and port.
func (s *udpSocket) local() netip.AddrPort { return s.port.Local() }

// close closes the socket and waits for its goroutines.
func (s *udpSocket) close() error { return s.port.Close() }

// sendTo sends one packet, such as an answer to an address that is nobody's
// yet.
func (s *udpSocket) sendTo(remote netip.AddrPort, packet []byte) error {
	path, err := udp.NewPath(s.local(), remote, true)
	if err != nil {
		return err
	}
	_, err = s.send(path, packet, len(packet))
	return err
}

func (s *udpSocket) send(path *udp.Path, packets []byte, size int) (failed int, err error) {
	sender := s.senders.Get().(*udp.Sender)
	defer s.senders.Put(sender)
	return sender.Send(path, packets, size, 0)
}

// link returns the way to a client.
func (s *udpSocket) link(remote netip.AddrPort, d *drops) (*udpLink, error) {
	l := &udpLink{socket: s, drops: d}
	return l, l.move(remote)
}

// datagrams sorts what arrives on one of the sockets of a udpSocket. It
// implements udp.DatagramReceiver.
type datagrams struct {
	handler datagramHandler
	from    netip.AddrPort // of the packets that follow
	peerID  uint32
	packets [][]byte
}

// Receive implements udp.DatagramReceiver.
func (d *datagrams) Receive(from netip.AddrPort, packet []byte) {
	if len(packet) == 0 {
		return
	}
	peerID := uint32(undefinedPeerID)
	switch packet[0] >> 3 {
	case opcodeDataV2:
		if len(packet) < dataV2Header {
			return
		}
		peerID = binary.BigEndian.Uint32(packet) & 0xffffff
	case opcodeDataV1:
	default:
		d.Flush()
		d.handler.control(from, packet)
		return
	}
	if from != d.from || peerID != d.peerID || len(d.packets) == maxTogether {
		d.Flush()
		d.from, d.peerID = from, peerID
	}
	d.packets = append(d.packets, packet)
}

// Flush implements udp.DatagramReceiver.
func (d *datagrams) Flush() {
	if len(d.packets) > 0 {
		d.handler.data(d.from, d.peerID, d.packets)
		clear(d.packets)
		d.packets = d.packets[:0]
	}
}

// udpLink is the way to one client by UDP. It implements link.
type udpLink struct {
	socket *udpSocket
	drops  *drops
	path   atomic.Pointer[udp.Path]
}

// move sends to another address from now on.
func (l *udpLink) move(remote netip.AddrPort) error {
	path, err := udp.NewPath(l.socket.local(), remote, true)
	if err != nil {
		return fmt.Errorf("client at %s: %w", remote, err)
	}
	l.path.Store(path)
	return nil
}

// remote returns the address of the client.
func (l *udpLink) remote() netip.AddrPort { return l.path.Load().Remote }

// sendControl implements link.
func (l *udpLink) sendControl(packet []byte) error {
	if len(packet) == 0 {
		return nil
	}
	_, err := l.socket.send(l.path.Load(), packet, len(packet))
	return err
}

// framed implements link.
func (l *udpLink) framed() bool { return false }

// maxSegment implements link.
func (l *udpLink) maxSegment() uint16 { return udpMaxSegment }

// full implements link: there is no queue beside the socket's.
func (l *udpLink) full() bool { return false }

// sendData implements link.
func (l *udpLink) sendData(t *train) {
	if failed, _ := l.socket.send(l.path.Load(), t.octets, t.size); failed > 0 {
		l.drops.add(reasonSend, failed)
	}
	t.release()
}

// flush implements link.
func (l *udpLink) flush() {}
