package dataplane

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// judge is a Device whose kernel side is a test.
type judge struct {
	*tun.Channel
	written func(frame []byte)
}

func (j judge) NewWriter() tun.Writer { return judgeWriter{j} }

type judgeWriter struct{ judge }

func (judgeWriter) USO() bool { return true }

func (w judgeWriter) Write(_ uint32, frame [][]byte) error {
	w.written(bytes.Join(frame, nil))
	return nil
}

// FuzzReceiveESP takes what an authenticated peer may put into a tunnel, and what
// anybody may send to it, the whole way in. Whatever comes out is an IP packet
// between the addresses that the SA is for; a packet that was tampered with never
// does.
func FuzzReceiveESP(f *testing.F) {
	target := fuzztest.New(f)
	var frames [][]byte
	engine, err := New(Options{
		Mux: udp.New(udp.Options{}), // without sockets, which the processes of a fuzz run would share
		OpenTUN: func(name string, queues, _ int) (tun.Device, error) {
			return judge{tun.NewChannel(name, queues, 1), func(frame []byte) { frames = append(frames, frame) }}, nil
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { engine.Close() })
	g := &gateway{Engine: engine, outer: netip.MustParseAddrPort("127.77.0.1:4500")}
	if err := g.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "judge"}}); err != nil {
		f.Fatal(err)
	}
	outSA, inSA := oneWay(g, g, netB, netA, 0x1001)
	inSA.IfID = 1
	mustAdd(f, g, inSA)
	out, err := esp.NewOutbound(&outSA)
	if err != nil {
		f.Fatal(err)
	}
	sealer, in := out.NewSealer(), g.newInbound()

	good := udpPacket("10.2.0.9", "10.1.0.7", []byte("payload"))
	first, later := bytes.Clone(good), bytes.Clone(good)
	first[6], later[7] = 0x20, 0x10
	for _, inner := range [][]byte{
		good, first, later, good[:20], good[:19],
		{},
		udpPacket("10.3.0.9", "10.1.0.7", nil),
		superPacket(100, 50)[tun.HeaderLen:], append(bytes.Clone(good), make([]byte, 50)...),
		{0x60, 59: 0},
	} {
		target.Add(inner, uint8(protocolIPv4), uint8(0), uint32(0), uint8(0))
		target.Add(inner, uint8(protocolIPv6), uint8(3), uint32(0), uint8(0))
		target.Add(inner, uint8(59), uint8(1), uint32(9), uint8(1))
	}
	target.Fuzz(func(t *testing.T, inner []byte, next, tos uint8, at uint32, flip uint8) {
		if len(inner) > 9000 {
			return
		}
		sealed, err := sealer.Seal(nil, append(make([]byte, 0, len(inner)+esp.MaxTrailer), inner...), next)
		if err != nil {
			t.Fatal(err)
		}
		sealed[int(at)%len(sealed)] ^= flip
		if flip != 0 && at%7 == 0 {
			sealed = sealed[:int(at)%(len(sealed)+1)]
		}
		if len(sealed) < 8 {
			return // the sockets hand on no less
		}
		frames = frames[:0]
		in.ReceiveESP(&udp.Origin{Local: g.outer, Remote: g.outer, Encap: true, TOS: tos}, sealed)
		in.FlushESP()
		if flip != 0 && len(frames) > 0 {
			t.Fatalf("a packet that was tampered with came out: %x", frames)
		}
		for _, frame := range frames {
			packet := frame[tun.HeaderLen:]
			var h header
			if !h.parse(packet) || h.length != len(packet) {
				t.Fatalf("no IP packet came out: %x", packet)
			}
			if !netB.Contains(h.source()) || !netA.Contains(h.destination()) {
				t.Fatalf("a packet from %s to %s came out", h.source(), h.destination())
			}
		}
	})
}
