package sa

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// What a peer with the right keys says passes the decryption, and meets a machine
// that trusts it. It may end the SAs; it may not make the machine panic, take a
// step that the life of its SAs does not have, or lose track of the data plane.

// moment is the two ends at some time of their life.
type moment struct {
	m      *model
	at     modelState
	forger *modelEnd // a copy of end b, to seal with
}

// moments sets up two ends for each list of orders, and gives those. Of the last
// list, the first answer has arrived, too.
func moments(f *testing.F, v1 bool, orders ...[]order) []moment {
	f.Helper()
	withModelGroup(f)
	w, err := newWorld(setting{initiates: 1, v1: v1}, nil)
	if err != nil {
		f.Fatal(err)
	}
	var list []moment
	for i, each := range orders {
		m := newModel(scenario{setting: w.setting, orders: each}, w)
		for n := range each {
			m.apply(move{kind: isOrdered, n: n})
		}
		if i == len(orders)-1 {
			m.apply(m.moves()[0])
			m.apply(m.moves()[0])
		}
		m.at.up, m.failed = false, ""
		list = append(list, moment{m, m.at, m.draws(1)})
	}
	return list
}

// draws makes an end the one whose randomness is drawn from, and returns a copy of it.
func (m *model) draws(side int) *modelEnd {
	w := m.world
	w.side, w.at = side, copyOf(&w.copier, m.end(side))
	return w.at
}

// hear hands end a what is from its peer's hands, in a copy of the moment, and has both
// go on for a while.
func (now *moment) hear(t *testing.T, forge func(a, b peer) []byte) {
	t.Helper()
	m, w := now.m, now.m.world
	defer w.forget(len(w.packets), len(w.known[0]), len(w.known[1]))
	w.fresh = true
	w.passing = [2]endID{endID(len(w.known[0])), endID(len(w.known[1]))}
	m.at, m.failed = now.at, ""
	m.at.wire = slices.Clone(now.at.wire)
	to, from := m.end(0), now.forger
	if len(to.members) == 0 || len(from.members) == 0 {
		return
	}
	b := forge(to.members[0].machine, from.members[0].machine)
	if b == nil {
		return
	}
	path := to.members[0].machine.Status().IKE[0]
	m.step(0, inPacket, uint64(w.packetID(modelPacket{local: path.Local, remote: path.Remote, octets: string(b)})))
	for range 8 {
		next := m.moves()
		if len(next) == 0 {
			break
		}
		m.apply(next[0])
	}
	if m.failed != "" {
		t.Error(m.failed)
	}
	for side := range m.at.ends {
		e := m.end(side)
		if len(e.sas) > 4*maxChildren {
			t.Errorf("%d SAs", len(e.sas))
		}
		if len(e.members) == 0 && len(e.sas) > 0 {
			t.Errorf("left %v", e.sas)
		}
		if defects := e.defects(); defects != "" {
			t.Error(defects)
		}
	}
}

// forget takes a world back to where it had fewer packets and states.
func (w *modelWorld) forget(packets, a, b int) {
	for _, p := range w.packets[packets:] {
		delete(w.ids, p)
	}
	w.packets, w.known[0], w.known[1] = w.packets[:packets], w.known[0][:a], w.known[1][:b]
}

func FuzzAuthentic(f *testing.F) {
	target := fuzztest.New(f)
	list := moments(f, false, nil, []order{{0, rekeysChild}}, []order{{0, deletesChild}}, []order{{0, probes}}, []order{{1, rekeysChild}},
		[]order{{0, deletesIKE}}, []order{{0, rekeysIKE}, {1, rekeysIKE}}, []order{{0, rekeysIKE}})
	for step := range list {
		for _, x := range []wire.ExchangeType{wire.IKEAuth, wire.CreateChildSA, wire.Informational, wire.IKEIntermediate, wire.IKEFollowupKE} {
			for _, response := range []bool{false, true} {
				target.Add(uint8(step), uint8(x), response, uint8(wire.TypeNotify), []byte{0, 0, 0, 8, 0, 0, 0x40, 0})
				target.Add(uint8(step), uint8(x), response, uint8(wire.TypeDelete), []byte{0, 0, 0, 8, 1, 0, 0, 0})
				target.Add(uint8(step), uint8(x), response, uint8(wire.TypeDelete), []byte{0, 0, 0, 12, 3, 4, 0, 1, 0, 0, 0x10, 1})
			}
		}
		for _, p := range list[step].at.wire { // what the ends themselves say
			octets := []byte(list[step].m.world.packets[p.id].octets)
			forging := list[step].m.end(1 - list[step].m.world.packets[p.id].to).members[0].machine.(*Machine)
			if msg, err := wire.Parse(octets); err == nil {
				if first, plain, ok := opened(forging, msg, octets); ok {
					target.Add(uint8(step), uint8(msg.Exchange), msg.Response, first, plain)
				}
			}
		}
	}
	target.Fuzz(func(t *testing.T, step, exchange uint8, response bool, first uint8, plain []byte) {
		if len(plain) > 4000 {
			return
		}
		list[int(step)%len(list)].hear(t, func(a, b peer) []byte {
			to, from := a.(*Machine), b.(*Machine)
			if len(from.ikes) == 0 {
				return nil
			}
			s := from.ikes[0]
			i := slices.IndexFunc(to.ikes, func(o *ikeSA) bool { return o.spii == s.spii })
			if i < 0 || s.out == nil {
				return nil
			}
			h := wire.Header{
				InitiatorSPI: s.spii, ResponderSPI: s.spir, NextPayload: wire.TypeEncrypted, MajorVersion: 2,
				Exchange: wire.ExchangeType(exchange), Initiator: s.initiator, Response: response, MessageID: to.ikes[i].expectID,
				Length: uint32(wire.HeaderLen + 4 + s.out.SealedLen(len(plain))),
			}
			if o := to.ikes[i].active; response && o != nil {
				h.MessageID = o.id
			}
			body := uint16(4 + s.out.SealedLen(len(plain)))
			octets, err := s.out.Seal(append(h.Append(nil), first, 0, byte(body>>8), byte(body)), plain)
			if err != nil {
				t.Fatal(err)
			}
			return octets
		})
	})
}

// opened returns the payloads of a message as its sender had them.
func opened(sender *Machine, msg *wire.Message, octets []byte) (first uint8, plain []byte, ok bool) {
	const header = wire.HeaderLen + 4
	for _, s := range sender.ikes {
		if s.spii == msg.InitiatorSPI && s.out != nil && len(octets) > header {
			plain, err := s.out.Open(octets, header)
			return octets[wire.HeaderLen], plain, err == nil
		}
	}
	return 0, nil, false
}

func FuzzV1Authentic(f *testing.F) {
	target := fuzztest.New(f)
	list := moments(f, true, nil, []order{{0, rekeysChild}}, []order{{1, rekeysChild}}, []order{{0, rekeysIKE}}, []order{{0, probes}},
		[]order{{0, rekeysChild}, {1, rekeysChild}}, []order{{0, rekeysChild}})
	deletes, err := isakmp.Chain([]isakmp.Payload{&isakmp.Delete{Protocol: ipsec.ProtocolESP, SPIs: [][]byte{{0, 0, 0x10, 1}}}}, isakmp.NoNextPayload)
	if err != nil {
		f.Fatal(err)
	}
	asks, err := isakmp.Chain([]isakmp.Payload{&isakmp.Notify{Protocol: ipsec.ProtocolIKE, SPI: make([]byte, 16), NotifyType: isakmp.RUThere, Data: make([]byte, 4)}}, isakmp.NoNextPayload)
	if err != nil {
		f.Fatal(err)
	}
	for step := range list {
		target.Add(uint8(step), uint8(isakmp.Informational), uint32(7), uint8(isakmp.TypeDelete), deletes)
		target.Add(uint8(step), uint8(isakmp.Informational), uint32(7), uint8(isakmp.TypeNotify), asks)
		target.Add(uint8(step), uint8(isakmp.QuickMode), uint32(7), uint8(isakmp.TypeSA), quickOffer(f, list[0].m))
	}
	target.Fuzz(func(t *testing.T, step, exchange uint8, id uint32, first uint8, chain []byte) {
		if len(chain) > 4000 {
			return
		}
		list[int(step)%len(list)].hear(t, func(_, b peer) []byte {
			from := b.(*MachineV1)
			if from.current == nil {
				return nil
			}
			s := from.current
			sum := s.keys.sum(idOctets(id), chain)
			plain := binary.BigEndian.AppendUint16([]byte{first, 0}, uint16(4+len(sum)))
			plain = append(append(plain, sum...), chain...)
			size := s.keys.block.BlockSize()
			plain = append(plain, make([]byte, (size-len(plain)%size)%size)...)
			s.keys.encrypt(s.phase2IV(id), plain)
			h := s.header(isakmp.ExchangeType(exchange), id)
			h.NextPayload, h.Encrypted, h.Length = isakmp.TypeHash, true, uint32(isakmp.HeaderLen+len(plain))
			return append(h.Append(nil), plain...)
		})
	})
}

// quickOffer returns what end b would begin a quick mode with, but for its hash.
func quickOffer(f *testing.F, m *model) []byte {
	f.Helper()
	from := m.draws(1).members[0].machine.(*MachineV1)
	q := &quickMode{s: from.current, slot: from.slots[0], initiator: true}
	payloads, err := q.prepare()
	if err != nil {
		f.Fatal(err)
	}
	chain, err := isakmp.Chain(payloads, isakmp.NoNextPayload)
	if err != nil {
		f.Fatal(err)
	}
	return chain
}
