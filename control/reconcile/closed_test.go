package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/dataplane/route"
)

// wantClosed checks that all traffic from the gateway's subnets to the peer's
// is dropped, and whether it may go over a device, too.
func (w *world) wantClosed(withDevice bool) {
	w.Helper()
	w.engines.mu.Lock()
	defer w.engines.mu.Unlock()
	for _, source := range []string{"10.10.0.0/24", "10.10.1.0/24"} {
		drops, hops := 0, 0
		for _, rule := range w.engines.routes.Rules {
			for _, r := range w.engines.routes.Routes {
				if rule.From.String() != source || r.Table != rule.Table || r.Dst.String() != "192.168.0.0/24" {
					continue
				}
				if r.Type == route.Blackhole {
					drops++
				}
				hops += len(r.NextHops)
			}
		}
		if drops != 1 || hops > 0 != withDevice {
			w.Errorf("from %s: %d blackholes and %d devices, with rules %v and routes %v", source, drops, hops,
				w.engines.routes.Rules, w.engines.routes.Routes)
		}
	}
}

func (w *world) setHost(address string, there bool) {
	w.engines.mu.Lock()
	defer w.engines.mu.Unlock()
	w.engines.host[netip.MustParseAddr(address)] = there
}

// pass makes the Reconciler read everything anew.
func (w *world) pass() {
	w.Helper()
	w.r.SetInventory(inventory(w.T))
	w.settle()
}

func TestTrafficIsClosedWhileAddressIsGone(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.engines.up(id)
		w.settle()
		w.wantClosed(true)
		w.setHost(address1, false)
		w.pass()
		w.wantState(id, control.ConnectionError)
		w.wantClosed(false)
		time.Sleep(time.Minute) // the device is gone by now
		w.wantClosed(false)
		w.setHost(address1, true)
		w.pass()
		w.wantClosed(true)
	})
}

func TestTrafficIsClosedFromTheStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.stop()
		w.start(func(e *engines) { delete(e.host, netip.MustParseAddr(address1)) })
		w.wantClosed(false)
	})
}

func TestTrafficIsClosedWithoutDevice(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.engines.mu.Lock()
		device := w.engines.devices[0].Name
		w.engines.mu.Unlock()
		w.engines.fail("devices", fmt.Errorf("interface %s: no memory", device))
		w.pass()
		w.wantState(id, control.ConnectionError)
		w.wantClosed(false)
		w.engines.fail("devices", nil)
		w.pass()
		w.wantClosed(true)
	})
}

func TestTunnelsStayWhenAddressesCannotBeListed(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.engines.up(id)
		w.settle()
		w.engines.mu.Lock()
		host := w.engines.host
		w.engines.host = nil
		w.engines.mu.Unlock()
		w.engines.fail("host", errors.New("netlink: no buffer space"))
		w.pass()
		w.engines.mu.Lock()
		if n := len(w.engines.connections); n != 1 {
			w.Errorf("the key exchange has %d connections, want 1", n)
		}
		w.engines.host = host
		w.engines.mu.Unlock()
		w.wantClosed(true)
	})
}

// What cannot be applied from the start on must not delay changes to the rest.
func TestFaultAtStartDoesNotDelayOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.gateway()
		w.connection(g, eip1, w.customer("198.51.100.7"))
		w.stop()
		w.start(func(e *engines) { delete(e.host, netip.MustParseAddr(address1)) })
		time.Sleep(10*time.Minute + 5*time.Second) // retries are far apart by now
		synctest.Wait()
		w.wantState(w.connection(g, eip2, w.customer("198.51.100.8")), control.ConnectionDown)
	})
}

func TestConnectionWhoseSecretCannotBeOpened(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.engines.up(id)
		w.settle()
		w.wantState(id, control.ConnectionActive)
		w.stop()
		if err := os.Remove(filepath.Join(w.path, "key")); err != nil {
			t.Fatal(err)
		}
		w.start()
		w.wantState(id, control.ConnectionError, "sealed")
		w.wantClosed(false)
		if err := w.service.DeleteConnection(w.ctx, project, id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if v, err := w.service.ShowConnection(w.ctx, project, id); err == nil {
			t.Errorf("is still there: %s", v.State)
		}
	})
}

// A connection that is closed takes no part in what the probes decide, and
// one whose probe fails is closed, too.
func TestTrafficIsClosedBesideFailingProbe(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.gateway()
		first := w.connection(g, eip1, w.customer("198.51.100.7"), nqaOn)
		second := w.connection(g, eip2, w.customer("198.51.100.8"), nqaOn)
		for _, id := range []string{first, second} {
			w.engines.up(id)
			w.settle()
			w.engines.prober.say(targetID(ProbeNQA, id), nqa.Reachable)
			w.settle()
		}
		w.wantClosed(true)
		w.setHost(address1, false)
		w.pass()
		w.wantState(first, control.ConnectionError)
		if got := w.links(first, second); !slices.Equal(got, []string{"second"}) {
			t.Errorf("traffic goes over %q", got)
		}
		w.engines.prober.say(targetID(ProbeNQA, second), nqa.Unreachable)
		w.settle()
		w.wantClosed(false)
		time.Sleep(time.Minute) // the device of the first is gone by now
		w.wantClosed(false)
		if got := w.links(first, second); len(got) != 0 {
			t.Errorf("traffic goes over %q", got)
		}
		w.setHost(address1, true)
		w.pass()
		w.engines.up(first)
		w.settle()
		w.wantClosed(false) // until its probe is answered
		w.engines.prober.say(targetID(ProbeNQA, first), nqa.Reachable)
		w.settle()
		w.wantClosed(true)
		if got := w.links(first, second); !slices.Equal(got, []string{"first"}) {
			t.Errorf("traffic goes over %q", got)
		}
	})
}

func TestSplitKeepsWhatAnErrorIsAbout(t *testing.T) {
	inner := errors.Join(errors.New("a"), errors.New("b"))
	parts := split(errors.Join(errors.Join(fmt.Errorf("connection c-1: %w", inner)), errors.New("d")))
	if len(parts) != 2 || !mentions(parts[0], "c-1") || parts[1].Error() != "d" {
		t.Errorf("got %q", parts)
	}
}
