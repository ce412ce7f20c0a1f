package sa

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

var benchGroups = []uint16{
	ipsec.GroupMODP2048, ipsec.GroupMODP3072, ipsec.GroupMODP4096,
	ipsec.GroupECP256, ipsec.GroupECP384, ipsec.GroupECP521, ipsec.GroupCurve25519,
}

// BenchmarkKeyExchange measures one end of a key exchange: the draw of a private
// value, the public value, and the secret. Of ML-KEM the two ends are apart.
func BenchmarkKeyExchange(b *testing.B) {
	random := rand.NewChaCha8([32]byte{})
	for _, id := range benchGroups {
		peer, err := newKeyExchange(id, random)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(ipsec.Group(id).String(), func(b *testing.B) {
			for b.Loop() {
				if _, _, err := answerKeyExchange(id, random, peer.public()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	kem, err := newKeyExchange(ipsec.GroupMLKEM768, random)
	if err != nil {
		b.Fatal(err)
	}
	value, _, err := answerKeyExchange(ipsec.GroupMLKEM768, random, kem.public())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ML-KEM-768 initiator", func(b *testing.B) {
		for b.Loop() {
			kex, err := newKeyExchange(ipsec.GroupMLKEM768, random)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := kex.shared(value); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ML-KEM-768 responder", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := answerKeyExchange(ipsec.GroupMLKEM768, random, kem.public()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkEstablish measures all exchanges of an IKE SA with its first child, of
// both ends together.
func BenchmarkEstablish(b *testing.B) {
	for _, group := range benchGroups {
		b.Run(ipsec.Group(group).String(), func(b *testing.B) {
			benchEstablish(b, func(c *Connection) { c.Proposals = []ipsec.Proposal{ikeProposal(group)} })
		})
	}
	b.Run("CURVE25519 and ML-KEM-768", func(b *testing.B) { benchEstablish(b, hybrid) })
	b.Run("CURVE25519 and PPK", func(b *testing.B) {
		benchEstablish(b, func(c *Connection) { c.PPK = &PPK{ID: "one", Key: make([]byte, 32), Required: true} })
	})
}

func benchEstablish(b *testing.B, edit func(*Connection)) {
	i := connA()
	edit(i)
	r := mirror(i, "ba")
	env := &Env{Host: &Host{
		Rand:       rand.NewChaCha8([32]byte{}),
		AllocSPI:   func(netip.Addr) (ipsec.SPI, error) { return 0x1000, nil },
		Candidates: func(_, _ netip.Addr) []*Connection { return []*Connection{r} },
	}}
	sent := func(actions []Action) (list []Datagram) {
		for _, a := range actions {
			if s, ok := a.(Send); ok {
				list = append(list, Datagram{Local: s.Remote, Remote: s.Local, Bytes: s.Datagram})
			}
		}
		return list
	}
	for b.Loop() {
		mi, out := Initiate(start, env, i)
		mr, out, err := Respond(start, env, sent(out)[0])
		if err != nil {
			b.Fatal(err)
		}
		// Each end in turn gets what the other one has sent.
		for to, from := mi, mr; !mi.Established() || !mr.Established(); to, from = from, to {
			datagrams := sent(out)
			if len(datagrams) == 0 {
				b.Fatal("nothing is sent")
			}
			out = nil
			for _, d := range datagrams {
				out = append(out, to.Handle(start, d)...)
			}
			if to.Pending() {
				out = append(out, to.Timeout(start)...)
			}
		}
	}
}
