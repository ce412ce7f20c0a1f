package dataplane

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
)

// policy is one entry of the SPD.
type policy struct {
	ipsec.Policy
	request *request // of a protecting policy
}

// policyList is the policies of one interface and direction, the one that wins
// first.
type policyList []*policy

// find returns where a policy is or would be.
func (l policyList) find(id *ipsec.PolicyID) (at int, found bool) {
	return slices.BinarySearchFunc(l, id, func(p *policy, id *ipsec.PolicyID) int { return comparePolicies(&p.PolicyID, id) })
}

// table is the SPD of one interface.
type table struct {
	in  policyList                 // guarded by Engine.mu
	out atomic.Pointer[policyList] // what is published does not change
}

// list returns the policies of one direction. The caller holds Engine.mu.
func (t *table) list(d ipsec.Direction) policyList {
	switch d {
	case ipsec.In:
		return t.in
	case ipsec.Out:
		return *t.out.Load()
	}
	return nil
}

func (t *table) empty() bool { return len(t.in)+len(*t.out.Load()) == 0 }

// request is what ties policies and SAs of one ReqID together.
type request struct {
	reqID uint32
	users int32 // policies and SAs; guarded by Engine.mu
	// current is the SA that carries outbound traffic; nil when there is none.
	current atomic.Pointer[association]
	// acquired is when traffic last missed an SA, in Unix nanoseconds.
	acquired atomic.Int64

	// What the SAs have in common, as those of one CHILD_SA do, and of those that
	// follow it, is in memory once. Guarded by Engine.mu.
	path      *udp.Path
	selectors []ipsec.TrafficSelector // local and remote

	mu    sync.Mutex
	stack []*association // outbound SAs in the order they came; guarded by mu
}

// share has an SA that is not in use yet hold what it has in common with the one
// before. The caller holds Engine.mu.
func (r *request) share(sa *association) {
	sa.path.Store(r.sharePath(sa.path.Load()))
	local, remote := sa.record.Local, sa.record.Remote
	here := len(local)
	if len(r.selectors) != here+len(remote) || !slices.Equal(r.selectors[:here], local) || !slices.Equal(r.selectors[here:], remote) {
		r.selectors = slices.Concat(local, remote)
	}
	sa.record.Local, sa.record.Remote = r.selectors[:here:here], r.selectors[here:]
}

// sharePath returns a path that is already in use for an equal one. The caller holds
// Engine.mu.
func (r *request) sharePath(p *udp.Path) *udp.Path {
	if q := r.path; q == nil || q.Local != p.Local || q.Remote != p.Remote || q.Encap != p.Encap {
		r.path = p
	}
	return r.path
}

// add makes an outbound SA the current one.
func (r *request) add(sa *association) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stack = append(r.stack, sa)
	r.chooseLocked()
}

// remove takes an outbound SA away; one that was added before follows.
func (r *request) remove(sa *association) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stack = slices.DeleteFunc(r.stack, func(other *association) bool { return sa == other })
	r.chooseLocked()
}

// choose looks again after an SA has expired.
func (r *request) choose() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.chooseLocked()
}

// chooseLocked makes the SA that was added last, among those that still pass
// packets, the current one.
func (r *request) chooseLocked() {
	for _, sa := range slices.Backward(r.stack) {
		if !sa.expired.Load() {
			r.current.Store(sa)
			return
		}
	}
	r.current.Store(nil)
}

// acquirePause is the least time between two Acquire events of one ReqID.
const acquirePause = time.Second

// acquire asks for an SA, unless that was done just now.
func (e *Engine) acquire(r *request) {
	now := time.Now().UnixNano()
	last := r.acquired.Load()
	if since(last, now) < acquirePause || !r.acquired.CompareAndSwap(last, now) {
		return
	}
	e.events.Emit(ipsec.Event{Kind: ipsec.EventAcquire, ReqID: r.reqID})
}

// since returns how far apart two times of the clock are, in Unix nanoseconds. The
// earlier one may be the greater, when the clock was set back.
func since(last, now int64) time.Duration { return time.Duration(max(now-last, last-now)) }

// useRequest returns the entry of a ReqID, which gains a user. The caller holds mu.
func (e *Engine) useRequest(reqID uint32) *request {
	r := e.requests[reqID]
	if r == nil {
		r = &request{reqID: reqID}
		e.requests[reqID] = r
	}
	r.users++
	return r
}

// releaseRequest takes a user away. The caller holds mu.
func (e *Engine) releaseRequest(r *request) {
	if r == nil {
		return
	}
	if r.users--; r.users == 0 {
		delete(e.requests, r.reqID)
	}
}

// tableOf returns the SPD of an interface. The caller holds mu.
func (e *Engine) tableOf(ifID uint32) *table {
	t := e.tables[ifID]
	if t == nil {
		t = &table{}
		t.out.Store(&policyList{})
		e.tables[ifID] = t
	}
	return t
}

// releaseTable drops the SPD of an interface that is not there, when it is
// empty. The caller holds mu.
func (e *Engine) releaseTable(ifID uint32) {
	if t := e.tables[ifID]; t != nil && e.devices[ifID] == nil && t.empty() {
		delete(e.tables, ifID)
	}
}

// set puts a policy into its list, in the place of the one with its ID if there is
// one, which it returns. The caller holds Engine.mu.
func (t *table) set(entry *policy) (old *policy) {
	list := t.list(entry.Direction)
	at, found := list.find(&entry.PolicyID)
	rest := list[at:]
	if found {
		old, rest = list[at], list[at+1:]
	}
	if entry.Direction == ipsec.In {
		if found {
			list[at] = entry
		} else {
			t.in = slices.Insert(list, at, entry)
		}
		return old
	}
	next := make(policyList, 0, len(list)+1)
	next = append(append(append(next, list[:at]...), entry), rest...)
	t.out.Store(&next)
	return old
}

// remove takes a policy out of its list and returns it; nil when there is none. The
// caller holds Engine.mu.
func (t *table) remove(id *ipsec.PolicyID) *policy {
	list := t.list(id.Direction)
	at, found := list.find(id)
	if !found {
		return nil
	}
	old := list[at]
	if id.Direction == ipsec.In {
		t.in = slices.Delete(list, at, at+1)
	} else {
		next := slices.Concat(list[:at], list[at+1:])
		t.out.Store(&next)
	}
	return old
}

// comparePolicies orders policies as they are tried: by priority, and of equal
// ones the narrower first, as routes are chosen: by the remote addresses, then
// the local ones, then the ports, then those for one protocol.
func comparePolicies(a, b *ipsec.PolicyID) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority),
		compareWidths(&a.Remote, &b.Remote), compareWidths(&a.Local, &b.Local),
		cmp.Compare(portCount(&a.Remote), portCount(&b.Remote)), cmp.Compare(portCount(&a.Local), portCount(&b.Local)),
		compareProtocols(a.Remote.Protocol, b.Remote.Protocol), compareProtocols(a.Local.Protocol, b.Local.Protocol),
		ipsec.CompareSelectors(a.Remote, b.Remote), ipsec.CompareSelectors(a.Local, b.Local))
}

// compareWidths orders the smaller address range first.
func compareWidths(a, b *ipsec.TrafficSelector) int {
	x, y := width(a), width(b)
	return bytes.Compare(x[:], y[:])
}

// width returns the addresses of a range less one, as a big-endian number.
func width(ts *ipsec.TrafficSelector) (n [16]byte) {
	start, end := ts.Start.As16(), ts.End.As16()
	borrow := 0
	for i := len(n) - 1; i >= 0; i-- {
		d := int(end[i]) - int(start[i]) - borrow
		borrow = d >> 8 & 1
		n[i] = byte(d)
	}
	return n
}

// portCount returns the number of ports; zero for OPAQUE.
func portCount(ts *ipsec.TrafficSelector) int {
	return max(int(ts.EndPort)-int(ts.StartPort)+1, 0)
}

// compareProtocols orders all protocols, zero, after each.
func compareProtocols(a, b uint8) int { return cmp.Compare(a-1, b-1) }

// AddPolicy implements ipsec.Backend. A Bypass policy is refused with
// ErrUnsupported: traffic that shall not be protected must not be routed to an
// interface of this data plane. Inbound policies are kept and listed, while
// the selectors of the SA decide on inbound packets (RFC 4301, section 5.2).
func (e *Engine) AddPolicy(p ipsec.Policy) error {
	if err := checkPolicy(&p); err != nil {
		return fmt.Errorf("add policy %s: %w", p.PolicyID, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	entry := &policy{Policy: p}
	if p.Action == ipsec.Protect {
		entry.request = e.useRequest(p.ReqID)
	}
	if old := e.tableOf(p.IfID).set(entry); old != nil {
		e.releaseRequest(old.request)
	}
	return nil
}

func checkPolicy(p *ipsec.Policy) error {
	switch {
	case p.Direction != ipsec.In && p.Direction != ipsec.Out:
		return fmt.Errorf("direction %d: must be in or out", p.Direction)
	case !p.Local.Valid():
		return fmt.Errorf("local selector %s: not valid", p.Local)
	case !p.Remote.Valid():
		return fmt.Errorf("remote selector %s: not valid", p.Remote)
	}
	switch p.Action {
	case ipsec.Protect:
		if p.ReqID == 0 {
			return fmt.Errorf("reqid 0: a protecting policy names its SAs")
		}
	case ipsec.Discard:
	case ipsec.Bypass:
		return fmt.Errorf("bypass: %w", ipsec.ErrUnsupported)
	default:
		return fmt.Errorf("action %d: must be protect or discard", p.Action)
	}
	return nil
}

// DeletePolicy implements ipsec.Backend.
func (e *Engine) DeletePolicy(id ipsec.PolicyID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var p *policy
	if t := e.tables[id.IfID]; t != nil {
		p = t.remove(&id)
	}
	if p == nil {
		return fmt.Errorf("delete policy %s: %w", id, ipsec.ErrNotFound)
	}
	e.releaseRequest(p.request)
	e.releaseTable(id.IfID)
	return nil
}

// lookup returns the policy that a packet falls under, or nil.
func (l policyList) lookup(k *flowKey) *policy {
	src, dst := k.source(), k.destination()
	for _, p := range l {
		if covers(&p.Local, src, k.protocol, k.srcPort, k.ports) &&
			covers(&p.Remote, dst, k.protocol, k.dstPort, k.ports) {
			return p
		}
	}
	return nil
}

// flowCache remembers what lookup said about recent flows.
type flowCache [512]struct {
	list   *policyList
	key    flowKey
	policy *policy
}

// lookup is policyList.lookup with memory.
func (c *flowCache) lookup(t *table, k *flowKey) *policy {
	list := t.out.Load()
	entry := &c[k.hash()%uint32(len(c))]
	if entry.list != list || entry.key != *k {
		entry.list, entry.key, entry.policy = list, *k, list.lookup(k)
	}
	return entry.policy
}
