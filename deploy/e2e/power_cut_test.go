//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// writer creates, renames and deletes customer gateways, one after the other,
// and remembers what it was told.
type writer struct {
	name    string
	written atomic.Int64
	have    map[string][]string // by id, the names that the object may have
	order   []string            // the ids in have, oldest first
	gone    []string            // acknowledged deletions
}

// write makes changes until one fails for another reason than haste.
func (p *writer) write(w *world) error {
	for {
		var err error
		switch n := p.written.Add(1); {
		case len(p.order) >= 10:
			err = p.remove(w, p.order[0])
		case n%3 == 0 && len(p.order) > 0:
			err = p.rename(w, p.order[rand.IntN(len(p.order))])
		default:
			err = p.create(w)
		}
		var refusal *client.Error
		switch {
		case err == nil:
		case errors.As(err, &refusal) && refusal.Code == "VPN.0030":
			time.Sleep(20 * time.Millisecond)
		default:
			return err
		}
	}
}

func (p *writer) create(w *world) error {
	name := fmt.Sprintf("%s-%d", p.name, p.written.Load())
	o, err := w.api.Create(w.ctx, client.CustomerGateways, client.Object{"name": name, "id_value": "198.51.100.77"})
	if err == nil {
		p.have[o.ID()] = []string{name}
		p.order = append(p.order, o.ID())
	}
	return err
}

func (p *writer) rename(w *world, id string) error {
	name := fmt.Sprintf("%s-%d", p.name, p.written.Load())
	before := p.have[id]
	p.have[id] = append(slices.Clone(before), name)
	_, err := w.api.Update(w.ctx, client.CustomerGateways, id, client.Object{"name": name})
	var refusal *client.Error
	switch {
	case err == nil:
		p.have[id] = []string{name}
	case errors.As(err, &refusal):
		p.have[id] = before
	}
	return err
}

func (p *writer) remove(w *world, id string) error {
	err := w.api.Delete(w.ctx, client.CustomerGateways, id)
	var refusal *client.Error
	if errors.As(err, &refusal) {
		return err
	}
	if err == nil {
		p.gone = append(p.gone, id)
	}
	delete(p.have, id)
	p.order = p.order[1:]
	return err
}

// check compares what the daemon has with what the writer was told.
func (p *writer) check(t *testing.T, names map[string]string) {
	for id, allowed := range p.have {
		if name, ok := names[id]; !ok || !slices.Contains(allowed, name) {
			t.Errorf("%s: customer gateway %s is called %q (there: %v), want one of %q", p.name, id, name, ok, allowed)
		}
		if name, ok := names[id]; ok {
			p.have[id] = []string{name}
		}
	}
	for _, id := range p.gone {
		if _, ok := names[id]; ok {
			t.Errorf("%s: customer gateway %s is there again", p.name, id)
		}
	}
	p.gone = nil
}

// The daemon is killed at random moments while clients write. It comes back
// every time, with every change that it acknowledged.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	const rounds, clients = 30, 3
	w := newWorld(t, 8*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{})
	writers := make([]*writer, clients)
	for i := range writers {
		writers[i] = &writer{name: fmt.Sprintf("writer-%d", i), have: map[string][]string{}}
	}
	asked := func() (n int64) {
		for _, p := range writers {
			n += p.written.Load()
		}
		return n
	}
	for range rounds {
		var group sync.WaitGroup
		for _, p := range writers {
			group.Go(func() {
				var refusal *client.Error
				if err := p.write(w); errors.As(err, &refusal) {
					t.Errorf("%s was refused: %v", p.name, err)
				}
			})
		}
		// Counted in changes: how long they take is the machine's affair.
		due := asked() + 10 + rand.Int64N(40)
		w.check(netlab.Poll(w.ctx, time.Millisecond, func() (bool, error) { return asked() >= due || t.Failed(), nil }))
		w.check(w.daemon.Kill())
		group.Wait()
		w.check(w.daemon.Start(w.ctx))
		all, err := w.api.List(w.ctx, client.CustomerGateways)
		w.check(err)
		names := map[string]string{}
		for _, o := range all {
			names[o.ID()] = o.Name()
		}
		known := 0
		for _, p := range writers {
			p.check(t, names)
			known += len(p.have)
		}
		// A create or a deletion without an answer leaves one behind, for each
		// writer and round: nobody else will remove it.
		for _, o := range all {
			if !slices.ContainsFunc(writers, func(p *writer) bool { return p.have[o.ID()] != nil }) {
				w.check(w.api.Delete(w.ctx, client.CustomerGateways, o.ID()))
			}
		}
		if strays := len(all) - known; strays > clients {
			t.Errorf("%d customer gateways that nobody knows of, at most one of each writer can be under way", strays)
		}
	}
	t.Logf("%d changes, %d kills", asked(), rounds)
}
