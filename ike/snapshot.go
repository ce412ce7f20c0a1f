package ike

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// ConnectionState says how far a connection is.
type ConnectionState uint8

// States of a connection.
const (
	Down       ConnectionState = iota // no IKE SA, nor an attempt at one
	Connecting                        // an IKE SA is being negotiated
	Up                                // an IKE SA is authenticated; see Children for the tunnels
)

// String returns "down", "connecting" or "up".
func (s ConnectionState) String() string {
	switch s {
	case Down:
		return "down"
	case Connecting:
		return "connecting"
	case Up:
		return "up"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// ConnectionStatus is a connection as it stands. It holds no secret.
type ConnectionStatus struct {
	Name     string
	State    ConnectionState
	IKE      []sa.IKEStatus // oldest first; several while one replaces another
	Children []ChildStatus

	// In and Out are what passed over all SAs of the connection since it was
	// configured, those that are gone included. They never go down.
	In, Out Traffic

	Failure *Failure  // the last one, even when the connection is up again; nil: none
	NextTry time.Time // when we negotiate again; zero: not planned
}

// ChildStatus is a CHILD_SA with the counters of its two SAs.
type ChildStatus struct {
	sa.ChildStatus
	Inbound, Outbound ipsec.SAState // zero where the SA is not in the data plane
}

// Snapshot returns all connections, by name.
func (s *Server) Snapshot() []ConnectionStatus {
	s.mu.Lock()
	all := make([]ConnectionStatus, 0, len(s.conns))
	states := make(map[ipsec.SAID]ipsec.SAState)
	for name, c := range s.conns {
		status := ConnectionStatus{Name: name, NextTry: c.retryAt}
		if c.failure != nil {
			failure := *c.failure
			status.Failure = &failure
		}
		for _, p := range c.peers {
			status.add(p)
		}
		all = append(all, status)
		for _, standing := range c.passage.standing {
			states[standing.id] = ipsec.SAState{}
		}
	}
	s.mu.Unlock()
	for id := range states {
		states[id] = s.counters(id)
	}
	slices.SortFunc(all, func(a, b ConnectionStatus) int { return cmp.Compare(a.Name, b.Name) })
	for _, status := range all {
		for i := range status.Children {
			child := &status.Children[i]
			child.Inbound, child.Outbound = states[child.In], states[child.Out]
		}
	}
	s.sumTraffic(all, states)
	return all
}

// sumTraffic fills in what passed. An SA that was removed in the meantime has been
// counted at its removal.
func (s *Server) sumTraffic(all []ConnectionStatus, states map[ipsec.SAID]ipsec.SAState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range all {
		c := s.conns[all[i].Name]
		if c == nil {
			continue
		}
		for _, standing := range c.passage.standing {
			if state, asked := states[standing.id]; asked {
				c.passage.see(standing.id, &state)
			}
		}
		all[i].In, all[i].Out = c.passage.sum()
	}
}

func (c *ConnectionStatus) add(p *peer) {
	if !p.rival.Live() {
		return
	}
	state := Connecting
	if p.rival.Up() && !p.rival.Ending {
		state = Up
	}
	c.State = max(c.State, state)
	st := p.current()
	for _, ike := range st.IKE {
		ike.Outdated = ike.Outdated || p.rival.Outdated
		c.IKE = append(c.IKE, ike)
	}
	for _, child := range st.Children {
		child.Outdated = child.Outdated || p.rival.Outdated
		c.Children = append(c.Children, ChildStatus{ChildStatus: child})
	}
}

// counters asks the Backend, which may have forgotten an SA by now.
func (s *Server) counters(id ipsec.SAID) ipsec.SAState {
	if id.SPI == 0 {
		return ipsec.SAState{}
	}
	state, err := s.opts.Backend.QuerySA(id)
	if err != nil {
		return ipsec.SAState{}
	}
	return state
}
