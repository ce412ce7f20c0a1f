//go:build linux

package udp

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2). Go gives it the
// padding that C does.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// name is room for the socket address of either family.
type name [unix.SizeofSockaddrInet6]byte

// addrPort reads a socket address that the kernel wrote.
func (n *name) addrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16(n[2:])
	switch binary.NativeEndian.Uint16(n[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(n[8:24])), port)
	}
	return netip.AddrPort{}
}

// set writes a socket address and returns its length.
func (n *name) set(a netip.AddrPort) uint32 {
	clear(n[:])
	binary.BigEndian.PutUint16(n[2:], a.Port())
	if a.Addr().Is4() {
		binary.NativeEndian.PutUint16(n[:], unix.AF_INET)
		ip := a.Addr().As4()
		copy(n[4:], ip[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(n[:], unix.AF_INET6)
	ip := a.Addr().As16()
	copy(n[8:], ip[:])
	return unix.SizeofSockaddrInet6
}

// control is room for the control messages of one datagram, aligned as
// struct cmsghdr.
type control [8]uint64

func (c *control) octets() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(c)), unsafe.Sizeof(*c))
}

// put writes a control message at an offset and returns the offset behind it.
func (c *control) put(at int, level, typ int32, value []byte) int {
	b := c.octets()[at:]
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(len(value)))
	copy(b[unix.CmsgLen(0):], value)
	return at + unix.CmsgSpace(len(value))
}

// each calls f with the control messages that the kernel wrote.
func (c *control) each(n int, f func(level, typ int32, value []byte)) {
	b := c.octets()[:min(n, int(unsafe.Sizeof(*c)))]
	for len(b) >= unix.CmsgLen(0) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
		length := int(h.Len)
		if length < unix.CmsgLen(0) || length > len(b) {
			return
		}
		f(h.Level, h.Type, b[unix.CmsgLen(0):length])
		b = b[min(len(b), unix.CmsgSpace(length-unix.CmsgLen(0))):]
	}
}
