package sslvpn

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
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

// udpSocket is one local address and port. Its methods may be called by several
// goroutines.
type udpSocket interface {
	// local returns the address and port.
	local() netip.AddrPort
	// path returns the way to an address.
	path(remote netip.AddrPort) (udpPath, error)
	// close closes the socket and waits for its goroutines.
	close() error
}

// udpPath is the way from a udpSocket to an address. Its methods may be called by
// several goroutines.
type udpPath interface {
	// send sends packets that lie one behind the other, each of size octets, but
	// for the last, which may have fewer. failed are those that were not sent.
	send(packets []byte, size int) (failed int, err error)
	remote() netip.AddrPort
}

// udpOptions are what a udpSocket can do without.
type udpOptions struct {
	log   *slog.Logger // nil: no log
	cores int          // that receive; 0: one
	// guard is that of Options.
	guard func(local netip.Addr) bool
}

// sendTo sends one packet, such as an answer to an address that is nobody's
// yet.
func sendTo(s udpSocket, remote netip.AddrPort, packet []byte) error {
	path, err := s.path(remote)
	if err != nil {
		return err
	}
	_, err = path.send(packet, len(packet))
	return err
}

// newUDPLink returns the way to a client.
func newUDPLink(s udpSocket, remote netip.AddrPort, d *drops) (*udpLink, error) {
	l := &udpLink{socket: s, drops: d}
	return l, l.move(remote)
}

// datagrams sorts what arrives on one of the sockets of a udpSocket.
type datagrams struct {
	handler datagramHandler
	from    netip.AddrPort // of the packets that follow
	peerID  uint32
	packets [][]byte
}

// Receive takes one packet, which stays as it is until Flush returns.
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

// Flush hands over what has come together.
func (d *datagrams) Flush() {
	if len(d.packets) > 0 {
		d.handler.data(d.from, d.peerID, d.packets)
		clear(d.packets)
		d.packets = d.packets[:0]
	}
}

// udpLink is the way to one client by UDP. It implements link.
type udpLink struct {
	socket udpSocket
	drops  *drops
	path   atomic.Pointer[udpPath]
}

// move sends to another address from now on.
func (l *udpLink) move(remote netip.AddrPort) error {
	path, err := l.socket.path(remote)
	if err != nil {
		return fmt.Errorf("client at %s: %w", remote, err)
	}
	l.path.Store(&path)
	return nil
}

// remote returns the address of the client.
func (l *udpLink) remote() netip.AddrPort { return (*l.path.Load()).remote() }

// sendControl implements link.
func (l *udpLink) sendControl(packet []byte) error {
	if len(packet) == 0 {
		return nil
	}
	_, err := (*l.path.Load()).send(packet, len(packet))
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
	if failed, _ := (*l.path.Load()).send(t.octets, t.size); failed > 0 {
		l.drops.add(reasonSend, failed)
	}
	t.release()
}

// flush implements link.
func (l *udpLink) flush() {}
