package sslvpn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vpngw/vpngw/fuzztest"
)

// tcpPair returns a link and the connection at its far end.
func tcpPair(t testing.TB, d *drops) (*tcpLink, *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	far, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l, err := newTCPLink(near.(*net.TCPConn), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close(); l.close() })
	return l, far.(*net.TCPConn)
}

func frameOf(packet []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
}

func readFrame(t testing.TB, r io.Reader) []byte {
	t.Helper()
	var head [frameLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		t.Fatal(err)
	}
	packet := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(r, packet); err != nil {
		t.Fatal(err)
	}
	return packet
}

// trainOf returns a train of DATA_V2 packets of n octets, each with a number.
func trainOf(first, count, n int) *train {
	t := newTrain()
	for i := range count {
		packet := make([]byte, n)
		packet[0] = opcodeDataV2 << 3
		binary.BigEndian.PutUint32(packet[4:], uint32(first+i))
		t.octets = append(t.octets, frameOf(packet)...)
		t.packets++
	}
	return t
}

// TestStreamInPieces: packets come out whole and in order, however the stream
// was cut.
func TestStreamInPieces(t *testing.T) {
	l, far := tcpPair(t, new(drops))
	random := rand.New(rand.NewPCG(5, 6))
	var want, stream []byte
	for i := range 3000 {
		packet := make([]byte, 1+random.IntN(maxFrame))
		packet[0] = byte(random.IntN(12))<<3 | byte(i&7)
		want = append(want, packet[0])
		stream = append(stream, frameOf(packet)...)
	}
	go func() {
		for at := 0; at < len(stream); {
			n := min(len(stream)-at, 1+random.IntN(5000))
			if random.IntN(4) == 0 {
				n = 1
			}
			if _, err := far.Write(stream[at : at+n]); err != nil {
				return
			}
			at += n
		}
		far.CloseWrite()
	}()
	var got []byte
	err := l.run(func(packet []byte) error {
		if op := packet[0] >> 3; op == opcodeDataV1 || op == opcodeDataV2 {
			t.Error("a data packet among control packets")
		}
		got = append(got, packet[0])
		return nil
	}, func(packets [][]byte) error {
		for _, packet := range packets {
			if op := packet[0] >> 3; op != opcodeDataV1 && op != opcodeDataV2 {
				t.Errorf("opcode %d among data packets", op)
			}
			if cap(packet)-len(packet) < tagLen {
				t.Error("no room for a tag")
			}
			got = append(got, packet[0])
		}
		return nil
	})
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d packets, want %d", len(got), len(want))
	}
}

// TestGather: what is less than a reader waits for comes all the same, and a
// dialogue ends the waiting.
func TestGather(t *testing.T) {
	// A kernel that is short of memory for sockets wakes a reader for less than it
	// waits for, and a wait that was cut short says nothing about the stream.
	for range 10 {
		if !gathersDialogue(t) {
			return
		}
	}
	t.Error("a dialogue is still gathered")
}

// gathersDialogue has a reader that waits for much get little, again and again. It
// reports whether the reader still waits in the end.
func gathersDialogue(t *testing.T) bool {
	l, far := tcpPair(t, new(drops))
	l.reader.gather.turn(true)
	got := make(chan int, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- l.run(func(packet []byte) error { got <- len(packet); return nil }, func(packets [][]byte) error { return nil })
	}()
	for n := 1; n <= maxFrame; n += 97 {
		// Control packets, of which each read is one.
		packet := make([]byte, n)
		packet[0] = 0x20
		if _, err := far.Write(frameOf(packet)); err != nil {
			t.Fatal(err)
		}
		select {
		case length := <-got:
			if length != n {
				t.Fatalf("%d octets, want %d", length, n)
			}
		case <-time.After(time.Minute):
			t.Fatalf("a frame of %d octets did not come", n)
		}
	}
	far.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	return l.reader.gather.on
}

// TestGatherGoesOn: what the time alone has brought has to be worth waiting for.
func TestGatherGoesOn(t *testing.T) {
	l, _ := tcpPair(t, new(drops))
	over := -1 // the time is over
	for _, tt := range []struct {
		name string
		then []int // octets read, or over
		want bool
	}{
		{"enough in time", []int{gatherOctets, gatherOctets, gatherLeast}, true},
		{"many packets late", []int{over, gatherWorth, over, gatherWorth}, true},
		{"one packet late", []int{gatherOctets, over, gatherLeast}, false},
		{"nothing once", []int{over}, true},
		{"nothing twice", []int{over, over}, false},
	} {
		g := gather{socket: l.socket}
		g.turn(true)
		for _, n := range tt.then {
			if n == over {
				g.over()
			} else {
				g.after(n, time.Now)
			}
		}
		if g.on != tt.want {
			t.Errorf("%s: %v", tt.name, g.on)
		}
	}
}

func TestGatherBegins(t *testing.T) {
	l, _ := tcpPair(t, new(drops))
	for _, tt := range []struct {
		name  string
		sizes []int
		every time.Duration
		want  bool
	}{
		{"full packets", slices.Repeat([]int{1450}, gatherReads), gatherWithin / gatherReads, true},
		{"slow packets", slices.Repeat([]int{1450}, 10*gatherReads), 2 * gatherWithin / gatherReads, false},
		{"acknowledgements", slices.Repeat([]int{94}, 10*gatherReads), 0, false},
		{"many packets a read", slices.Repeat([]int{40000}, 10*gatherReads), 0, false},
		{"of all kinds", slices.Repeat([]int{1450, 1450, 1450, 94}, 10*gatherReads), 0, false},
	} {
		g, now := gather{socket: l.socket}, time.Unix(0, 0)
		for _, n := range tt.sizes {
			g.after(n, func() time.Time { now = now.Add(tt.every); return now })
		}
		if g.on != tt.want {
			t.Errorf("%s: %v", tt.name, g.on)
		}
	}
}

func TestStreamsThatAreWrong(t *testing.T) {
	failure := errors.New("failure")
	for _, tt := range []struct {
		name    string
		stream  []byte
		control error
		want    error
	}{
		{"no length", []byte{0, 0, 1}, nil, errFrameLength},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), nil, errFrameLength},
		{"too long", frameOf(make([]byte, maxFrame+1)), nil, errFrameLength},
		{"cut short", frameOf([]byte{0x38, 1, 2})[:4], nil, io.ErrUnexpectedEOF},
		{"half a length", []byte{0}, nil, io.ErrUnexpectedEOF},
		{"nothing", nil, nil, io.EOF},
		{"a handler that fails", frameOf([]byte{0x38, 1, 2}), failure, failure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, far := tcpPair(t, new(drops))
			if _, err := far.Write(tt.stream); err != nil {
				t.Fatal(err)
			}
			far.CloseWrite()
			err := l.run(func([]byte) error { return tt.control }, func([][]byte) error { return nil })
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestReadDeadline(t *testing.T) {
	l, _ := tcpPair(t, new(drops))
	if err := l.conn.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	err := l.run(func([]byte) error { return nil }, func([][]byte) error { return nil })
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// TestSlowClient sends more than anybody takes: the queue fills up and no
// caller waits. Then all that was queued arrives in order, and a control
// packet before most of the data.
func TestSlowClient(t *testing.T) {
	l, far := tcpPair(t, new(drops))
	sent := 0
	for !l.full() {
		l.sendData(trainOf(sent, 40, 1400))
		l.flush()
		if sent += 40; sent > 1e6 {
			t.Fatal("the queue does not fill up")
		}
	}
	if err := l.sendControl([]byte{0x20, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	next, behind := 0, -1
	for next < sent || behind < 0 {
		packet := readFrame(t, far)
		if packet[0] == 0x20 {
			behind = sent - next
			continue
		}
		if n := int(binary.BigEndian.Uint32(packet[4:])); n != next {
			t.Fatalf("packet %d, want %d", n, next)
		}
		next++
	}
	if behind < queueSmall/1400/2 {
		t.Errorf("the control packet came before %d of %d packets", behind, sent)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.octets != 0 || len(l.waiting) != 0 {
		t.Errorf("%d octets are left in %d trains", l.octets, len(l.waiting))
	}
}

func TestSmallTrainsJoin(t *testing.T) {
	l, far := tcpPair(t, new(drops))
	for i := range 200 {
		l.sendData(trainOf(i, 1, 100))
	}
	if len(l.waiting) != 1 {
		t.Errorf("%d trains", len(l.waiting))
	}
	l.flush()
	for i := range 200 {
		if n := binary.BigEndian.Uint32(readFrame(t, far)[4:]); int(n) != i {
			t.Fatalf("packet %d, want %d", n, i)
		}
	}
}

func TestControlPacketsAreBounded(t *testing.T) {
	l, _ := tcpPair(t, new(drops))
	for !l.full() {
		l.sendData(trainOf(0, 40, 1400))
		l.flush()
	}
	var err error
	for range 2 * controlLimit / 1000 {
		if err = l.sendControl(make([]byte, 1000)); err != nil {
			break
		}
	}
	if !errors.Is(err, errControlQueue) {
		t.Errorf("%v", err)
	}
	for _, n := range []int{0, maxFrame + 1} {
		if err := l.sendControl(make([]byte, n)); !errors.Is(err, errFrameLength) {
			t.Errorf("%d octets: %v", n, err)
		}
	}
}

func TestLinkAfterItsEnd(t *testing.T) {
	var d drops
	l, far := tcpPair(t, &d)
	for !l.full() {
		l.sendData(trainOf(0, 40, 1400))
		l.flush()
	}
	l.sendData(trainOf(0, 40, 1400))
	far.Close()
	l.close()
	lost := d.snapshot()["send"]
	if lost < 40 {
		t.Errorf("%d packets counted", lost)
	}
	l.sendData(trainOf(0, 7, 1400))
	l.flush()
	if got := d.snapshot()["send"]; got != lost+7 {
		t.Errorf("%d packets counted, want %d", got, lost+7)
	}
	if err := l.sendControl([]byte{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	l.close()
}

// TestFinish: what was queued arrives before the end of the stream, though
// something was never read.
func TestFinish(t *testing.T) {
	l, far := tcpPair(t, new(drops))
	sent := 0
	for !l.full() {
		l.sendData(trainOf(sent, 40, 1400))
		l.flush()
		sent += 40
	}
	if _, err := far.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := l.sendControl([]byte{0x20}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { l.finish(time.Minute); close(done) }()
	data := 0
	for range sent + 1 {
		if readFrame(t, far)[0] != 0x20 {
			data++
		}
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || data != sent {
		t.Errorf("%d of %d packets, then %v", data, sent, err)
	}
	far.Close()
	<-done
}

func TestFinishGivesUp(t *testing.T) {
	l, _ := tcpPair(t, new(drops))
	for !l.full() {
		l.sendData(trainOf(0, 40, 1400))
		l.flush()
	}
	l.finish(time.Millisecond) // returns
	if err := l.sendControl([]byte{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// TestFinishInSpiteOfTheReader: a client that is silent and does not hang up is
// closed in time, though the reader changes the deadlines of its reads.
func TestFinishInSpiteOfTheReader(t *testing.T) {
	l, _ := tcpPair(t, new(drops))
	done := make(chan struct{})
	go func() { l.finish(50 * time.Millisecond); close(done) }()
	for end := time.Now().Add(20 * time.Second); ; {
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond):
			l.reader.gather.turn(false)
		}
		if time.Now().After(end) {
			t.Fatal("the connection stays")
		}
	}
}

// TestStuckClient: one that never reads loses its connection.
func TestStuckClient(t *testing.T) {
	l, _ := tcpPair(t, new(drops))
	l.stuck = 10 * time.Millisecond
	wait(t, "the link to give up", func() bool {
		l.sendData(trainOf(0, 40, 1400))
		l.flush()
		return errors.Is(l.sendControl([]byte{0x20}), net.ErrClosed)
	})
}

// TestManySenders uses a link from several goroutines, each with a client's
// order of its own.
func TestManySenders(t *testing.T) {
	l, far := tcpPair(t, new(drops))
	const senders, each = 4, 500
	for s := range senders {
		go func() {
			for i := range each {
				packet := []byte{0x20, byte(s), byte(i >> 8), byte(i)}
				for l.sendControl(packet) != nil {
					time.Sleep(time.Millisecond)
				}
			}
		}()
	}
	var next [senders]int
	for range senders * each {
		packet := readFrame(t, far)
		s, i := packet[1], int(packet[2])<<8|int(packet[3])
		if next[s] != i {
			t.Fatalf("sender %d: packet %d, want %d", s, i, next[s])
		}
		next[s]++
	}
}

// FuzzStream cuts a stream of frames anywhere: what comes out is what a simple
// reading of it gives.
func FuzzStream(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(append(frameOf([]byte{0x48, 1}), frameOf([]byte{0x20, 2, 3})...), uint16(3))
	target.Add([]byte{0, 0}, uint16(0))
	target.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(1))
	target.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		if len(stream) > readRoom-maxFrame {
			return
		}
		var want [][]byte
		rest := stream
		var bad bool
		for len(rest) >= frameLen {
			n := int(binary.BigEndian.Uint16(rest))
			if bad = n == 0 || n > maxFrame; bad || len(rest) < frameLen+n {
				break
			}
			want = append(want, rest[frameLen:frameLen+n])
			rest = rest[frameLen+n:]
		}
		var got [][]byte
		r := reader{buf: readBuffers.Get().(*readBuffer)}
		var err error
		take := func(piece []byte) {
			if err != nil {
				return
			}
			n := copy(r.buf.octets, r.begun)
			n += copy(r.buf.octets[n:], piece)
			err = r.split(r.buf.octets[:n],
				func(packet []byte) error { got = append(got, bytes.Clone(packet)); return nil },
				func(packets [][]byte) error {
					for _, packet := range packets {
						got = append(got, bytes.Clone(packet))
					}
					return nil
				})
		}
		at := min(int(cut), len(stream))
		take(stream[:at])
		take(stream[at:])
		if (err != nil) != bad {
			t.Fatalf("%v, but the stream is bad: %v", err, bad)
		}
		if len(got) != len(want) {
			t.Fatalf("%d packets, want %d", len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("packet %d: %x, want %x", i, got[i], want[i])
			}
		}
		if err == nil && !bytes.Equal(r.begun, rest) {
			t.Fatalf("kept %x, want %x", r.begun, rest)
		}
	})
}
