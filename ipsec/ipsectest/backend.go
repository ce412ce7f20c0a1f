package ipsectest

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// Op names a method of ipsec.Backend.
type Op string

// Operations, as they stand in a Call and as FailNext takes them.
const (
	OpAllocSPI      Op = "alloc-spi"
	OpAddSA         Op = "add-sa"
	OpUpdateSA      Op = "update-sa"
	OpDeleteSA      Op = "delete-sa"
	OpQuerySA       Op = "query-sa"
	OpAddPolicy     Op = "add-policy"
	OpDeletePolicy  Op = "delete-policy"
	OpSetInterfaces Op = "set-interfaces"
	OpList          Op = "list"
)

// Call is one call of a changing method, in order. What the Op does not take
// is zero.
type Call struct {
	Op     Op
	SA     ipsec.SA       // add-sa, with keys
	ID     ipsec.SAID     // add-sa, update-sa (the old one), delete-sa
	Update ipsec.SAUpdate // update-sa
	Policy ipsec.Policy   // add-policy; delete-policy sets the PolicyID only
	Err    error          // what the method returned
}

// String prints one line without keys, such as
// "add-sa out esp 0a1b2c3d to 192.0.2.1 reqid 1".
func (c Call) String() string {
	var text string
	switch c.Op {
	case OpAddSA:
		text = fmt.Sprintf("%s %s %s reqid %d", c.Op, c.SA.Direction, c.ID, c.SA.ReqID)
	case OpUpdateSA:
		text = fmt.Sprintf("%s %s src %s dst %s", c.Op, c.ID,
			netip.AddrPortFrom(c.Update.Src, c.Update.SrcPort), netip.AddrPortFrom(c.Update.Dst, c.Update.DstPort))
	case OpAddPolicy:
		text = fmt.Sprintf("%s %s %s reqid %d", c.Op, c.Policy.Action, c.Policy.PolicyID, c.Policy.ReqID)
	case OpDeletePolicy:
		text = fmt.Sprintf("%s %s", c.Op, c.Policy.PolicyID)
	default:
		text = fmt.Sprintf("%s %s", c.Op, c.ID)
	}
	if c.Err != nil {
		text += ": " + c.Err.Error()
	}
	return text
}

// Backend is an ipsec.Backend in memory. It passes no packets, but refuses
// what a real one refuses, remembers every change, keeps the keys for a test
// to compare, and fails and reports on demand. It starts no goroutine.
type Backend struct {
	events chan ipsec.Event

	mu       sync.Mutex
	reserved map[spiOwner]bool // given out or in use
	sas      []installedSA     // oldest first
	policies []ipsec.Policy
	devices  []ipsec.Interface
	calls    []Call
	faults   map[Op][]error
	waiting  []ipsec.Event // for a reader that is slow
}

type spiOwner struct {
	local netip.Addr
	spi   ipsec.SPI
}

type installedSA struct {
	sa    ipsec.SA
	state ipsec.SAState
}

var _ ipsec.Backend = (*Backend)(nil)

// NewBackend returns an empty Backend.
func NewBackend() *Backend {
	return &Backend{
		events:   make(chan ipsec.Event, 64),
		reserved: map[spiOwner]bool{},
		faults:   map[Op][]error{},
	}
}

// FailNext makes the next call of a method return err and do nothing. Several
// calls of FailNext queue up.
func (b *Backend) FailNext(op Op, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults[op] = append(b.faults[op], err)
}

// Report sends an event. It never blocks; one that waits already is not
// queued again.
func (b *Backend) Report(e ipsec.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	same := func(w ipsec.Event) bool { return w.Kind == e.Kind && w.ReqID == e.ReqID && w.SA == e.SA }
	if i := slices.IndexFunc(b.waiting, same); i >= 0 {
		b.waiting[i] = e
	} else {
		b.waiting = append(b.waiting, e)
	}
	b.flush()
}

// flush hands waiting events to the channel as far as it has room.
func (b *Backend) flush() {
	for len(b.waiting) > 0 {
		select {
		case b.events <- b.waiting[0]:
			b.waiting = b.waiting[1:]
		default:
			return
		}
	}
}

// SetState sets what QuerySA returns for an SA.
func (b *Backend) SetState(id ipsec.SAID, state ipsec.SAState) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.find(id)
	if i < 0 {
		return fmt.Errorf("%s: %w", id, ipsec.ErrNotFound)
	}
	b.sas[i].state = state
	return nil
}

// SAs returns the installed SAs with their keys, oldest first.
func (b *Backend) SAs() []ipsec.SA {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []ipsec.SA
	for _, in := range b.sas {
		list = append(list, cloneSA(in.sa))
	}
	return list
}

// Outbound returns the SA that carries the traffic of a ReqID: of its outbound
// ones, the one added last.
func (b *Backend) Outbound(reqID uint32) (sa ipsec.SA, ok bool) {
	for _, sa := range slices.Backward(b.SAs()) {
		if sa.Direction == ipsec.Out && sa.ReqID == reqID {
			return sa, true
		}
	}
	return ipsec.SA{}, false
}

// Policies returns the installed policies, by priority and then name.
func (b *Backend) Policies() []ipsec.Policy {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := slices.Clone(b.policies)
	slices.SortFunc(list, func(p, q ipsec.Policy) int {
		return cmp.Or(cmp.Compare(p.Priority, q.Priority), cmp.Compare(p.String(), q.String()))
	})
	return list
}

// Calls returns the changing calls so far, in order.
func (b *Backend) Calls() []Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.calls)
}

// begin takes an injected fault of a method off the queue.
func (b *Backend) begin(op Op) error {
	b.flush()
	queue := b.faults[op]
	if len(queue) == 0 {
		return nil
	}
	b.faults[op] = queue[1:]
	return queue[0]
}

func (b *Backend) find(id ipsec.SAID) int {
	return slices.IndexFunc(b.sas, func(in installedSA) bool { return in.sa.ID() == id })
}

// AllocSPI implements ipsec.Backend. A reservation lasts until the SA is
// deleted.
func (b *Backend) AllocSPI(local netip.Addr) (ipsec.SPI, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.begin(OpAllocSPI); err != nil {
		return 0, err
	}
	for {
		var random [4]byte
		rand.Read(random[:]) // never fails
		owner := spiOwner{local, ipsec.SPI(binary.BigEndian.Uint32(random[:]))}
		if owner.spi >= 256 && !b.reserved[owner] {
			b.reserved[owner] = true
			return owner.spi, nil
		}
	}
}

// AddSA implements ipsec.Backend.
func (b *Backend) AddSA(sa ipsec.SA) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.addSA(sa)
	b.calls = append(b.calls, Call{Op: OpAddSA, SA: cloneSA(sa), ID: sa.ID(), Err: err})
	return err
}

func (b *Backend) addSA(sa ipsec.SA) error {
	if err := b.begin(OpAddSA); err != nil {
		return err
	}
	if err := validateSA(&sa); err != nil {
		return fmt.Errorf("%s: %w", sa.ID(), err)
	}
	if b.find(sa.ID()) >= 0 {
		return fmt.Errorf("%s: %w", sa.ID(), ipsec.ErrExists)
	}
	b.sas = append(b.sas, installedSA{sa: cloneSA(sa)})
	if sa.Direction == ipsec.In {
		b.reserved[spiOwner{sa.Dst, sa.SPI}] = true
	}
	return nil
}

// validateSA refuses what no data plane can do.
func validateSA(sa *ipsec.SA) (err error) {
	switch sa.Direction {
	case ipsec.In:
		_, err = esp.NewInbound(sa)
	case ipsec.Out:
		_, err = esp.NewOutbound(sa)
	default:
		err = errors.New(sa.Direction.String())
	}
	switch {
	case err != nil:
		return err
	case !sa.Src.IsValid() || !sa.Dst.IsValid() || sa.Src.Is4() != sa.Dst.Is4():
		return fmt.Errorf("outer addresses %s and %s: must be of one family", sa.Src, sa.Dst)
	case sa.Encap && (sa.SrcPort == 0 || sa.DstPort == 0):
		return fmt.Errorf("ports %d and %d: UDP encapsulation needs both", sa.SrcPort, sa.DstPort)
	case len(sa.Local) == 0 || len(sa.Remote) == 0:
		return errors.New("traffic selectors: there must be some of both sides")
	}
	for _, s := range slices.Concat(sa.Local, sa.Remote) {
		if !s.Valid() {
			return fmt.Errorf("traffic selector %s: not valid", s)
		}
	}
	return nil
}

// UpdateSA implements ipsec.Backend.
func (b *Backend) UpdateSA(id ipsec.SAID, to ipsec.SAUpdate) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.updateSA(id, to)
	b.calls = append(b.calls, Call{Op: OpUpdateSA, ID: id, Update: to, Err: err})
	return err
}

func (b *Backend) updateSA(id ipsec.SAID, to ipsec.SAUpdate) error {
	if err := b.begin(OpUpdateSA); err != nil {
		return err
	}
	i := b.find(id)
	if i < 0 {
		return fmt.Errorf("%s: %w", id, ipsec.ErrNotFound)
	}
	moved := b.sas[i].sa
	moved.Src, moved.Dst = to.Src, to.Dst
	moved.Encap, moved.SrcPort, moved.DstPort = to.Encap, to.SrcPort, to.DstPort
	if err := validateSA(&moved); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if at := b.find(moved.ID()); at >= 0 && at != i {
		return fmt.Errorf("%s: %w", moved.ID(), ipsec.ErrExists)
	}
	if moved.Direction == ipsec.In {
		delete(b.reserved, spiOwner{id.Dst, id.SPI})
		b.reserved[spiOwner{moved.Dst, moved.SPI}] = true
	}
	b.sas[i].sa = moved
	return nil
}

// DeleteSA implements ipsec.Backend.
func (b *Backend) DeleteSA(id ipsec.SAID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.deleteSA(id)
	b.calls = append(b.calls, Call{Op: OpDeleteSA, ID: id, Err: err})
	return err
}

func (b *Backend) deleteSA(id ipsec.SAID) error {
	if err := b.begin(OpDeleteSA); err != nil {
		return err
	}
	i := b.find(id)
	if i < 0 {
		return fmt.Errorf("%s: %w", id, ipsec.ErrNotFound)
	}
	if b.sas[i].sa.Direction == ipsec.In {
		delete(b.reserved, spiOwner{id.Dst, id.SPI})
	}
	b.sas = slices.Delete(b.sas, i, i+1)
	return nil
}

// QuerySA implements ipsec.Backend.
func (b *Backend) QuerySA(id ipsec.SAID) (ipsec.SAState, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.begin(OpQuerySA); err != nil {
		return ipsec.SAState{}, err
	}
	i := b.find(id)
	if i < 0 {
		return ipsec.SAState{}, fmt.Errorf("%s: %w", id, ipsec.ErrNotFound)
	}
	return b.sas[i].state, nil
}

// AddPolicy implements ipsec.Backend.
func (b *Backend) AddPolicy(p ipsec.Policy) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.addPolicy(p)
	b.calls = append(b.calls, Call{Op: OpAddPolicy, Policy: p, Err: err})
	return err
}

func (b *Backend) addPolicy(p ipsec.Policy) error {
	if err := b.begin(OpAddPolicy); err != nil {
		return err
	}
	switch {
	case p.Direction != ipsec.In && p.Direction != ipsec.Out:
		return fmt.Errorf("policy %s: %s", p.PolicyID, p.Direction)
	case !p.Local.Valid() || !p.Remote.Valid():
		return fmt.Errorf("policy %s: traffic selectors %s and %s: not valid", p.PolicyID, p.Local, p.Remote)
	case p.Action != ipsec.Protect && p.Action != ipsec.Discard && p.Action != ipsec.Bypass:
		return fmt.Errorf("policy %s: %s", p.PolicyID, p.Action)
	case p.Action == ipsec.Protect && p.ReqID == 0:
		return fmt.Errorf("policy %s: reqid: zero names no SA", p.PolicyID)
	}
	if i := b.findPolicy(p.PolicyID); i >= 0 {
		b.policies[i] = p
	} else {
		b.policies = append(b.policies, p)
	}
	return nil
}

func (b *Backend) findPolicy(id ipsec.PolicyID) int {
	return slices.IndexFunc(b.policies, func(p ipsec.Policy) bool { return p.PolicyID == id })
}

// DeletePolicy implements ipsec.Backend.
func (b *Backend) DeletePolicy(id ipsec.PolicyID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.deletePolicy(id)
	b.calls = append(b.calls, Call{Op: OpDeletePolicy, Policy: ipsec.Policy{PolicyID: id}, Err: err})
	return err
}

func (b *Backend) deletePolicy(id ipsec.PolicyID) error {
	if err := b.begin(OpDeletePolicy); err != nil {
		return err
	}
	i := b.findPolicy(id)
	if i < 0 {
		return fmt.Errorf("policy %s: %w", id, ipsec.ErrNotFound)
	}
	b.policies = slices.Delete(b.policies, i, i+1)
	return nil
}

// SetInterfaces implements ipsec.Backend.
func (b *Backend) SetInterfaces(want []ipsec.Interface) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.begin(OpSetInterfaces); err != nil {
		return err
	}
	var errs []error
	var devices []ipsec.Interface
	for _, w := range want {
		taken := slices.ContainsFunc(devices, func(d ipsec.Interface) bool { return d.IfID == w.IfID || d.Name == w.Name })
		switch {
		case w.IfID == 0:
			errs = append(errs, fmt.Errorf("interface %q: if_id: must not be zero", w.Name))
		case w.Name == "" || len(w.Name) > 15:
			errs = append(errs, fmt.Errorf("interface %q: name: must have 1 to 15 octets", w.Name))
		case taken:
			errs = append(errs, fmt.Errorf("interface %q: if_id %d or name: %w", w.Name, w.IfID, ipsec.ErrExists))
		default:
			devices = append(devices, w)
		}
	}
	b.devices = devices
	return errors.Join(errs...)
}

// List implements ipsec.Backend.
func (b *Backend) List() (ipsec.Inventory, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.begin(OpList); err != nil {
		return ipsec.Inventory{}, err
	}
	inv := ipsec.Inventory{Policies: slices.Clone(b.policies), Interfaces: slices.Clone(b.devices)}
	for _, in := range b.sas {
		sa := cloneSA(in.sa)
		sa.EncryptionKey, sa.IntegrityKey = nil, nil
		inv.SAs = append(inv.SAs, sa)
	}
	return inv, nil
}

// Events implements ipsec.Backend.
func (b *Backend) Events() <-chan ipsec.Event { return b.events }

// cloneSA copies what the caller of AddSA may clear or change afterwards.
func cloneSA(sa ipsec.SA) ipsec.SA {
	sa.EncryptionKey, sa.IntegrityKey = bytes.Clone(sa.EncryptionKey), bytes.Clone(sa.IntegrityKey)
	sa.Local, sa.Remote = slices.Clone(sa.Local), slices.Clone(sa.Remote)
	return sa
}
