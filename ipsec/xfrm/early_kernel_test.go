//go:build kernelesp

package xfrm_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// What a peer sends by an SA before our end of it is there arrives as soon as it
// is, once and in its order; what comes by an SPI that nobody waits for does not.
func TestKernelEarly(t *testing.T) {
	for name, s := range map[string]shape{
		"policy-based":                  {},
		"policy-based in UDP":           {encap: true},
		"policy-based over IPv6":        {six: true},
		"policy-based in UDP over IPv6": {six: true, encap: true},
		"route-based":                   {device: true},
		"route-based in UDP":            {device: true, encap: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here, there := s.pair(t)
			const awaited, unknown = ipsec.SPI(0x1001), ipsec.SPI(0x1002)
			local, remote := wholeOf(sites[0][0]), wholeOf(sites[1][0])
			sa := ipsec.SA{
				SPI: awaited, Src: there.Outer.Addr(), Dst: here.Outer.Addr(), ReqID: 7,
				Encap: s.encap, SrcPort: there.Outer.Port(), DstPort: here.Outer.Port(),
				Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), EncryptionKey: bytes.Repeat([]byte{0x5a}, 20), ReplayWindow: 64,
			}
			policy := ipsec.Policy{
				PolicyID: ipsec.PolicyID{Priority: ipsec.PriorityProtect}, Action: ipsec.Protect, ReqID: sa.ReqID,
			}
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			outbound := func(spi ipsec.SPI) {
				t.Helper()
				out := sa
				out.SPI, out.Direction, out.Local, out.Remote = spi, ipsec.Out, remote, local
				check(there.Backend.AddSA(out))
			}
			there.Backend.(keeper).Hold(ipsec.SAID{Dst: there.Outer.Addr(), SPI: awaited}) // of another address: takes nothing
			id := ipsec.SAID{Dst: here.Outer.Addr(), SPI: awaited}
			here.Backend.(keeper).Hold(id)

			out := policy
			out.Direction, out.Local, out.Remote = ipsec.Out, remote[0], local[0]
			out.TunnelLocal, out.TunnelRemote = there.Outer.Addr(), here.Outer.Addr()
			outbound(unknown)
			check(there.Backend.AddPolicy(out))
			sent := byte(0)
			send := func(n int) {
				for range n {
					there.Send(datagram(sent))
					sent++
				}
			}
			before := here.Backend.(dropper).Drops()["unknown_spi"]
			counted := func(n uint64) {
				t.Helper()
				for deadline := time.Now().Add(time.Minute); here.Backend.(dropper).Drops()["unknown_spi"] < before+n; time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("unknown_spi is %d, want %d", here.Backend.(dropper).Drops()["unknown_spi"], before+n)
					}
				}
			}
			send(1)
			counted(1)
			check(there.Backend.DeleteSA(ipsec.SAID{Dst: here.Outer.Addr(), SPI: unknown}))
			outbound(awaited)
			send(5)
			counted(6)

			sa.Direction, sa.Local, sa.Remote = ipsec.In, local, remote
			check(here.Backend.AddSA(sa))
			send(1) // before there is a policy
			in := policy
			in.Direction, in.Local, in.Remote = ipsec.In, local[0], remote[0]
			in.TunnelLocal, in.TunnelRemote = here.Outer.Addr(), there.Outer.Addr()
			check(here.Backend.AddPolicy(in))
			send(1)
			// The early ones come by another way, and so perhaps behind the last one.
			missing := map[byte]bool{1: true, 2: true, 3: true, 4: true, 5: true, 7: true}
			for len(missing) > 0 {
				have := here.Receive(time.Minute)
				if len(have) == 0 {
					t.Fatalf("datagrams %v are missing", slices.Sorted(maps.Keys(missing)))
				}
				switch n := have[len(have)-1]; {
				case missing[n]:
					delete(missing, n)
				case n != 6:
					t.Errorf("received %x, missing are %v", have, slices.Sorted(maps.Keys(missing)))
				}
			}
			if have := here.Backend.(dropper).Drops()["unknown_spi"] - before; have != 1 {
				t.Errorf("unknown_spi counts %d packets, want the one that was lost", have)
			}
		})
	}
}

type keeper interface{ Hold(id ipsec.SAID) }

type dropper interface{ Drops() map[string]uint64 }

func wholeOf(prefix string) []ipsec.TrafficSelector {
	return []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netip.MustParsePrefix(prefix))}
}

// datagram is an IPv4 packet from the second site to the first with UDP and one octet.
func datagram(payload byte) []byte {
	return ipPacket(netip.MustParseAddr("10.9.0.5"), netip.MustParseAddr("10.1.0.5"), unix.IPPROTO_UDP, udpBody([]byte{payload}))
}

// udpBody is a UDP header without checksum and a payload.
func udpBody(payload []byte) []byte {
	u := binary.BigEndian.AppendUint16(nil, 5000)
	u = binary.BigEndian.AppendUint16(u, 5001)
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(payload)))
	return append(append(u, 0, 0), payload...)
}

// ipPacket is an IP packet without options that must not be fragmented.
func ipPacket(src, dst netip.Addr, protocol byte, body []byte) []byte {
	if src.Is6() {
		p := make([]byte, 40, 40+len(body))
		p[0], p[6], p[7] = 6<<4, protocol, 64
		binary.BigEndian.PutUint16(p[4:], uint16(len(body)))
		copy(p[8:], src.AsSlice())
		copy(p[24:], dst.AsSlice())
		return append(p, body...)
	}
	p := make([]byte, 20, 20+len(body))
	p[0], p[6], p[8], p[9] = 0x45, 0x40, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(body)))
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(p[10:], ^onesSum(p))
	return append(p, body...)
}

// onesSum is the sum of the Internet checksum (RFC 1071).
func onesSum(b []byte) uint16 {
	sum := uint32(0)
	for i, octet := range b {
		sum += uint32(octet) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
