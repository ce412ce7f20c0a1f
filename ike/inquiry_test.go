package ike

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// A peer that refuses our proposals does not say what it would take, and never
// begins by itself: what it chooses from all that there is tells.
func TestInquiryFindsTheAlgorithms(t *testing.T) {
	for _, version := range []uint8{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork()
			a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
			atWest, atEast := joined("c", 1, west)
			atEast.Initiate = false
			atWest.Version, atEast.Version = version, version
			proposal := func(group uint16) []ipsec.Proposal {
				return []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
					ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128),
					ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(group),
				}}}
			}
			atWest.Proposals, atEast.Proposals = proposal(ipsec.GroupECP256), proposal(ipsec.GroupMODP3072)
			apply(t, b, atEast)
			apply(t, a, atWest)
			settleFor(3 * time.Minute)
			d := onlyDiagnosis(t, a, "c")
			mustContain(t, d.String(), "DH group", "ECP-256", "MODP-3072", "it chose")
			if d.Code() != sa.CauseIKEGroup || d.Offers == nil {
				t.Fatalf("IKEv%d: %+v", version, d)
			}
			if amendments, ok := d.Offers.PeerAmendments(); !ok || len(amendments) != 1 {
				t.Errorf("IKEv%d: amendments %v, %v", version, amendments, ok)
			}
			if len(a.backend.SAs()) != 0 {
				t.Errorf("IKEv%d: the inquiry has made an SA", version)
			}
			// The finding stands in the place of what the next attempts bring.
			if f := a.connection(t, "c").Failure; f.Count < 3 {
				t.Errorf("IKEv%d: counted %d", version, f.Count)
			}
			// With the configuration goes the finding.
			atWest.Proposals = proposal(ipsec.GroupMODP3072)
			apply(t, a, atWest)
			settleFor(30 * time.Second)
			wantUp(t, "c", a, b)
		})
	}
}

// Port 500 answers and port 4500 does not, whoever asks there.
func TestInquiryTellsAFilteredPort(t *testing.T) {
	for _, filtered := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var asking atomic.Bool
			n := newNetwork()
			a, b := start(t, n, west, Options{Retransmit: sa.Retransmit{Initial: time.Second, Factor: 1, Tries: 2}}), start(t, n, east, Options{})
			atWest, atEast := joined("c", 1, west)
			atEast.Initiate, atWest.ForceEncap, atEast.ForceEncap = false, true, true
			n.setFate(func(local, _ netip.AddrPort) (int, time.Duration) {
				lost := local.Port() == 4500 && (filtered || local.Addr() == west && !asking.Load())
				if lost {
					return 0, 0
				}
				return 1, 10 * time.Millisecond
			})
			if !filtered {
				// Only first messages pass, as where larger ones are lost.
				n.setTap(func(d sa.Datagram) { asking.Store(len(d.Bytes) > 18 && d.Bytes[18] == 34) })
			}
			apply(t, b, atEast)
			apply(t, a, atWest)
			settleFor(time.Minute)
			d := onlyDiagnosis(t, a, "c")
			want, text := sa.CauseUDP4500, "brings no answer either"
			if !filtered {
				want, text = sa.CauseSilence, "while a first message to it is"
			}
			if d.Code() != want {
				t.Errorf("filtered %v: %s: %s", filtered, d.Code(), d.String())
			}
			mustContain(t, d.String(), text)
		})
	}
}

// A peer is asked about a CHILD_SA once in ten minutes, however many IKE SAs there are
// meanwhile, and again when the connection is configured anew.
func TestChildInquiriesAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := start(t, n, west, Options{})
		cfg, _ := joined("c", 1, west)
		cfg.Initiate = false
		apply(t, a, cfg)
		settleFor(time.Second)
		want := func(child string, may bool) {
			t.Helper()
			if got := a.inquireChild(&cfg, child); got != may {
				t.Errorf("asked about %q: %v, want %v", child, got, may)
			}
		}
		want("net", true)
		want("other", true)
		settleFor(inquiryEvery - time.Second)
		want("net", false)
		settleFor(time.Second)
		want("net", true)
		want("net", false)
		next := cfg
		next.PSK = []byte("another pre-shared key")
		apply(t, a, next)
		settleFor(time.Second)
		want("net", true)
		want("net", false)
	})
}
