package nqa

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// receiveBuffer is what the kernel keeps of replies, in octets.
const receiveBuffer = 1 << 20

// icmpSocket is one raw socket for all targets. Source and device of a request
// go along with it, so there need not be a socket for each.
type icmpSocket struct{ conn *net.IPConn }

// OpenSocket opens the Socket of this host. It needs CAP_NET_RAW.
func OpenSocket() (Socket, error) {
	conn, err := net.ListenIP("ip4:icmp", nil)
	if err != nil {
		return nil, fmt.Errorf("nqa: %w", err)
	}
	s := &icmpSocket{conn}
	err = errors.Join(s.control(func(fd int) error {
		// Every other message than an echo reply is for somebody else.
		return unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, ^(1 << typeEchoReply))
	}), conn.SetReadBuffer(receiveBuffer))
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("nqa: %w", err)
	}
	return s, nil
}

// icmpFilter is ICMP_FILTER of linux/icmp.h: a bit for each type to leave out.
const icmpFilter = 1

// control calls f with the socket's descriptor.
func (s *icmpSocket) control(f func(fd int) error) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Send implements Socket.
func (s *icmpSocket) Send(source, destination netip.Addr, device string, message []byte) error {
	info := unix.Inet4Pktinfo{Spec_dst: source.As4()}
	if device != "" {
		index, err := s.deviceIndex(device)
		if err != nil {
			return fmt.Errorf("device %s: %w", device, err)
		}
		info.Ifindex = index
	}
	_, _, err := s.conn.WriteMsgIP(message, unix.PktInfo4(&info), &net.IPAddr{IP: destination.AsSlice()})
	return err
}

// deviceIndex asks the kernel each time: a device may go and come back.
func (s *icmpSocket) deviceIndex(device string) (int32, error) {
	request, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	err = s.control(func(fd int) error { return unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request) })
	return int32(request.Uint32()), err
}

// Receive implements Socket. The kernel hands over the IPv4 header, too.
func (s *icmpSocket) Receive(buffer []byte) (source, destination netip.Addr, message []byte, err error) {
	for {
		n, _, _, _, err := s.conn.ReadMsgIP(buffer, nil)
		if err != nil {
			return source, destination, nil, err
		}
		if source, destination, message, ok := splitIPv4(buffer[:n]); ok {
			return source, destination, message, nil
		}
	}
}

// Close implements Socket.
func (s *icmpSocket) Close() error { return s.conn.Close() }

// splitIPv4 takes the header off an IPv4 packet.
func splitIPv4(packet []byte) (source, destination netip.Addr, payload []byte, ok bool) {
	const shortest = 20
	if len(packet) < shortest || packet[0]>>4 != 4 {
		return source, destination, nil, false
	}
	header := int(packet[0]&0xf) * 4
	if header < shortest || header > len(packet) {
		return source, destination, nil, false
	}
	return netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), packet[header:], true
}
