package sa

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// fingerprint is all of a machine's state that a message might change.
func fingerprint(m *Machine) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s current %t;", m.Deadline(), m.lastSeen, m.current != nil)
	for _, s := range m.ikes {
		fmt.Fprintf(&b, " %x/%x %s next %d expect %d path %v queue %d active %t answered %t pending %t %t;",
			s.spii, s.spir, s.state, s.nextID, s.expectID, s.path, len(s.queue), s.active != nil, s.answered != nil,
			s.requests.Pending(), s.responses.Pending())
	}
	for _, c := range m.children {
		fmt.Fprintf(&b, " %s %s %s in %t out %t;", c.in, c.out, c.state, c.hasIn, c.hasOut)
	}
	return b.String()
}

// TestRandomLoss runs both ends with short lifetimes, rekeys of all kinds begun
// at random by both, and a network that loses, repeats and reorders packets.
// Whatever happens, no traffic is lost and in the end there is one of each.
func TestRandomLoss(t *testing.T) {
	for seed := range uint64(60) {
		l := newLab(t, seed)
		a := connA()
		a.Lifetime = 10 * time.Minute
		a.Children[0].Lifetime.Hard = 5 * time.Minute
		second := a.Children[0]
		second.Name, second.ReqID, second.Local = "second", 2, selectors("10.3.0.0/16")
		a.Children = append(a.Children, second)
		b := mirror(a, "ba")
		l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
		l.establish()
		random := rand.New(rand.NewPCG(seed, 7))
		lost := map[string]int{} // by datagram: few enough for the repeats
		l.lose = func(p packet) bool {
			switch random.IntN(10) {
			case 0, 1, 4:
				lost[string(p.d.Bytes)]++
				return lost[string(p.d.Bytes)] < 3
			case 2: // twice
				p.to.receive(p.d)
			case 3: // late
				if len(l.wire) > 0 {
					l.wire = append(l.wire, p)
					return true
				}
			}
			return false
		}
		for range 60 {
			e := []*end{l.a, l.b}[random.IntN(2)]
			switch random.IntN(6) {
			case 0:
				e.do(RekeyIKE{})
			case 1, 2:
				e.do(RekeyChild{ReqID: e.conns[0].Children[random.IntN(2)].ReqID})
			}
			l.pass(time.Duration(random.IntN(20)) * time.Second)
			if t.Failed() {
				break
			}
		}
		l.lose = nil
		l.pass(2 * time.Minute)
		l.quiet()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// quiet waits for the end of rekeys that are under way, and checks.
func (l *lab) quiet() {
	l.t.Helper()
	for range 120 {
		still := true
		for _, e := range []*end{l.a, l.b} {
			st := e.machine().Status()
			still = still && len(st.IKE) == 1 && len(st.Children) == 2 && len(e.sas) == 4
		}
		if still {
			break
		}
		l.pass(time.Second)
	}
	l.settled(2)
}

// TestUpdate changes one thing at a time.
func TestUpdate(t *testing.T) {
	for name, tc := range map[string]struct {
		change   func(*Connection)
		survives bool // the child goes on as it is
		ends     bool // the IKE SA ends
		children int  // in the end
	}{
		"nothing":     {func(*Connection) {}, true, false, 1},
		"PSK":         {func(c *Connection) { c.PSK = []byte("new one") }, true, false, 1},
		"DPD":         {func(c *Connection) { c.DPD = DPD{Interval: time.Minute, Timeout: time.Second} }, true, false, 1},
		"lifetimes":   {func(c *Connection) { c.Lifetime, c.Children[0].Lifetime.Hard = time.Hour, time.Hour }, true, false, 1},
		"IKE":         {func(c *Connection) { c.Proposals = []ipsec.Proposal{ikeProposal(19)} }, true, false, 1},
		"peer":        {func(c *Connection) { c.Remote = netip.MustParseAddr("203.0.113.9") }, false, true, 0},
		"identity":    {func(c *Connection) { c.LocalID = FQDNIdentity("x") }, false, true, 0},
		"another":     {func(c *Connection) { c.Children = append(c.Children, c.Children[0]); second(c) }, true, false, 2},
		"selectors":   {func(c *Connection) { c.Children[0].Local = selectors("10.1.7.0/24") }, false, false, 1},
		"proposals":   {func(c *Connection) { c.Children[0].Proposals = []ipsec.Proposal{espProposal(), espProposal(31)} }, false, false, 1},
		"no children": {func(c *Connection) { c.Children = nil }, false, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			a := connA()
			second(a)
			b := mirror(a, "ba")
			l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{b}
			l.establish()
			l.up = false
			spi := l.a.sas[0].SPI
			next := connA()
			tc.change(next)
			l.a.do(Update{next})
			l.run()
			l.pass(time.Minute)
			if tc.ends {
				if len(l.a.machines) != 0 {
					t.Error("the IKE SA goes on")
				}
				l.a.empty()
				return
			}
			st := l.a.machine().Status()
			if len(st.Children) != tc.children {
				t.Errorf("%d children", len(st.Children))
			}
			survived := slices.ContainsFunc(l.a.sas, func(sa ipsec.SA) bool { return sa.SPI == spi })
			if survived != tc.survives {
				t.Errorf("the child survived: %t", survived)
			}
			l.settled(tc.children)
		})
	}
}

// second gives a connection a second child.
func second(c *Connection) {
	c.Children = append(c.Children[:1:1], c.Children[0])
	c.Children[1].Name, c.Children[1].ReqID, c.Children[1].Local = "second", 2, selectors("10.3.0.0/16")
}

// TestAcquire: traffic brings a child up at the responder, too.
func TestAcquire(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connA()
	second(b)
	b = mirror(b, "ba")
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	full := connA()
	second(full)
	full.Initiate = false // it only waits
	l.up = false          // a new child has no traffic yet
	l.a.do(Update{full})
	l.settled(1)
	l.b.do(Acquire{ReqID: 102})
	l.b.do(Acquire{ReqID: 102}) // more packets
	l.b.do(Acquire{ReqID: 101}) // it is up already
	l.run()
	l.settled(2)
	if l.b.count(ChildUp) != 2 {
		t.Errorf("%+v", l.b.events)
	}
}

// TestDuplicateChild: a peer that sets a child up twice gets the new one, and
// the old one goes.
func TestDuplicateChild(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.transcript.Reset()
	m := l.a.machine()
	l.say("a asks for the child again")
	m.current.enqueue(&again{createChild{slot: m.slots[0]}})
	l.a.perform(m.finish())
	l.run()
	l.pass(3 * duplicateTimeout)
	l.settled(1)
	l.golden()
}

// again is a createChild that does not mind that there is one.
type again struct{ createChild }

func (x *again) request(s *ikeSA) ([]wire.Payload, bool) {
	old := s.m.children[0]
	old.state = Rekeyed // for the moment, so that the slot looks free
	payloads, ok := x.createChild.request(s)
	old.state = Established
	return payloads, ok
}

// TestSimultaneousCreate: both ends set the same child up at once.
func TestSimultaneousCreate(t *testing.T) {
	for seed := range uint64(4) {
		l := newLab(t, seed)
		l.establish()
		l.up = false // a new child has no traffic yet
		full := connA()
		second(full)
		l.a.do(Update{full})
		l.b.do(Update{mirror(full, "ba")})
		l.b.do(Acquire{ReqID: 102})
		l.run()
		l.up = true
		l.pass(time.Hour)
		l.settled(2)
	}
}

// TestDuplicateRekeyed: both ends have set a child up, and one has rekeyed its own
// before it knew of the other. One of the two stays.
func TestDuplicateRekeyed(t *testing.T) {
	for seed := range uint64(4) {
		l := newLab(t, seed)
		l.establish()
		l.up = false
		l.a.do(Expired{ID: l.a.sas[1].ID(), Hard: true})
		l.run()
		l.transcript.Reset()
		for _, e := range []*end{l.a, l.b} {
			m := e.machine()
			m.createChild(m.slots[0])
			e.perform(m.finish())
		}
		l.deliver(l.from(l.a))
		l.deliver(1) // the answer to a, before b's own request
		l.a.rekeyChild()
		l.run()
		l.pass(2 * redundantTimeout)
		l.settled(1)
	}
}

// TestKeyLog hands keys out only where it is asked for, and all of them.
func TestKeyLog(t *testing.T) {
	l := newLab(t, 1)
	var ike, esp int
	l.a.env.KeyLog = func(k Keys) {
		switch {
		case k.IKE != nil && k.ESP == nil && len(k.IKE.SKei) == 32 && len(k.IKE.SKar) == 32:
			ike++
		case k.ESP != nil && k.IKE == nil && len(k.ESP.EncryptionKey) == 20:
			esp++
		default:
			t.Errorf("%+v", k)
		}
	}
	l.establish()
	l.a.rekeyIKE()
	l.run()
	if ike != 2 || esp != 2 {
		t.Errorf("%d IKE SAs and %d ESP SAs", ike, esp)
	}
}

// TestKeysWiped: what is gone leaves no key behind.
func TestKeysWiped(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	s := l.a.machine().current
	keys := *s.keys
	l.a.do(Terminate{ReasonConfigModify})
	l.run()
	for _, k := range [][]byte{keys.d, keys.ai, keys.ar, keys.ei, keys.er, keys.pi, keys.pr} {
		if slices.ContainsFunc(k, func(b byte) bool { return b != 0 }) {
			t.Errorf("%x", k)
		}
	}
	if s.keys != nil || s.in != nil || s.out != nil || s.handshake != nil {
		t.Error("the SA still has its ciphers")
	}
}

// TestPrivateValuesWiped: a private value of a key exchange goes with the request
// that it was drawn for, however that ends.
func TestPrivateValuesWiped(t *testing.T) {
	drawn := func(x exchange) keyExchange {
		switch x := x.(type) {
		case *createChild:
			return x.kex
		case *rekeyIKE:
			return x.kex
		}
		return nil
	}
	for name, end := range map[string]func(l *lab){
		"answered":           (*lab).run,
		"refused":            func(l *lab) { l.deliver(0); l.tamper(only(wire.NoProposalChosen)); l.deliver(0) },
		"for another group":  func(l *lab) { l.deliver(0); l.tamper(only(wire.InvalidKEPayload, 0, 19)); l.deliver(0) },
		"temporary failure":  func(l *lab) { l.deliver(0); l.tamper(only(wire.TemporaryFailure)); l.deliver(0) },
		"ended":              func(l *lab) { l.a.do(Terminate{ReasonConfigModify}); l.run() },
		"deleted meanwhile":  func(l *lab) { l.wire = nil; l.b.do(Terminate{ReasonConfigModify}); l.run() },
		"without any answer": func(l *lab) { l.wire, l.lose = nil, func(packet) bool { return true }; l.pass(10 * time.Minute) },
	} {
		for _, command := range []Command{RekeyChild{ReqID: 1}, RekeyIKE{}} {
			t.Run(fmt.Sprintf("%T %s", command, name), func(t *testing.T) {
				l := newLab(t, 1)
				a := connA()
				a.Proposals = append(a.Proposals, ikeProposal(ipsec.GroupECP256))
				a.Children[0].Proposals = append(a.Children[0].Proposals, espProposal(ipsec.GroupECP256))
				l.a.conns, l.b.conns = []*Connection{a}, []*Connection{mirror(a, "ba")}
				l.establish()
				l.up = false
				l.a.do(command)
				kex, ok := drawn(l.a.machine().current.active.exchange).(*curveExchange)
				if !ok || kex.key == nil {
					t.Fatal("nothing drawn")
				}
				end(l)
				if kex.key != nil {
					t.Error("the private value is still there")
				}
			})
		}
	}
}

// TestUpdateWhileConnecting: a child that is configured otherwise by the time
// the peer has answered is not kept.
func TestUpdateWhileConnecting(t *testing.T) {
	l := newLab(t, 1)
	next := connA()
	next.Children[0].Local = selectors("10.1.7.0/24")
	l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	l.a.initiate()
	for range 3 {
		l.deliver(0)
	}
	l.a.do(Update{next}) // the answer to IKE_AUTH is under way
	l.run()
	l.pass(2 * duplicateTimeout)
	l.settled(1)
	if st := l.a.machine().Status().Children[0]; flowText(st.Local, st.Remote) != "local 10.1.7.0/24, remote 10.2.0.0/16" {
		t.Errorf("%+v", st)
	}
}

// FuzzHandle hands machines of both roles, in all their states, messages that
// are not the peer's. They change nothing.
func FuzzHandle(f *testing.F) {
	target := fuzztest.New(f)
	genuine := map[string]bool{}
	var machines [fuzzSteps][]*Machine
	for step := range fuzzSteps {
		var messages [][]byte
		machines[step], messages = fuzzLab(step)
		for _, b := range messages {
			genuine[string(b)] = true
			target.Add(uint8(step), b)
			forged := slices.Clone(b)
			forged[len(forged)-1] ^= 1
			target.Add(uint8(step), forged)
		}
	}
	target.Fuzz(func(t *testing.T, step uint8, b []byte) {
		step %= fuzzSteps
		if genuine[string(b)] {
			return
		}
		for _, m := range machines[step] {
			before := fingerprint(m)
			for _, a := range m.Handle(start, Datagram{Local: netip.AddrPortFrom(addrB, 500), Remote: netip.AddrPortFrom(addrA, 500), Bytes: b}) {
				if _, ok := a.(Send); !ok {
					t.Errorf("%T for a message that is not the peer's", a)
				}
			}
			if fingerprint(m) == before {
				continue
			}
			// The one thing that anybody can do: spoil IKE_SA_INIT, which has
			// no keys yet.
			if step > 1 {
				t.Errorf("%x changed\n%s\nto\n%s", b, before, fingerprint(m))
			}
			machines[step], _ = fuzzLab(int(step))
		}
	})
}

const fuzzSteps = 9

// fuzzLab returns the two machines after some steps of their life, and the
// messages that are under way.
func fuzzLab(step int) (machines []*Machine, messages [][]byte) {
	l := newLab(&testing.T{}, 1)
	l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	l.a.initiate()
	for range min(step, 4) {
		l.deliver(0)
	}
	switch step {
	case 5:
		l.a.do(RekeyChild{ReqID: 1})
	case 6:
		l.a.do(RekeyIKE{})
	case 7:
		l.a.do(RekeyIKE{})
		l.deliver(0)
	case 8:
		l.a.do(Terminate{ReasonConfigModify})
	}
	for _, p := range l.wire {
		messages = append(messages, p.d.Bytes)
	}
	for _, m := range append(l.a.machines, l.b.machines...) {
		machines = append(machines, m.(*Machine))
	}
	return machines, messages
}
