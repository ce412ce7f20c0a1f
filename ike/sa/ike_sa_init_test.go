package sa

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

func TestEstablish(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.settled(1)
	l.golden()
	for _, e := range []*end{l.a, l.b} {
		up := e.last(IKEUp)
		if up.NATLocal || up.NATRemote || up.Encap || up.Local.Port() != portIKE {
			t.Errorf("%s found a NAT: %+v", e.name, up)
		}
	}
	if a, b := l.a.machine().Connection(), l.b.machine().Connection(); a != "ab" || b != "ba" {
		t.Errorf("connections %q and %q", a, b)
	}
}

// TestEstablishEveryAlgorithm brings the connection up with each IKE and ESP
// algorithm.
func TestEstablishEveryAlgorithm(t *testing.T) {
	var groupIDs, prfIDs []uint16
	for id := range groups {
		groupIDs = append(groupIDs, id)
	}
	for id := range prfs {
		if !ipsec.PRF(id).IsNational() {
			prfIDs = append(prfIDs, id)
		}
	}
	for i, pair := range ikeCiphers() {
		ike := ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
			pair[0], ipsec.PRF(prfIDs[i%len(prfIDs)]), ipsec.Group(groupIDs[i%len(groupIDs)]),
		}}
		esp := ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{pair[0], ipsec.ESN(i%2 == 0)}}
		if pair[1] != (ipsec.Transform{}) {
			ike.Transforms = append(ike.Transforms, pair[1])
			esp.Transforms = append(esp.Transforms, pair[1])
		}
		l := newLab(t, uint64(i))
		a := connA()
		a.Proposals, a.Children[0].Proposals = []ipsec.Proposal{ike}, []ipsec.Proposal{esp}
		l.a.conns, l.b.conns = []*Connection{a}, []*Connection{mirror(a, "ba")}
		l.establish()
		l.a.do(RekeyIKE{})
		l.run()
		l.a.rekeyChild()
		l.run()
		l.pass(2 * lingerTime)
		l.settled(1)
		if t.Failed() {
			t.Fatal(ike, esp)
		}
	}
}

// cookie answers with a COOKIE until the request brings it.
func cookie(value string) func(Datagram, *wire.Message) []wire.Payload {
	return func(_ Datagram, msg *wire.Message) []wire.Payload {
		if n, ok := msg.Notify(wire.Cookie); ok && string(n.Data) == value {
			return nil
		}
		return []wire.Payload{&wire.Notify{NotifyType: wire.Cookie, Data: []byte(value)}}
	}
}

// otherGroup sets the lab up so that b wants a group that a offers second.
func otherGroup(l *lab) {
	a, b := connA(), connB()
	a.Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: append(
		ikeProposal(ipsec.GroupCurve25519).Transforms, ipsec.Group(ipsec.GroupECP256))}}
	b.Proposals = []ipsec.Proposal{ikeProposal(ipsec.GroupECP256)}
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
}

func TestCookie(t *testing.T) {
	l := newLab(t, 1)
	l.b.answerInit = cookie("0123456789")
	l.establish()
	l.settled(1)
}

func TestOtherGroup(t *testing.T) {
	l := newLab(t, 1)
	otherGroup(l)
	l.establish()
	l.settled(1)
	l.golden()
	g, _ := l.a.last(IKEUp).Proposal.Get(ipsec.TransformGroup)
	if g.ID != ipsec.GroupECP256 {
		t.Error(g)
	}
}

// TestCookieAndOtherGroup has both, in either order, and keeps SPI and nonce
// throughout (RFC 7296, section 2.6.1).
func TestCookieAndOtherGroup(t *testing.T) {
	t.Run("cookie first", func(t *testing.T) {
		l := newLab(t, 1)
		otherGroup(l)
		l.b.answerInit = cookie("abc")
		l.establish()
		l.settled(1)
	})
	t.Run("group first", func(t *testing.T) {
		l := newLab(t, 1)
		otherGroup(l)
		var nonces [][]byte
		want := cookie("abc")
		l.b.answerInit = func(d Datagram, msg *wire.Message) []wire.Payload {
			n, _ := wire.Find[*wire.Nonce](msg)
			nonces = append(nonces, n.Data)
			if ke, _ := wire.Find[*wire.KE](msg); ke.Group == ipsec.GroupECP256 {
				return want(d, msg)
			}
			return nil
		}
		l.establish()
		l.settled(1)
		if len(nonces) != 3 || !bytes.Equal(nonces[0], nonces[1]) || !bytes.Equal(nonces[0], nonces[2]) {
			t.Errorf("nonces %x", nonces)
		}
	})
}

// TestInitRounds bounds how often anybody can make us begin again.
func TestInitRounds(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns = []*Connection{connA()}
	n := 0
	l.b.answerInit = func(Datagram, *wire.Message) []wire.Payload {
		n++
		return []wire.Payload{&wire.Notify{NotifyType: wire.Cookie, Data: []byte{byte(n)}}}
	}
	m := l.a.initiate()
	l.run()
	if n != maxInitRounds+1 {
		t.Errorf("%d requests", n)
	}
	if m.Drops()["too many rounds of IKE_SA_INIT"] != 1 {
		t.Error(m.Drops())
	}
}

// TestGroupNotOffered refuses to fall back to a group that is not configured.
func TestGroupNotOffered(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns = []*Connection{connA()}
	l.b.answerInit = func(Datagram, *wire.Message) []wire.Payload {
		return []wire.Payload{&wire.Notify{NotifyType: wire.InvalidKEPayload, Data: groupData(ipsec.GroupMODP768)}}
	}
	l.a.initiate()
	l.run()
	l.pass(betterAnswer)
	d := l.a.last(Failed).Diagnosis
	if d.Reason != ReasonInitiatorDH || !strings.Contains(d.Theirs, "MODP-768") || !strings.Contains(d.Ours, "CURVE25519") {
		t.Error(d)
	}
	if len(l.a.machines) != 0 {
		t.Error("the machine goes on")
	}
}

// TestForgedRefusal: a refusal that anybody could have sent does not end the
// exchange while the peer's answer comes soon (RFC 7296, section 2.21.1).
func TestForgedRefusal(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	l.a.initiate()
	request := l.wire[0].d
	l.b.forge(request, []wire.Payload{&wire.Notify{NotifyType: wire.NoProposalChosen}})
	l.deliver(1) // the forged answer first
	l.run()
	l.up = true
	l.settled(1)
}

// TestMalformedInitAnswers: what will not do as an answer is remembered, and
// the right answer still counts.
func TestMalformedInitAnswers(t *testing.T) {
	good := []wire.Payload{
		&wire.SA{Proposals: numbered([]ipsec.Proposal{ikeProposal(ipsec.GroupCurve25519)}, nil)},
		&wire.KE{Group: ipsec.GroupCurve25519, Data: bytes.Repeat([]byte{9}, 32)},
		&wire.Nonce{Data: bytes.Repeat([]byte{1}, 32)},
	}
	change := func(i int, p wire.Payload) []wire.Payload {
		list := append([]wire.Payload{}, good...)
		list[i] = p
		return list
	}
	for name, payloads := range map[string][]wire.Payload{
		"no SPI":         good,
		"other proposal": change(0, &wire.SA{Proposals: numbered([]ipsec.Proposal{ikeProposal(ipsec.GroupECP256)}, nil)}),
		"two proposals":  change(0, &wire.SA{Proposals: numbered([]ipsec.Proposal{ikeProposal(31), ikeProposal(31)}, nil)}),
		"other KE":       change(1, &wire.KE{Group: ipsec.GroupECP256, Data: make([]byte, 64)}),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
			l.a.initiate()
			l.b.forge(l.wire[0].d, payloads)
			l.deliver(1)
			l.run()
			l.settled(1)
		})
	}
}

// TestOtherVersion: somebody answers in IKEv1.
func TestOtherVersion(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns = []*Connection{connA()}
	l.a.initiate()
	request := l.take(0)
	h, err := wire.ParseHeader(request.d.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	h.ResponderSPI, h.MajorVersion, h.Length, h.Exchange, h.Initiator = 1, 1, wire.HeaderLen, 5, false
	l.a.receive(Datagram{Local: request.d.Remote, Remote: request.d.Local, Bytes: h.Append(nil)})
	l.pass(betterAnswer)
	if d := l.a.last(Failed).Diagnosis; d.Reason != ReasonVersion || d.Ours != "2" || d.Theirs != "1" {
		t.Error(d)
	}
}

func TestNoProposalChosen(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	b.Proposals[0].Transforms[0] = ipsec.Encryption(ipsec.EncryptionAESCBC, 128)
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.a.initiate()
	l.run()
	l.pass(betterAnswer)
	l.golden()
	d := l.b.last(Failed)
	if d.Reason != ReasonPhase1Proposal || d.Diagnosis.Parameter != "encryption algorithm" ||
		d.Diagnosis.Ours != "AES-CBC-128" || d.Diagnosis.Theirs != "AES-CBC-256" || d.Connection != "ba" {
		t.Errorf("responder: %+v %v", d, d.Diagnosis)
	}
	if d := l.a.last(Failed); d.Reason != ReasonPhase1Proposal || d.Diagnosis.Theirs != "" {
		t.Errorf("initiator: %v", d.Diagnosis)
	}
}

func TestGroupMismatch(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	b.Proposals[0] = ikeProposal(ipsec.GroupECP384)
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.a.initiate()
	l.run()
	if d := l.b.last(Failed).Diagnosis; d.Reason != ReasonResponderDH || d.Theirs != "CURVE25519 (group 31)" {
		t.Error(d)
	}
}

func TestUnknownPeer(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns = []*Connection{connA()}
	l.a.initiate()
	l.run()
	if d := l.b.last(Failed).Diagnosis; d.Reason != ReasonPeerAddress || d.Theirs != addrA.String() {
		t.Error(d)
	}
	if len(l.b.machines) != 0 {
		t.Error("state is kept for an unknown peer")
	}
}

func TestUnreachable(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns = []*Connection{connA()}
	l.lose = func(packet) bool { return true }
	l.a.initiate()
	l.pass(3 * time.Minute)
	d := l.a.last(Failed).Diagnosis
	if d.Reason != ReasonMaxTransmit || !strings.Contains(d.Detail, "sent 6 times to 198.51.100.1:500") || d.Exchange != "IKE_SA_INIT" {
		t.Error(d)
	}
	if len(l.a.machines) != 0 {
		t.Error("the machine goes on")
	}
}

// TestRetransmit counts the repeats and their times.
func TestRetransmit(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns = []*Connection{connA()}
	var at []time.Duration
	var first []byte
	l.lose = func(p packet) bool {
		at = append(at, l.now.Sub(start).Round(time.Second))
		if first == nil {
			first = p.d.Bytes
		}
		if !bytes.Equal(first, p.d.Bytes) {
			t.Error("a repeat differs")
		}
		return true
	}
	l.a.initiate()
	l.pass(5 * time.Minute)
	want := []float64{0, 4, 11.2, 24.2, 47.5, 89.5}
	if len(at) != len(want) {
		t.Fatal(at)
	}
	for i, d := range at {
		if d.Seconds() < want[i]-1 || d.Seconds() > want[i]*1.1+1 {
			t.Errorf("repeat %d after %s", i, d)
		}
	}
}

// TestRepeatedInit: the responder answers a repeated request with the same
// octets, and drops one that differs.
func TestRepeatedInit(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	l.a.initiate()
	request := l.wire[0]
	l.deliver(0)
	answer := l.take(0)
	l.b.receive(request.d)
	if again := l.take(0); !bytes.Equal(again.d.Bytes, answer.d.Bytes) {
		t.Error("another answer")
	}
	changed := request.d
	changed.Bytes = bytes.Clone(changed.Bytes)
	changed.Bytes[len(changed.Bytes)-1]++
	l.b.receive(changed)
	if len(l.wire) != 0 {
		t.Error("a changed request is answered")
	}
	if len(l.b.machines) != 1 {
		t.Error("state is kept twice")
	}
}

// TestHalfOpen: an initiator that does not go on is forgotten, and reported
// only where its address means one connection.
func TestHalfOpen(t *testing.T) {
	for _, known := range []bool{true, false} {
		l := newLab(t, 1)
		b := connB()
		if !known {
			b.Remote = netip.Addr{}
		}
		l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{b}
		l.a.initiate()
		l.deliver(0)
		l.a.machines = nil
		l.wire = nil
		l.pass(halfOpenTimeout + repeatWindow)
		if len(l.b.machines) != 0 {
			t.Error("it is still there")
		}
		if n := l.b.count(Failed); n == 1 != known {
			t.Errorf("known %t: %d reports", known, n)
		}
	}
}

// TestRespondRefuses has datagrams that begin nothing.
func TestRespondRefuses(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	l.a.initiate()
	good := l.wire[0].d
	parsed, err := wire.Parse(good.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(change func(*wire.Message)) []byte {
		m := &wire.Message{Header: parsed.Header, Payloads: append([]wire.Payload{}, parsed.Payloads...)}
		change(m)
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"empty":       {},
		"no header":   []byte("hello"),
		"response":    encode(func(m *wire.Message) { m.Response, m.Initiator = true, false }),
		"exchange":    encode(func(m *wire.Message) { m.Exchange, m.ResponderSPI = wire.Informational, 1 }),
		"SPI zero":    encode(func(m *wire.Message) { m.InitiatorSPI = 0 }),
		"message id":  encode(func(m *wire.Message) { m.MessageID = 1 }),
		"no KE":       encode(func(m *wire.Message) { m.Payloads = append(m.Payloads[:1:1], m.Payloads[2:]...) }),
		"all-zero KE": encode(func(m *wire.Message) { m.Payloads[1] = &wire.KE{Group: 31, Data: make([]byte, 32)} }),
		"short KE":    encode(func(m *wire.Message) { m.Payloads[1] = &wire.KE{Group: 31, Data: make([]byte, 31)} }),
	} {
		m, out, err := Respond(l.now, l.b.env, Datagram{Local: good.Local, Remote: good.Remote, Bytes: b})
		if m != nil || len(out) != 0 || err == nil {
			t.Errorf("%s: %v, %v, %v", name, m, out, err)
		}
	}
}
