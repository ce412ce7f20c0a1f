package sa

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// fingerprintV1 is all of a machine's state that a message might change, but for
// the pieces of one that is not whole: see dropPieces.
func fingerprintV1(m *MachineV1) string {
	var b strings.Builder
	waits := make([]time.Time, len(m.sas))
	for i, s := range m.sas {
		waits[i], s.reassemblyAt = s.reassemblyAt, time.Time{}
	}
	deadline := m.Deadline()
	for i, s := range m.sas {
		s.reassemblyAt = waits[i]
	}
	fmt.Fprintf(&b, "%v %s current %t attempt %t queue %d;", deadline, m.lastSeen, m.current != nil, m.attempt != nil, len(m.queue))
	for _, s := range m.sas {
		awaits := 0
		if s.phase1 != nil {
			awaits = s.phase1.awaits
		}
		fmt.Fprintf(&b, " %x/%x %s awaits %d path %v quick %d flight %t seen %v;", s.spii, s.spir, s.state, awaits, s.path, len(s.quick), s.flight != nil, len(s.ids.list))
	}
	for _, c := range m.children {
		fmt.Fprintf(&b, " %s %s %s in %t out %t;", c.in, c.out, c.state, c.hasIn, c.hasOut)
	}
	return b.String()
}

// dropPieces forgets the fragments of messages that are not whole. Nobody
// authenticates those, so that anybody may have a machine keep them: for a while only.
func dropPieces(t *testing.T, m *MachineV1) {
	t.Helper()
	for _, s := range m.sas {
		if s.fragments.Pending() == s.reassemblyAt.IsZero() || s.reassemblyAt.After(m.now.Add(reassemblyTimeout)) {
			t.Errorf("fragments wait: %t, until %s", s.fragments.Pending(), s.reassemblyAt)
		}
		s.fragments.Reset()
		s.reassemblyAt = time.Time{}
	}
}

const hostileSteps = 8

// hostileLab returns the two machines after some steps of their life, and the
// messages that are under way or have been.
func hostileLab(step int, edit ...func(*Connection)) (machines []*MachineV1, messages [][]byte) {
	l := newLab(&testing.T{}, 1)
	l.useV1(edit...)
	l.lose = func(p packet) bool {
		messages = append(messages, p.d.Bytes)
		return false
	}
	l.a.initiateV1()
	for i := 0; i < step && len(l.wire) > 0; i++ {
		l.deliver(0)
	}
	for _, p := range l.wire {
		messages = append(messages, p.d.Bytes)
	}
	for _, m := range append(l.a.machines, l.b.machines...) {
		machines = append(machines, m.(*MachineV1))
	}
	return machines, messages
}

// What is not authentic changes nothing once there are keys: neither octets that
// were changed on the way, nor notifications and deletions in the clear.
func TestV1Unauthenticated(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for step := range hostileSteps + 3 {
		machines, messages := hostileLab(step)
		for _, m := range machines {
			if m.current == nil {
				continue
			}
			s := m.current
			before := fingerprintV1(m)
			try := func(what string, b []byte) {
				m.Handle(start, Datagram{Local: s.path.local, Remote: s.path.remote, Bytes: b})
				if after := fingerprintV1(m); after != before {
					t.Fatalf("step %d: %s: %x changed\n%s\nto\n%s", step, what, b, before, after)
				}
			}
			for _, message := range messages {
				for range 40 {
					b := bytes.Clone(message)
					for range 1 + random.IntN(3) {
						b[isakmp.HeaderLen+random.IntN(len(b)-isakmp.HeaderLen)] ^= byte(1 + random.IntN(255))
					}
					try("changed", b)
				}
			}
			for _, p := range []isakmp.Payload{
				s.deletePayload(), &isakmp.Delete{Protocol: ipsec.ProtocolESP, SPIs: [][]byte{{0, 0, 0x20, 1}}},
				&isakmp.Notify{Protocol: ipsec.ProtocolIKE, NotifyType: isakmp.NoProposalChosen},
				&isakmp.Notify{Protocol: ipsec.ProtocolIKE, NotifyType: isakmp.InitialContact},
				&isakmp.Notify{Protocol: ipsec.ProtocolIKE, SPI: s.cookies(), NotifyType: isakmp.RUThere, Data: make([]byte, 4)},
				&isakmp.Notify{Protocol: ipsec.ProtocolESP, NotifyType: isakmp.InvalidSPI, Data: []byte{0, 0, 0x20, 1}},
			} {
				for _, x := range []isakmp.ExchangeType{isakmp.Informational, isakmp.QuickMode, isakmp.IdentityProtection, isakmp.Transaction} {
					msg := isakmp.Message{Header: s.header(x, 7), Payloads: []isakmp.Payload{&isakmp.Hash{Data: make([]byte, 32)}, p}}
					for _, encrypt := range []func([]byte){nil, func([]byte) {}} {
						b, err := msg.Encode(16, encrypt)
						if err != nil {
							t.Fatal(err)
						}
						try("forged", b)
					}
				}
			}
		}
	}
}

// A message that was recorded and comes again, from elsewhere too, brings about
// nothing.
func TestV1Replay(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	var recorded []packet
	l.lose = func(p packet) bool {
		recorded = append(recorded, p)
		return false
	}
	l.establish()
	l.b.do(RekeyChild{l.b.conns[0].Children[0].ReqID})
	l.a.do(Probe{})
	l.run()
	l.pass(time.Minute)
	l.lose = nil
	l.settled(1)
	for _, p := range recorded {
		h, err := isakmp.ParseHeader(p.d.Bytes)
		if err != nil || h.ResponderSPI == 0 {
			continue // begins another one, which comes to nothing
		}
		m := p.to.peer().(*MachineV1)
		children, path := len(m.children), m.current.path
		for _, a := range m.Handle(l.now, p.d) {
			switch a := a.(type) {
			case AddSA, DeleteSA, UpdateSA, AddPolicy, DeletePolicy, Emit:
				t.Errorf("%s again: %+v", &h, a)
			}
		}
		if len(m.children) != children || m.current == nil || m.current.path != path {
			t.Errorf("%s again changed the children or the path", &h)
		}
	}
	l.settled(1)
}

// Both ends protect with the same keys, and nothing in a message tells which one
// it is from: our own messages, sent back to us, bring about nothing.
func TestV1Reflection(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(func(c *Connection) { c.DPD = DPD{Interval: 30 * time.Second, Timeout: 5 * time.Second} })
	var recorded []packet
	l.lose = func(p packet) bool {
		recorded = append(recorded, p)
		return false
	}
	l.establish()
	l.b.do(RekeyChild{l.b.conns[0].Children[0].ReqID})
	l.a.do(Probe{})
	l.b.do(Probe{})
	l.run()
	l.pass(3 * time.Minute) // the quick modes are forgotten
	l.lose = nil
	l.settled(1)
	elsewhere := netip.MustParseAddrPort("203.0.113.66:4500")
	for _, p := range recorded {
		h, err := isakmp.ParseHeader(p.d.Bytes)
		if err != nil || h.ResponderSPI == 0 {
			continue
		}
		m := p.from.peer().(*MachineV1)
		m.current.path.natRemote = true // so that it might be taken for moved
		before := fingerprintV1(m)
		if out := m.Handle(l.now.Add(time.Second), Datagram{Local: p.d.Remote, Remote: elsewhere, Bytes: p.d.Bytes}); h.MessageID != 0 && len(out) != 0 {
			t.Errorf("%s: %s sent back is answered: %+v", p.from.name, &h, out)
		}
		if after := fingerprintV1(m); after != before {
			t.Errorf("%s: %s sent back changed\n%s\nto\n%s", p.from.name, &h, before, after)
		}
	}
}

// An SA that has used many message ids is followed before one is forgotten.
func TestV1MessageIDsRunOut(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.establish()
	s := m(l.a).current
	for len(s.ids.list) < wornIDs {
		if _, err := s.newMessageID(); err != nil {
			t.Fatal(err)
		}
	}
	l.pass(time.Minute)
	l.settled(1)
	if m(l.a).current == s || l.a.count(IKERekeyed) != 1 {
		t.Error("the SA goes on\n" + l.transcript.String())
	}
	var u messageIDs
	for id := range uint32(rememberedIDs + 10) {
		u.add(id + 1)
	}
	if len(u.list) != rememberedIDs || u.contain(10) || !u.contain(11) || !u.contain(rememberedIDs+10) {
		t.Errorf("%d are remembered, the oldest %t", len(u.list), u.contain(11))
	}
}

// encodeV1 returns a message of a machine's peer in the clear.
func encodeV1(t testing.TB, s *ISAKMPSA, x isakmp.ExchangeType, payloads ...isakmp.Payload) []byte {
	t.Helper()
	msg := isakmp.Message{Header: s.header(x, 0), Payloads: payloads}
	b, err := msg.Encode(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Public values that are no good do not make a responder draw another private
// one each time, and one that is good is taken after them.
func TestV1BadPublicValues(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.a.initiateV1()
	l.deliver(0)
	l.deliver(0) // message 3 is under way
	s := m(l.b).sas[0]
	bad := Datagram{Local: s.path.local, Remote: s.path.remote, Bytes: encodeV1(t, s, isakmp.IdentityProtection,
		&isakmp.KE{Data: make([]byte, 64)}, &isakmp.Nonce{Data: make([]byte, 32)})}
	l.b.perform(m(l.b).Handle(l.now, bad))
	first := s.phase1.kex
	l.b.perform(m(l.b).Handle(l.now, bad))
	if first == nil || s.phase1.kex != first || s.phase1.awaits != 3 {
		t.Errorf("awaits %d, a private value of its own for each: %t", s.phase1.awaits, s.phase1.kex != first)
	}
	l.run()
	l.settled(1)
}

// A connection of which the key has changed since message 1 of aggressive mode is
// not for who knows the old one.
func TestV1AggressiveKeyChanged(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(aggressive)
	l.a.initiateV1()
	l.deliver(0)
	l.deliver(0) // message 3 is under way
	changed := *l.b.conns[0]
	changed.PSK = []byte("the key that it has from now on")
	l.b.conns = []*Connection{&changed}
	l.run()
	if l.b.count(IKEUp) != 0 || l.b.count(Failed) != 1 {
		t.Error("who knows the old key is let in\n" + l.transcript.String())
	}
}

// A message 5 is tried with no key of a connection that has none: the ones of
// GM/T 0022 at the same address neither let anybody in nor use up the trials.
func TestV1NoKeyOfGM(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	own := l.b.conns[0]
	for range maxTrials {
		gm := *own
		gm.Name, gm.PSK, gm.GM = "gm", nil, &GM{}
		gm.Proposals = []ipsec.Proposal{gmPhase1Proposal()}
		l.b.conns = append([]*Connection{&gm}, l.b.conns...)
	}
	guess := *l.a.conns[0]
	guess.PSK = nil
	honest := l.a.conns
	l.a.conns = []*Connection{&guess}
	l.a.initiateV1()
	l.run()
	if l.b.count(IKEUp) != 0 {
		t.Error("who has no key is let in")
	}
	l.a.conns = honest
	l.a.initiateV1()
	l.run()
	if n := l.b.count(IKEUp); n != 1 {
		t.Errorf("the peer with the key is let in %d times", n)
	}
}

// What message 3 of aggressive mode says in the clear beside its hash is nobody's.
func TestV1InitialContactInTheClear(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(aggressive)
	l.a.initiateV1()
	l.deliver(0)
	l.deliver(0)
	l.wire = nil
	s := m(l.b).sas[0]
	l.b.perform(m(l.b).Handle(l.now, Datagram{Local: s.path.local, Remote: s.path.remote, Bytes: encodeV1(t, s, isakmp.Aggressive,
		&isakmp.Hash{Data: s.hash(s.keys, true, s.phase1.idi)}, &isakmp.Notify{Protocol: ipsec.ProtocolIKE, SPI: s.cookies(), NotifyType: isakmp.InitialContact})}))
	if l.b.count(IKEUp) != 1 || s.contact {
		t.Errorf("up %d times, INITIAL-CONTACT believed: %t", l.b.count(IKEUp), s.contact)
	}
}

// A peer cannot have phase 1 negotiated every second.
func TestV1ShortestLifetime(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.a.conns[0].Lifetime = time.Second
	l.a.initiateV1()
	l.run()
	if life := m(l.b).current.life.seconds; life != shortestLife {
		t.Errorf("the ISAKMP SA lives for %d s", life)
	}
}

// SKEYID, which is made of the pre-shared key and what anybody has seen, does not
// outlive phase 1.
func TestV1KeysWiped(t *testing.T) {
	for _, edit := range []func(*Connection){func(*Connection) {}, aggressive} {
		l := newLab(t, 1)
		l.useV1(edit)
		l.establish()
		for _, e := range []*end{l.a, l.b} {
			if k := m(e).current.keys; !bytes.Equal(k.id, make([]byte, len(k.id))) {
				t.Errorf("%s keeps SKEYID", e.name)
			}
		}
	}
}

// An answer that names a group is none where no public value was sent for it.
func TestV1PFSWithoutKE(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.establish()
	s := m(l.a).current
	k := m(l.a).slots[0]
	q := &quickMode{s: s, initiator: true, slot: k, cfg: k.cfg, in: 0x4711, ni: make([]byte, 32)}
	offer, err := s.phase2Offer(q.slot, 0x4712)
	if err != nil {
		t.Fatal(err)
	}
	if c, d := q.accept(&isakmp.Message{Payloads: []isakmp.Payload{offer, &isakmp.Nonce{Data: make([]byte, 32)}}}); d == nil {
		t.Errorf("taken for a child with %s", c.proposal)
	}
}

// Neither the size of a message 5 nor how many there are lets somebody who has
// seen message 4 guess at keys, or spend our time, without bounds.
func TestV1MessageFiveBounds(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.a.initiateV1()
	for range 4 {
		l.deliver(0) // message 5 is under way
	}
	s := m(l.b).sas[0]
	send := func(octets, seed int) {
		msg := isakmp.Message{Header: s.header(isakmp.IdentityProtection, 0), Payloads: []isakmp.Payload{&isakmp.VendorID{Data: make([]byte, octets)}}}
		b, err := msg.Encode(16, func(b []byte) { b[0] = byte(seed) })
		if err != nil {
			t.Fatal(err)
		}
		l.b.perform(m(l.b).Handle(l.now, Datagram{Local: s.path.local, Remote: s.path.remote, Bytes: b}))
	}
	send(maxMessage5, 0)
	if s.phase1.guesses != 0 {
		t.Error("a message 5 of any size is tried")
	}
	for i := range maxGuesses - 1 {
		send(64, i)
	}
	l.run()
	l.settled(1) // who makes a mistake can correct it

	l = newLab(t, 1)
	l.useV1()
	l.a.initiateV1()
	for range 4 {
		l.deliver(0)
	}
	s = m(l.b).sas[0]
	for i := range maxGuesses {
		send(64, i)
	}
	l.run()
	if l.b.count(IKEUp) != 0 {
		t.Errorf("guess %d is tried", maxGuesses+1)
	}
}

// Message 4 is nobody's yet: one without NAT-D payloads does not end a
// negotiation that has to have them.
func TestV1ForceEncapForged(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(func(c *Connection) { c.ForceEncap, c.RequireEncap = true, true })
	l.a.initiateV1()
	l.deliver(0)
	l.deliver(0)
	l.deliver(0) // message 4 is under way
	s := m(l.a).attempt
	l.a.perform(m(l.a).Handle(l.now, Datagram{Local: s.path.local, Remote: s.path.remote, Bytes: encodeV1(t, s, isakmp.IdentityProtection,
		&isakmp.KE{Data: m(l.b).sas[0].phase1.gr}, &isakmp.Nonce{Data: make([]byte, 32)})}))
	if len(l.a.machines) != 1 || s.phase1 == nil || s.phase1.awaits != 4 {
		t.Fatal("a forged message 4 ends the negotiation")
	}
	l.run()
	l.settled(1)
}

// What anybody may send in fragments disturbs no SA: the pieces are kept for a bounded
// time, which others do not make longer, and give way to those of the peer.
func TestV1FragmentsOfAnybody(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(manyProposals)
	l.establish()
	s := m(l.b).current
	say := func(payloads ...isakmp.Payload) {
		l.b.perform(m(l.b).Handle(l.now, Datagram{Local: s.path.local, Remote: s.path.remote, Bytes: encodeV1(t, s, isakmp.QuickMode, payloads...)}))
	}
	piece := func(n uint8) *isakmp.Fragment {
		return &isakmp.Fragment{ID: m(l.a).current.fragmentID + 1, Number: n, Data: []byte("made up")}
	}
	say(piece(1), &isakmp.VendorID{Data: make([]byte, 16)})
	responder := s.spir
	s.spir = 0 // for the header of what is sent
	unknown := encodeV1(t, s, isakmp.QuickMode, piece(1))
	s.spir = responder
	l.b.perform(m(l.b).Handle(l.now, Datagram{Local: s.path.local, Remote: s.path.remote, Bytes: unknown}))
	if s.fragments.Pending() {
		t.Error("a fragment beside another payload, or without both cookies, is kept")
	}
	before := fingerprintV1(m(l.b))
	say(piece(1))
	until := s.reassemblyAt
	l.now = l.now.Add(time.Second)
	say(piece(2))
	if after := fingerprintV1(m(l.b)); after != before || !s.fragments.Pending() || !s.reassemblyAt.Equal(until) {
		t.Errorf("kept %t, until %s and then %s\n%s\n%s", s.fragments.Pending(), until, s.reassemblyAt, before, after)
	}
	l.a.do(RekeyChild{l.a.conns[0].Children[0].ReqID})
	l.run()
	l.pass(time.Minute)
	l.settled(1)
	if !strings.Contains(l.transcript.String(), "quick mode fragment 2") || l.a.count(ChildRekeyed) != 1 || s.fragments.Pending() {
		t.Errorf("rekeyed %d times, pieces kept: %t\n%s", l.a.count(ChildRekeyed), s.fragments.Pending(), l.transcript.String())
	}
}

// FuzzV1Handle: no datagram makes a machine of either role panic, in any step of
// its life, nor, once it has keys, changes it.
func FuzzV1Handle(f *testing.F) {
	target := fuzztest.New(f)
	// Genuine are the messages of either end, in whatever step, but for what no hash
	// covers: the minor version and the flags beside that for encryption.
	covered := func(b []byte) string {
		if b = bytes.Clone(b); len(b) >= isakmp.HeaderLen {
			b[17] &= 0xf0
			b[19] &= 1
		}
		return string(b)
	}
	genuine := map[string]bool{}
	var machines [2 * hostileSteps][]*MachineV1 // those of main mode, and then of aggressive mode
	lab := func(i int) (messages [][]byte) {
		machines[i], messages = hostileLab(i%hostileSteps, func(c *Connection) { c.Aggressive = i >= hostileSteps })
		return messages
	}
	for i := range machines {
		for _, b := range lab(i) {
			if i < hostileSteps {
				target.Add(byte(i), b)
			}
			genuine[covered(b)] = true
		}
		if s := machines[i][0].sas[0]; i < hostileSteps && s.spir != 0 {
			for _, whole := range []bool{false, true} {
				target.Add(byte(i), encodeV1(f, s, s.mode, &isakmp.Fragment{ID: 1, Number: 1, Last: whole, Data: encodeV1(f, s, isakmp.Informational, s.deletePayload())}))
			}
		}
	}
	responder := newLab(&testing.T{}, 2).b.env
	responder.Candidates = func(_, _ netip.Addr) []*Connection { return []*Connection{mirror(connV1(), "ba")} }
	target.Fuzz(func(t *testing.T, step byte, b []byte) {
		if genuine[covered(b)] {
			return
		}
		i := int(step % hostileSteps)
		if step >= 128 {
			i += hostileSteps
		}
		path := machines[i][0].sas[0].path
		for _, m := range machines[i] {
			before, keys := fingerprintV1(m), m.current != nil
			m.Handle(start, Datagram{Local: m.sas[0].path.local, Remote: m.sas[0].path.remote, Bytes: b})
			after := fingerprintV1(m)
			dropPieces(t, m)
			if after == before {
				continue
			}
			if keys {
				t.Errorf("%x changed\n%s\nto\n%s", b, before, after)
			}
			lab(i)
		}
		_, _, _ = RespondV1(start, responder, Datagram{Local: path.remote, Remote: path.local, Bytes: b})
	})
}
