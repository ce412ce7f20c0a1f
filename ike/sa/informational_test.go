package sa

import (
	"bytes"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

func TestTerminate(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.transcript.Reset()
	l.a.do(Terminate{ReasonConfigModify})
	l.a.empty() // at once, without waiting for the peer
	l.run()
	l.golden()
	if len(l.a.machines) != 0 {
		t.Error("a is not done")
	}
	if ev := l.a.last(IKEDown); ev.Reason != ReasonConfigModify {
		t.Errorf("a: %q", ev.Reason)
	}
	if ev := l.b.last(IKEDown); ev.Reason != ReasonPeerRequest {
		t.Errorf("b: %q", ev.Reason)
	}
	l.b.empty()
	l.pass(repeatWindow)
	if len(l.b.machines) != 0 {
		t.Error("b is not done")
	}
}

// TestTerminateWhileAuthenticating: the peer may have answered IKE_AUTH, and takes the
// IKE SA for established. It is told when the answer is there, unless that refuses.
func TestTerminateWhileAuthenticating(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		l := newLab(t, 1)
		l.up = false
		l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
		if refuses {
			l.b.conns[0].PSK = []byte("another")
		}
		l.a.initiate()
		l.deliver(0)
		l.deliver(0)
		l.a.do(Terminate{ReasonConfigModify}) // IKE_AUTH is under way
		l.run()
		l.a.empty()
		l.b.empty()
		if len(l.a.machines) != 0 {
			t.Errorf("refuses %t: a is not done", refuses)
		}
		want := 1
		if refuses {
			want = 0
		}
		if l.b.count(IKEUp) != want || l.b.count(IKEDown) != want || l.a.count(IKEUp) != 0 {
			t.Errorf("refuses %t: %+v", refuses, l.b.events)
		}
		l.pass(repeatWindow)
		if len(l.b.machines) != 0 {
			t.Errorf("refuses %t: b is not done", refuses)
		}
	}
}

// TestTerminateReplaced: an IKE SA that another one replaces still receives
// what is under way.
func TestTerminateReplaced(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.a.do(Terminate{ReasonIKEReplaced})
	if len(l.a.sas) != 1 || l.a.sas[0].Direction != ipsec.In || len(l.a.policies) != 0 {
		t.Errorf("left %v", l.a.sas)
	}
	l.pass(lingerTime)
	l.a.empty()
	if len(l.a.machines) != 0 {
		t.Error("a is not done")
	}
}

// TestProbe asks at once, whether or not there is a liveness check.
func TestProbe(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.pass(time.Minute)
	l.a.do(Probe{})
	l.run()
	if seen := l.a.machine().Status().IKE[0].LastSeen; !seen.Equal(l.now) {
		t.Errorf("last seen at %s", seen)
	}
	l.up = false
	l.lose = func(packet) bool { return true }
	l.a.do(Probe{})
	l.pass(4 * time.Minute)
	if ev := l.a.last(IKEDown); ev.Reason != ReasonDPDTimeout {
		t.Errorf("%+v", ev)
	}
}

// TestTerminateBusy: an exchange under way is not waited for to do its work.
func TestTerminateBusy(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.transcript.Reset()
	l.a.rekeyChild()
	l.say("a terminates")
	l.a.do(Terminate{ReasonConfigModify})
	l.run()
	l.golden()
	l.a.empty()
	l.b.empty()
	if len(l.a.machines) != 0 {
		t.Error("a is not done")
	}
}

// TestTerminateRekeyed: the peer has made a new IKE SA and not yet deleted the
// old one. Both go.
func TestTerminateRekeyed(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.transcript.Reset()
	l.a.rekeyIKE()
	l.deliver(0)
	l.say("b terminates")
	l.b.do(Terminate{ReasonConfigModify})
	l.run()
	l.pass(repeatWindow)
	l.golden()
	if len(l.a.machines)+len(l.b.machines) != 0 {
		t.Error("a machine goes on")
	}
	l.a.empty()
	l.b.empty()
}

// TestTerminateWhileRekeying: our rekey of the IKE SA is under way when we end.
// The peer goes over to the new one, which has to be ended, too.
func TestTerminateWhileRekeying(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.a.do(RekeyIKE{})
	l.a.do(Terminate{ReasonConfigModify})
	l.run()
	for _, e := range []*end{l.a, l.b} {
		e.empty()
		for _, m := range e.machines {
			if st := m.Status(); len(st.IKE) != 0 {
				t.Errorf("%s goes on: %+v", e.name, st.IKE)
			}
		}
	}
}

func TestTerminateCrossed(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.a.do(Terminate{ReasonConfigModify})
	l.b.do(Terminate{ReasonConfigModify})
	l.run()
	l.pass(repeatWindow)
	if len(l.a.machines)+len(l.b.machines) != 0 {
		t.Error("a machine goes on")
	}
}

// TestTerminateUnheard: a peer that does not answer holds us up for seconds only.
func TestTerminateUnheard(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.lose = func(packet) bool { return true }
	l.a.do(Terminate{ReasonConfigModify})
	l.pass(30 * time.Second)
	if len(l.a.machines) != 0 {
		t.Error("a is not done")
	}
}

// TestRepeatedDelete: the answer to the last request is repeated though
// everything is gone.
func TestRepeatedDelete(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.a.do(Terminate{ReasonConfigModify})
	l.deliver(0)
	l.drop(0) // the answer
	l.pass(9 * time.Second)
	if len(l.a.machines) != 0 {
		t.Error("a has no answer:\n" + l.transcript.String())
	}
}

func withDPD(l *lab) {
	a, b := connA(), connB()
	a.DPD = DPD{Interval: 30 * time.Second, Timeout: 15 * time.Second}
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	l.up = false
	l.transcript.Reset()
}

// TestLiveness: a quiet peer is asked, and not asked while it sends.
func TestLiveness(t *testing.T) {
	l := newLab(t, 1)
	withDPD(l)
	probes := 0
	l.lose = func(p packet) bool {
		if p.from == l.a {
			probes++
		}
		return false
	}
	l.pass(5 * time.Minute)
	if probes < 9 || probes > 11 {
		t.Errorf("%d probes in five minutes of silence", probes)
	}
	// ESP of the peer is a sign of life.
	probes = 0
	for range 20 {
		l.a.used[l.a.sas[0].ID()] = ipsec.SAState{Packets: 1, LastUsed: l.now}
		l.pass(15 * time.Second)
	}
	if probes != 0 {
		t.Errorf("%d probes while the peer sends", probes)
	}
}

// TestDeadPeer: it is given up after the interval and four timeouts.
func TestDeadPeer(t *testing.T) {
	l := newLab(t, 1)
	withDPD(l)
	l.lose = func(packet) bool { return true }
	l.pass(89 * time.Second)
	if !l.a.machine().Established() {
		t.Error("given up early")
	}
	l.pass(10 * time.Second)
	l.golden()
	ev := l.a.last(IKEDown)
	if ev.Reason != ReasonDPDTimeout || ev.Diagnosis == nil || ev.Diagnosis.Exchange != "INFORMATIONAL" {
		t.Errorf("%+v", ev)
	}
	if len(l.a.machines) != 0 {
		t.Error("the machine goes on")
	}
	l.a.empty()
}

// TestDeafPeer: a peer that sends ESP but does not answer IKE is kept for a
// while, not for ever.
func TestDeafPeer(t *testing.T) {
	l := newLab(t, 1)
	withDPD(l)
	l.lose = func(packet) bool { return true }
	l.pass(30 * time.Second)
	for range 12 {
		l.a.used[l.a.sas[0].ID()] = ipsec.SAState{Packets: 1, LastUsed: l.now}
		l.pass(10 * time.Second)
	}
	if len(l.a.machines) != 1 {
		t.Fatal("given up while the peer sends")
	}
	l.pass(3 * time.Minute)
	if len(l.a.machines) != 0 {
		t.Error("never given up")
	}
}

// seal makes an authentic message of an end's current IKE SA.
func (e *end) seal(x wire.ExchangeType, id uint32, payloads ...wire.Payload) []byte {
	e.lab.t.Helper()
	s := e.machine().current
	b, err := s.message(x, false, id, payloads).Seal(s.out)
	if err != nil {
		e.lab.t.Fatal(err)
	}
	return b
}

// inject hands end b a message that a has authenticated.
func (l *lab) inject(b []byte) {
	s := l.b.machine().current
	l.b.receive(Datagram{Local: s.path.local, Remote: s.path.remote, Bytes: b})
}

// TestWindow: an old request gets the stored answer when it is the same, and
// nothing else; a later one than the next is dropped.
func TestWindow(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	request := l.a.seal(wire.Informational, 2)
	l.inject(request)
	first := l.take(0)
	l.inject(request)
	if again := l.take(0); !bytes.Equal(again.d.Bytes, first.d.Bytes) {
		t.Error("another answer")
	}
	for name, b := range map[string][]byte{
		"same id, other octets": l.a.seal(wire.Informational, 2),
		"an old id":             l.a.seal(wire.Informational, 1),
		"beyond the window":     l.a.seal(wire.Informational, 4),
		"IKE_AUTH again":        l.a.seal(wire.IKEAuth, 3),
	} {
		l.inject(b)
		if len(l.wire) != 0 {
			t.Errorf("%s: answered", name)
			l.wire = nil
		}
	}
	l.inject(l.a.seal(wire.Informational, 3))
	if len(l.wire) != 1 {
		t.Error("the next request is not answered")
	}
}

// TestUnknownNotify passes over what it does not know.
func TestUnknownNotify(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.inject(l.a.seal(wire.Informational, 2, &wire.Notify{NotifyType: 40000}, &wire.Notify{NotifyType: 8000},
		&wire.Delete{Protocol: ipsec.ProtocolESP, SPIs: []ipsec.SPI{0xdeadbeef}}, &wire.Delete{Protocol: ipsec.ProtocolAH, SPIs: []ipsec.SPI{1}}))
	if got := l.print(l.take(0).d.Bytes); got != "INFORMATIONAL response 2" {
		t.Error(got)
	}
	l.settled(1)
}

// TestCriticalPayload names the payload that is not known, and goes on.
func TestCriticalPayload(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.inject(l.a.seal(wire.Informational, 2, &wire.Unknown{PayloadType: 200, Critical: true}))
	b := l.take(0).d.Bytes
	m, err := wire.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Open(b, l.ciphers[m.InitiatorSPI][1]); err != nil {
		t.Fatal(err)
	}
	n, ok := m.Notify(wire.UnsupportedCriticalPayload)
	if !ok || !bytes.Equal(n.Data, []byte{200}) {
		t.Errorf("%+v", m.Payloads)
	}
	l.settled(1)
}

// TestMalformedRequest: a peer that breaks the syntax under our keys is told,
// and the IKE SA ends (RFC 7296, section 2.21.3).
func TestMalformedRequest(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.inject(l.a.seal(wire.CreateChildSA, 2, &wire.Nonce{Data: make([]byte, 16)}))
	if got := l.print(l.take(0).d.Bytes); got != "CREATE_CHILD_SA response 2 N(INVALID_SYNTAX)" {
		t.Error(got)
	}
	if ev := l.b.last(IKEDown); ev.Reason != ReasonMalformedPayload {
		t.Errorf("%+v", ev)
	}
	l.b.empty()
}

// TestUnauthenticatedRequests change nothing.
func TestUnauthenticatedRequests(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	s := l.a.machine().current
	plain := func(x wire.ExchangeType, response bool, payloads ...wire.Payload) []byte {
		b, err := s.message(x, response, 2, payloads).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	forged := l.a.seal(wire.Informational, 2, &wire.Delete{Protocol: ipsec.ProtocolIKE})
	forged[len(forged)-1] ^= 1
	for name, b := range map[string][]byte{
		"delete in the clear":      plain(wire.Informational, false, &wire.Delete{Protocol: ipsec.ProtocolIKE}),
		"INVALID_SPI":              plain(wire.Informational, false, &wire.Notify{NotifyType: wire.InvalidSPI}),
		"INVALID_IKE_SPI response": plain(wire.Informational, true, &wire.Notify{NotifyType: wire.InvalidIKESPI}),
		"wrong ICV":                forged,
	} {
		before := fingerprint(l.b.machine())
		l.inject(b)
		if after := fingerprint(l.b.machine()); after != before || len(l.wire) != 0 {
			t.Errorf("%s: %s became %s", name, before, after)
		}
	}
	l.settled(1)
}

// What stands beside a DELETE of the IKE SA in one message is not handled.
func TestDeleteIKEEndsTheMessage(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	out := l.a.machine().Status().Children[0].In.SPI
	m := l.b.machine()
	r := m.current.answerInformational(Datagram{}, &wire.Message{Payloads: []wire.Payload{
		&wire.Delete{Protocol: ipsec.ProtocolESP, SPIs: []ipsec.SPI{out}},
		&wire.Delete{Protocol: ipsec.ProtocolIKE},
	}})
	if len(r.payloads) != 0 || m.children[0].state != Established {
		t.Errorf("answered with %v, the child is %s", r.payloads, m.children[0].state)
	}
	r.then()
	l.b.perform(m.finish())
	if l.b.count(ChildDown) != 1 || l.b.count(IKEDown) != 1 {
		t.Errorf("events %v", l.b.events)
	}
	l.b.empty()
}
