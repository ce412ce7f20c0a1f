package tun

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

var plainFlow = spec{protocol: protocolTCP, seq: 1000, ack: 7, flags: tcpACK, id: 9, ttl: 64}

// pipeFile is a device file of which each read and write is one packet.
type pipeFile struct {
	in     chan []byte
	out    [][]byte
	closed chan struct{}
}

func (f *pipeFile) Read(b []byte) (int, error) {
	select {
	case p := <-f.in:
		if p == nil {
			return 0, io.ErrUnexpectedEOF
		}
		return copy(b, p), nil
	case <-f.closed:
		return 0, os.ErrClosed
	}
}

func (f *pipeFile) Write(b []byte) (int, error) {
	select {
	case <-f.closed:
		return 0, os.ErrClosed
	default:
		f.out = append(f.out, bytes.Clone(b))
		return len(b), nil
	}
}

func (f *pipeFile) Close() error {
	close(f.closed)
	return nil
}

func newPipe() (*plainDevice, *pipeFile) {
	f := &pipeFile{in: make(chan []byte, 4), closed: make(chan struct{})}
	return newPlainDevice("plain0", f), f
}

func TestPlainQueue(t *testing.T) {
	d, f := newPipe()
	q := d.Queues()[0]
	buf := bytes.Repeat([]byte{0xff}, HeaderLen+MaxPacket)
	if _, err := q.Read(buf); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("nothing waits: %v", err)
	}
	packet := train(plainFlow, 1, 1000)[0]
	f.in <- packet
	if err := q.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := q.Wait(); err != nil { // the packet waits still
		t.Fatal(err)
	}
	n, err := q.Read(buf)
	if err != nil || !bytes.Equal(buf[:HeaderLen], make([]byte, HeaderLen)) || !bytes.Equal(buf[HeaderLen:n], packet) {
		t.Errorf("%v: %x", err, buf[:HeaderLen])
	}
	var s Segments
	if err := s.Reset(buf[:n]); err != nil || !bytes.Equal(s.Next(), packet) || s.Next() != nil {
		t.Errorf("it is no frame of one packet: %v", err)
	}
	f.in <- nil
	if err := q.Wait(); err == nil || !strings.Contains(err.Error(), "tun plain0: read: ") {
		t.Errorf("a read that fails: %v", err)
	}
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Error(err)
	}
	if err := q.Wait(); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := q.Read(buf); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestPlainWriter: what a Coalescer has joined leaves as the packets that it was.
func TestPlainWriter(t *testing.T) {
	d, f := newPipe()
	w := d.NewWriter()
	c := NewCoalescer(w)
	sent := train(plainFlow, 5, 1000)
	for _, p := range train(plainFlow, 5, 1000) {
		if lost, err := c.Add(p); lost != 0 || err != nil {
			t.Fatal(lost, err)
		}
	}
	if lost, err := c.Flush(); lost != 0 || err != nil {
		t.Fatal(lost, err)
	}
	if len(f.out) != len(sent) {
		t.Fatalf("%d packets, want %d", len(f.out), len(sent))
	}
	for i := range sent {
		if !bytes.Equal(f.out[i], sent[i]) {
			t.Errorf("packet %d: %x, want %x", i, f.out[i][:48], sent[i][:48])
		}
	}
	if err := w.Write(0, [][]byte{make([]byte, HeaderLen), {0}}); err == nil {
		t.Error("half a packet is written")
	}
	if err := d.SetMTU(1400); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SetMTU: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := w.Write(0, [][]byte{make([]byte, HeaderLen), sent[0]}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
