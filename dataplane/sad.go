package dataplane

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// association is one SA of the SAD. Either in or out is set.
type association struct {
	in      *esp.Inbound
	out     *esp.Outbound
	request *request

	workers sync.Pool // of *esp.Sealer or *esp.Opener: one for each goroutine at a time

	turn *turn // outbound: of who has sealed a batch to send it

	// expired is set when a hard limit is reached: no packet passes any more.
	expired atomic.Bool
	// softened is set when a soft limit was reported.
	softened atomic.Bool
	// path is where outbound packets go, and where inbound ones come from.
	path atomic.Pointer[udp.Path]
	// limit polices what the SA carries; nil is none.
	limit atomic.Pointer[limit]
	// maxInner is the largest inner packet that the outer path takes, in octets.
	maxInner atomic.Int32
	// staleMTU asks for another look at the path MTU.
	staleMTU atomic.Bool
	// movedAt is when a move of the peer was last reported, in Unix nanoseconds.
	movedAt atomic.Int64
	// drops are those that package esp does not count; nil: none so far.
	drops atomic.Pointer[counters]

	// record is the SA without its keys. Its outer addresses and ports change and
	// are guarded by Engine.mu; the rest does not.
	record      ipsec.SA
	added       time.Time // guarded by Engine.mu
	seen        time.Time // of the last look at the counters; guarded by Engine.mu
	seenPackets uint64    // what they said; guarded by Engine.mu
	lastUsed    time.Time // guarded by Engine.mu
	mtuChecked  time.Time // guarded by Engine.mu
}

// id returns the SA's name, which changes with its outer addresses.
func (a *association) id() ipsec.SAID {
	path := a.path.Load()
	if a.in != nil {
		return ipsec.SAID{Dst: path.Local.Addr(), SPI: a.record.SPI}
	}
	return ipsec.SAID{Dst: path.Remote.Addr(), SPI: a.record.SPI}
}

// opener returns one for a goroutine, which gives it back to workers.
func (a *association) opener() *esp.Opener {
	if o, ok := a.workers.Get().(*esp.Opener); ok {
		return o
	}
	return a.in.NewOpener()
}

// sealer returns one for a goroutine, which gives it back to workers.
func (a *association) sealer() *esp.Sealer {
	if s, ok := a.workers.Get().(*esp.Sealer); ok {
		return s
	}
	return a.out.NewSealer()
}

// state returns the counters of package esp.
func (a *association) state() ipsec.SAState {
	if a.in != nil {
		return a.in.State()
	}
	return a.out.State()
}

// wipe drops the keys.
func (a *association) wipe() {
	if a.in != nil {
		a.in.Wipe()
	} else {
		a.out.Wipe()
	}
}

func (a *association) drop(c *counters, r reason) {
	c.drop(r)
	a.count(r, 1)
}

// count counts drops of the SA's own.
func (a *association) count(r reason, n uint64) {
	own := a.drops.Load()
	if own == nil {
		a.drops.CompareAndSwap(nil, &counters{})
		own = a.drops.Load()
	}
	own.drops[r].Add(n)
}

// shards is the number of pieces an index is replaced in.
const shards = 256

// index finds what an SPI of ours stands for without a lock. Each shard does not
// change once published; nil is an empty one.
type index[T any] [shards]atomic.Pointer[map[ipsec.SAID]*T]

// get returns what an SPI stands for, or nil.
func (d *index[T]) get(id ipsec.SAID) *T {
	shard := d[uint32(id.SPI)%shards].Load()
	if shard == nil {
		return nil
	}
	return (*shard)[id]
}

// set puts an entry, or takes one away when it is nil. The caller holds Engine.mu.
func (d *index[T]) set(id ipsec.SAID, entry *T) {
	p := &d[uint32(id.SPI)%shards]
	next := map[ipsec.SAID]*T{}
	if old := p.Load(); old != nil {
		maps.Copy(next, *old)
	}
	if entry != nil {
		next[id] = entry
	} else if delete(next, id); len(next) == 0 {
		p.Store(nil)
		return
	}
	p.Store(&next)
}

// all calls f with each entry; f may take it away.
func (d *index[T]) all(f func(ipsec.SAID, *T)) {
	for i := range d {
		if shard := d[i].Load(); shard != nil {
			for id, entry := range *shard {
				f(id, entry)
			}
		}
	}
}

// AllocSPI implements ipsec.Backend.
func (e *Engine) AllocSPI(local netip.Addr) (ipsec.SPI, error) {
	local = local.Unmap()
	if !local.IsValid() {
		return 0, fmt.Errorf("allocate SPI: local address: not valid")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for range 1000 {
		var b [4]byte
		rand.Read(b[:])
		id := ipsec.SAID{Dst: local, SPI: ipsec.SPI(binary.BigEndian.Uint32(b[:]))}
		if id.SPI < 256 || e.sas[id] != nil || e.larvals.get(id) != nil {
			continue
		}
		e.reserve(id)
		return id.SPI, nil
	}
	return 0, fmt.Errorf("allocate SPI for %s: none is free", local)
}

// AddSA implements ipsec.Backend. It keeps no key of sa; the ciphers made from
// them go with DeleteSA.
func (e *Engine) AddSA(sa ipsec.SA) error {
	a, err := newAssociation(&sa)
	if err != nil {
		return fmt.Errorf("add SA: %w", err)
	}
	held, err := e.add(a, sa.ReqID)
	if err != nil {
		a.wipe()
		return fmt.Errorf("add SA: %w", err)
	}
	e.replay(held)
	return nil
}

// add puts an SA into the SAD. It returns the packets that have waited for it.
func (e *Engine) add(a *association, reqID uint32) ([]heldPacket, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := a.record.ID()
	if e.closed {
		return nil, errClosed
	}
	if e.sas[id] != nil {
		return nil, fmt.Errorf("%s: %w", id, ipsec.ErrExists)
	}
	a.added = time.Now()
	a.seen = a.added
	a.request = e.useRequest(reqID)
	a.request.share(a)
	e.sas[id] = a
	e.police(a)
	if a.in != nil {
		e.inbound.set(id, a)
		if l := e.larvals.get(id); l != nil {
			e.larvals.set(id, nil)
			return l.end(&e.held), nil
		}
		return nil, nil
	}
	e.measurePath(a)
	a.request.add(a)
	e.fitMTU(a.record.IfID)
	return nil, nil
}

// newAssociation checks an SA and prepares its ciphers. The selectors are still the
// caller's: see request.share.
func newAssociation(sa *ipsec.SA) (*association, error) {
	path, err := pathOf(sa)
	if err != nil {
		return nil, err
	}
	a := &association{record: *sa}
	a.record.EncryptionKey, a.record.IntegrityKey = nil, nil
	a.record.Src, a.record.Dst = sa.Src.Unmap(), sa.Dst.Unmap()
	id := a.record.ID()
	a.path.Store(path)
	for _, list := range [][]ipsec.TrafficSelector{sa.Local, sa.Remote} {
		for _, ts := range list {
			if !ts.Valid() {
				return nil, fmt.Errorf("%s: traffic selector %s: not valid", id, ts)
			}
		}
	}
	switch sa.Direction {
	case ipsec.In:
		if len(sa.Local) == 0 || len(sa.Remote) == 0 {
			return nil, fmt.Errorf("%s: traffic selectors: an inbound SA needs some on both sides", id)
		}
		if a.in, err = esp.NewInbound(sa); err != nil {
			return nil, err
		}
	case ipsec.Out:
		if a.out, err = esp.NewOutbound(sa); err != nil {
			return nil, err
		}
		a.turn = newTurn()
	default:
		return nil, fmt.Errorf("%s: direction %d: must be in or out", id, sa.Direction)
	}
	return a, nil
}

// pathOf returns the outer path of an SA, seen from this host.
func pathOf(sa *ipsec.SA) (*udp.Path, error) {
	src, dst := netip.AddrPortFrom(sa.Src, sa.SrcPort), netip.AddrPortFrom(sa.Dst, sa.DstPort)
	if sa.Direction == ipsec.In {
		src, dst = dst, src
	}
	return udp.NewPath(src, dst, sa.Encap)
}

// UpdateSA implements ipsec.Backend. The SA is known by its new destination
// afterwards.
func (e *Engine) UpdateSA(id ipsec.SAID, to ipsec.SAUpdate) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.sas[id]
	if a == nil {
		return fmt.Errorf("update SA: %s: %w", id, ipsec.ErrNotFound)
	}
	record := a.record
	record.Src, record.Dst = to.Src.Unmap(), to.Dst.Unmap()
	record.Encap, record.SrcPort, record.DstPort = to.Encap, to.SrcPort, to.DstPort
	path, err := pathOf(&record)
	if err != nil {
		return fmt.Errorf("update SA: %s: %w", id, err)
	}
	next := record.ID()
	if next != id && e.sas[next] != nil {
		return fmt.Errorf("update SA: %s to %s: %w", id, next, ipsec.ErrExists)
	}
	a.record.Src, a.record.Dst = record.Src, record.Dst
	a.record.Encap, a.record.SrcPort, a.record.DstPort = record.Encap, record.SrcPort, record.DstPort
	a.path.Store(a.request.sharePath(path))
	e.police(a)
	a.movedAt.Store(0)
	if next != id {
		delete(e.sas, id)
		e.sas[next] = a
		if a.in != nil {
			e.inbound.set(next, a)
			e.inbound.set(id, nil)
		}
	}
	if a.out != nil {
		e.measurePath(a)
		e.fitMTU(a.record.IfID)
	}
	return nil
}

// DeleteSA implements ipsec.Backend.
func (e *Engine) DeleteSA(id ipsec.SAID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.sas[id]
	if a == nil {
		return fmt.Errorf("delete SA: %s: %w", id, ipsec.ErrNotFound)
	}
	e.remove(a)
	if a.out != nil {
		e.fitMTU(a.record.IfID)
	}
	return nil
}

// remove takes an SA out of the SAD and drops its keys. The caller holds mu.
func (e *Engine) remove(a *association) {
	id := a.id()
	delete(e.sas, id)
	if a.in != nil {
		e.inbound.set(id, nil)
	} else {
		a.request.remove(a)
	}
	a.wipe()
	e.releaseRequest(a.request)
}

// QuerySA implements ipsec.Backend. LastUsed is up to a second early and never
// late.
func (e *Engine) QuerySA(id ipsec.SAID) (ipsec.SAState, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.sas[id]
	if a == nil {
		return ipsec.SAState{}, fmt.Errorf("query SA: %s: %w", id, ipsec.ErrNotFound)
	}
	return a.query(time.Now()), nil
}

// query returns the full state. The caller holds Engine.mu.
func (a *association) query(now time.Time) ipsec.SAState {
	s := a.state()
	if s.Packets != a.seenPackets {
		// They passed since the last look. Its time is never later than theirs.
		a.seenPackets, a.lastUsed = s.Packets, a.seen
	}
	a.seen = now
	s.LastUsed = a.lastUsed
	if own := a.drops.Load(); own != nil {
		if s.Drops == nil {
			s.Drops = map[string]uint64{}
		}
		own.addTo(s.Drops)
	}
	return s
}

// softSequence is where an SA with 32-bit sequence numbers asks for a rekey,
// whatever its limits, since they must not wrap (RFC 4303, section 3.3.3).
const softSequence = uint64(0xf000_0000)

// checkSoft reports an SA whose soft limit is reached, once.
func (e *Engine) checkSoft(a *association, s *ipsec.SAState, age time.Duration) {
	l := &a.record.Lifetime
	reached := l.SoftBytes != 0 && s.Bytes >= l.SoftBytes ||
		l.SoftPackets != 0 && s.Packets >= l.SoftPackets ||
		l.Soft != 0 && age >= l.Soft ||
		!a.record.ESN && s.Sequence >= softSequence
	if reached && a.softened.CompareAndSwap(false, true) {
		e.events.Emit(ipsec.Event{Kind: ipsec.EventSoftExpire, ReqID: a.request.reqID, SA: a.id()})
	}
}

// expire stops an SA whose hard limit is reached, and reports it once.
func (e *Engine) expire(a *association) {
	if !a.expired.CompareAndSwap(false, true) {
		return
	}
	if a.out != nil {
		a.request.choose()
	}
	e.events.Emit(ipsec.Event{Kind: ipsec.EventHardExpire, ReqID: a.request.reqID, SA: a.id()})
}

// checkHard tells whether a hard limit is reached, apart from those of which
// package esp tells when it meets them.
func (a *association) checkHard(s *ipsec.SAState, age time.Duration) bool {
	l := &a.record.Lifetime
	return l.Hard != 0 && age >= l.Hard ||
		l.HardBytes != 0 && s.Bytes >= l.HardBytes || l.HardPackets != 0 && s.Packets >= l.HardPackets
}
