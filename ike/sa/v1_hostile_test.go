package sa

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// fingerprintV1 is all of a machine's state that a message might change.
func fingerprintV1(m *MachineV1) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s current %t attempt %t queue %d;", m.Deadline(), m.lastSeen, m.current != nil, m.attempt != nil, len(m.queue))
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

// FuzzV1Handle: no datagram makes a machine of either role panic, in any step of
// its life, nor, once it has keys, changes it.
func FuzzV1Handle(f *testing.F) {
	for step := range byte(hostileSteps) {
		_, messages := hostileLab(int(step))
		for _, b := range messages {
			f.Add(step, b)
		}
	}
	f.Fuzz(func(t *testing.T, step byte, b []byte) {
		machines, messages := hostileLab(int(step%hostileSteps), func(c *Connection) { c.Aggressive = step >= 128 })
		for _, m := range machines {
			for _, message := range messages {
				if bytes.Equal(message, b) {
					return
				}
			}
			before, keys := fingerprintV1(m), m.current != nil
			m.Handle(start, Datagram{Local: m.sas[0].path.local, Remote: m.sas[0].path.remote, Bytes: b})
			if after := fingerprintV1(m); keys && after != before {
				t.Errorf("%x changed\n%s\nto\n%s", b, before, after)
			}
		}
		env := newLab(&testing.T{}, 2).b.env
		env.Candidates = func(_, _ netip.Addr) []*Connection { return []*Connection{mirror(connV1(), "ba")} }
		_, _, _ = RespondV1(start, env, Datagram{Local: machines[0].sas[0].path.remote, Remote: machines[0].sas[0].path.local, Bytes: b})
	})
}
