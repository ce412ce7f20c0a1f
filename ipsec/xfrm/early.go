package xfrm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// A peer that answers an exchange may send by its new SA at once, and so before the
// answer is here and our end of the SA with it (RFC 7296, section 1.2, lets it). The
// kernel drops such packets, and user space cannot have it wait: to install the SA
// earlier would be to receive from a peer that is not authenticated yet.
//
// So raw sockets keep a copy of what comes by an SPI that was allocated, each by a
// filter that takes that SPI alone. When SA and policy are there the packets are put
// before the kernel again, which treats them as any others.

const (
	// earlyLife is how long an SPI's packets are kept for its SA.
	earlyLife = 30 * time.Second
	// maxEarly is how many SPIs have their packets kept at a time: each packet of the
	// host meets the filters of all.
	maxEarly = 64
	// earlyBuffer is the octets of packets, with what the kernel spends on each, that
	// one SPI has kept of each encapsulation, twice what the kernel is asked for. What
	// comes then is lost.
	earlyBuffer = 2 << 20

	nattPort = 4500
)

// early is what is kept for an SPI.
type early struct {
	since   time.Time
	sockets []int // of ESP, and of ESP in UDP
	added   *ipsec.SA
}

// Hold keeps what comes by an SPI that another Backend has allocated and that is to
// be that of an SA here, until AddSA or Release, for some seconds.
func (b *Backend) Hold(id ipsec.SAID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id.Dst = id.Dst.Unmap()
	if b.closed || b.early[id] != nil || len(b.early) >= maxEarly || id.Dst.IsLinkLocalUnicast() {
		return
	}
	e := &early{since: time.Now()}
	err := b.inNamespace(func() error {
		for _, protocol := range []int{unix.IPPROTO_ESP, unix.IPPROTO_UDP} {
			fd, err := openEarly(id, protocol)
			if err != nil {
				return err
			}
			e.sockets = append(e.sockets, fd)
		}
		return nil
	})
	if err != nil {
		e.close()
		b.log.Debug("packets that come before their SA will be lost", "sa", id, "error", err)
		return
	}
	b.early[id] = e
}

// Release ends what Hold has begun.
func (b *Backend) Release(id ipsec.SAID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id.Dst = id.Dst.Unmap()
	if e := b.early[id]; e != nil {
		e.close()
		delete(b.early, id)
	}
}

func (e *early) close() {
	for _, fd := range e.sockets {
		unix.Close(fd) //nolint:errcheck // nothing was written that could be lost
	}
}

// openEarly opens a raw socket for one SPI.
func openEarly(id ipsec.SAID, protocol int) (int, error) {
	family := unix.AF_INET
	if id.Dst.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return 0, fmt.Errorf("raw socket: %w", err)
	}
	if err = setFilter(fd, earlyFilter(id, protocol)); err == nil {
		discard(fd) // what came before the filter
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, earlyBuffer/2)
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(id.Dst))
	}
	if err != nil {
		unix.Close(fd) //nolint:errcheck // the first error is the one to report
		return 0, fmt.Errorf("raw socket: %w", err)
	}
	return fd, nil
}

// discard reads all that a socket has.
func discard(fd int) {
	var first [1]byte
	for {
		if _, _, err := unix.Recvfrom(fd, first[:], 0); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

// Offsets in octets behind the outer IP header.
const (
	udpHeaderLen   = 8
	udpDestination = 2
)

// earlyFilter takes the packets of one SPI. What it sees begins with the IP header
// for IPv4, and behind it for IPv6.
func earlyFilter(id ipsec.SAID, protocol int) []unix.SockFilter {
	const (
		take = 0x40000 // more octets than any packet has
		drop = 0
	)
	load := func(size uint16, offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_IND, K: offset}
	}
	// Each comparison skips to the last instruction when it fails.
	var program []unix.SockFilter
	if id.Dst.Is4() {
		program = append(program, unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0})
	} else {
		program = append(program, unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_W | unix.BPF_IMM, K: 0})
	}
	spiAt := uint32(0)
	if protocol == unix.IPPROTO_UDP {
		spiAt = udpHeaderLen
		program = append(program, load(unix.BPF_H, udpDestination),
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nattPort, Jf: 3})
	}
	return append(program, load(unix.BPF_W, spiAt),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(id.SPI), Jf: 1},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: take},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: drop})
}

func setFilter(fd int, program []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// arrived notes that an inbound SA is in the kernel, which takes its packets from now
// on. The caller holds mu.
func (b *Backend) arrived(sa *ipsec.SA) {
	e := b.early[sa.ID()]
	if e == nil {
		return
	}
	e.added = sa
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	for _, fd := range e.sockets {
		_ = setFilter(fd, nothing) // a packet that both have is one that the replay window drops
	}
	b.deliverEarly()
}

// deliverEarly puts the packets that came before their SA before the kernel again,
// where a policy lets them pass. The caller holds mu.
func (b *Backend) deliverEarly() {
	for id, e := range b.early {
		if e.added == nil || !b.passes(e.added) {
			continue
		}
		delete(b.early, id)
		n, err := b.replayEarly(id, e)
		e.close()
		b.recovered += uint64(n)
		if n > 0 || err != nil {
			b.log.Debug("packets that came before their SA", "sa", id, "packets", n, "error", err)
		}
	}
}

// passes reports whether some policy lets pass what an SA has delivered. The caller
// holds mu.
func (b *Backend) passes(sa *ipsec.SA) bool {
	fits := func(p *ipsec.Policy) bool {
		return p.Direction == ipsec.In && p.Action == ipsec.Protect && p.ReqID == sa.ReqID && p.IfID == sa.IfID
	}
	for _, p := range b.policies {
		if fits(&p) {
			return true
		}
	}
	for _, e := range b.inherited {
		if fits(&e.policy) {
			return true
		}
	}
	return false
}

// replayEarly sends the packets of an SPI to their own destination, which is this
// host, and returns how many.
func (b *Backend) replayEarly(id ipsec.SAID, e *early) (n int, err error) {
	out := -1
	defer func() {
		if out >= 0 {
			unix.Close(out) //nolint:errcheck // each packet was sent or not
		}
	}()
	buf := make([]byte, ipv6HeaderLen+maxMessage)
	for i, fd := range e.sockets {
		for {
			packet, err := receiveEarly(fd, buf, id.Dst, [...]byte{unix.IPPROTO_ESP, unix.IPPROTO_UDP}[i])
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err == nil && out < 0 {
				out, err = b.openOut(id.Dst)
			}
			if err == nil {
				err = unix.Sendto(out, packet, 0, sockaddr(id.Dst))
			}
			if err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// receiveEarly reads a packet with its IP header, which an IPv6 socket leaves out.
func receiveEarly(fd int, buf []byte, local netip.Addr, protocol byte) ([]byte, error) {
	size, from, err := unix.Recvfrom(fd, buf[ipv6HeaderLen:], 0)
	for errors.Is(err, unix.EINTR) {
		size, from, err = unix.Recvfrom(fd, buf[ipv6HeaderLen:], 0)
	}
	if err != nil {
		return nil, err
	}
	packet := buf[ipv6HeaderLen : ipv6HeaderLen+size]
	if a, six := from.(*unix.SockaddrInet6); six {
		packet = buf[:ipv6HeaderLen+size]
		putIPv6Header(packet, protocol, netip.AddrFrom16(a.Addr), local)
	}
	if protocol == unix.IPPROTO_UDP {
		putUDPChecksum(packet)
	}
	return packet, nil
}

// putUDPChecksum makes the checksum of an IP packet with UDP one that the kernel
// takes: what another guest or namespace of the same machine has sent may lack it.
// The ICV of ESP is what protects the packet; IPv4 takes zero for none (RFC 3948,
// section 2.1), and IPv6 does not (RFC 8200, section 8.1).
func putUDPChecksum(packet []byte) {
	const lengthAt, checksumAt = 4, 6
	start := ipv6HeaderLen
	if packet[0]>>4 == 4 {
		start = int(packet[0]&0xf) * 4
	}
	if len(packet) < start+udpHeaderLen {
		return
	}
	datagram := packet[start:]
	clear(datagram[checksumAt:udpHeaderLen])
	length := int(binary.BigEndian.Uint16(datagram[lengthAt:]))
	if packet[0]>>4 == 4 || length > len(datagram) {
		return
	}
	sum := uint32(unix.IPPROTO_UDP) + uint32(length)
	for _, part := range [][]byte{packet[8:ipv6HeaderLen], datagram[:length]} { // the addresses, and the rest
		for ; len(part) > 1; part = part[2:] {
			sum += uint32(binary.BigEndian.Uint16(part))
		}
		if len(part) == 1 {
			sum += uint32(part[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if sum != 0xffff { // whose complement would mean none
		sum = ^sum
	}
	binary.BigEndian.PutUint16(datagram[checksumAt:], uint16(sum))
}

// openOut opens a socket that sends packets with the IP header that they have.
func (b *Backend) openOut(to netip.Addr) (fd int, err error) {
	family := unix.AF_INET
	if to.Is6() {
		family = unix.AF_INET6
	}
	fd = -1
	err = b.inNamespace(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
		return err
	})
	return fd, err
}

const ipv6HeaderLen = 40

// putIPv6Header writes a header over the first octets of a packet (RFC 8200, section
// 3).
func putIPv6Header(packet []byte, protocol byte, src, dst netip.Addr) {
	const version, hopLimit = 0x60, 64
	clear(packet[:ipv6HeaderLen])
	packet[0], packet[6], packet[7] = version, protocol, hopLimit
	binary.BigEndian.PutUint16(packet[4:], uint16(len(packet)-ipv6HeaderLen))
	copy(packet[8:], src.AsSlice())
	copy(packet[24:], dst.AsSlice())
}
