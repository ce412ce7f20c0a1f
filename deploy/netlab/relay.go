package netlab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ike/wire"
)

// Relay is a router in the midst of the internet that holds IKE messages in its
// hands: all packets pass through it, and those of IKEv2 as its owner wants.
type Relay struct {
	tun  *os.File
	done chan struct{}
}

// IKEPacket is an IKE message on its way, on port 500 or 4500.
type IKEPacket struct {
	From, To netip.AddrPort
	wire.Header
	packet []byte
}

// relayTable is the routing table that leads to the relay.
const relayTable = "77"

// StartRelay puts a relay between the gateway and all sites, none of which may be
// behind a NAT. It hands each IKE message to pass, one after the other, and forwards
// it if that returns true; a message that is kept may be forwarded later.
func (t *Topology) StartRelay(ctx context.Context, pass func(*IKEPacket) bool) (*Relay, error) {
	const name = "relay"
	var fd int
	err := t.Internet.Inside(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			_ = unix.Close(fd)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start a relay: %w", err)
	}
	r := &Relay{tun: os.NewFile(uintptr(fd), name), done: make(chan struct{})}
	go r.run(pass)
	edges := []string{"cloud"}
	for i := range t.Sites {
		edges = append(edges, siteRole(i))
	}
	lines := []string{"link set " + name + " up", "route add default dev " + name + " table " + relayTable}
	for _, edge := range edges {
		lines = append(lines, "rule add iif "+edge+" lookup "+relayTable)
	}
	// What comes back from the relay has its source behind other interfaces.
	err = t.Internet.Sysctl(ctx, "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf."+name+".rp_filter=0")
	if err = errors.Join(err, t.Internet.IP(ctx, lines...)); err != nil {
		return nil, errors.Join(fmt.Errorf("start a relay: %w", err), r.Close())
	}
	return r, nil
}

// Close ends the relay: nothing passes any more.
func (r *Relay) Close() error {
	err := r.tun.Close()
	<-r.done
	return err
}

// Forward lets a message that was kept go on, or once more.
func (r *Relay) Forward(p *IKEPacket) error {
	if _, err := r.tun.Write(p.packet); err != nil {
		return fmt.Errorf("forward %s: %w", &p.Header, err)
	}
	return nil
}

func (r *Relay) run(pass func(*IKEPacket) bool) {
	defer close(r.done)
	buffer := make([]byte, 65536)
	for {
		n, err := r.tun.Read(buffer)
		if err != nil {
			return
		}
		if p, ok := parseIKEPacket(buffer[:n]); ok && !pass(p) {
			continue
		}
		// A queue that is full loses it, as any router's may.
		_, _ = r.tun.Write(buffer[:n])
	}
}

// parseIKEPacket finds an IKEv2 message in an IPv4 packet.
func parseIKEPacket(b []byte) (*IKEPacket, bool) {
	const udp, udpHeader = 17, 8
	if len(b) < 20 || b[0]>>4 != 4 || b[9] != udp || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return nil, false
	}
	header := int(b[0]&15) * 4
	if len(b) < header+udpHeader {
		return nil, false
	}
	p := &IKEPacket{
		From: netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), binary.BigEndian.Uint16(b[header:])),
		To:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), binary.BigEndian.Uint16(b[header+2:])),
	}
	payload := b[header+udpHeader:]
	switch {
	case p.From.Port() == 500 || p.To.Port() == 500:
	case p.From.Port() != 4500 && p.To.Port() != 4500, len(payload) < 4, binary.BigEndian.Uint32(payload) != 0:
		return nil, false
	default:
		payload = payload[4:]
	}
	h, err := wire.ParseHeader(payload)
	if err != nil || h.MajorVersion != 2 {
		return nil, false
	}
	p.Header, p.packet = h, append([]byte(nil), b...)
	return p, true
}
