package sslvpn

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// sentBy collects what a flush sends.
func sentBy(r *reliable, now time.Time) (sent []string) {
	r.flush(now, func(op wire.Opcode, id uint32, acks []uint32, payload []byte) {
		if op == wire.AckV1 {
			sent = append(sent, fmt.Sprint("ack ", acks))
			return
		}
		sent = append(sent, fmt.Sprintf("%d %s %v", id, payload, acks))
	})
	return sent
}

func TestSendWindow(t *testing.T) {
	now := time.Unix(1000, 0)
	r := &reliable{}
	for i := range 6 {
		if err := r.queue(wire.ControlV1, []byte{'a' + byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	steps := []struct {
		name string
		do   func()
		want []string
	}{
		{"the window", func() {}, []string{"0 a []", "1 b []", "2 c []", "3 d []"}},
		{"nothing new", func() {}, nil},
		{"a later one is acknowledged", func() { r.acknowledge([]uint32{2, 99}) }, nil},
		{"what was not sent cannot be", func() { r.acknowledge([]uint32{4, 5}) }, nil},
		{"the first two are", func() { r.acknowledge([]uint32{0, 1, 0}) }, []string{"4 e []", "5 f []"}},
		{"a second later", func() { now = now.Add(time.Second) }, []string{"3 d []", "4 e []", "5 f []"}},
		{"another second later", func() { now = now.Add(time.Second) }, nil},
		{"two seconds later", func() { now = now.Add(time.Second) }, []string{"3 d []", "4 e []", "5 f []"}},
		{"all", func() { r.acknowledge([]uint32{3, 4, 5}) }, nil},
	}
	for _, step := range steps {
		step.do()
		if got := sentBy(r, now); !reflect.DeepEqual(got, step.want) {
			t.Errorf("%s: sent %q, want %q", step.name, got, step.want)
		}
	}
	if !r.idle() || !r.deadline().IsZero() || r.octets != 0 {
		t.Errorf("not idle: %+v", r)
	}
}

func TestStreamSendsOnce(t *testing.T) {
	now := time.Unix(1000, 0)
	r := &reliable{stream: true}
	_ = r.queue(wire.ControlV1, []byte("a"))
	if got := sentBy(r, now); len(got) != 1 {
		t.Errorf("sent %q", got)
	}
	if got := sentBy(r, now.Add(time.Hour)); got != nil || !r.deadline().IsZero() {
		t.Errorf("sent again: %q", got)
	}
}

func TestReceiveWindow(t *testing.T) {
	r := &reliable{}
	deliver := func() (s string) {
		for {
			_, p, ok := r.deliver()
			if !ok {
				return s
			}
			s += string(p)
		}
	}
	steps := []struct {
		id    uint32
		in    bool
		comes string
	}{
		{1, true, ""},
		{2, true, ""},
		{1, true, ""}, // again
		{receiveWindow, false, ""},
		{0, true, "abc"},
		{0, true, ""}, // long delivered, acknowledged again
		{receiveWindow, true, ""},
		{receiveWindow + 2, true, ""},
		{receiveWindow + 3, false, ""},
		{1 << 31, false, ""},
		{1<<32 - 1, false, ""},
		{3, true, "d"},
	}
	for i, step := range steps {
		if in := r.receive(wire.ControlV1, step.id, []byte{'a' + byte(step.id)}); in != step.in {
			t.Errorf("step %d: packet %d: within the window %t", i, step.id, in)
		}
		if comes := deliver(); comes != step.comes {
			t.Errorf("step %d: delivered %q, want %q", i, comes, step.comes)
		}
	}
	if got, want := sentBy(r, time.Time{}), []string{fmt.Sprint("ack ", []uint32{1, 2, 0, receiveWindow, receiveWindow + 2, 3})}; !reflect.DeepEqual(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestAcksRideAndAreBounded(t *testing.T) {
	r := &reliable{}
	_ = r.queue(wire.ControlV1, []byte("x"))
	for id := range uint32(receiveWindow) {
		r.receive(wire.ControlV1, id, nil)
	}
	if got, want := sentBy(r, time.Time{}), []string{"0 x [0 1 2 3]", "ack [4 5 6 7 8 9 10 11]"}; !reflect.DeepEqual(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
	for range 1000 {
		for id := range uint32(receiveWindow) {
			r.receive(wire.ControlV1, id, nil)
		}
	}
	if len(r.acks) > 2*receiveWindow {
		t.Errorf("%d acknowledgements wait", len(r.acks))
	}
}

func TestQueueIsBounded(t *testing.T) {
	r := &reliable{}
	for range 1000 {
		if err := r.queue(wire.ControlV1, make([]byte, wire.MaxControlPayload)); err != nil {
			if r.octets > maxUnsent {
				t.Errorf("%d octets wait", r.octets)
			}
			return
		}
	}
	t.Error("the queue took a megabyte")
}

// Two ends over a network that loses, repeats and reorders: both streams come
// out as they went in.
func TestStreamOverBadNetwork(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		now := time.Unix(1000, 0)
		type packet struct {
			op      wire.Opcode
			id      uint32
			acks    []uint32
			payload []byte
		}
		var ends [2]reliable
		var wires [2][]packet // to each end
		var want, got [2]bytes.Buffer
		for round := 0; got[0].Len() < 4000 || got[1].Len() < 4000; round++ {
			if round > 10000 {
				t.Fatalf("seed %d: %d and %d octets after %d rounds", seed, got[0].Len(), got[1].Len(), round)
			}
			for i := range ends {
				if want[i].Len() < 4000 && random.IntN(3) == 0 {
					part := make([]byte, 1+random.IntN(50))
					for j := range part {
						part[j] = byte(random.Uint32())
					}
					want[i].Write(part)
					_ = ends[i].queue(wire.ControlV1, part)
				}
				ends[i].flush(now, func(op wire.Opcode, id uint32, acks []uint32, payload []byte) {
					for range random.IntN(3) { // 0 is lost, 2 is twice
						wires[1-i] = append(wires[1-i], packet{op, id, acks, payload})
					}
				})
			}
			for i := range ends {
				random.Shuffle(len(wires[i]), func(a, b int) { wires[i][a], wires[i][b] = wires[i][b], wires[i][a] })
				for range random.IntN(len(wires[i]) + 1) {
					p := wires[i][0]
					wires[i] = wires[i][1:]
					ends[i].acknowledge(p.acks)
					if p.op != wire.AckV1 {
						ends[i].receive(p.op, p.id, p.payload)
					}
				}
				for {
					_, payload, ok := ends[i].deliver()
					if !ok {
						break
					}
					got[1-i].Write(payload)
				}
			}
			now = now.Add(200 * time.Millisecond)
		}
		for i := range want {
			if !bytes.HasPrefix(want[i].Bytes(), got[i].Bytes()) {
				t.Errorf("seed %d: stream %d differs", seed, i)
			}
		}
	}
}
