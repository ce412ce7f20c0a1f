//go:build kernelesp

package xfrm_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const tcpSYN, tcpACK = 0x02, 0x10

// segment is a TCP header that offers a maximum segment size.
func segment(flags byte, size uint16) []byte {
	s := make([]byte, 24)
	binary.BigEndian.PutUint16(s, 6000)
	binary.BigEndian.PutUint16(s[2:], 6001)
	s[12], s[13], s[20], s[21] = 6<<4, flags, 2, 4
	binary.BigEndian.PutUint16(s[22:], size)
	return s
}

// SYNs are lowered to what the tunnel takes by whichever end takes less, where the
// kernel has what it needs; and an ICMP error tells what is too long anyway.
func TestKernelSegmentSize(t *testing.T) {
	t.Parallel()
	n := newTunnelled(t)
	lacks := n.backends[0].Abilities().SegmentSize
	t.Log("the kernel lacks for the segment size:", lacks)
	const wider, narrower = 1400, 1320
	n.device(0, wider)
	n.device(1, narrower)
	const offered = 1460
	for _, v := range []struct {
		name          string
		src, dst      netip.Addr
		header        int
		checksum, mtu int // where they are in TCP and in the ICMP error
	}{
		{"IPv4", netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("10.9.0.5"), 20, 16, 26},
		{"IPv6", netip.MustParseAddr("2001:db8:1::5"), netip.MustParseAddr("2001:db8:9::5"), 40, 16, 46},
	} {
		for _, c := range []struct {
			name  string
			from  int
			flags byte
			size  uint16
			want  int
		}{
			{"SYN in", 0, tcpSYN, offered, narrower - v.header - 20},
			{"SYN and ACK out", 1, tcpSYN | tcpACK, offered, narrower - v.header - 20},
			{"one that offers less", 0, tcpSYN, 600, 600},
			{"not a SYN", 0, tcpACK, offered, offered},
		} {
			src, dst := v.src, v.dst
			if c.from == 1 {
				src, dst = dst, src
			}
			sent := ipPacket(src, dst, unix.IPPROTO_TCP, segment(c.flags, c.size))
			n.ends[c.from].Send(sent)
			got := n.ends[1-c.from].Receive(time.Minute)
			if len(got) != len(sent) {
				t.Fatalf("%s, %s: received %x", v.name, c.name, got)
			}
			want := c.want
			if lacks != nil {
				want = int(c.size)
			}
			was, is := sent[v.header:], got[v.header:]
			if size := int(binary.BigEndian.Uint16(is[22:])); size != want {
				t.Errorf("%s, %s: a segment size of %d, want %d", v.name, c.name, size, want)
			}
			// What the size became the checksum has followed (RFC 1624).
			wantSum := onesSum(append(is[22:24:24], onesComplement(was[22:24])...))
			if sum := onesSum(append(is[v.checksum:v.checksum+2:v.checksum+2], byte(wantSum>>8), byte(wantSum))); sum != 0 && sum != 0xffff {
				t.Errorf("%s, %s: the checksum became %x", v.name, c.name, is[v.checksum:v.checksum+2])
			}
		}
		n.ends[0].Send(ipPacket(v.src, v.dst, unix.IPPROTO_UDP, udpBody(make([]byte, wider+1-v.header-8))))
		select {
		case packet := <-n.hosts[0].tooBig:
			if mtu := int(binary.BigEndian.Uint16(packet[v.mtu:])); mtu != wider {
				t.Errorf("%s: the error tells of %d octets, want %d", v.name, mtu, wider)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s: no ICMP error for a packet that is too long", v.name)
		}
	}
}

func onesComplement(b []byte) []byte {
	return []byte{^b[0], ^b[1]}
}
