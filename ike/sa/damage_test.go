package sa

import (
	"bytes"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
)

const changed = "a changed octet"

// damage makes the network hand over each datagram cut to every shorter length
// and, where it is protected, with every octet changed in turn, before it hands it
// over as it is. No damaged one may end what stands. None may be answered, but for
// changes in IKEv1, whose hash covers neither the header nor the padding.
func (l *lab) damage() (handed *int) {
	handed = new(int)
	l.lose = func(p packet) bool {
		onWire, v1 := len(l.wire), l.a.conns[0].IKEv1()
		hand := func(what string, b []byte) {
			*handed++
			p.to.receive(Datagram{Local: p.d.Local, Remote: p.d.Remote, Bytes: b})
			if len(l.wire) != onWire && !(v1 && what == changed) {
				l.t.Fatalf("%s with %s is answered:\n%s", l.header(p.d.Bytes), what, l.transcript.String())
			}
		}
		for n := range p.d.Bytes {
			hand("its end cut off", bytes.Clone(p.d.Bytes[:n]))
		}
		if !isProtected(p.d.Bytes) {
			return false
		}
		for i := range p.d.Bytes {
			b := bytes.Clone(p.d.Bytes)
			b[i] ^= 1 << (i % 8)
			hand(changed, b)
		}
		return false
	}
	return handed
}

// isProtected reports whether a datagram is encrypted and authenticated.
func isProtected(b []byte) bool {
	if h, err := wire.ParseHeader(b); err == nil && h.MajorVersion == 2 {
		return h.Exchange != wire.IKESAInit
	}
	h, err := isakmp.ParseHeader(b)
	return err == nil && h.Encrypted
}

// Every message of an IKE SA's life comes damaged in every way before it comes
// whole.
func TestDamagedMessages(t *testing.T) {
	for name, conn := range map[string]func() *Connection{
		"IKEv2":           connA,
		"main mode":       func() *Connection { return connV1() },
		"aggressive mode": func() *Connection { return connV1(func(c *Connection) { c.Aggressive = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			a := conn()
			l.a.conns, l.b.conns = []*Connection{a}, []*Connection{mirror(a, "ba")}
			handed := l.damage()
			l.establish()
			l.settled(1)
			for _, e := range []*end{l.a, l.b} {
				e.do(RekeyIKE{})
				l.pass(20 * time.Second)
				l.settled(1)
			}
			l.up = false // from here on it is to end
			l.b.do(Terminate{})
			l.pass(time.Minute)
			if len(l.a.machines)+len(l.b.machines)+len(l.a.sas)+len(l.b.sas) != 0 {
				t.Errorf("something is left:\n%s", l.transcript.String())
			}
			t.Logf("%d damaged datagrams", *handed)
		})
	}
}
