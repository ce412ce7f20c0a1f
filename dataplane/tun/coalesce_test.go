package tun

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

// recorder is a Writer that keeps the frames.
type recorder struct {
	frames [][]byte
	noUSO  bool
	err    error
}

func (r *recorder) USO() bool { return !r.noUSO }

func (r *recorder) Write(_ uint32, frame [][]byte) error {
	if r.err != nil {
		return r.err
	}
	r.frames = append(r.frames, bytes.Join(frame, nil))
	return nil
}

func coalesce(t testing.TB, r *recorder, packets ...[]byte) {
	t.Helper()
	c := NewCoalescer(r)
	for _, p := range packets {
		if _, err := c.Add(bytes.Clone(p)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// train returns n packets of a TCP flow that follow one another.
func train(s spec, n, size int) [][]byte {
	var all [][]byte
	data := counting(n * size)
	for i := range n {
		s.payload = data[i*size : (i+1)*size]
		all = append(all, s.build())
		s.seq += uint32(size)
		s.id++
	}
	return all
}

func udpTrain(s spec, n, size int) [][]byte {
	s.protocol = protocolUDP
	var all [][]byte
	for i := range n {
		s.payload = append([]byte{byte(i)}, counting(size-1)...)
		all = append(all, s.build())
		s.id++
	}
	return all
}

// TestCoalesceRoundTrip joins packets and cuts the result: the same packets in
// the same order must come out.
func TestCoalesceRoundTrip(t *testing.T) {
	tcp := spec{protocol: protocolTCP, sport: 5000, seq: 0xfffffff0, ack: 3, flags: tcpACK, id: 0xfff0}
	tcp6 := tcp
	tcp6.v6 = true
	last := spec{protocol: protocolTCP, sport: 5000, seq: 3000 - 16, ack: 3, flags: tcpACK | tcpPSH, id: 0xfff3, payload: counting(12)}
	tests := []struct {
		name    string
		packets [][]byte
		frames  int
	}{
		{"TCP", train(tcp, 20, 1000), 1},
		{"TCP over IPv6", train(tcp6, 20, 1000), 1},
		{"more than 64 KB", train(tcp, 100, 1000), 2},
		{"a shorter last one with PSH", append(train(tcp, 3, 1000), last.build()), 1},
		{"UDP", udpTrain(tcp, 64, 500), 1},
		{"UDP over IPv6", udpTrain(tcp6, 64, 500), 1},
		{"more UDP than the kernel cuts", udpTrain(tcp, 65, 100), 2},
		{"one packet", train(tcp, 1, 1000), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r recorder
			coalesce(t, &r, tt.packets...)
			if len(r.frames) != tt.frames {
				t.Errorf("%d frames, want %d", len(r.frames), tt.frames)
			}
			var got [][]byte
			for _, f := range r.frames {
				got = append(got, segmentsOf(t, f)...)
			}
			if len(got) != len(tt.packets) {
				t.Fatalf("%d packets came out, want %d", len(got), len(tt.packets))
			}
			for i := range got {
				if !bytes.Equal(got[i], tt.packets[i]) {
					t.Fatalf("packet %d:\n got %x\nwant %x", i, got[i][:60], tt.packets[i][:60])
				}
			}
		})
	}
}

// TestCoalesceApart has pairs of packets that must not be joined.
func TestCoalesceApart(t *testing.T) {
	first := spec{protocol: protocolTCP, sport: 5000, seq: 100, ack: 3, flags: tcpACK, id: 7, payload: counting(500)}
	second := first
	second.seq, second.id = 600, 8
	change := func(f func(s *spec)) []byte {
		s := second
		f(&s)
		return s.build()
	}
	broken := func(p []byte, at int) []byte {
		p = bytes.Clone(p)
		p[at] ^= 1
		return p
	}
	// The AE flag of accurate ECN (RFC 9768) lies in the octet of the data offset.
	accurate := second.build()
	accurate[20+12] |= 1
	accurate[20+16], accurate[20+17] = 0, 0
	f, _ := parseFlow(accurate)
	putChecksum(accurate[20+16:], addSum(pseudoSum(f.addresses(), protocolTCP)+native(uint16(len(accurate)-20)), accurate[20:]))
	udp := first
	udp.protocol = protocolUDP
	noSum := bytes.Clone(udp.build())
	noSum[26], noSum[27] = 0, 0
	fragment := first
	fragment.protocol, fragment.noDF = protocolUDP, true
	piece := fragment.build()
	piece[6] |= 0x20
	tests := []struct {
		name string
		pair [2][]byte
	}{
		{"a gap", [2][]byte{first.build(), change(func(s *spec) { s.seq++ })}},
		{"again", [2][]byte{first.build(), first.build()}},
		{"another port", [2][]byte{first.build(), change(func(s *spec) { s.sport++ })}},
		{"another acknowledgement", [2][]byte{first.build(), change(func(s *spec) { s.ack++ })}},
		{"longer", [2][]byte{first.build(), change(func(s *spec) { s.payload = counting(501) })}},
		{"SYN", [2][]byte{first.build(), change(func(s *spec) { s.flags |= 2 })}},
		{"FIN", [2][]byte{first.build(), change(func(s *spec) { s.flags |= tcpFIN })}},
		{"ECE", [2][]byte{first.build(), change(func(s *spec) { s.flags |= 0x40 })}},
		{"accurate ECN", [2][]byte{first.build(), accurate}},
		{"no payload", [2][]byte{first.build(), change(func(s *spec) { s.payload = nil })}},
		{"congestion mark", [2][]byte{first.build(), change(func(s *spec) { s.tos = 3 })}},
		{"time to live", [2][]byte{first.build(), change(func(s *spec) { s.ttl = 9 })}},
		{"may be fragmented", [2][]byte{first.build(), change(func(s *spec) { s.noDF = true })}},
		{"options", [2][]byte{first.build(), change(func(s *spec) { s.options = []byte{1, 1, 1, 1} })}},
		{"broken payload in the first", [2][]byte{broken(first.build(), 300), second.build()}},
		{"broken payload in the second", [2][]byte{first.build(), broken(second.build(), 300)}},
		{"broken IP header in the second", [2][]byte{first.build(), broken(second.build(), 11)}},
		{"after PSH", [2][]byte{func() []byte { s := first; s.flags |= tcpPSH; return s.build() }(), second.build()}},
		{"UDP without checksum", [2][]byte{noSum, noSum}},
		{"fragments", [2][]byte{piece, piece}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r recorder
			coalesce(t, &r, tt.pair[0], tt.pair[1])
			if len(r.frames) != 2 {
				t.Fatalf("%d frames, want 2", len(r.frames))
			}
			for i, f := range r.frames {
				at := bytes.Equal(f[HeaderLen:], tt.pair[i])
				// Packets of different flows may change places.
				if !at && tt.name != "another port" {
					t.Errorf("packet %d changed or moved: %x", i, f[:50])
				}
			}
		})
	}
}

// TestCoalesceKeepsOrder mixes more flows than there are groups.
func TestCoalesceKeepsOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const flows = 13
	var queues [flows][][]byte
	for i := range queues {
		s := spec{protocol: protocolTCP, sport: uint16(1000 + i), seq: uint32(i), flags: tcpACK, v6: i%2 == 0}
		if i%3 == 0 {
			queues[i] = udpTrain(s, 40, 90)
		} else {
			queues[i] = train(s, 40, 90)
		}
	}
	var mixed [][]byte
	var at [flows]int
	for len(mixed) < flows*40 {
		i := random.IntN(flows)
		for range random.IntN(4) {
			if at[i] < 40 {
				mixed = append(mixed, queues[i][at[i]])
				at[i]++
			}
		}
	}
	var r recorder
	coalesce(t, &r, mixed...)
	if len(r.frames) >= len(mixed) {
		t.Error("nothing was joined")
	}
	var got [flows][][]byte
	for _, f := range r.frames {
		for _, p := range segmentsOf(t, f) {
			fl, ok := parseFlow(p)
			if !ok {
				t.Fatal("a packet that is none")
			}
			port := int(p[fl.transport])<<8 | int(p[fl.transport+1])
			got[port-1000] = append(got[port-1000], p)
		}
	}
	for i := range got {
		for j := range max(len(got[i]), len(queues[i])) {
			if j >= len(got[i]) || j >= len(queues[i]) || !bytes.Equal(got[i][j], queues[i][j]) {
				t.Fatalf("flow %d differs from packet %d on", i, j)
			}
		}
	}
}

func TestCoalesceWithoutUSO(t *testing.T) {
	r := recorder{noUSO: true}
	packets := udpTrain(spec{}, 5, 100)
	coalesce(t, &r, packets...)
	if len(r.frames) != len(packets) {
		t.Errorf("%d frames, want %d", len(r.frames), len(packets))
	}
}

func TestCoalesceCountsLosses(t *testing.T) {
	r := recorder{err: errors.New("refused")}
	c := NewCoalescer(&r)
	for _, p := range train(spec{protocol: protocolTCP, flags: tcpACK}, 5, 100) {
		if n, err := c.Add(p); n != 0 || err != nil {
			t.Fatalf("lost %d early: %v", n, err)
		}
	}
	if n, err := c.Flush(); n != 5 || err == nil {
		t.Errorf("lost %d, %v, want 5 and an error", n, err)
	}
}

func FuzzCoalesce(f *testing.F) {
	target := fuzztest.New(f)
	a := train(spec{protocol: protocolTCP, flags: tcpACK}, 2, 100)
	target.Add(a[0], a[1])
	b := udpTrain(spec{v6: true}, 2, 100)
	target.Add(b[0], b[1])
	target.Fuzz(func(t *testing.T, x, y []byte) {
		if len(x) > 9000 || len(y) > 9000 {
			return
		}
		var r recorder
		coalesce(t, &r, x, y)
		if len(r.frames) == 2 {
			return
		}
		got := segmentsOf(t, r.frames[0])
		if len(got) != 2 {
			t.Fatalf("%d packets from two that were joined", len(got))
		}
	})
}

type discard struct{}

func (discard) USO() bool                    { return true }
func (discard) Write(uint32, [][]byte) error { return nil }

func TestCoalesceAllocatesNothing(t *testing.T) {
	packets := append(train(spec{protocol: protocolTCP, flags: tcpACK}, 40, 1400), udpTrain(spec{sport: 9}, 20, 64)...)
	work := make([][]byte, len(packets))
	for i := range work {
		work[i] = bytes.Clone(packets[i])
	}
	c := NewCoalescer(discard{})
	if n := testing.AllocsPerRun(50, func() {
		for i, p := range packets {
			copy(work[i], p)
			if _, err := c.Add(work[i]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a batch", n)
	}
}

func BenchmarkCoalesce(b *testing.B) {
	packets := train(spec{protocol: protocolTCP, flags: tcpACK}, 40, 1400)
	work := make([][]byte, len(packets))
	for i := range work {
		work[i] = bytes.Clone(packets[i])
	}
	c := NewCoalescer(discard{})
	b.SetBytes(40 * 1400)
	b.ReportAllocs()
	for b.Loop() {
		for i, p := range packets {
			copy(work[i][:60], p)
			if _, err := c.Add(work[i]); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := c.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}
