package tun

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum (RFC 1071) is computed in the byte order of the host,
// which it does not depend on: sums are read, folded and written natively, and
// only numbers that are added as such pass through native.

// native returns a 16-bit number of a header as its two octets read natively.
func native(v uint16) uint64 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return uint64(binary.NativeEndian.Uint16(b[:]))
}

// addSum adds the octets of b to a running sum. All but the last part of what
// is summed must have an even length.
func addSum(sum uint64, b []byte) uint64 {
	var c uint64
	for len(b) >= 64 {
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b), 0)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[8:]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[16:]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[24:]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[32:]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[40:]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[48:]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[56:]), c)
		sum, c = bits.Add64(sum, 0, c)
		sum += c
		b = b[64:]
	}
	for len(b) >= 8 {
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b), 0)
		sum += c
		b = b[8:]
	}
	if len(b) >= 4 {
		sum, c = bits.Add64(sum, uint64(binary.NativeEndian.Uint32(b)), 0)
		sum += c
		b = b[4:]
	}
	if len(b) >= 2 {
		sum, c = bits.Add64(sum, uint64(binary.NativeEndian.Uint16(b)), 0)
		sum += c
		b = b[2:]
	}
	if len(b) == 1 {
		last := [2]byte{b[0], 0}
		sum, c = bits.Add64(sum, uint64(binary.NativeEndian.Uint16(last[:])), 0)
		sum += c
	}
	return sum
}

// fold reduces a running sum to 16 bits.
func fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum)
}

// putChecksum writes the complement of a running sum.
func putChecksum(b []byte, sum uint64) {
	binary.NativeEndian.PutUint16(b, ^fold(sum))
}

// pseudoSum returns the folded sum of the pseudo-header without the length:
// addresses and protocol (RFC 9293, section 3.1; RFC 8200, section 8.1).
// addresses is the source and the destination.
func pseudoSum(addresses []byte, protocol uint8) uint64 {
	return uint64(fold(addSum(native(uint16(protocol)), addresses)))
}
