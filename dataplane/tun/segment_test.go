package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

func TestChecksumAgainstSlow(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		if n%3 == 0 {
			for i := range b {
				b[i] = 0xff
			}
		}
		var got [2]byte
		putChecksum(got[:], addSum(0, b))
		if want := slowSum(b); binary.BigEndian.Uint16(got[:]) != want {
			t.Fatalf("%d octets: %x, want %x", n, got, want)
		}
	}
}

// segmentsOf cuts a frame and copies the packets.
func segmentsOf(t testing.TB, frame []byte) [][]byte {
	t.Helper()
	var s Segments
	if err := s.Reset(frame); err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	packets, octets := s.Left()
	for p := s.Next(); p != nil; p = s.Next() {
		all = append(all, bytes.Clone(p))
		packets--
		octets -= len(p)
		if n, o := s.Left(); n != packets || o != octets {
			t.Fatalf("%d packets of %d octets left, want %d of %d", n, o, packets, octets)
		}
	}
	if s.Next() != nil || packets != 0 || octets != 0 {
		t.Fatal("a packet after the last")
	}
	return all
}

func TestSegmentsOfSuperPacket(t *testing.T) {
	timestamps := []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	for _, v6 := range []bool{false, true} {
		for _, n := range []int{1000, 1001, 2000, 4999, 60000} {
			t.Run(fmt.Sprintf("tcp/v6=%t/%d", v6, n), func(t *testing.T) {
				const size = 1000
				whole := spec{
					v6: v6, protocol: protocolTCP, sport: 5000, seq: 0xffffff00, ack: 7, options: timestamps,
					flags: tcpACK | tcpPSH | tcpFIN | tcpCWR, id: 0xfffe, payload: counting(n),
				}
				got := segmentsOf(t, whole.super(size))
				if want := (n + size - 1) / size; len(got) != want {
					t.Fatalf("%d packets, want %d", len(got), want)
				}
				for i, p := range got {
					want := whole
					want.seq += uint32(i * size)
					want.id += uint16(i)
					want.payload = whole.payload[i*size : min(n, (i+1)*size)]
					want.flags = tcpACK
					if i == 0 {
						want.flags |= tcpCWR
					}
					if i == len(got)-1 {
						want.flags |= tcpPSH | tcpFIN
					}
					if !bytes.Equal(p, want.build()) {
						t.Fatalf("packet %d:\n got %x\nwant %x", i, p[:60], want.build()[:60])
					}
				}
			})
			t.Run(fmt.Sprintf("udp/v6=%t/%d", v6, n), func(t *testing.T) {
				const size = 1000
				whole := spec{v6: v6, protocol: protocolUDP, sport: 5000, id: 9, payload: counting(n)}
				for i, p := range segmentsOf(t, whole.super(size)) {
					want := whole
					want.id += uint16(i)
					want.payload = whole.payload[i*size : min(n, (i+1)*size)]
					if !bytes.Equal(p, want.build()) {
						t.Fatalf("packet %d:\n got %x\nwant %x", i, p[:60], want.build()[:60])
					}
				}
			})
		}
	}
}

func TestSegmentsOfPlainPacket(t *testing.T) {
	for _, s := range []spec{
		{protocol: protocolTCP, sport: 1, flags: tcpACK, payload: counting(99)},
		{protocol: protocolUDP, sport: 1, payload: counting(5)},
		{v6: true, protocol: protocolUDP, sport: 1, payload: counting(64)},
	} {
		frame := append(make([]byte, HeaderLen), s.build()...)
		if got := segmentsOf(t, frame); len(got) != 1 || !bytes.Equal(got[0], s.build()) {
			t.Errorf("%+v: not passed on as it is", s)
		}
		// The kernel leaves the checksum to us.
		partial := s.super(0)
		h := parseVirtio(partial)
		h.gsoType, h.gsoSize = gsoNone, 0
		h.put(partial)
		if got := segmentsOf(t, partial); len(got) != 1 || !bytes.Equal(got[0], s.build()) {
			t.Errorf("%+v: checksum not completed", s)
		}
	}
}

func TestSegmentsRefuse(t *testing.T) {
	tcp := spec{protocol: protocolTCP, flags: tcpACK, payload: counting(3000)}
	change := func(f func(h *virtioHeader)) []byte {
		frame := tcp.super(1000)
		h := parseVirtio(frame)
		f(&h)
		h.put(frame)
		return frame
	}
	tests := []struct {
		name  string
		frame []byte
	}{
		{"empty", nil},
		{"header only", make([]byte, HeaderLen)},
		{"no IP", append(make([]byte, HeaderLen), counting(40)...)},
		{"cut IPv6", append(make([]byte, HeaderLen), append([]byte{0x60}, make([]byte, 30)...)...)},
		{"size zero", change(func(h *virtioHeader) { h.gsoSize = 0 })},
		{"unknown type", change(func(h *virtioHeader) { h.gsoType = 3 })},
		{"IPv6 type on IPv4", change(func(h *virtioHeader) { h.gsoType = gsoTCPv6 })},
		{"no checksum offload", change(func(h *virtioHeader) { h.flags = 0 })},
		{"transport inside IP", change(func(h *virtioHeader) { h.csumStart = 19 })},
		{"transport behind the end", change(func(h *virtioHeader) { h.csumStart = 9000 })},
		{"TCP cut", change(func(h *virtioHeader) { h.csumStart = 3020 })},
		{"checksum behind the end", change(func(h *virtioHeader) { h.gsoType, h.csumStart = gsoNone, 3039; h.csumOffset = 50 })},
		{"checksum inside IP", change(func(h *virtioHeader) { h.gsoType, h.csumStart = gsoNone, 4 })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Segments
			if err := s.Reset(tt.frame); !errors.Is(err, ErrFrame) {
				t.Errorf("got %v, want ErrFrame", err)
			}
			if s.Next() != nil {
				t.Error("a packet in spite of the error")
			}
		})
	}
}

func FuzzSegments(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(spec{protocol: protocolTCP, flags: tcpACK, payload: counting(3000)}.super(1000))
	target.Add(spec{v6: true, protocol: protocolUDP, payload: counting(500)}.super(100))
	target.Add(append(make([]byte, HeaderLen), spec{protocol: protocolUDP}.build()...))
	target.Fuzz(func(t *testing.T, frame []byte) {
		var s Segments
		if s.Reset(bytes.Clone(frame)) != nil {
			return
		}
		total := 0
		for p := s.Next(); p != nil; p = s.Next() {
			total += len(p)
			if len(p) < 20 || len(p) > len(frame) {
				t.Fatalf("packet of %d octets from a frame of %d", len(p), len(frame))
			}
		}
		if total < len(frame)-HeaderLen {
			t.Fatalf("%d octets of packets from a frame of %d", total, len(frame))
		}
	})
}

func TestSegmentsAllocateNothing(t *testing.T) {
	frame := spec{protocol: protocolTCP, flags: tcpACK, payload: counting(60000)}.super(1400)
	work := make([]byte, len(frame))
	var s Segments
	if n := testing.AllocsPerRun(50, func() {
		copy(work, frame)
		if err := s.Reset(work); err != nil {
			t.Fatal(err)
		}
		for p := s.Next(); p != nil; p = s.Next() {
		}
	}); n != 0 {
		t.Errorf("%v allocations for a frame", n)
	}
}

func BenchmarkSegments(b *testing.B) {
	frame := spec{protocol: protocolTCP, flags: tcpACK, payload: counting(60000)}.super(1400)
	work := make([]byte, len(frame))
	var s Segments
	b.SetBytes(60000)
	b.ReportAllocs()
	for b.Loop() {
		copy(work, frame)
		if err := s.Reset(work); err != nil {
			b.Fatal(err)
		}
		for p := s.Next(); p != nil; p = s.Next() {
		}
	}
}
