package sa

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// BenchmarkEstablish measures IKE_SA_INIT and IKE_AUTH of both ends together.
func BenchmarkEstablish(b *testing.B) {
	for _, group := range []uint16{
		ipsec.GroupMODP2048, ipsec.GroupMODP3072, ipsec.GroupMODP4096,
		ipsec.GroupECP256, ipsec.GroupECP384, ipsec.GroupECP521, ipsec.GroupCurve25519,
	} {
		b.Run(fmt.Sprint(ipsec.Group(group)), func(b *testing.B) {
			i, r := connA(), connB()
			i.Proposals, r.Proposals = []ipsec.Proposal{ikeProposal(group)}, []ipsec.Proposal{ikeProposal(group)}
			env := &Env{
				Rand:       rand.NewChaCha8([32]byte{}),
				AllocSPI:   func(netip.Addr) (ipsec.SPI, error) { return 0x1000, nil },
				Candidates: func(_, _ netip.Addr) []*Connection { return []*Connection{r} },
			}
			swap := func(actions []Action) Datagram {
				for _, a := range actions {
					if s, ok := a.(Send); ok {
						return Datagram{Local: s.Remote, Remote: s.Local, Bytes: s.Datagram}
					}
				}
				b.Fatal("nothing is sent")
				return Datagram{}
			}
			for b.Loop() {
				mi, out := Initiate(start, env, i)
				mr, out, err := Respond(start, env, swap(out))
				if err != nil {
					b.Fatal(err)
				}
				out = mi.Handle(start, swap(out))
				out = mr.Handle(start, swap(out))
				mi.Handle(start, swap(out))
				if !mi.Established() || !mr.Established() {
					b.Fatal("not established")
				}
			}
		})
	}
}
