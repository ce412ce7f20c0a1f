//go:build netns

package dataplane

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/deploy/netlab"
	"github.com/vpngw/vpngw/ipsec"
)

// espCipher is an algorithm of ESP, with what it adds to a packet by the standards,
// in octets.
type espCipher struct {
	name           string
	enc, integ     ipsec.Transform
	encKey, intKey int
	iv, align, icv int
}

// espCiphers have every length of IV, padding and ICV that there is.
var espCiphers = []espCipher{
	{"AES-GCM-16", ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.Transform{}, 20, 0, 8, 4, 16},
	{"ChaCha20-Poly1305", ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0), ipsec.Transform{}, 36, 0, 8, 4, 16},
	{"AES-CBC, SHA-1", ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Integrity(ipsec.IntegrityHMACSHA196), 16, 20, 16, 16, 12},
	{"AES-CBC, MD5", ipsec.Encryption(ipsec.EncryptionAESCBC, 192), ipsec.Integrity(ipsec.IntegrityHMACMD596), 24, 16, 16, 16, 12},
	{"AES-CBC, SHA2-256", ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), 32, 32, 16, 16, 16},
	{"AES-CBC, SHA2-384", ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2384192), 32, 48, 16, 16, 24},
	{"AES-CBC, SHA2-512", ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2512256), 32, 64, 16, 16, 32},
	{"3DES, SHA-1", ipsec.Encryption(ipsec.Encryption3DES, 0), ipsec.Integrity(ipsec.IntegrityHMACSHA196), 24, 20, 8, 8, 12},
	{"SM4-CBC, SM3-96", ipsec.Encryption(ipsec.EncryptionSM4CBC, 0), ipsec.Integrity(ipsec.IntegrityHMACSM396), 16, 32, 16, 16, 12},
	{"SM4-CBC, SM3-256", ipsec.Encryption(ipsec.EncryptionSM4CBC, 0), ipsec.Integrity(ipsec.IntegrityHMACSM3256), 16, 32, 16, 16, 32},
	{"SM4-GCM-16", ipsec.Encryption(ipsec.EncryptionSM4GCM16, 0), ipsec.Transform{}, 20, 0, 8, 4, 16},
}

// outerLen is the octets of the outer packet around an inner one (RFC 4303,
// section 2; RFC 3948, section 2.1).
func (c *espCipher) outerLen(inner int, outerV6, encap bool) int {
	n := 20 + 8 + c.iv + (inner+2+c.align-1)/c.align*c.align + c.icv
	if outerV6 {
		n += 20
	}
	if encap {
		n += 8
	}
	return n
}

// fits is the largest inner packet whose outer one has at most mtu octets.
func (c *espCipher) fits(mtu int, outerV6, encap bool) int {
	n := mtu
	for c.outerLen(n, outerV6, encap) > mtu {
		n--
	}
	return n
}

// hosted is two sites with a host behind the first, which probes the second.
type hosted struct {
	t       *testing.T
	a, b    *site
	host    *netlab.Namespace
	middle  *netlab.Namespace // the router between the sites; nil without
	address [2]netip.Addr     // of the host
	outerV6 bool
	sent    uint32 // numbers the rounds
}

// newHosted makes the host. A router is between the sites where the middle of
// their path takes less than 1,500 octets.
func newHosted(t *testing.T, outerV6 bool, middle int, df OuterDF) *hosted {
	t.Helper()
	a, b := sites(t, outerV6)
	h := &hosted{t: t, a: a, b: b, outerV6: outerV6, address: [2]netip.Addr{
		netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("2001:db8:1::9"),
	}}
	var err error
	if h.host, err = a.lab.Namespace(t.Context(), "host"); err != nil {
		t.Fatal(err)
	}
	// The kernel limits its own ICMP errors to each host.
	plain := []string{
		"net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0",
		"net.ipv6.conf.default.addr_gen_mode=1", "net.ipv6.conf.default.accept_dad=0",
		"net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0",
	}
	router := append(plain[:len(plain):len(plain)], "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	h.check(h.host.Sysctl(t.Context(), plain...))
	h.check(a.ns.Sysctl(t.Context(), router...))
	// Where the limit of all is the host's and not the namespace's, it only costs time.
	if _, err := a.ns.Run(t.Context(), "sysctl", "-q", "-e", "-w", "net.ipv4.icmp_msgs_per_sec=1000000", "net.ipv4.icmp_msgs_burst=100000"); err != nil {
		t.Fatal(err)
	}
	h.check(a.ns.Link(t.Context(), "lan", h.host, "wan", 1500))
	a.ip("addr add fe80::1/64 dev lan nodad",
		fmt.Sprintf("route add %s/32 dev lan", h.address[0]), fmt.Sprintf("route add %s/128 dev lan", h.address[1]))
	h.check(h.host.IP(t.Context(), "addr add fe80::2/64 dev wan nodad",
		fmt.Sprintf("addr add %s/32 dev wan", h.address[0]), fmt.Sprintf("addr add %s/128 dev wan nodad", h.address[1]),
		fmt.Sprintf("route add default via %s dev wan onlink", a.inner[0]), "route add default via fe80::1 dev wan"))
	if middle < 1500 {
		h.insertRouter(router, middle)
	}
	a.df, b.df = df, df
	a.open()
	t.Cleanup(a.close)
	b.open()
	t.Cleanup(b.close)
	// Ours are limited, too.
	a.device(0).answerRate.SetLimit(rate.Inf)
	return h
}

func (h *hosted) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// insertRouter puts a router into the wire between the sites.
func (h *hosted) insertRouter(sysctl []string, mtu int) {
	h.t.Helper()
	middle, err := h.a.lab.Namespace(h.t.Context(), "middle")
	h.check(err)
	h.middle = middle
	h.check(middle.Sysctl(h.t.Context(), sysctl...))
	h.a.ip("link del wire")
	for i, s := range []*site{h.a, h.b} {
		link, size, other := []string{"left", "right"}[i], []int{1500, mtu}[i], []*site{h.b, h.a}[i]
		h.check(middle.Link(h.t.Context(), link, s.ns, "wire", size))
		bits, near := 32, fmt.Sprintf("198.51.100.%d", 254-i)
		if h.outerV6 {
			bits, near = 128, "fe80::1"
			s.ip("addr add fe80::2/64 dev wire nodad")
			h.check(middle.IP(h.t.Context(), "addr add fe80::1/64 dev "+link+" nodad"))
			h.check(middle.IP(h.t.Context(), fmt.Sprintf("addr add 2001:db8:f::%d/128 dev %s nodad", 254-i, link)))
		} else {
			h.check(middle.IP(h.t.Context(), fmt.Sprintf("addr add %s/32 dev %s", near, link)))
		}
		s.ip(fmt.Sprintf("addr add %s/%d dev wire nodad", s.outer, bits),
			fmt.Sprintf("route add %s/%d via %s dev wire onlink", other.outer, bits, near))
		h.check(middle.IP(h.t.Context(), fmt.Sprintf("route add %s/%d dev %s", s.outer, bits, link)))
	}
}

// join installs the SAs of a cipher in both directions; policies and routes the
// first time.
func (h *hosted) join(c *espCipher, encap bool, spi ipsec.SPI) {
	h.t.Helper()
	for i, way := range []struct{ from, to *site }{{h.a, h.b}, {h.b, h.a}} {
		out := ipsec.SA{
			SPI: spi + ipsec.SPI(i), Direction: ipsec.Out, Src: way.from.outer, Dst: way.to.outer,
			Encap: encap, SrcPort: udp.PortNATT, DstPort: udp.PortNATT, ReqID: 1,
			Encryption: c.enc, EncryptionKey: make([]byte, c.encKey), Integrity: c.integ, IntegrityKey: make([]byte, c.intKey),
		}
		rand.Read(out.EncryptionKey)
		rand.Read(out.IntegrityKey)
		for f := range 2 {
			out.Local = append(out.Local, ipsec.SelectorFromPrefix(way.from.prefix[f]))
			out.Remote = append(out.Remote, ipsec.SelectorFromPrefix(way.to.prefix[f]))
		}
		in := out
		in.Direction, in.Local, in.Remote = ipsec.In, out.Remote, out.Local
		way.from.within(func() error { return way.from.AddSA(out) })
		way.to.within(func() error { return way.to.AddSA(in) })
		if spi != firstSPI {
			h.check(errors.Join(way.from.DeleteSA(ipsec.SAID{Dst: out.Dst, SPI: out.SPI - 2}), way.to.DeleteSA(ipsec.SAID{Dst: in.Dst, SPI: in.SPI - 2})))
			continue
		}
		for f := range 2 {
			h.check(way.from.AddPolicy(outPolicy(way.from.prefix[f], way.to.prefix[f])))
			way.from.ip(fmt.Sprintf("route add %s dev %s src %s", way.to.prefix[f], sharedName, way.from.inner[f]))
		}
	}
}

const firstSPI = ipsec.SPI(0x1001)

// fate is what became of a packet: it arrived whole, or an ICMP error named the
// largest size.
type fate struct {
	arrived bool
	told    int
}

// probe sends UDP packets of every size from lowest to highest, again until each
// has a fate. With df they must not be fragmented, wherever a packet too big was
// told of before.
func (h *hosted) probe(family, lowest, highest int, df bool) map[int]fate {
	h.t.Helper()
	domain, header := unix.AF_INET, 28
	if family == 1 {
		domain, header = unix.AF_INET6, 48
	}
	open := func(ns *netlab.Namespace, local netip.AddrPort) (fd int) {
		h.check(ns.Inside(func() (err error) {
			if fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
			mode := unix.IP_PMTUDISC_PROBE
			if !df {
				mode = unix.IP_PMTUDISC_DONT
			}
			if family == 0 {
				err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode),
					unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1))
			} else {
				err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode),
					unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1))
			}
			return errors.Join(err, unix.Bind(fd, sockaddrOf(local)))
		}))
		return fd
	}
	const port = 7001
	target := netip.AddrPortFrom(h.b.inner[family], port)
	from, to := open(h.host, netip.AddrPortFrom(h.address[family], port)), open(h.b.ns, target)
	defer unix.Close(from)
	defer unix.Close(to)
	h.check(unix.Connect(from, sockaddrOf(target)))

	h.sent++
	fates := map[int]fate{}
	buffer, control := make([]byte, 2048), make([]byte, 512)
	// collect reads what has arrived or was answered.
	collect := func() {
		for {
			n, _, err := unix.Recvfrom(to, buffer, unix.MSG_DONTWAIT)
			if err != nil {
				break
			}
			if binary.BigEndian.Uint32(buffer) == h.sent && int(binary.BigEndian.Uint32(buffer[4:])) == n+header && patterned(buffer[8:n]) {
				f := fates[n+header]
				f.arrived = true
				fates[n+header] = f
			}
		}
		for {
			n, controls, _, _, err := unix.Recvmsg(from, buffer, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				break
			}
			if told, ok := toldMTU(control[:controls]); ok && n >= 8 && binary.BigEndian.Uint32(buffer) == h.sent {
				size := int(binary.BigEndian.Uint32(buffer[4:]))
				f := fates[size]
				f.told = told
				fates[size] = f
			}
		}
	}
	deadline := time.Now().Add(patience)
	for round := 0; len(fates) <= highest-lowest; round++ {
		if time.Now().After(deadline) {
			break
		}
		packet := make([]byte, highest)
		for i := range packet {
			packet[i] = byte(i)
		}
		for size := lowest; size <= highest; size++ {
			if _, settled := fates[size]; settled {
				continue
			}
			binary.BigEndian.PutUint32(packet, h.sent)
			binary.BigEndian.PutUint32(packet[4:], uint32(size))
			// An error that has come for an earlier packet ends a call, once.
			for range 3 {
				if _, err := unix.Write(from, packet[:size-header]); err == nil {
					break
				}
			}
			if size%16 == 0 {
				collect()
			}
		}
		for wait := time.Now().Add(100 * time.Millisecond); len(fates) <= highest-lowest && time.Now().Before(wait); time.Sleep(time.Millisecond) {
			collect()
		}
	}
	for size := lowest; size <= highest; size++ {
		if _, settled := fates[size]; !settled {
			h.t.Errorf("a packet of %d octets neither arrives nor is answered", size)
			break
		}
	}
	return fates
}

// patterned tells whether a payload is as it was sent.
func patterned(b []byte) bool {
	for i := range b {
		if b[i] != byte(i+8) {
			return false
		}
	}
	return true
}

// toldMTU reads an ICMP error that names a size from the control messages.
func toldMTU(control []byte) (mtu int, ok bool) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, false
	}
	for _, m := range messages {
		if len(m.Data) < 16 || m.Header.Type != unix.IP_RECVERR && m.Header.Type != unix.IPV6_RECVERR {
			continue
		}
		// struct sock_extended_err: errno, origin, type, code, pad, info.
		if unix.Errno(binary.NativeEndian.Uint32(m.Data)) == unix.EMSGSIZE {
			return int(binary.NativeEndian.Uint32(m.Data[8:])), true
		}
	}
	return 0, false
}

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// expect probes every size with DF and wants those up to limit to arrive, and the
// others to be answered by that limit. An interface never has less than IPv6 needs,
// so that a packet of IPv4 that exceeds both is told of the one after the other.
func (h *hosted) expect(family, limit int) {
	h.t.Helper()
	for size, f := range h.probe(family, 1200, 1500, true) {
		switch {
		case size <= limit && !f.arrived:
			h.t.Errorf("IPv%d: a packet of %d octets is answered by the MTU %d, want it to arrive, like all up to %d", 4+2*family, size, f.told, limit)
		case size > limit && (f.arrived || f.told != limit && (f.told != minInnerMTU || size <= minInnerMTU)):
			h.t.Errorf("IPv%d: a packet of %d octets arrives: %t, and the MTU %d is told, want %d", 4+2*family, size, f.arrived, f.told, limit)
		default:
			continue
		}
		return // one says enough
	}
}

// fragmentsMade counts the fragments that the kernel of a site made of outer
// packets, of IPv4 and of IPv6.
func (s *site) fragmentsMade() (n string) {
	s.t.Helper()
	s.within(func() error {
		for _, file := range []string{"/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6"} {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			lines := strings.Split(string(b), "\n")
			for i, line := range lines {
				fields := strings.Fields(line)
				switch {
				case len(fields) == 2 && fields[0] == "Ip6FragCreates":
					n += " " + fields[1]
				case strings.HasPrefix(line, "Ip:") && i+1 < len(lines) && strings.Contains(line, "FragCreates"):
					for j, name := range fields {
						if name == "FragCreates" {
							n += " " + strings.Fields(lines[i+1])[j]
						}
					}
				}
			}
		}
		return nil
	})
	return n
}

// TestNetNSEverySize sends packets with DF of every size from 1,200 to 1,500
// octets, of both families, from a host through the tunnel, with every cipher, in
// UDP and not. Each arrives whole and unfragmented or is answered with the size
// that fits: by the kernel, which knows the MTU of the interface, and by the
// engine where that is larger.
func TestNetNSEverySize(t *testing.T) {
	for _, outerV6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("outer IPv6 %t", outerV6), func(t *testing.T) {
			h := newHosted(t, outerV6, 1500, CopyDF)
			spi := firstSPI
			for _, encap := range []bool{true, false} {
				for i := range espCiphers {
					c := &espCiphers[i]
					t.Run(fmt.Sprintf("%s, in UDP %t", c.name, encap), func(t *testing.T) {
						h.t, h.a.t, h.b.t = t, t, t
						h.join(c, encap, spi)
						spi += 2
						limit := c.fits(1500, outerV6, encap)
						for family := range 2 {
							h.expect(family, limit)
						}
						h.a.ip("link set " + sharedName + " mtu 1500")
						for family := range 2 {
							h.expect(family, limit)
						}
						h.a.ip(fmt.Sprintf("link set %s mtu %d", sharedName, limit))
					})
				}
			}
			h.t, h.a.t, h.b.t = t, t, t
			if n := h.a.fragmentsMade(); n != " 0 0" {
				t.Errorf("fragments were made:%s", n)
			}
		})
	}
}

// TestNetNSNarrowMiddle has a router in the outer path whose next link takes less
// than the interface. Once it has said so the path MTU is known in the tunnel, and
// again every size arrives or is answered. What may be fragmented always arrives.
func TestNetNSNarrowMiddle(t *testing.T) {
	c := &espCiphers[4]
	for _, tt := range []struct {
		outerV6, encap bool
		middle         int
	}{
		{false, true, 1400}, {false, false, 1400}, {true, true, 1400}, {true, false, 1400}, {false, true, 1300},
	} {
		t.Run(fmt.Sprintf("outer IPv6 %t, in UDP %t, %d octets", tt.outerV6, tt.encap, tt.middle), func(t *testing.T) {
			h := newHosted(t, tt.outerV6, tt.middle, CopyDF)
			h.join(c, tt.encap, firstSPI)
			limit := c.fits(tt.middle, tt.outerV6, tt.encap)
			deadline := time.Now().Add(patience)
			for largest := 0; largest != limit; {
				if time.Now().After(deadline) {
					t.Fatalf("the largest inner packet is %d octets, want %d", largest, limit)
				}
				h.probe(0, 1400, 1400, true) // the first is lost, and the router tells
				h.a.within(func() error {
					h.a.tick(time.Now().Add(pathMTUEvery))
					return nil
				})
				largest = 0
				for _, s := range h.a.Snapshot().SAs {
					largest = max(largest, s.MaxInner) // zero of the inbound one
				}
			}
			h.expect(0, limit)
			h.expect(1, max(limit, minInnerMTU))
			for size, f := range h.probe(0, 1200, 1500, false) {
				if !f.arrived {
					t.Errorf("a packet of %d octets that may be fragmented does not arrive", size)
				}
			}
		})
	}
}

// TestNetNSSilentMiddle has a router that fragments but never tells, as where ICMP
// is filtered. What may be fragmented arrives when the DF bit is copied, and
// everything when it is cleared.
func TestNetNSSilentMiddle(t *testing.T) {
	for _, df := range []OuterDF{CopyDF, ClearDF} {
		t.Run(fmt.Sprint("policy ", df), func(t *testing.T) {
			h := newHosted(t, false, 1300, df)
			h.check(h.middle.IP(t.Context(), "rule add from 198.51.100.254 blackhole"))
			h.join(&espCiphers[0], true, firstSPI)
			limit := espCiphers[0].fits(1500, false, true)
			for size, f := range h.probe(0, 1200, limit, df == ClearDF) {
				if !f.arrived {
					t.Errorf("a packet of %d octets does not arrive", size)
				}
			}
		})
	}
}
