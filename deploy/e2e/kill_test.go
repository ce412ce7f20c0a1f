//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// slot is a customer gateway with at most one connection, which one client
// creates, changes and deletes, and what that client was told of it.
type slot struct {
	customerGateway string
	subnet          int      // number of the network behind it
	id              string   // of the connection; empty: there is none
	names           []string // one of which it has
	doomed          bool     // its deletion was asked for, without an answer
	deleted         []string // acknowledged deletions
}

// tenant is a client with slots.
type tenant struct {
	name    string
	slots   []*slot
	changes int
}

func peerSubnet(n int) string { return fmt.Sprintf("172.%d.%d.0/24", 16+n/256, n%256) }

// change makes one change at random.
func (c *tenant) change(w *world, gateway string) error {
	c.changes++
	s := c.slots[rand.IntN(len(c.slots))]
	name := fmt.Sprintf("%s-%d", c.name, c.changes)
	switch {
	case s.id == "":
		o, err := w.api.Create(w.ctx, client.Connections, client.Object{
			"name": name, "vgw_id": gateway, "vgw_ip": netlab.EIP1, "cgw_id": s.customerGateway,
			"peer_subnets": []string{peerSubnet(s.subnet)}, "psk": psk,
			"ikepolicy": client.Object{"dh_group": "group19"},
		})
		if err == nil {
			s.id, s.names, s.doomed = o.ID(), []string{name}, false
		}
		return err
	case rand.IntN(3) == 0:
		s.doomed = true
		err := w.api.Delete(w.ctx, client.Connections, s.id)
		var refusal *client.Error
		switch {
		case err == nil:
			s.deleted, s.id, s.names = append(s.deleted, s.id), "", nil
		case errors.As(err, &refusal):
			s.doomed = false
		}
		return err
	default:
		before := s.names
		s.names = append(slices.Clone(before), name)
		_, err := w.api.Update(w.ctx, client.Connections, s.id, client.Object{"name": name})
		var refusal *client.Error
		switch {
		case err == nil:
			s.names = []string{name}
		case errors.As(err, &refusal):
			s.names = before
		}
		return err
	}
}

// work makes changes until the daemon is gone. One that has to wait for another
// is refused, and that is no fault.
func (c *tenant) work(w *world, gateway string) error {
	for {
		err := c.change(w, gateway)
		var refusal *client.Error
		switch {
		case err == nil:
		case errors.As(err, &refusal) && (refusal.Code == "VPN.0030" || strings.Contains(refusal.Message, "is not ready") ||
			strings.Contains(refusal.Message, "has this customer gateway")): // that is being deleted
			time.Sleep(10 * time.Millisecond)
		case errors.As(err, &refusal):
			return err
		default:
			return nil
		}
	}
}

// compare checks what the daemon has against what the client was told, and takes
// over what it was not told.
func (c *tenant) compare(t *testing.T, have map[string]client.Object) {
	t.Helper()
	for _, s := range c.slots {
		for _, id := range s.deleted {
			if o, there := have[id]; there && o.Status() != "PENDING_DELETE" {
				t.Errorf("%s: connection %s, whose deletion was acknowledged, is %s", c.name, id, o.Status())
			}
		}
		o, there := have[s.id]
		going := o.Status() == "PENDING_DELETE"
		switch {
		case s.id == "":
		case s.doomed && (!there || going):
			s.deleted, s.id = append(s.deleted, s.id), ""
		case !there || going || !slices.Contains(s.names, o.Name()):
			t.Errorf("%s: connection %s is there: %v, %s, called %q, want one of %q", c.name, s.id, there, o.Status(), o.Name(), s.names)
			s.id = ""
		default:
			s.names, s.doomed = []string{o.Name()}, false
		}
		if s.id != "" {
			continue
		}
		for id, o := range have {
			if o.Text("cgw_id") == s.customerGateway && o.Status() != "PENDING_DELETE" {
				s.id, s.names, s.doomed = id, []string{o.Name()}, false
			}
		}
	}
}

// kills is how often the daemon is killed; VPNGW_E2E_KILLS says otherwise.
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("VPNGW_E2E_KILLS")
	if text == "" {
		return 25
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("VPNGW_E2E_KILLS: %v", err)
	}
	return n
}

// The daemon is killed at random moments while clients create, change and
// delete connections. Every time it comes back with what it acknowledged, nothing
// stays on its way for ever, and the host has what the connections need and
// nothing else.
func TestKillUnderWrites(t *testing.T) {
	t.Parallel()
	rounds := kills(t)
	w := newWorld(t, time.Duration(rounds)*30*time.Second+2*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{})
	file := w.file(nil)
	w.apply(file)
	gateway, err := w.api.Find(w.ctx, client.Gateways, "cloud")
	w.check(err)
	var tenants []*tenant
	for i := range 3 {
		c := &tenant{name: fmt.Sprintf("tenant-%d", i)}
		for j := range 6 {
			n := 6*i + j
			o, err := w.api.Create(w.ctx, client.CustomerGateways, client.Object{"id_value": fmt.Sprintf("198.18.0.%d", n+1)})
			w.check(err)
			c.slots = append(c.slots, &slot{customerGateway: o.ID(), subnet: n})
		}
		tenants = append(tenants, c)
	}
	for range rounds {
		var group sync.WaitGroup
		for _, c := range tenants {
			group.Go(func() {
				if err := c.work(w, gateway.ID()); err != nil {
					t.Errorf("%s was refused: %v", c.name, err)
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		w.check(w.daemon.Kill())
		group.Wait()
		w.check(w.daemon.Start(w.ctx))
		have := w.connections()
		for _, c := range tenants {
			c.compare(t, have)
		}
		w.expectSettled(tenants)
		if t.Failed() {
			return
		}
	}
	total := 0
	for _, c := range tenants {
		total += c.changes
	}
	t.Logf("%d changes, %d kills", total, rounds)
	if total < rounds {
		t.Errorf("%d changes were asked for in %d rounds: too few to tell anything", total, rounds)
	}
	for id := range w.connections() {
		w.check(w.api.Delete(w.ctx, client.Connections, id))
	}
	for id := range w.connections() {
		w.check(w.api.WaitGone(w.ctx, client.Connections, id, 50*time.Millisecond))
	}
	w.expectSettled(nil)
	w.check(w.daemon.Stop())
	if diff := must(w.Gateway.HostStateDiff(w.ctx, w.before))(t); diff != "" {
		t.Errorf("the stopped daemon left\n%s", diff)
	}
}

// connections are all connections by their id.
func (w *world) connections() map[string]client.Object {
	w.t.Helper()
	list, err := w.api.List(w.ctx, client.Connections)
	w.check(err)
	all := make(map[string]client.Object, len(list))
	for _, o := range list {
		all[o.ID()] = o
	}
	return all
}

var blackhole = regexp.MustCompile(`(?m)^blackhole (172\.\d+\.\d+\.0/24) .*proto 175`)

// expectSettled waits until nothing is on its way and the host has exactly what
// the connections need: a device for each, and the routes to their peers'
// networks.
func (w *world) expectSettled(tenants []*tenant) {
	w.t.Helper()
	subnets := map[string]int{} // by customer gateway
	for _, c := range tenants {
		for _, s := range c.slots {
			subnets[s.customerGateway] = s.subnet
		}
	}
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	var what string
	err := netlab.Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		list, err := w.api.List(ctx, client.Connections)
		if err != nil {
			return false, err
		}
		want := map[string]bool{}
		for _, o := range list {
			if strings.HasPrefix(o.Status(), "PENDING_") || o.Status() == "ERROR" {
				what = fmt.Sprintf("connection %s is %s: %s", o.ID(), o.Status(), o.StatusMessage())
				return false, nil
			}
			want[peerSubnet(subnets[o.Text("cgw_id")])] = true
		}
		links, err := w.Gateway.Run(ctx, "ip", "-brief", "link")
		if err != nil {
			return false, err
		}
		routes, err := w.Gateway.Run(ctx, "ip", "route", "show", "table", "all")
		if err != nil {
			return false, err
		}
		routed := map[string]bool{}
		for _, m := range blackhole.FindAllStringSubmatch(routes, -1) {
			routed[m[1]] = true
		}
		what = fmt.Sprintf("%d connections have the devices\n%s\nand the routes %v, want %v", len(list), links, slices.Sorted(maps.Keys(routed)), slices.Sorted(maps.Keys(want)))
		return strings.Count(links, "vpngw") == len(list) && maps.Equal(routed, want), nil
	})
	if err != nil {
		w.t.Errorf("the daemon does not come to rest: %s: %v", what, err)
	}
}
