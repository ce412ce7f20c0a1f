package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
)

// sink is a Device that swallows packets; its queue never has one.
type sink struct{ *tun.Channel }

func (s sink) NewWriter() tun.Writer { return sinkWriter{} }

type sinkWriter struct{}

func (sinkWriter) USO() bool                    { return true }
func (sinkWriter) Write(uint32, [][]byte) error { return nil }

// loops returns what a goroutine of a TUN queue and one of a socket work with,
// joined by an SA in each direction, with no socket between them: sent packets
// go to a port where nobody listens.
func loops(t testing.TB) (out *outbound, in *inbound, g *gateway) {
	g = newGateway(t)
	g.options.OpenTUN = func(name string, queues, mtu int) (tun.Device, error) {
		return sink{tun.NewChannel(name, queues, 1)}, nil
	}
	if err := g.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "sink"}}); err != nil {
		t.Fatal(err)
	}
	outSA, inSA := oneWay(g, g, netA, netB, 0x1001)
	outSA.Dst, outSA.DstPort, outSA.IfID, outSA.ESN = netip.MustParseAddr("127.77.255.254"), 9, 1, true
	inSA.IfID, inSA.ESN = 1, true
	mustAdd(t, g, outSA, inSA)
	p := outPolicy(netA, netB)
	p.IfID = 1
	mustPolicy(t, g, p)
	out = newOutbound(g.Engine)
	out.d, out.counters = g.device(1), g.newCounters()
	return out, g.newInbound().(*inbound), g
}

// sealAll seals a frame and returns copies of the ESP packets, unsent.
func sealAll(t testing.TB, out *outbound, frame []byte) [][]byte {
	t.Helper()
	out.process(out.frames[:copy(out.frames, frame)])
	var all [][]byte
	for out.seal() {
		for rest := out.batch; len(rest) > 0; {
			n := min(out.size, len(rest))
			all = append(all, bytes.Clone(rest[:n]))
			rest = rest[n:]
		}
		out.done()
	}
	out.flush()
	return all
}

func BenchmarkOut(b *testing.B) {
	out, _, _ := loops(b)
	frame := superPacket(60000, 1386)
	b.SetBytes(60000)
	b.ReportAllocs()
	for b.Loop() {
		out.process(out.frames[:copy(out.frames, frame)])
		for out.seal() {
			out.done() // sealed, not sent
		}
		out.flush()
	}
}

func BenchmarkIn(b *testing.B) {
	out, in, g := loops(b)
	from := &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true}
	frame := superPacket(60000, 1386)
	b.SetBytes(60000)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		packets := sealAll(b, out, frame)
		b.StartTimer()
		for _, p := range packets {
			in.ReceiveESP(from, p)
		}
		in.FlushESP()
	}
}

// BenchmarkEngine takes frames the whole way out, and the packets that come of them
// the whole way in, with no kernel between.
func BenchmarkEngine(b *testing.B) {
	for _, bm := range []struct {
		name  string
		frame []byte
	}{
		{"super-packet", superPacket(60000, 1386)},
		{"64 octets", append(make([]byte, tun.HeaderLen), udpPacket("10.1.0.7", "10.2.0.9", make([]byte, 64))...)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			out, in, g := loops(b)
			from := &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true}
			b.SetBytes(int64(len(bm.frame)))
			b.ReportAllocs()
			for b.Loop() {
				out.process(out.frames[:copy(out.frames, bm.frame)])
				for out.seal() {
					for rest := out.batch; len(rest) > 0; {
						n := min(out.size, len(rest))
						in.ReceiveESP(from, rest[:n:n])
						rest = rest[n:]
					}
					in.FlushESP()
					out.done()
				}
				out.flush()
			}
			if drops := g.Drops(); len(drops) > 0 {
				b.Errorf("drops: %v", drops)
			}
		})
	}
}

func BenchmarkPolicyLookup(b *testing.B) {
	for _, n := range []int{10, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tb := &table{}
			tb.out.Store(&policyList{})
			for i := range n {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
				tb.set(&policy{Policy: outPolicy(netA, p)})
			}
			var h header
			h.parse(udpPacket("10.1.0.7", fmt.Sprintf("10.%d.%d.9", (n-1)>>8, (n-1)&0xff), nil))
			var cache flowCache
			for b.Loop() {
				if cache.lookup(tb, &h.flowKey) == nil {
					b.Fatal("no policy")
				}
			}
		})
	}
}

// TestChangesUnderTraffic rekeys, moves, adds and deletes while packets flow;
// the race detector looks on.
func TestChangesUnderTraffic(t *testing.T) {
	a, b := tunnel(t)
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for _, g := range []*gateway{a, b} {
		wait.Go(func() {
			src, dst := "10.1.0.7", "10.2.0.9"
			if g == b {
				src, dst = dst, src
			}
			p := udpPacket(src, dst, make([]byte, 300))
			for {
				select {
				case <-stop:
					return
				case <-g.shared.Received():
				default:
					g.shared.SendPacket(p)
				}
			}
		})
	}
	wait.Go(func() {
		defer close(stop)
		for i := range 100 {
			spi := ipsec.SPI(0x5000 + i)
			out, in := oneWay(a, b, netA, netB, spi)
			mustAdd(t, b, in)
			mustAdd(t, a, out)
			if err := a.SetInterfaces([]ipsec.Interface{{IfID: uint32(i%3 + 1), Name: fmt.Sprint("if", i%3)}}); err != nil {
				t.Error(err)
			}
			mustPolicy(t, a, outPolicy(netA, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(i), 0}), 24)))
			to := ipsec.SAUpdate{Src: out.Src, Dst: out.Dst, Encap: true, SrcPort: out.SrcPort, DstPort: out.DstPort}
			if err := a.UpdateSA(out.ID(), to); err != nil {
				t.Error(err)
			}
			a.tick(time.Now())
			a.Snapshot()
			if i > 0 {
				old := ipsec.SPI(0x5000 + i - 1)
				if err := a.DeleteSA(ipsec.SAID{Dst: b.outer.Addr(), SPI: old}); err != nil {
					t.Error(err)
				}
				if err := b.DeleteSA(ipsec.SAID{Dst: b.outer.Addr(), SPI: old}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	wait.Wait()
	a.shared.SendPacket(udpPacket("10.1.0.7", "10.2.0.9", []byte("still alive")))
	deadline := time.After(patience)
	for {
		select {
		case f := <-b.shared.Received():
			if bytes.HasSuffix(f, []byte("still alive")) {
				return
			}
		case <-deadline:
			t.Fatal("the tunnel does not pass packets any more")
		}
	}
}

// TestSequenceOrder has two queues send on one SA: the packets leave in the
// order of their sequence numbers.
func TestSequenceOrder(t *testing.T) {
	g := newGatewayWith(t, 2, 1500)
	far := listen(t)
	to := far.LocalAddr().(*net.UDPAddr).AddrPort()
	mustAdd(t, g, ipsec.SA{
		SPI: 0x4001, Direction: ipsec.Out, Src: g.outer.Addr(), Dst: to.Addr(), Encap: true, ReqID: 1,
		SrcPort: g.outer.Port(), DstPort: to.Port(), Encryption: gcm, EncryptionKey: make([]byte, 20),
	})
	mustPolicy(t, g, outPolicy(netA, netB))
	const frames, packets = 20, 10
	frame := superPacket(packets*1000, 1000)
	// No more is under way than the socket holds: what it drops looks like a gap.
	room := make(chan struct{}, 4)
	stop := make(chan struct{})
	defer close(stop)
	for q := range 2 {
		go func() {
			for range frames {
				select {
				case room <- struct{}{}:
					g.shared.Send(q, frame)
				case <-stop:
					return
				}
			}
		}()
	}
	buf := make([]byte, 2000)
	if err := far.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for want := range uint32(2 * frames * packets) {
		n, err := far.Read(buf)
		if err != nil || n < 8 {
			t.Fatalf("packet %d: %v", want+1, err)
		}
		if got := binary.BigEndian.Uint32(buf[4:]); got != want+1 {
			t.Fatalf("sequence number %d after %d", got, want)
		}
		if want%packets == packets-1 {
			<-room
		}
	}
}

func TestReservedSPIsExpire(t *testing.T) {
	g := newGateway(t)
	spi, err := g.AllocSPI(g.outer.Addr())
	if err != nil || spi < 256 {
		t.Fatal(spi, err)
	}
	id := ipsec.SAID{Dst: g.outer.Addr(), SPI: spi}
	g.tick(time.Now().Add(reservation - time.Second))
	if g.larvals.get(id) == nil {
		t.Error("free too early")
	}
	g.tick(time.Now().Add(reservation))
	if g.larvals.get(id) != nil {
		t.Error("never free")
	}
}

// TestLastUsed: the time is never later than the packet's, so that it proves
// that the peer was alive then.
func TestLastUsed(t *testing.T) {
	a, b := tunnel(t)
	id := ipsec.SAID{Dst: b.outer.Addr(), SPI: 0x1001}
	if s, err := b.QuerySA(id); err != nil || !s.LastUsed.IsZero() {
		t.Errorf("before the first packet: %v, %v", s.LastUsed, err)
	}
	looked := time.Now()
	a.shared.SendPacket(udpPacket("10.1.0.7", "10.2.0.9", nil))
	receive(t, b.shared)
	s, err := b.QuerySA(id)
	if err != nil || s.LastUsed.IsZero() || s.LastUsed.After(looked) {
		t.Errorf("after it: %v, want no later than %v, %v", s.LastUsed, looked, err)
	}
	b.tick(time.Now())
	if again, err := b.QuerySA(id); err != nil || again.LastUsed != s.LastUsed {
		t.Errorf("without another packet: %v, want %v, %v", again.LastUsed, s.LastUsed, err)
	}
}

// TestLifetimesByTime moves the clock instead of waiting.
func TestLifetimesByTime(t *testing.T) {
	a, b := newGateway(t), newGateway(t)
	out, _ := oneWay(a, b, netA, netB, 0x1001)
	out.Lifetime = ipsec.Lifetime{Soft: time.Hour, Hard: 2 * time.Hour}
	older, _ := oneWay(a, b, netA, netB, 0x1000)
	mustAdd(t, a, older, out)
	mustPolicy(t, a, outPolicy(netA, netB))
	a.tick(time.Now().Add(59 * time.Minute))
	noEvent(t, a)
	for range 2 {
		a.tick(time.Now().Add(61 * time.Minute))
	}
	if ev := waitEvent(t, a); ev.Kind != ipsec.EventSoftExpire || ev.SA != out.ID() {
		t.Errorf("event %+v", ev)
	}
	noEvent(t, a)
	for range 2 {
		a.tick(time.Now().Add(121 * time.Minute))
	}
	if ev := waitEvent(t, a); ev.Kind != ipsec.EventHardExpire || ev.SA != out.ID() {
		t.Errorf("event %+v", ev)
	}
	noEvent(t, a)
	if got := a.requests[1].current.Load(); got == nil || got.record.SPI != older.SPI {
		t.Error("the SA that was added before does not follow")
	}
}

func TestSequenceNumbersRunOut(t *testing.T) {
	g := newGateway(t)
	out, _ := oneWay(g, newGateway(t), netA, netB, 0x1001)
	mustAdd(t, g, out)
	sa := g.sas[out.ID()]
	s := ipsec.SAState{Sequence: softSequence - 1}
	g.checkSoft(sa, &s, 0)
	noEvent(t, g)
	s.Sequence++
	g.checkSoft(sa, &s, 0)
	if ev := waitEvent(t, g); ev.Kind != ipsec.EventSoftExpire {
		t.Errorf("event %+v", ev)
	}
}
