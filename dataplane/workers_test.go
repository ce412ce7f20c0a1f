package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// farEnd is a peer that looks at what comes out of its SAs.
type farEnd struct {
	t       *testing.T
	conn    *net.UDPConn
	openers map[ipsec.SPI]*esp.Opener
	numbers map[ipsec.SPI]uint32
}

func newFarEnd(t *testing.T) *farEnd {
	return &farEnd{t, listen(t), map[ipsec.SPI]*esp.Opener{}, map[ipsec.SPI]uint32{}}
}

// sa returns an SA of a gateway to the peer, which can open it from now on. A replay
// window of one packet lets nothing be late.
func (f *farEnd) sa(g *gateway, spi ipsec.SPI, ifID uint32) ipsec.SA {
	f.t.Helper()
	to := f.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	sa := ipsec.SA{
		SPI: spi, Direction: ipsec.Out, Src: g.outer.Addr(), Dst: to.Addr(), Encap: true, ReqID: ifID + 1, IfID: ifID,
		SrcPort: g.outer.Port(), DstPort: to.Port(), Encryption: gcm, EncryptionKey: make([]byte, 20), ReplayWindow: 1,
	}
	in, err := esp.NewInbound(&sa)
	if err != nil {
		f.t.Fatal(err)
	}
	f.openers[spi] = in.NewOpener()
	return sa
}

// next returns the inner packet that comes next. Those of one SA have consecutive
// sequence numbers.
func (f *farEnd) next() []byte {
	f.t.Helper()
	buf := make([]byte, 2000)
	n, err := f.conn.Read(buf)
	if err != nil || n < 8 {
		f.t.Fatalf("%d octets came, %v", n, err)
	}
	spi, number := ipsec.SPI(binary.BigEndian.Uint32(buf)), binary.BigEndian.Uint32(buf[4:])
	if want := f.numbers[spi] + 1; number != want {
		f.t.Fatalf("SA %s: number %d came, want %d", spi, number, want)
	}
	f.numbers[spi] = number
	inner, _, err := f.openers[spi].Open(buf[:n])
	if err != nil {
		f.t.Fatalf("SA %s, number %d: %v", spi, number, err)
	}
	return inner
}

// deadline has next fail in the end.
func (f *farEnd) deadline() {
	if err := f.conn.SetReadDeadline(time.Now().Add(3 * patience)); err != nil {
		f.t.Fatal(err)
	}
}

// numbered returns a frame of a flow for a queue: one datagram or a super-packet of
// several, whose packets bear consecutive numbers from first on.
func numbered(flow int, first uint32, packets int) []byte {
	const size = 400
	payload := make([]byte, size*packets)
	for i := range packets {
		binary.BigEndian.PutUint32(payload[i*size:], first+uint32(i))
	}
	p := udpPacket(fmt.Sprintf("10.1.0.%d", flow+1), "10.2.0.9", payload)
	frame := append(make([]byte, tun.HeaderLen), p...)
	if packets > 1 {
		frame[0], frame[1] = 1, 5 // checksum needed, UDP
		binary.NativeEndian.PutUint16(frame[2:], 28)
		binary.NativeEndian.PutUint16(frame[4:], size)
		binary.NativeEndian.PutUint16(frame[6:], 20)
		binary.NativeEndian.PutUint16(frame[8:], 6)
	}
	return frame
}

// feed sends packets of several flows on each queue until the test stops it. room
// bounds the packets that are under way: what a socket drops looks like a gap.
func feed(g *gateway, queues, flows, packets int, room chan struct{}, stop <-chan struct{}, wait *sync.WaitGroup) {
	for q := range queues {
		random := rand.New(rand.NewPCG(1, uint64(q)))
		wait.Go(func() {
			sent := make([]uint32, flows)
			for left := packets; left > 0; {
				flow := random.IntN(flows)
				n := 1
				if random.IntN(3) == 0 {
					n = min(left, 1+random.IntN(maxNumbered))
				}
				for range n {
					select {
					case room <- struct{}{}:
					case <-stop:
						return
					}
				}
				g.shared.Send(q, numbered(q*flows+flow, sent[flow], n))
				sent[flow] += uint32(n)
				left -= n
			}
		})
	}
}

// inRoom is how many packets may be under way: all queues together have room for the
// largest frame of each.
const (
	maxNumbered = 20
	inRoom      = 4 * maxNumbered
)

// TestFlowsOfOneSA spreads flows over the queues of one tunnel, while one SA follows
// another: no packet is late for the smallest window, and no flow is reordered.
func TestFlowsOfOneSA(t *testing.T) {
	const queues, flows, packets, sas = 4, 5, 3000, 5
	g := newGatewayWith(t, queues, 1500)
	f := newFarEnd(t)
	var rekeys []ipsec.SA
	for spi := range ipsec.SPI(sas) {
		rekeys = append(rekeys, f.sa(g, 0x4001+spi, 0))
	}
	mustAdd(t, g, rekeys[0])
	mustPolicy(t, g, outPolicy(netA, netB))
	f.deadline()
	room, stop := make(chan struct{}, inRoom), make(chan struct{})
	var wait sync.WaitGroup
	defer wait.Wait()
	defer close(stop)
	feed(g, queues, flows, packets, room, stop, &wait)
	next := map[byte]uint32{}
	for i := range queues * packets {
		if at := i / (queues * packets / sas); i%(queues*packets/sas) == 0 && at > 0 {
			// The old SA goes while packets of it are under way.
			mustAdd(t, g, rekeys[at])
			if err := g.DeleteSA(rekeys[at-1].ID()); err != nil {
				t.Fatal(err)
			}
		}
		inner := f.next()
		flow, number := inner[15], binary.BigEndian.Uint32(inner[28:])
		if number != next[flow] {
			t.Fatalf("flow %d: packet %d came, want %d", flow, number, next[flow])
		}
		next[flow]++
		<-room
	}
	if len(next) != queues*flows || len(f.numbers) != sas {
		t.Errorf("%d flows under %d SAs", len(next), len(f.numbers))
	}
	if drops := g.Drops(); len(drops) > 0 {
		t.Errorf("drops %v", drops)
	}
}

// TestHardLimitOfSharedSA has several queues run into a limit of packets: as many
// leave as may, and the others are counted.
func TestHardLimitOfSharedSA(t *testing.T) {
	const queues, packets, limit = 4, 300, 777
	g := newGatewayWith(t, queues, 1500)
	f := newFarEnd(t)
	sa := f.sa(g, 0x4001, 0)
	sa.Lifetime = ipsec.Lifetime{SoftPackets: 500, HardPackets: limit}
	mustAdd(t, g, sa)
	mustPolicy(t, g, outPolicy(netA, netB))
	f.deadline()
	room, stop := make(chan struct{}, inRoom), make(chan struct{})
	var wait sync.WaitGroup
	defer wait.Wait()
	defer close(stop)
	feed(g, queues, 2, packets, room, stop, &wait)
	for range limit {
		f.next()
		<-room
	}
	go func() { // what is refused makes room, too
		for {
			select {
			case <-room:
			case <-stop:
				return
			}
		}
	}()
	for _, want := range []ipsec.EventKind{ipsec.EventSoftExpire, ipsec.EventHardExpire} {
		if ev := waitEvent(t, g); ev.Kind != want {
			t.Errorf("event %v, want %v", ev.Kind, want)
		}
	}
	deadline := time.Now().Add(patience)
	for {
		drops := g.Drops()
		if n := drops["expired"] + drops["no_sa"]; n == queues*packets-limit && drops["expired"] > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("drops %v of %d packets", drops, queues*packets-limit)
		}
		time.Sleep(time.Millisecond)
	}
	state, err := g.QuerySA(sa.ID())
	if err != nil || state.Packets != limit {
		t.Errorf("%+v, %v", state, err)
	}
	if err := f.conn.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := f.conn.Read(make([]byte, 10)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("more came: %v", err)
	}
}

// TestStuckWorker has somebody take sequence numbers and not go on: the tunnel waits,
// others do not, and then nothing is lost.
func TestStuckWorker(t *testing.T) {
	g := newGatewayWith(t, 2, 1500)
	f := newFarEnd(t)
	if err := g.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one"}, {IfID: 2, Name: "two"}}); err != nil {
		t.Fatal(err)
	}
	stuck, free := f.sa(g, 0x4001, 1), f.sa(g, 0x4002, 2)
	mustAdd(t, g, stuck, free)
	for _, ifID := range []uint32{1, 2} {
		p := outPolicy(netA, netB)
		p.IfID, p.ReqID = ifID, ifID+1
		mustPolicy(t, g, p)
	}
	f.deadline()
	g.mu.Lock()
	a := g.sas[stuck.ID()]
	g.mu.Unlock()
	first, err := a.out.NewSealer().Reserve(1, 100)
	if err != nil {
		t.Fatal(err)
	}
	for q := range 2 {
		g.tuns["one"].Send(q, numbered(q, 0, 20))
	}
	for a.out.State().Sequence != 41 { // both workers have taken numbers
		time.Sleep(time.Millisecond)
	}
	for range 5 {
		g.tuns["two"].Send(0, numbered(7, 0, 20))
		for range 20 {
			if inner := f.next(); inner[15] != 8 {
				t.Fatalf("a packet of %x came", inner[12:16])
			}
		}
	}
	f.numbers[stuck.SPI] = uint32(first)
	a.turn.wait(first)
	a.turn.pass(first)
	for range 40 {
		f.next()
	}
}

// TestCloseUnderLoad closes with all queues at work.
func TestCloseUnderLoad(t *testing.T) {
	const queues = 4
	g := newGatewayWith(t, queues, 1500)
	f := newFarEnd(t)
	mustAdd(t, g, f.sa(g, 0x4001, 0))
	mustPolicy(t, g, outPolicy(netA, netB))
	f.deadline()
	room, stop := make(chan struct{}, inRoom), make(chan struct{})
	var wait sync.WaitGroup
	defer wait.Wait()
	defer close(stop)
	feed(g, queues, 3, 1<<20, room, stop, &wait)
	for range 1000 {
		f.next()
		<-room
	}
	closed := make(chan error)
	go func() { closed <- g.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the engine does not close")
	}
}

// TestQueuesAreBounded: while there are few interfaces each has several queues.
func TestQueuesAreBounded(t *testing.T) {
	queues := map[string]int{}
	g := newGatewayWith(t, 4, 1500)
	open := g.options.OpenTUN
	g.options.OpenTUN = func(name string, n, mtu int) (tun.Device, error) {
		queues[name] = n
		return open(name, n, mtu)
	}
	set := func(from, to int) (total int) {
		t.Helper()
		var list []ipsec.Interface
		for i := from; i < to; i++ {
			list = append(list, ipsec.Interface{IfID: uint32(i), Name: fmt.Sprint("if", i)})
		}
		if err := g.SetInterfaces(list); err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			total += queues[i.Name]
		}
		return total
	}
	const many = 100
	// Three of them are the shared interface's.
	if n := set(1, many+1); n != many+maxExtraQueues-3 || queues["if1"] != 4 || queues["if100"] != 1 {
		t.Errorf("%d queues for %d interfaces; the first has %d, the last %d", n, many, queues["if1"], queues["if100"])
	}
	if n := set(many+1, many+3); n != 8 {
		t.Errorf("%d queues for two interfaces in the place of many", n)
	}
}

// BenchmarkWorkers has queues seal for one tunnel at the same time.
func BenchmarkWorkers(b *testing.B) {
	cbc := ipsec.Encryption(ipsec.EncryptionAESCBC, 128)
	for _, workers := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("CBC/%d", workers), func(b *testing.B) {
			out, _, g := loops(b)
			sa, _ := oneWay(g, g, netA, netB, 0x1003)
			sa.Dst, sa.DstPort, sa.IfID = netip.MustParseAddr("127.77.255.254"), 9, 1
			sa.Encryption, sa.EncryptionKey = cbc, make([]byte, 16)
			sa.Integrity, sa.IntegrityKey = ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), make([]byte, 32)
			mustAdd(b, g, sa)
			frame := superPacket(60000, 1300)
			b.SetBytes(60000)
			var frames atomic.Int64
			var wait sync.WaitGroup
			b.ResetTimer()
			for range workers {
				o := newOutbound(g.Engine)
				o.d, o.counters = out.d, out.counters
				wait.Go(func() {
					for frames.Add(1) <= int64(b.N) {
						o.process(o.frames[:copy(o.frames, frame)])
						for o.seal() {
							o.sa.turn.wait(o.first) // sealed, not sent
							o.done()
						}
						o.flush()
					}
				})
			}
			wait.Wait()
			if drops := g.Drops(); len(drops) > 0 {
				b.Errorf("drops: %v", drops)
			}
		})
	}
}
