package tun

import "encoding/binary"

// HeaderLen is the octets of the virtio network header before each packet
// (struct virtio_net_hdr).
const HeaderLen = 10

// Values of the virtio network header (Virtual I/O Device 1.2, section 5.1.6).
const (
	virtioNeedsCsum = 1 // checksum from csumStart on is missing

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDP   = 5    // UDP segmentation, v4 and v6
	gsoECN   = 0x80 // flag: the first segment has CWR
)

// virtioHeader is the virtio network header. The kernel uses the byte order of
// the host for it.
type virtioHeader struct {
	flags, gsoType                         uint8
	hdrLen, gsoSize, csumStart, csumOffset uint16
}

func parseVirtio(b []byte) virtioHeader {
	_ = b[HeaderLen-1]
	return virtioHeader{
		flags: b[0], gsoType: b[1],
		hdrLen:     binary.NativeEndian.Uint16(b[2:]),
		gsoSize:    binary.NativeEndian.Uint16(b[4:]),
		csumStart:  binary.NativeEndian.Uint16(b[6:]),
		csumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
}

func (h virtioHeader) put(b []byte) {
	_ = b[HeaderLen-1]
	b[0], b[1] = h.flags, h.gsoType
	binary.NativeEndian.PutUint16(b[2:], h.hdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.gsoSize)
	binary.NativeEndian.PutUint16(b[6:], h.csumStart)
	binary.NativeEndian.PutUint16(b[8:], h.csumOffset)
}
