package ike

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// TestReservation: a peer that may choose its traffic asks for some of what another
// connection is for, before and after that one is configured, in both versions.
func TestReservation(t *testing.T) {
	for _, version := range []uint8{1, 2} {
		for name, wants := range map[string]string{"a host in it": "10.1.7.7/32", "the same": "10.1.7.0/24", "around it": "10.1.0.0/16"} {
			for _, late := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork()
					a, b := start(t, n, west, Options{}), start(t, n, east, Options{})
					atWest, atEast := joined("template", 1, west)
					if version == 1 {
						atWest, atEast = joinedV1("template", 1, true, west)
					}
					atWest.Children[0].Local = []ipsec.TrafficSelector{prefix(wants)}
					atEast.Remote, atEast.Claimant, atEast.Children[0].Template = netip.Addr{}, "some peer", true
					static, _ := joined("static", 2)
					static.Local, static.Remote = east, north
					static.LocalID, static.RemoteID = sa.AddressIdentity(east), sa.AddressIdentity(north)
					static.Reservation = sa.Reservation{Claimant: "another peer", Flows: []sa.Flow{{
						Local: []ipsec.TrafficSelector{prefix("10.2.0.0/16")}, Remote: []ipsec.TrafficSelector{prefix("10.1.7.0/24")},
					}}}
					if late {
						apply(t, b, atEast)
						apply(t, a, atWest)
						settleFor(10 * time.Second)
						if got := len(protects(b)); got != 2 {
							t.Fatalf("v%d, %s: %d policies at first", version, name, got)
						}
					}
					apply(t, b, atEast, static)
					apply(t, a, atWest)
					settleFor(30 * time.Second)
					if got := protects(b); len(got) != 0 {
						t.Errorf("v%d, %s, late %t: the peer has %v", version, name, late, got)
					}
					if len(b.backend.SAs()) != 0 {
						t.Errorf("v%d, %s, late %t: %d SAs", version, name, late, len(b.backend.SAs()))
					}
					f := b.connection(t, "template").Failure
					if f == nil || f.Diagnosis.Code() != sa.CauseTaken {
						t.Fatalf("v%d, %s, late %t: failure %+v", version, name, late, f)
					}
					mustContain(t, f.Diagnosis.String(), "connection static")
				})
			}
		}
	}
}
