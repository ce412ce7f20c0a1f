package xfrm

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// A descriptor that was closed with the Backend may be another's by now.
func TestReleaseAfterClose(t *testing.T) {
	for name, end := range map[string]func(*Backend){
		"close":   func(b *Backend) { _ = b.Close() },
		"timeout": func(b *Backend) { b.tick(time.Now().Add(2 * earlyLife)) },
	} {
		t.Run(name, func(t *testing.T) {
			var pipe [2]int
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			kept, other := pipe[0], pipe[1]
			defer unix.Close(other)
			id := ipsec.SAID{Dst: netip.MustParseAddr("203.0.113.1"), SPI: 0x1001}
			b := newBackend(Options{})
			b.early[id] = &early{since: time.Now(), sockets: []int{kept}}
			end(b)
			if err := unix.Dup3(other, kept, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(kept)
			b.Release(id)
			if _, err := unix.FcntlInt(uintptr(kept), unix.F_GETFD, 0); err != nil {
				t.Errorf("the other's descriptor: %v", err)
			}
		})
	}
}

// The kernel drops a datagram whose checksum is wrong, as one that has not left its
// machine may have it.
func TestPutUDPChecksum(t *testing.T) {
	for _, octets := range []int{8, 9, 100, 101} {
		four := make([]byte, 24+octets) // an option in the header
		four[0] = 0x46
		six := make([]byte, ipv6HeaderLen+octets)
		putIPv6Header(six, unix.IPPROTO_UDP, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff"))
		for _, packet := range [][]byte{four, six} {
			datagram := packet[len(packet)-octets:]
			for i := range datagram {
				datagram[i] = byte(0xf7 * i)
			}
			binary.BigEndian.PutUint16(datagram[4:], uint16(octets))
			header := bytes.Clone(packet[:len(packet)-octets+6])
			putUDPChecksum(packet)
			if !bytes.Equal(packet[:len(header)], header) {
				t.Errorf("%d octets: the header became %x, was %x", octets, packet[:len(header)], header)
			}
		}
		if sum := four[24+6 : 24+8]; sum[0] != 0 || sum[1] != 0 {
			t.Errorf("%d octets: checksum %x over IPv4, want none", octets, sum)
		}
		// Pseudo-header and datagram add up to all ones (RFC 768).
		all := bytes.Clone(six[8:])
		if octets%2 == 1 {
			all = append(all, 0)
		}
		all = append(all, 0, byte(octets), 0, unix.IPPROTO_UDP)
		sum := 0
		for i := 0; i < len(all); i += 2 {
			sum += int(all[i])<<8 | int(all[i+1])
		}
		if sum%0xffff != 0 {
			t.Errorf("%d octets: what is over the IPv6 packet adds up to %x", octets, sum)
		}
	}
	for _, short := range [][]byte{{0x45}, make([]byte, ipv6HeaderLen+7), append([]byte{0x4f}, make([]byte, 60)...)} {
		putUDPChecksum(short) // which has no UDP header
	}
}
