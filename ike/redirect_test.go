package ike

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ike/wire"
)

var north = netip.MustParseAddr("192.0.2.3")

// away sends those who speak to one address to another one.
func away(from, to netip.Addr) Redirection {
	return func(local netip.Addr) (wire.GatewayIdentity, bool) {
		return wire.GatewayIdentity{Addr: to}, local == from
	}
}

// redirectable returns the ends of a connection that west begins with east, and
// may be sent to north, which has east's identity.
func redirectable() (atWest, atEast, atNorth sa.Connection) {
	atWest, atEast = joined("c", 1, west, east)
	atWest.RedirectTo = []netip.Prefix{netip.PrefixFrom(north, 32)}
	atNorth = atEast
	atNorth.Local, atNorth.Initiate = north, false
	return atWest, atEast, atNorth
}

// TestRedirect: a gateway that drains sends the peer to another one, without a gap
// in traffic, leaves it there, and takes it back when it drains no more.
func TestRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b, c := start(t, n, west, Options{}), start(t, n, east, Options{}), start(t, n, north, Options{})
		atWest, atEast, atNorth := redirectable()
		atEast.Initiate = false
		apply(t, b, atEast)
		apply(t, c, atNorth)
		apply(t, a, atWest)
		settleFor(5 * time.Second)
		wantUp(t, "c", a, b)
		atEast.Initiate = true // it would fetch the peer back
		apply(t, b, atEast)

		b.Redirect(away(east, north))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if left := b.Redirected(ctx); left != 0 {
			t.Errorf("%d peers have not gone", left)
		}
		settleFor(5 * time.Minute)
		wantUp(t, "c", a, c)
		wantNoGap(t, a, 1)
		if got := b.connection(t, "c"); got.State != Down {
			t.Errorf("east is %s", got.State)
		}
		if e := a.seen(sa.RedirectedByPeer); len(e) != 1 || e[0].Gateway != north.String() {
			t.Errorf("events %+v", e)
		}
		// Its IKE SA is reauthenticated where it is.
		if err := a.Reauthenticate("c"); err != nil {
			t.Fatal(err)
		}
		settleFor(time.Minute)
		wantUp(t, "c", a, c)

		b.Redirect(nil)
		settleFor(5 * time.Minute)
		wantUp(t, "c", a, b)
	})
}

// TestRedirectOfNewPeers: one that begins while the gateway drains goes to the
// other one at once, and one that cannot be sent is served.
func TestRedirectOfNewPeers(t *testing.T) {
	for _, can := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork()
			a, b, c := start(t, n, west, Options{}), start(t, n, east, Options{}), start(t, n, north, Options{})
			atWest, atEast, atNorth := redirectable()
			if !can {
				atWest.RedirectTo = nil
			}
			b.Redirect(away(east, north))
			apply(t, b, atEast)
			apply(t, c, atNorth)
			apply(t, a, atWest)
			settleFor(time.Minute)
			if can {
				wantUp(t, "c", a, c)
				return
			}
			wantUp(t, "c", a, b)
			b.Redirect(away(east, north))
			if left := b.Redirected(t.Context()); left != 0 {
				t.Errorf("%d peers are waited for that cannot be sent", left)
			}
			settleFor(time.Minute)
			wantUp(t, "c", a, b)
		})
	}
}

// TestRedirectLoop: of gateways that send a peer round in a circle, it follows five
// times in five minutes, and says so.
func TestRedirectLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := start(t, n, west, Options{})
		atWest, atEast, _ := redirectable()
		atWest.RedirectTo = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		circle := []netip.Addr{east, north, netip.MustParseAddr("192.0.2.4")}
		for i, at := range circle {
			g := start(t, n, at, Options{})
			c := atEast
			c.Local, c.Initiate = at, false
			apply(t, g, c)
			g.Redirect(away(at, circle[(i+1)%len(circle)]))
		}
		apply(t, a, atWest)
		settleFor(sa.RedirectPeriod - 10*time.Second)
		if followed := len(a.seen(sa.RedirectedByPeer)); followed != sa.MaxRedirects {
			t.Errorf("%d redirects were followed", followed)
		}
		d := onlyDiagnosis(t, a, "c")
		mustContain(t, d.String(), "redirect refused", "5 times within 5m0s")
		settleFor(sa.RedirectPeriod)
		if followed := len(a.seen(sa.RedirectedByPeer)); followed != 2*sa.MaxRedirects {
			t.Errorf("%d redirects were followed in twice the time", followed)
		}
	})
}
