package sslvpn

import (
	"errors"
	"slices"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Parameters of the reliability layer.
const (
	// sendWindow is how many control packets may be under way: what the oldest
	// clients keep room for. One beyond their window would be dropped, and on
	// TCP nobody sends again.
	sendWindow = 4
	// receiveWindow is how many packets ahead of the next one are kept.
	receiveWindow = 12
	// acksPerControl is how many acknowledgements ride on a ControlV1 packet.
	acksPerControl = 4
	// maxUnsent bounds what waits to be sent, in octets of the TLS stream.
	maxUnsent = 64 << 10
	// retransmitFirst and retransmitMax are the waits before a packet is sent
	// again on UDP; the first one doubles.
	retransmitFirst = time.Second
	retransmitMax   = 16 * time.Second
)

var errUnacknowledged = errors.New("the client does not acknowledge what the control channel sends")

// reliable turns control packets under one key id into an ordered stream and
// back. Packet ids count from 0 in each direction. It reads no clock.
type reliable struct {
	stream bool // TCP: nothing is lost, so nothing is sent again

	nextID uint32        // of the packet to queue next
	unsent []*sentPacket // not acknowledged yet, by id; the first sendWindow may be under way
	octets int           // in unsent

	expected uint32 // the id to deliver next
	held     [receiveWindow]*heldPacket
	acks     []uint32 // to be sent
}

type sentPacket struct {
	id      uint32
	op      wire.Opcode
	payload []byte
	sent    bool
	again   time.Time     // when to send it again
	wait    time.Duration // from then to the next time
}

type heldPacket struct {
	op      wire.Opcode
	payload []byte
}

// queue adds a packet to send. The payload is not copied.
func (r *reliable) queue(op wire.Opcode, payload []byte) error {
	if r.octets+len(payload) > maxUnsent {
		return errUnacknowledged
	}
	r.octets += len(payload)
	r.unsent = append(r.unsent, &sentPacket{id: r.nextID, op: op, payload: payload, wait: retransmitFirst})
	r.nextID++
	return nil
}

// acknowledge takes the acknowledgements of a received packet. Those for
// nothing, which stock clients repeat, change nothing.
func (r *reliable) acknowledge(ids []uint32) {
	for _, id := range ids {
		i := slices.IndexFunc(r.unsent, func(p *sentPacket) bool { return p.id == id })
		if i < 0 || !r.unsent[i].sent {
			continue
		}
		r.octets -= len(r.unsent[i].payload)
		r.unsent = slices.Delete(r.unsent, i, i+1)
	}
}

// receive takes a packet with a packet id and reports whether it was within the
// window. One that was there before is acknowledged again: the peer may not
// know.
func (r *reliable) receive(op wire.Opcode, id uint32, payload []byte) bool {
	ahead := id - r.expected
	switch {
	case ahead < receiveWindow:
		slot := &r.held[id%receiveWindow]
		if *slot == nil {
			*slot = &heldPacket{op: op, payload: slices.Clone(payload)}
		}
	case -ahead <= receiveWindow && id < r.expected: // behind
	default:
		return false
	}
	r.oweAck(id)
	return true
}

// oweAck has a packet acknowledged with what is sent next.
func (r *reliable) oweAck(id uint32) {
	if !slices.Contains(r.acks, id) && len(r.acks) < 2*receiveWindow {
		r.acks = append(r.acks, id)
	}
}

// deliver returns the next packet in order.
func (r *reliable) deliver() (op wire.Opcode, payload []byte, ok bool) {
	slot := &r.held[r.expected%receiveWindow]
	p := *slot
	if p == nil {
		return 0, nil, false
	}
	*slot = nil
	r.expected++
	return p.op, p.payload, true
}

// flush sends what is due: new packets within the window, those whose time has
// come again, and acknowledgements, alone when no packet carries them.
func (r *reliable) flush(now time.Time, send func(op wire.Opcode, id uint32, acks []uint32, payload []byte)) {
	for i, p := range r.unsent {
		if i >= sendWindow || p.id-r.unsent[0].id >= sendWindow {
			break
		}
		if p.sent && (r.stream || now.Before(p.again)) {
			continue
		}
		if p.sent {
			p.wait = min(2*p.wait, retransmitMax)
		}
		p.sent, p.again = true, now.Add(p.wait)
		send(p.op, p.id, r.takeAcks(acksPerControl), p.payload)
	}
	for len(r.acks) > 0 {
		send(wire.AckV1, 0, r.takeAcks(wire.MaxAcks), nil)
	}
}

func (r *reliable) takeAcks(limit int) []uint32 {
	n := min(limit, len(r.acks))
	acks := slices.Clone(r.acks[:n])
	r.acks = slices.Delete(r.acks, 0, n)
	return acks
}

// deadline returns when flush has something to send again; zero: never.
func (r *reliable) deadline() time.Time {
	var first time.Time
	if r.stream {
		return first
	}
	for _, p := range r.unsent {
		if p.sent && (first.IsZero() || p.again.Before(first)) {
			first = p.again
		}
	}
	return first
}

// idle reports whether all that was queued has been acknowledged.
func (r *reliable) idle() bool { return len(r.unsent) == 0 }

// allSent reports whether nothing waits for room in the window.
func (r *reliable) allSent() bool {
	return len(r.unsent) == 0 || r.unsent[len(r.unsent)-1].sent
}
