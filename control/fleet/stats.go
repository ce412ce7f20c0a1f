package fleet

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

type stats struct{ taken, lapses atomic.Uint64 }

// Stats are figures about this node's share, for metrics.
type Stats struct {
	LeaseLeft time.Duration // until the node stops, unless the lease is renewed; zero without one
	Nodes     int           // alive
	Addresses int           // that float and are held
	Gateways  int           // active-standby ones that are carried
	Taken     uint64        // claims, since the start
	Lapses    uint64        // leases that were not renewed in time
}

// Stats returns the figures.
func (k *Keeper) Stats() Stats {
	st := Stats{Taken: k.stats.taken.Load(), Lapses: k.stats.lapses.Load(), Nodes: len(k.division.Load().Nodes)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.session.valid() {
		st.LeaseLeft = k.session.left()
	}
	for name := range k.held {
		switch {
		case strings.HasPrefix(name, addressClaims):
			st.Addresses++
		case strings.HasPrefix(name, activeClaims):
			st.Gateways++
		}
	}
	return st
}

// awayFor is how long a node may be without a lease before it is not ready.
const awayFor = 10 * time.Second

// Ready returns why the node takes no part in the fleet, if that has been so
// for some time.
func (k *Keeper) Ready() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.since.IsZero() || time.Since(k.since) < awayFor {
		return nil
	}
	return fmt.Errorf("%w since %s", errNoLease, k.since.UTC().Format(time.RFC3339))
}

var errNoLease = errors.New("the node has no lease")
