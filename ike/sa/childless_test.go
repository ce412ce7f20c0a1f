package sa

import (
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// An IKE SA is set up without a child where the initiator wants it so; the children
// follow in exchanges of their own, with a group also where IKE_AUTH would have
// none.
func TestChildless(t *testing.T) {
	for _, both := range []bool{true, false} { // whether the responder initiates, too
		l := newLab(t, 1)
		a := connA()
		a.Childless = true
		second := a.Children[0]
		second.Name, second.ReqID = "second", 2
		second.Local, second.Remote = selectors("10.3.0.0/16"), selectors("10.4.0.0/16")
		a.Children = append(a.Children, second)
		b := mirror(a, "ba")
		b.Initiate = both
		l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
		l.establish()
		l.pass(30 * time.Second)
		l.settled(2)
		for _, c := range l.a.machine().Status().Children {
			if g, ok := c.Proposal.Get(ipsec.TransformGroup); !ok || g.ID != ipsec.GroupCurve25519 || !c.Initiator {
				t.Errorf("child %+v", c)
			}
		}
		if n := l.a.count(Failed) + l.b.count(Failed); n != 0 {
			t.Errorf("%d failures", n)
		}
	}
}

// A responder that does not announce it gets a child in IKE_AUTH.
func TestChildlessNotSupported(t *testing.T) {
	l := newLab(t, 2)
	l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	l.a.conns[0].Childless = true
	m := l.a.initiate()
	l.deliver(0)
	p := l.take(0)
	msg, err := wire.Parse(p.d.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := msg.Notify(wire.ChildlessIKEv2Supported); !ok {
		t.Error("the responder does not announce it")
	}
	m.current.handshake.childless = false
	x := ikeSAInit{}
	msg.Payloads = withoutNotify(msg.Payloads, wire.ChildlessIKEv2Supported)
	x.response(m.current, p.d, msg)
	if m.current.handshake.childless {
		t.Error("the initiator takes it for granted")
	}
}
