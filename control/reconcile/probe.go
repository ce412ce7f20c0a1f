package reconcile

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/nqa"
)

// Prober measures whether addresses answer, and how fast.
type Prober interface {
	Apply([]nqa.Target) error
	Snapshot() []nqa.Status
	Changed() <-chan struct{}
}

// ProbeKind says what a probe is for.
type ProbeKind string

// Kinds of probes.
const (
	// ProbeMonitor is that of a connection monitor: outside the tunnel, between
	// the addresses of the two gateways. It changes nothing.
	ProbeMonitor ProbeKind = "monitor"
	// ProbeNQA is that of enable_nqa: inside the tunnel, between the two tunnel
	// addresses, while the tunnel is up. Its verdict decides on the routes.
	ProbeNQA ProbeKind = "nqa"
)

// Probe is what one probe has measured.
type Probe struct {
	Kind       ProbeKind
	Connection string // id
	nqa.Status
}

// Probes returns all probes. It may be called at any time.
func (r *Reconciler) Probes() []Probe {
	var probes []Probe
	for _, status := range r.Prober.Snapshot() {
		kind, connection, _ := strings.Cut(status.ID, "/")
		probes = append(probes, Probe{Kind: ProbeKind(kind), Connection: connection, Status: status})
	}
	return probes
}

func targetID(kind ProbeKind, connection string) string { return string(kind) + "/" + connection }

// probe has the Prober probe what there is to probe now, takes its verdicts
// over, and returns what could not be probed.
func (r *Reconciler) probe(now time.Time) error {
	var targets []nqa.Target
	for id, tn := range r.tunnels {
		l := r.subjects[id]
		if _, going := r.leaving[id]; going || l == nil {
			continue
		}
		if tn.probed && l.condition.up() {
			targets = append(targets, nqa.Target{
				ID: targetID(ProbeNQA, id), Source: tn.address.Addr(), Destination: tn.peerAddress, Device: tn.device.Name,
			})
		}
		if peer := l.peer(tn); l.monitor != nil && peer.IsValid() {
			targets = append(targets, nqa.Target{ID: targetID(ProbeMonitor, id), Source: tn.connection.Local, Destination: peer})
		}
	}
	slices.SortFunc(targets, func(a, b nqa.Target) int { return strings.Compare(a.ID, b.ID) })
	var err error
	if !slices.Equal(targets, r.targets) {
		err = r.Prober.Apply(targets) // what it refuses once, it would refuse again
		r.targets = targets
	}
	verdicts := make(map[string]nqa.Verdict)
	for _, p := range r.Probes() {
		if p.Kind == ProbeNQA {
			verdicts[p.Connection] = p.Verdict
		}
	}
	for id, l := range r.subjects {
		if verdict := verdicts[id]; verdict != l.verdict {
			l.verdict = verdict
			if tn := r.tunnels[id]; tn != nil && verdict != nqa.Unknown {
				l.journal.add(now, l.place.probeMessage(tn.peerAddress, verdict))
				r.History.Append(l.connection.ID, probeEvent(now, tn.peerAddress, verdict))
			}
		}
	}
	return err
}

// peer is the address of the peer: the one it is known by, or the one that its
// packets come from.
func (l *live) peer(tn *tunnel) netip.Addr {
	if tn.connection.Remote.IsValid() {
		return tn.connection.Remote
	}
	return l.condition.remote
}

// carriage tells how the tunnel of a connection takes part in the flows of its
// group.
func (r *Reconciler) carriage(id string) carriage {
	l, tn := r.subjects[id], r.tunnels[id]
	switch {
	case l == nil || !l.condition.up():
		return idle
	case tn == nil || !tn.probed || l.verdict == nqa.Reachable:
		return carries
	case l.verdict == nqa.Unknown && l.carried:
		return carries // as before it was probed, or probed there
	}
	return withdrawn
}

// meetMonitors gives the connections their monitors, and has those finalised
// that were asked to go: from here on nothing probes for them.
func (r *Reconciler) meetMonitors(p *plan) {
	for _, l := range r.subjects {
		l.monitor = nil
	}
	for i := range p.snapshot.Monitors {
		m := &p.snapshot.Monitors[i]
		if m.DeletionRequested && r.finalizes(p, m) {
			gateway := ""
			if l := r.subjects[m.ConnectionID]; l != nil {
				gateway = l.connection.GatewayID
			}
			r.remove(gateway, "monitor", m.Meta, r.Objects.FinalizeMonitor)
			continue
		}
		if l := r.subjects[m.ConnectionID]; l != nil {
			l.monitor, l.monitorStatus = m, p.snapshot.MonitorStatus[m.ID]
		}
	}
}

// finalizes tells whether a monitor that was asked to go is this node's: its
// connection is, or there is none any more.
func (r *Reconciler) finalizes(p *plan, m *control.Monitor) bool {
	if _, there := p.tended[m.ConnectionID]; there || r.Fleet == nil {
		return p.tended[m.ConnectionID] || r.Fleet == nil
	}
	orphaned := !slices.ContainsFunc(p.snapshot.Connections, func(c control.Connection) bool { return c.ID == m.ConnectionID })
	return orphaned && p.division.IsSteward()
}

// reportMonitor has the status of a connection's monitor written if it changed.
func (r *Reconciler) reportMonitor(l *live, tn *tunnel) {
	if l.monitor == nil || l.monitor.DeletionRequested {
		return
	}
	status := control.MonitorStatus{Observed: l.monitor.Generation, Destination: l.monitorStatus.Destination}
	if tn != nil {
		if peer := l.peer(tn); peer.IsValid() {
			status.Destination = peer
		}
	}
	if status == l.monitorStatus {
		return
	}
	l.monitorStatus = status
	m := l.monitor.Meta
	r.tell(l.connection.GatewayID, m, func(ctx context.Context) error {
		return r.Objects.SetMonitorStatus(ctx, m.Project, m.ID, status)
	})
}
