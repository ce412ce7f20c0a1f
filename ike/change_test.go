package ike

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// ikeEdits are changes of what an IKE SA is set up for, of both ends.
var ikeEdits = map[string]func(atWest, atEast *sa.Connection){
	"pre-shared key": func(w, e *sa.Connection) {
		w.PSK, e.PSK = []byte("the next key of ours"), []byte("the next key of ours")
	},
	"proposals": func(w, e *sa.Connection) {
		for _, c := range []*sa.Connection{w, e} {
			c.Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
				ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2512256),
				ipsec.PRF(ipsec.PRFHMACSHA2512), ipsec.Group(ipsec.GroupECP384),
			}}}
		}
	},
	"initiator's identity": func(w, e *sa.Connection) {
		w.LocalID, e.RemoteID = sa.FQDNIdentity("west.example.org"), sa.FQDNIdentity("west.example.org")
	},
	"responder's identity": func(w, e *sa.Connection) {
		w.RemoteID, e.LocalID = sa.FQDNIdentity("east.example.org"), sa.FQDNIdentity("east.example.org")
	},
	"version": func(w, e *sa.Connection) {
		next, _ := joined("c", 1, west)
		if !w.IKEv1() {
			next, _ = joinedV1("c", 1, false, west)
		}
		for _, c := range []*sa.Connection{w, e} {
			c.Version, c.Proposals = next.Version, next.Proposals
			c.Children[0].Proposals = next.Children[0].Proposals
		}
	},
}

// TestChangeMakesBeforeItBreaks: whichever end changes first, traffic has an SA at
// any time, and both have a new IKE SA in the end.
func TestChangeMakesBeforeItBreaks(t *testing.T) {
	for name, edit := range ikeEdits {
		for _, version := range []uint8{1, 2} {
			for _, first := range []netip.Addr{west, east} {
				t.Run(fmt.Sprintf("%s/v%d/%s", name, version, first), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := newNetwork()
						a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
						ends := func() (w, e sa.Connection) {
							if version == 1 {
								return joinedV1("c", 1, false, west)
							}
							return joined("c", 1, west)
						}
						atWest, atEast := ends()
						apply(t, b, atEast)
						apply(t, a, atWest)
						settleFor(time.Minute)
						wantUp(t, "c", a, b)
						before := a.connection(t, "c").IKE[0].InitiatorSPI
						atWest, atEast = ends()
						edit(&atWest, &atEast)
						if first == west {
							apply(t, a, atWest)
							settleFor(20 * time.Second)
							apply(t, b, atEast)
						} else {
							apply(t, b, atEast)
							settleFor(20 * time.Second)
							apply(t, a, atWest)
						}
						settleFor(4 * time.Minute)
						wantUp(t, "c", a, b)
						for _, g := range []*gateway{a, b} {
							wantNoGap(t, g, 1)
							c := g.connection(t, "c")
							if c.IKE[0].Outdated || c.Children[0].Outdated || c.IKE[0].Version != max(atWest.Version, 1) && atWest.Version == 1 {
								t.Errorf("%s: %+v %+v", g.addr, c.IKE[0], c.Children[0])
							}
						}
						if a.connection(t, "c").IKE[0].InitiatorSPI == before {
							t.Error("the IKE SA is the old one")
						}
					})
				})
			}
		}
	}
}

// TestChangeThatThePeerDoesNotFollow: what stands goes on to the end of its life,
// and says that it is not as configured; should the change be taken back, it stays.
func TestChangeThatThePeerDoesNotFollow(t *testing.T) {
	for _, taken := range []string{"back", "not back"} {
		t.Run(taken, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
				atWest, atEast := joined("c", 1, west)
				apply(t, b, atEast)
				apply(t, a, atWest)
				settleFor(5 * time.Second)
				wantUp(t, "c", a, b)
				before := sortedSPIs(a)
				old := atWest.PSK
				atWest.PSK = []byte("the next key of ours")
				apply(t, a, atWest)
				settleFor(5 * time.Minute)
				c := a.connection(t, "c")
				i := slices.IndexFunc(c.IKE, func(i sa.IKEStatus) bool { return i.State == sa.Established })
				if c.State != Up || i < 0 || !c.IKE[i].Outdated || !slices.Equal(sortedSPIs(a), before) {
					t.Fatalf("the SAs that stood: %+v, %v, were %v", c, sortedSPIs(a), before)
				}
				if c.Failure == nil || c.Failure.Diagnosis.Reason != sa.ReasonAuthentication || c.Failure.Count < 3 {
					t.Errorf("failure %+v", c.Failure)
				}
				wantNoGap(t, a, 1)
				if taken == "back" {
					atWest.PSK = old
					apply(t, a, atWest)
					settleFor(time.Minute)
					wantUp(t, "c", a, b)
					if c = a.connection(t, "c"); c.IKE[0].Outdated || !slices.Equal(sortedSPIs(a), before) {
						t.Errorf("it is outdated still: %+v", c.IKE)
					}
					return
				}
				// A child goes on to change under the old IKE SA.
				atWest.Children[0].Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionAESGCM16, 256)}}}
				atEast.Children[0].Proposals = atWest.Children[0].Proposals
				apply(t, b, atEast)
				apply(t, a, atWest)
				settleFor(5 * time.Minute)
				wantNoGap(t, a, 1)
				if got, _ := a.backend.Outbound(1); got.Encryption != ipsec.Encryption(ipsec.EncryptionAESGCM16, 256) {
					t.Errorf("the child has %s", got.Encryption)
				}
				settleFor(time.Hour)
				if c = a.connection(t, "c"); c.State == Up {
					t.Errorf("it outlives its time: %+v", c.IKE)
				}
			})
		})
	}
}

// TestChangeLeavesWhatIsUnderWay: the SAs that are replaced stay for a moment, for
// packets under way; then they go.
func TestChangeLeavesWhatIsUnderWay(t *testing.T) {
	for name, edit := range ikeEdits {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork()
			a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
			atWest, atEast := joined("c", 1, west)
			apply(t, b, atEast)
			apply(t, a, atWest)
			settleFor(5 * time.Second)
			wantUp(t, "c", a, b)
			before := sortedSPIs(b)
			edit(&atWest, &atEast)
			apply(t, b, atEast)
			apply(t, a, atWest)
			settleFor(time.Second)
			during := sortedSPIs(b)
			if len(during) != 2*len(before) || slices.ContainsFunc(before, func(s ipsec.SPI) bool { return !slices.Contains(during, s) }) {
				t.Errorf("%s: a second later there are %v, before there were %v", name, during, before)
			}
			settleFor(time.Minute)
			wantUp(t, "c", a, b)
		})
	}
}

// TestEffectOfAnotherAddress: what EffectOf says of another address of ours is what
// Apply does, with MOBIKE and without, and with more than the address changed.
func TestEffectOfAnotherAddress(t *testing.T) {
	moved := netip.MustParseAddr("192.0.2.11")
	for name, c := range map[string]struct {
		mobike bool
		edit   func(w *sa.Connection)
		effect sa.Effect
	}{
		"with MOBIKE":          {true, func(*sa.Connection) {}, sa.EffectNone},
		"without MOBIKE":       {false, func(*sa.Connection) {}, sa.EffectDrop},
		"and another key":      {true, func(w *sa.Connection) { w.PSK = []byte("the next key of ours") }, sa.EffectIKE},
		"and another identity": {true, func(w *sa.Connection) { w.LocalID = sa.FQDNIdentity("west.example.org") }, sa.EffectDrop},
		"and a child's algorithm": {true, func(w *sa.Connection) {
			w.Children[0].Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionAESGCM16, 256)}}}
		}, sa.EffectChild},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
				n.mu.Lock()
				n.hosts[moved] = a
				n.mu.Unlock()
				atWest, atEast := joined("c", 1, west)
				atWest.MOBIKE, atEast.MOBIKE = c.mobike, c.mobike
				atEast.Remote = netip.Addr{} // it knows the peer by its identity
				apply(t, b, atEast)
				apply(t, a, atWest)
				settleFor(5 * time.Second)
				wantUp(t, "c", a, b)
				before, spis := a.connection(t, "c").IKE[0].InitiatorSPI, sortedSPIs(a)

				atWest.Local = moved
				c.edit(&atWest)
				effect, up, known := a.EffectOf(atWest)
				if effect != c.effect || !up || !known {
					t.Errorf("effect %d, want %d (up %t, known %t)", effect, c.effect, up, known)
				}
				atEast.PSK, atEast.Children[0].Proposals = atWest.PSK, atWest.Children[0].Proposals
				atEast.RemoteID = atWest.LocalID
				if effect != sa.EffectNone {
					apply(t, b, atEast)
				}
				apply(t, a, atWest)
				settleFor(2 * time.Minute)
				wantUp(t, "c", a, b)
				after := a.connection(t, "c")
				if got := after.IKE[0].Local.Addr(); got != moved {
					t.Errorf("the IKE SA is at %s", got)
				}
				if same := after.IKE[0].InitiatorSPI == before; same != (effect < sa.EffectIKE) {
					t.Errorf("the same IKE SA: %t, with effect %d", same, effect)
				}
				if same := slices.Equal(sortedSPIs(a), spis); same != (effect == sa.EffectNone) {
					t.Errorf("the same SAs: %t, with effect %d", same, effect)
				}
				if effect < sa.EffectDrop {
					wantNoGap(t, a, 1)
				}
			})
		})
	}
}
