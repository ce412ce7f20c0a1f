package sslvpn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
)

func TestPacketsFromClients(t *testing.T) {
	var log bytes.Buffer
	p, dev := newTestPlane(t, planeOptions{log: slog.New(slog.NewTextHandler(&log, nil))})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16", "10.8.0.0/24", "224.0.0.0/4", "169.254.0.0/16")
	p.testPeer(t, "10.8.0.9", "10.1.0.0/16")
	short := ipUDP("10.8.0.5", host, 40)
	short[3]++ // longer than the packet
	for _, tt := range []struct {
		name   string
		packet []byte
		want   reason
	}{
		{"allowed", ipUDP("10.8.0.5", host, 40), reasonNone},
		{"not allowed", ipUDP("10.8.0.5", outside, 40), reasonDenied},
		{"another's source", ipUDP("10.8.0.9", host, 40), reasonSource},
		{"a source outside", ipUDP(outside, host, 40), reasonSource},
		{"another client, though of an allowed prefix", ipUDP("10.8.0.5", "10.8.0.9", 40), reasonIsolated},
		{"its own address", ipUDP("10.8.0.5", "10.8.0.5", 40), reasonIsolated},
		{"echo to the server", icmp(8, "10.8.0.5", "10.8.0.1", nil), reasonNone},
		{"multicast", ipUDP("10.8.0.5", "224.0.0.251", 40), reasonDenied},
		{"link-local", ipUDP("10.8.0.5", "169.254.169.254", 40), reasonDenied},
		{"IPv6", ip6UDP("fd00:8::5", host6, 40), reasonFamily},
		{"cut short", short, reasonMalformed},
		{"a loose source route", withOptions(ipUDP("10.8.0.5", host, 40), 1, 131, 7, 4, 10, 2, 0, 9), reasonDenied},
		{"a strict source route", withOptions(ipUDP("10.8.0.5", host, 40), 137, 7, 4, 10, 2, 0, 9, 0), reasonDenied},
		{"an option of length 0", withOptions(ipUDP("10.8.0.5", host, 40), 7, 0, 0, 0), reasonDenied},
		{"another option", withOptions(ipUDP("10.8.0.5", host, 40), 148, 4, 0, 0, 0, 131, 7, 4), reasonNone},
		{"LZO", append([]byte{0x66}, ipUDP("10.8.0.5", host, 40)...), reasonCompressed},
		{"LZ4", append([]byte{0x69}, ipUDP("10.8.0.5", host, 40)...), reasonCompressed},
		{"LZ4 version 2", append([]byte{0x50, 1}, ipUDP("10.8.0.5", host, 40)...), reasonCompressed},
		{"stub version 2", append([]byte{0x50, 0}, ipUDP("10.8.0.5", host, 40)...), reasonNone},
		{"padding", append(ipUDP("10.8.0.5", host, 40), 0, 0, 0), reasonNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := p.drops.snapshot()
			if n := c.sends(t, tt.packet); n != 1 {
				t.Fatalf("%d authentic packets", n)
			}
			if got := received(dev); (got != nil) != (tt.want == reasonNone) {
				t.Errorf("the TUN got %x", got)
			}
			want := before[tt.want.String()] + 1
			if got := p.drops.snapshot()[tt.want.String()]; tt.want != reasonNone && got != want {
				t.Errorf("%s: %d, want %d: %v", tt.want, got, want, p.drops.snapshot())
			}
		})
	}
	if in, out := c.traffic(); in.Packets != 5 || in.Octets != 3*68+28+76 || out != (Traffic{}) {
		t.Errorf("traffic %+v, %+v", in, out)
	}
	for _, want := range []string{`reason=denied user="user of 10.8.0.5" virtual_ip=10.8.0.5 source=10.8.0.5 destination=10.2.0.9 protocol=17`, "reason=isolated"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, &log)
		}
	}
}

func TestServerAddressTakesNothingButICMP(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	c.sends(t, ipUDP("10.8.0.5", "10.8.0.1", 8))
	if got := received(dev); got != nil || p.drops.snapshot()["denied"] != 1 {
		t.Errorf("the TUN got %x, %v", got, p.drops.snapshot())
	}
	// A policy for everything means the networks behind the server.
	c.allow(newAccessSet(prefixes("0.0.0.0/0")))
	c.sends(t, ipUDP("10.8.0.5", "10.8.0.1", 8))
	if got := received(dev); got != nil || p.drops.snapshot()["denied"] != 2 {
		t.Errorf("allowed by a policy: the TUN got %x, %v", got, p.drops.snapshot())
	}
	c.sends(t, icmp(8, "10.8.0.5", "10.8.0.1", nil), ipUDP("10.8.0.5", "10.8.0.1", 8))
	if first, second := received(dev), received(dev); first == nil || second != nil {
		t.Errorf("after an echo: %x, %x", first, second)
	}
	o := newOutbound(p)
	if got, _ := o.process(append(make([]byte, tun.HeaderLen), ipUDP("10.8.0.1", "10.8.0.5", 8)...)); got != nil {
		t.Error("the server's own UDP goes to the client")
	}
}

func TestLogOfDenialsIsBounded(t *testing.T) {
	var log bytes.Buffer
	p, _ := newTestPlane(t, planeOptions{log: slog.New(slog.NewTextHandler(&log, nil))})
	c := p.testPeer(t, "10.8.0.5")
	for range 1000 {
		c.sends(t, ipUDP("10.8.0.5", outside, 8))
	}
	if n := strings.Count(log.String(), "\n"); n < denialsAtOnce || n > 100 {
		t.Errorf("%d lines", n)
	}
	if n := p.drops.snapshot()["denied"]; n != 1000 {
		t.Errorf("%d counted", n)
	}
}

func TestPacketsToClients(t *testing.T) {
	p, _ := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	quote := ipUDP("10.8.0.5", host, 0)
	foreign := ipUDP("10.8.0.5", outside, 0)
	o := newOutbound(p)
	for _, tt := range []struct {
		name   string
		packet []byte
		want   reason
	}{
		{"allowed", ipUDP(host, "10.8.0.5", 40), reasonNone},
		{"not allowed", ipUDP(outside, "10.8.0.5", 40), reasonDenied},
		{"another client", ipUDP("10.8.0.9", "10.8.0.5", 40), reasonIsolated},
		{"no client", ipUDP(host, "10.8.0.9", 40), reasonNoClient},
		{"the peer of a client", ipUDP(host, "10.8.0.6", 40), reasonNoClient},
		{"outside of the pool", ipUDP(host, "10.9.0.5", 40), reasonNoClient},
		{"echo reply of the server", icmp(0, "10.8.0.1", "10.8.0.5", nil), reasonNone},
		{"a router about an allowed packet", icmp(11, outside, "10.8.0.5", quote), reasonNone},
		{"a router about a packet that was not allowed", icmp(11, outside, "10.8.0.5", foreign), reasonDenied},
		{"a router about another's packet", icmp(11, outside, "10.8.0.5", ipUDP("10.8.0.9", host, 0)), reasonDenied},
		{"an echo with a quote", icmp(8, outside, "10.8.0.5", quote), reasonDenied},
		{"IPv6", ip6UDP(host6, "fd00:8::5", 40), reasonNoClient},
		{"nothing at all", nil, reasonMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := p.drops.snapshot()[tt.want.String()]
			o.process(append(make([]byte, tun.HeaderLen), tt.packet...))
			if got, _ := o.process(append(make([]byte, tun.HeaderLen), tt.packet...)); (got != nil) != (tt.want == reasonNone) {
				t.Errorf("client %v", got)
			}
			if got := p.drops.snapshot()[tt.want.String()]; tt.want != reasonNone && got != before+2 {
				t.Errorf("%s: %d more: %v", tt.want, got-before, p.drops.snapshot())
			}
		})
	}
	o.touched = append(o.touched, c.client)
	o.flush()
	if got := c.gets(t); len(got) != 6 || !bytes.Equal(got[0], ipUDP(host, "10.8.0.5", 40)) {
		t.Errorf("%d packets", len(got))
	}
	if _, out := c.traffic(); out.Packets != 6 || out.Octets != 2*(68+28+56) {
		t.Errorf("traffic %+v", out)
	}
	if c.link.trains != 1 || c.link.flushes != 1 {
		t.Errorf("%d trains, %d flushes", c.link.trains, c.link.flushes)
	}
}

// TestSuperPackets sends 60,000 octets in one frame: what the client gets, sent
// back by another, becomes the same frame again.
func TestSuperPackets(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	o := newOutbound(p)
	if _, worth := o.process(superPacket(host, "10.8.0.5", 60000, 1400)); !worth {
		t.Error("60,000 octets are not worth a call")
	}
	o.touched = append(o.touched, c.client)
	o.flush()
	packets := c.gets(t)
	if len(packets) != 43 || c.link.trains != 1 {
		t.Fatalf("%d packets in %d trains", len(packets), c.link.trains)
	}
	// The other way: the same flow with the ends changed.
	var back [][]byte
	for _, packet := range packets {
		src, dst := bytes.Clone(packet[12:16]), bytes.Clone(packet[16:20])
		copy(packet[12:], dst)
		copy(packet[16:], src)
		back = append(back, packet)
	}
	if n := c.sends(t, back...); n != len(back) {
		t.Fatalf("%d of %d packets were opened", n, len(back))
	}
	got := received(dev)
	if len(got) != 40+60000 || !bytes.Equal(got[40:], sequence(0, 60000)) {
		t.Errorf("%d octets came out, want one super-packet", len(got))
	}
	if more := received(dev); more != nil {
		t.Errorf("and another packet of %d octets", len(more))
	}
	in, out := c.traffic()
	if want := (Traffic{43, 60000 + 43*40}); in != want || out != want {
		t.Errorf("traffic %+v, %+v, want %+v", in, out, want)
	}
}

// TestSmallSegments: a super-packet of small segments needs several trains.
func TestSmallSegments(t *testing.T) {
	for _, stream := range []bool{true, false} {
		p, _ := newTestPlane(t, planeOptions{})
		c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
		c.link.stream = stream
		o := newOutbound(p)
		o.process(superPacket(host, "10.8.0.5", 60000, 88))
		o.touched = append(o.touched, c.client)
		o.flush()
		if packets := c.gets(t); len(packets) != 682 || c.link.trains < 2 {
			t.Errorf("stream %v: %d packets in %d trains", stream, len(packets), c.link.trains)
		}
	}
}

// TestTrainsOfDatagrams: without a length before each packet, all but the last
// are equally long.
func TestTrainsOfDatagrams(t *testing.T) {
	p, _ := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	c.link.stream = false
	o := newOutbound(p)
	for _, n := range []int{100, 100, 50, 100, 200, 200} {
		o.process(append(make([]byte, tun.HeaderLen), ipUDP(host, "10.8.0.5", n)...))
	}
	o.touched = append(o.touched, c.client)
	o.flush()
	var sizes []int
	for _, packet := range c.gets(t) {
		sizes = append(sizes, len(packet)-28)
	}
	if fmt.Sprint(sizes) != "[100 100 50 100 200 200]" || c.link.trains != 3 {
		t.Errorf("%v in %d trains", sizes, c.link.trains)
	}
}

func TestNoPacketForAFullQueue(t *testing.T) {
	p, _ := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	c.link.isFull = true
	newOutbound(p).process(superPacket(host, "10.8.0.5", 60000, 1400))
	if got := p.drops.snapshot()["queue_full"]; got != 43 || c.sealing.seal.packetID != 0 {
		t.Errorf("%d dropped, packet id %d", got, c.sealing.seal.packetID)
	}
}

func TestPingsAndExit(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "0.0.0.0/0")
	left := 0
	c.onExit = func() { left++ }
	if !c.lastReceived().IsZero() {
		t.Error("heard of before the first packet")
	}
	c.sends(t, pingPacket)
	if time.Since(c.lastReceived()) > time.Minute {
		t.Errorf("last received %s", c.lastReceived())
	}
	c.sends(t, append(bytes.Clone(occMagic), 0, 'V', '4'))
	if left != 0 {
		t.Error("an option string was taken for an exit")
	}
	c.sends(t, append(bytes.Clone(occMagic), occExit))
	if left != 1 {
		t.Error("the exit was not told")
	}
	if got := received(dev); got != nil {
		t.Errorf("the TUN got %x", got)
	}
	if in, _ := c.traffic(); in != (Traffic{}) {
		t.Errorf("traffic %+v", in)
	}
	before := c.lastReceived()
	forged := mustSeal(t, c.key, pingPacket)
	forged[20] ^= 1
	c.receive([][]byte{forged})
	if c.lastReceived() != before {
		t.Error("a forged packet keeps the session alive")
	}
	c.framing = framingCompLZO
	if err := c.sendPing(); err != nil {
		t.Fatal(err)
	}
	if got := c.gets(t); !bytes.Equal(got[0], append([]byte{markPlain}, pingPacket...)) {
		t.Errorf("ping with framing: %x", got)
	}
	c.sends(t, append([]byte{markPlain}, ipUDP("10.8.0.5", host, 4)...))
	if received(dev) == nil {
		t.Errorf("packet with framing: %v", p.drops.snapshot())
	}
}

func TestKeepAlive(t *testing.T) {
	p, _ := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	o := newOutbound(p)
	o.process(append(make([]byte, tun.HeaderLen), ipUDP(host, "10.8.0.5", 40)...))
	o.touched = append(o.touched, c.client)
	o.flush()
	c.gets(t)
	sent := time.Unix(0, c.lastSent.Load())
	for after, want := range map[time.Duration]int{9 * time.Second: 0, 10 * time.Second: 1} {
		c.lastSent.Store(sent.UnixNano())
		if err := c.keepAlive(sent.Add(after), 10*time.Second); err != nil {
			t.Fatal(err)
		}
		if got := c.gets(t); len(got) != want || want == 1 && !isPing(got[0]) {
			t.Errorf("after %s: %x", after, got)
		}
	}
}

func TestAccessChangesAtOnce(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	for _, tt := range []struct {
		set  *accessSet
		want bool
	}{
		{newAccessSet(prefixes("10.2.0.0/16")), false},
		{newAccessSet(prefixes("10.1.0.0/16")), true},
		{nil, false},
	} {
		c.allow(tt.set)
		c.sends(t, ipUDP("10.8.0.5", host, 4))
		if got := received(dev); (got != nil) != tt.want {
			t.Errorf("from the client: %x", got)
		}
		if got, _ := newOutbound(p).process(append(make([]byte, tun.HeaderLen), ipUDP(host, "10.8.0.5", 4)...)); (got != nil) != tt.want {
			t.Errorf("to the client: %v", got)
		}
	}
}

func TestAttachAndDetach(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	for _, address := range []string{"10.8.0.5", "10.8.0.1", "10.8.0.6", "10.8.1.5", "10.7.255.253"} {
		if err := p.attach(newClient(1, netip.MustParseAddr(address), c.link)); err == nil {
			t.Errorf("%s: attached", address)
		}
	}
	p.detach(newClient(1, netip.MustParseAddr("10.8.0.5"), c.link)) // another one
	if p.lookup(c.address) != c.client {
		t.Error("detached by another")
	}
	packet := mustSeal(t, c.key, ipUDP("10.8.0.5", host, 4))
	p.detach(c.client)
	p.detach(c.client)
	if c.receive([][]byte{packet}) != 0 || received(dev) != nil {
		t.Error("a detached client has sent a packet")
	}
	if err := p.attach(newClient(1, netip.MustParseAddr("10.8.0.5"), c.link)); err != nil {
		t.Error(err)
	}
	if newClient(1, netip.MustParseAddr("10.8.0.9"), c.link).receive([][]byte{packet}) != 0 {
		t.Error("a client that was never attached has sent a packet")
	}
}

func TestBandwidth(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{bandwidthMbps: 1})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	o := newOutbound(p)
	const packets = 2000 // of what passes in ten seconds and more
	for range packets {
		o.process(append(make([]byte, tun.HeaderLen), ipUDP(host, "10.8.0.5", 1400)...))
		c.sends(t, ipUDP("10.8.0.5", host, 1400))
		received(dev)
	}
	dropped := p.drops.snapshot()["bandwidth"]
	if in, out := c.traffic(); dropped == 0 || in.Packets+out.Packets+dropped != 2*packets || in.Packets == 0 || out.Packets == 0 {
		t.Errorf("%d dropped, %d and %d passed", dropped, in.Packets, out.Packets)
	}
}

// TestMSS: a SYN of either direction keeps to what the transport carries.
func TestMSS(t *testing.T) {
	syn := func(src, dst string, options []byte) []byte {
		segment := make([]byte, tcpHeaderLen, 40)
		segment = append(segment, options...)
		segment[12], segment[13] = byte(len(segment)/4)<<4, tcpSYN
		packet := ipv4(protocolTCP, src, dst, segment)
		pseudo := append(bytes.Clone(packet[12:20]), 0, protocolTCP, 0, byte(len(segment)))
		binary.BigEndian.PutUint16(packet[36:], checksum(append(pseudo, packet[20:]...)))
		return packet
	}
	p, dev := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	c.link.mss = 1400
	for _, tt := range []struct {
		name    string
		options []byte
		at      int // of the value
		want    uint16
	}{
		{"lowered", []byte{2, 4, 1460 >> 8, 1460 & 255}, 2, 1400},
		{"small enough", []byte{2, 4, 1000 >> 8, 1000 & 255}, 2, 1000},
		{"behind an odd option", []byte{1, 2, 4, 1460 >> 8, 1460 & 255, 0, 0, 0}, 3, 1400},
		{"behind the end", []byte{0, 2, 4, 1460 >> 8, 1460 & 255, 0, 0, 0}, 3, 1460},
		{"option cut short", []byte{3, 3, 0, 2}, 2, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.sends(t, syn("10.8.0.5", host, tt.options))
			o := newOutbound(p)
			o.process(append(make([]byte, tun.HeaderLen), syn(host, "10.8.0.5", tt.options)...))
			o.touched = append(o.touched, c.client)
			o.flush()
			for _, packet := range [][]byte{received(dev), c.gets(t)[0]} {
				segment := packet[20:]
				pseudo := append(bytes.Clone(packet[12:20]), 0, protocolTCP, 0, byte(len(segment)))
				if sum := checksum(append(pseudo, segment...)); sum != 0 {
					t.Errorf("checksum is off by %04x", sum)
				}
				if tt.name != "option cut short" {
					if got := binary.BigEndian.Uint16(segment[20+tt.at:]); got != tt.want {
						t.Errorf("MSS %d, want %d", got, tt.want)
					}
				}
			}
		})
	}
}

func TestRunUntilTheEnd(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.run(ctx) }()
	for i := range 10 {
		dev.SendPacket(ipUDP(host, "10.8.0.5", i))
	}
	packets := 0
	for deadline := time.Now().Add(time.Minute); packets < 10 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		packets += len(c.gets(t))
	}
	if packets != 10 {
		t.Errorf("%d packets arrived", packets)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	select {
	case <-dev.Closed():
	default:
		t.Error("the device is open")
	}
}

func TestRunReportsALostDevice(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{})
	dev.Close()
	if err := p.run(t.Context()); !errors.Is(err, tun.ErrClosed) || !strings.Contains(err.Error(), "test0") {
		t.Errorf("%v", err)
	}
}
