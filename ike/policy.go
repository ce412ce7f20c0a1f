package ike

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// policyTable counts who holds which policy. While one machine of a connection
// replaces another, both hold the same ones; connections may protect the same
// traffic, too. The policy in the Backend is that of the holder who came last,
// and it goes with the last holder.
type policyTable struct {
	backend ipsec.Backend

	mu       sync.Mutex     // held while the Backend is called, which keeps the order
	entries  []*policyEntry // by compareIDs
	reserved []reservation
}

// reservation is that of a connection.
type reservation struct {
	connection string
	sa.Reservation
}

type policyEntry struct {
	id        ipsec.PolicyID
	installed treatment
	holders   []policyHolder // in the order in which they came
}

// treatment is a policy but for its name.
type treatment struct {
	action                    ipsec.PolicyAction
	reqID                     uint32
	tunnelLocal, tunnelRemote netip.Addr
}

func treatmentOf(p ipsec.Policy) treatment {
	return treatment{p.Action, p.ReqID, p.TunnelLocal, p.TunnelRemote}
}

func (t treatment) of(id ipsec.PolicyID) ipsec.Policy {
	return ipsec.Policy{PolicyID: id, Action: t.action, ReqID: t.reqID, TunnelLocal: t.tunnelLocal, TunnelRemote: t.tunnelRemote}
}

type policyHolder struct {
	owner  any // a *peer or a *connection
	wanted treatment
	// claimant is the connection's Claimant; empty for those without one and for
	// what does not protect.
	claimant string
}

// connection returns the name of the holder's.
func (h *policyHolder) connection() string {
	if p, ok := h.owner.(*peer); ok {
		return p.current().Connection
	}
	return ""
}

// add makes owner a holder, or changes the policy that it holds. Where it comes
// with a claimant, it must not overlap what another claimant holds.
func (t *policyTable) add(owner any, claimant string, p ipsec.Policy) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if claimant != "" {
		if err := t.conflict(claimant, p.PolicyID); err != nil {
			return err
		}
	}
	at, known := t.find(&p.PolicyID)
	e := &policyEntry{id: p.PolicyID}
	if known {
		e = t.entries[at]
	}
	i, wanted := e.index(owner), treatmentOf(p)
	if last := i < 0 || i == len(e.holders)-1; last && (len(e.holders) == 0 || e.installed != wanted) {
		if err := t.backend.AddPolicy(p); err != nil {
			return fmt.Errorf("policy %s: %w", p.PolicyID, err)
		}
		e.installed = wanted
	}
	if i < 0 {
		e.holders = append(e.holders, policyHolder{owner, wanted, claimant})
	} else {
		e.holders[i].wanted = wanted
	}
	if !known {
		t.entries = slices.Insert(t.entries, at, e)
	}
	return nil
}

// find returns where the entry of a policy is or would be.
func (t *policyTable) find(id *ipsec.PolicyID) (at int, found bool) {
	return slices.BinarySearchFunc(t.entries, id, func(e *policyEntry, id *ipsec.PolicyID) int { return compareIDs(&e.id, id) })
}

func compareIDs(a, b *ipsec.PolicyID) int {
	return cmp.Or(cmp.Compare(a.IfID, b.IfID), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Priority, b.Priority),
		ipsec.CompareSelectors(a.Remote, b.Remote), ipsec.CompareSelectors(a.Local, b.Local))
}

// conflict returns why a claimant must not have a policy.
func (t *policyTable) conflict(claimant string, id ipsec.PolicyID) error {
	for _, r := range t.reserved {
		if r.Claimant == claimant {
			continue
		}
		for _, f := range r.Flows {
			if overlap(f.Local, id.Local) && overlap(f.Remote, id.Remote) {
				return fmt.Errorf("%w: %s to %s overlaps %s, which connection %s is for", sa.ErrFlowConflict, id.Local, id.Remote, f, r.connection)
			}
		}
	}
	for _, e := range t.entries {
		other := &e.id
		if other.Direction != id.Direction || !shareAddresses(other.Local, id.Local) || !shareAddresses(other.Remote, id.Remote) {
			continue
		}
		for _, h := range e.holders {
			if h.claimant != "" && h.claimant != claimant {
				return fmt.Errorf("%w: %s to %s overlaps %s to %s, which the peer of connection %s has", sa.ErrFlowConflict,
					id.Local, id.Remote, other.Local, other.Remote, h.connection())
			}
		}
	}
	return nil
}

// reserve replaces all reservations. It returns, by owner, the policies of claimants
// that overlap what is another one's now, and why.
func (t *policyTable) reserve(list []reservation) map[any][]sa.Refused {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reserved = list
	if len(list) == 0 {
		return nil
	}
	lost := map[any][]sa.Refused{}
	for _, e := range t.entries {
		for _, h := range e.holders {
			if h.claimant == "" {
				continue
			}
			if err := t.conflict(h.claimant, e.id); err != nil {
				lost[h.owner] = append(lost[h.owner], sa.Refused{Policy: e.id, Err: err})
			}
		}
	}
	return lost
}

// overlap reports whether a selector shares an address with one of a list.
func overlap(list []ipsec.TrafficSelector, ts ipsec.TrafficSelector) bool {
	return slices.ContainsFunc(list, func(other ipsec.TrafficSelector) bool { return shareAddresses(other, ts) })
}

// shareAddresses reports whether two selectors overlap as far as routes go, which
// know no protocols and ports.
func shareAddresses(a, b ipsec.TrafficSelector) bool {
	return a.Start.BitLen() == b.Start.BitLen() && !a.End.Less(b.Start) && !b.End.Less(a.Start)
}

func (e *policyEntry) index(owner any) int {
	return slices.IndexFunc(e.holders, func(h policyHolder) bool { return h.owner == owner })
}

// remove ends owner's hold on a policy. To hold none is no error.
func (t *policyTable) remove(owner any, id ipsec.PolicyID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.removeLocked(owner, id)
}

func (t *policyTable) removeLocked(owner any, id ipsec.PolicyID) error {
	at, known := t.find(&id)
	if !known {
		return nil
	}
	e := t.entries[at]
	i := e.index(owner)
	if i < 0 {
		return nil
	}
	e.holders = slices.Delete(e.holders, i, i+1)
	if len(e.holders) == 0 {
		t.entries = slices.Delete(t.entries, at, at+1)
		return t.delete(id)
	}
	if heir := e.holders[len(e.holders)-1].wanted; heir != e.installed {
		if err := t.backend.AddPolicy(heir.of(id)); err != nil {
			return fmt.Errorf("policy %s: %w", id, err)
		}
		e.installed = heir
	}
	return nil
}

func (t *policyTable) delete(id ipsec.PolicyID) error {
	if err := t.backend.DeletePolicy(id); err != nil && !errors.Is(err, ipsec.ErrNotFound) {
		return fmt.Errorf("policy %s: %w", id, err)
	}
	return nil
}

// release ends all holds of an owner and returns how many there were.
func (t *policyTable) release(owner any) (held int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, e := range slices.Backward(t.entries) { // it may remove the one at hand
		if e.index(owner) >= 0 {
			held++
			errs = append(errs, t.removeLocked(owner, e.id))
		}
	}
	return held, errors.Join(errs...)
}

// removeAll deletes every policy, whoever holds it.
func (t *policyTable) removeAll() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, e := range t.entries {
		errs = append(errs, t.delete(e.id))
	}
	t.entries = nil
	return errors.Join(errs...)
}
