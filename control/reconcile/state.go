package reconcile

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// Tunnel returns what the engines know of a connection; served is false where the
// key exchange does not know it. It may be called at any time.
func (r *Reconciler) Tunnel(connection string) (state control.TunnelState, served bool) {
	for _, status := range r.KeyExchange.Snapshot() {
		if status.Name != connection {
			continue
		}
		served = true
		state.NextTry = status.NextTry
		if f := status.Failure; f != nil {
			state.Failures, state.First, state.Last = f.Count, f.First, f.Last
		}
		for _, i := range status.IKE {
			if serves(i.State) {
				state.IKE = append(state.IKE, ikeFacts(&i))
			}
		}
		for _, c := range status.Children {
			if serves(c.State) {
				state.Children = append(state.Children, control.ChildFacts{
					Name: c.Name, BegunBy: side(c.Initiator), SPIIn: c.In.SPI.String(), SPIOut: c.Out.SPI.String(), Proposal: c.Proposal.String(),
					Local: ipsec.SelectorList(c.Local), Peer: ipsec.SelectorList(c.Remote), Established: c.Established, Rekey: c.RekeyAt,
					Sent:     control.Traffic{Packets: c.Outbound.Packets, Octets: c.Outbound.Bytes},
					Received: control.Traffic{Packets: c.Inbound.Packets, Octets: c.Inbound.Bytes},
					LastSent: c.Outbound.LastUsed, LastReceived: c.Inbound.LastUsed,
				})
			}
		}
	}
	for _, p := range r.Probes() {
		if p.Kind == ProbeNQA && p.Connection == connection {
			state.Probe = &control.ProbeFacts{
				Target: p.Destination, Known: p.Verdict != nqa.Unknown, Answered: p.Verdict == nqa.Reachable, RTT: p.RTT,
			}
		}
	}
	r.lookout.add(connection, &state)
	return state, served
}

func ikeFacts(i *sa.IKEStatus) control.IKEFacts {
	return control.IKEFacts{
		Version: int(i.Version), BegunBy: side(i.Initiator), Local: i.Local, Peer: i.Remote,
		LocalID: i.LocalID.String(), PeerID: i.RemoteID.String(), Proposal: i.Proposal.String(),
		NAT: natOf(i.NATLocal, i.NATRemote), UDP: i.Encap,
		InitiatorSPI: fmt.Sprintf("%016x", i.InitiatorSPI), ResponderSPI: fmt.Sprintf("%016x", i.ResponderSPI),
		Established: i.Established, Rekey: i.RekeyAt, LastSeen: i.LastSeen,
	}
}

func side(initiator bool) control.Side {
	if initiator {
		return control.OurSide
	}
	return control.PeerSide
}

// Bounds of what is kept of strangers, of each local address.
const (
	maxStrangers = 8
	strangerTime = 10 * time.Minute
)

// lookout is what connections are waiting for, and who has come instead. A peer
// behind an address that is not the configured one is the most usual of mistakes.
type lookout struct {
	mu        sync.Mutex
	wanted    map[string]wanted // by connection
	strangers map[netip.Addr][]control.Stranger
}

type wanted struct {
	local     netip.Addr
	initiates bool
	children  int
}

// set takes over which connections there are.
func (k *lookout) set(tunnels []*tunnel) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = make(map[string]wanted, len(tunnels))
	locals := make(map[netip.Addr]bool)
	for _, tn := range tunnels {
		c := &tn.connection
		k.wanted[tn.id] = wanted{c.Local, c.Initiate, len(c.Children)}
		locals[c.Local] = true
	}
	for local := range k.strangers {
		if !locals[local] {
			delete(k.strangers, local)
		}
	}
}

// note keeps a stranger. Of many, those that came last are kept.
func (k *lookout) note(now time.Time, local, from netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.strangers == nil {
		k.strangers = make(map[netip.Addr][]control.Stranger)
	}
	list := k.strangers[local]
	s := control.Stranger{Address: from}
	if i := slices.IndexFunc(list, func(s control.Stranger) bool { return s.Address == from }); i >= 0 {
		s = list[i]
		list = slices.Delete(list, i, i+1)
	}
	s.Last, s.Count = now, s.Count+1
	list = append(list, s)
	k.strangers[local] = slices.Delete(list, 0, max(0, len(list)-maxStrangers))
}

// add tells what a connection is waiting for.
func (k *lookout) add(connection string, state *control.TunnelState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w, ok := k.wanted[connection]
	if !ok {
		return
	}
	state.Initiates, state.Wanted = w.initiates, w.children
	for _, s := range slices.Backward(k.strangers[w.local]) { // the last one first
		if time.Since(s.Last) < strangerTime {
			state.Strangers = append(state.Strangers, s)
		}
	}
}
