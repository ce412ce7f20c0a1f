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

// icmpSocket is one raw socket for all targets of a family. Source and device of
// a request go along with it, so there need not be a socket for each.
type icmpSocket struct{ conn *net.IPConn }

// icmpV6Socket is the same for ICMPv6.
type icmpV6Socket struct {
	icmpSocket
	controlBuffer [64]byte // of the message that is received
}

// OpenSocket opens the Socket of this host for ICMP. It needs CAP_NET_RAW.
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

// OpenSocketV6 opens the Socket of this host for ICMPv6. It needs CAP_NET_RAW, and
// a kernel with IPv6.
func OpenSocketV6() (Socket, error) {
	conn, err := net.ListenIP("ip6:ipv6-icmp", nil)
	if err != nil {
		return nil, fmt.Errorf("nqa: %w", err)
	}
	s := &icmpV6Socket{icmpSocket: icmpSocket{conn}}
	err = errors.Join(s.control(func(fd int) error {
		var filter unix.ICMPv6Filter // a bit for each type to leave out
		for i := range filter.Data {
			filter.Data[i] = ^uint32(0)
		}
		filter.Data[typeEchoReplyV6/32] &^= 1 << (typeEchoReplyV6 % 32)
		return errors.Join(
			unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &filter),
			unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1))
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

// Send implements Socket.
func (s *icmpV6Socket) Send(source, destination netip.Addr, device string, message []byte) error {
	info := unix.Inet6Pktinfo{Addr: source.As16()}
	if device != "" {
		index, err := s.deviceIndex(device)
		if err != nil {
			return fmt.Errorf("device %s: %w", device, err)
		}
		info.Ifindex = uint32(index)
	}
	_, _, err := s.conn.WriteMsgIP(message, unix.PktInfo6(&info), &net.IPAddr{IP: destination.AsSlice()})
	return err
}

// Receive implements Socket. The destination comes beside the message.
func (s *icmpV6Socket) Receive(buffer []byte) (source, destination netip.Addr, message []byte, err error) {
	for {
		n, controls, _, from, err := s.conn.ReadMsgIP(buffer, s.controlBuffer[:])
		if err != nil {
			return source, destination, nil, err
		}
		source, fromOK := netip.AddrFromSlice(from.IP)
		if destination, ok := packetInfo(s.controlBuffer[:controls]); ok && fromOK {
			return source, destination, buffer[:n], nil
		}
	}
}

// packetInfo returns the destination that the kernel tells of a packet (RFC
// 3542, section 6.1).
func packetInfo(control []byte) (netip.Addr, bool) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo {
			return netip.AddrFrom16([16]byte(m.Data[:16])), true
		}
	}
	return netip.Addr{}, false
}

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
