package sslvpn

import (
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
)

type discardLink struct{ packets int }

func (l *discardLink) sendControl([]byte) error { return nil }
func (l *discardLink) framed() bool             { return true }
func (l *discardLink) maxSegment() uint16       { return 0 }
func (l *discardLink) full() bool               { return false }
func (l *discardLink) flush()                   {}
func (l *discardLink) sendData(t *train)        { l.packets += t.packets; t.release() }

type discardWriter struct{}

func (discardWriter) Write(uint32, [][]byte) error { return nil }
func (discardWriter) USO() bool                    { return true }

// BenchmarkToClient seals super-packets of 60,000 octets.
func BenchmarkToClient(b *testing.B) {
	p, _ := newTestPlane(b, planeOptions{})
	c := p.testPeer(b, "10.8.0.5", "10.1.0.0/16")
	c.client.link = &discardLink{}
	o := newOutbound(p)
	frame := superPacket(host, "10.8.0.5", 60000, 1400)
	work := make([]byte, len(frame))
	b.SetBytes(60000)
	b.ReportAllocs()
	for b.Loop() {
		copy(work, frame)
		o.process(work)
		o.touched = append(o.touched, c.client)
		o.flush()
	}
}

// BenchmarkFromClient opens and joins 43 packets of 1,400 octets.
func BenchmarkFromClient(b *testing.B) {
	p, _ := newTestPlane(b, planeOptions{})
	c := p.testPeer(b, "10.8.0.5", "10.1.0.0/16")
	in := newInbound(p)
	in.joiner = tun.NewCoalescer(discardWriter{})
	p.inbounds.New = func() any { return in }
	var packets [][]byte
	for range 43 {
		packets = append(packets, mustSeal(b, c.key, ipUDP("10.8.0.5", host, 1372)))
	}
	room := make([][]byte, len(packets))
	for i := range room {
		room[i] = make([]byte, len(packets[i]), 1500)
	}
	b.SetBytes(43 * 1400)
	b.ReportAllocs()
	for b.Loop() {
		for i := range room {
			copy(room[i], packets[i])
		}
		c.keys[0].window = replayWindow{}
		if c.receive(room) != len(room) {
			b.Fatal(p.drops.snapshot())
		}
	}
}
