package xfrm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// Options of a Backend.
type Options struct {
	// Logger is for changes and faults. nil: no log.
	Logger *slog.Logger
}

// Backend is the data plane of the kernel, in one network namespace. It
// implements ipsec.Backend; its methods may be called by several goroutines.
type Backend struct {
	log       *slog.Logger
	conn      *conn
	links     *netlink.Handle
	namespace *os.File // that of New
	stat      *os.File // /proc/net/xfrm_stat of it; nil: the kernel has none
	statStart map[string]uint64
	events    *ipsec.EventQueue
	kind      deviceKind
	abilities Abilities

	mu        sync.Mutex // guards what is below
	closed    bool
	sas       map[ipsec.SAID]*association
	reserved  map[ipsec.SAID]time.Time // SPIs that wait for their SA, since when
	policies  map[ipsec.PolicyID]ipsec.Policy
	entries   map[entryKey][]entry       // of the kernel's SPD, the one that counts first
	inherited map[entryKey]entry         // of an earlier process, not wanted again so far
	devices   map[uint32]ipsec.Interface // by IfID
	early     map[ipsec.SAID]*early      // SPIs whose packets are kept for their SA
	recovered uint64                     // packets that the kernel has dropped first and taken then

	limits         map[netip.Addr]*bandwidth // by local address
	limited        map[uint32]bandwidth      // what devices have, by IfID; zero: no limit
	policed        map[int]uint64            // what actions had dropped when last asked, by number
	aboveBandwidth uint64                    // packets dropped since New
	clamped        map[uint32]int            // MTUs by which TCP SYNs are lowered, by IfID; zero: not known
}

// New returns a Backend for the network namespace of the calling thread. It asks
// the kernel what it can and takes over what a process before has left there.
// The error says what lacks, when there is no kernel IPsec at all.
func New(o Options) (*Backend, error) {
	b := newBackend(o)
	err := b.open()
	if err == nil {
		err = b.probe()
	}
	if err == nil {
		err = b.adopt()
	}
	if err != nil {
		_ = b.Close() // the first error is the one to report
		return nil, fmt.Errorf("xfrm: %w", err)
	}
	return b, nil
}

// CleanUp removes what a process before has left in the network namespace of the
// calling thread, for a process that does not use the kernel's data plane.
func CleanUp(o Options) error {
	b := newBackend(o)
	defer b.Close() //nolint:errcheck // nothing is written by it
	if err := b.open(); err != nil {
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil // a kernel without XFRM has nothing
		}
		return fmt.Errorf("xfrm: clean up: %w", err)
	}
	for _, b.kind = range []deviceKind{kindXFRM, kindVTI} {
		if err := errors.Join(b.adopt(), b.SetInterfaces(nil)); err != nil {
			return fmt.Errorf("xfrm: clean up: %w", err)
		}
	}
	return nil
}

func newBackend(o Options) *Backend {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Backend{
		log: o.Logger, events: ipsec.NewEventQueue(),
		sas: map[ipsec.SAID]*association{}, reserved: map[ipsec.SAID]time.Time{},
		policies: map[ipsec.PolicyID]ipsec.Policy{}, entries: map[entryKey][]entry{},
		inherited: map[entryKey]entry{}, devices: map[uint32]ipsec.Interface{},
		early: map[ipsec.SAID]*early{}, limited: map[uint32]bandwidth{}, policed: map[int]uint64{}, clamped: map[uint32]int{},
	}
}

// open opens what belongs to the network namespace of the calling thread.
func (b *Backend) open() (err error) {
	if b.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if b.conn, err = openConn(netlinkTimeout); err != nil {
		return err
	}
	if b.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("rtnetlink: %w", err)
	}
	if b.stat, err = os.Open("/proc/thread-self/net/xfrm_stat"); err != nil {
		b.log.Debug("no error counters of the kernel's IPsec", "error", err)
		b.stat = nil
	}
	b.statStart = b.readStat()
	return nil
}

// Close ends the Backend. What it has installed stays in the kernel and passes
// traffic; a Backend after it takes that over.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if b.conn != nil {
		b.conn.close()
	}
	if b.links != nil {
		b.links.Close()
	}
	for id, e := range b.early {
		e.close()
		delete(b.early, id) // or Release would close the descriptors of others
	}
	for _, f := range []*os.File{b.namespace, b.stat} {
		if f != nil {
			f.Close()
		}
	}
	return nil
}

// Events implements ipsec.Backend. There are some only while Run works.
func (b *Backend) Events() <-chan ipsec.Event { return b.events.Channel() }

const tickEvery = time.Second

// Run passes on what the kernel reports, and removes what is left of an earlier
// process when it has been replaced, until the context ends. Packets pass without
// it.
func (b *Backend) Run(ctx context.Context) error {
	var reports *nl.NetlinkSocket
	err := b.inNamespace(func() (err error) {
		reports, err = nl.Subscribe(unix.NETLINK_XFRM, nl.XFRMNLGRP_ACQUIRE, nl.XFRMNLGRP_EXPIRE, nl.XFRMNLGRP_MAPPING)
		return err
	})
	if err != nil {
		return fmt.Errorf("xfrm: subscribe: %w", err)
	}
	_ = reports.SetReceiveBufferSize(reportBuffer, true) // without CAP_NET_ADMIN the default has to do
	var watch sync.WaitGroup
	watch.Go(func() { b.watch(ctx, reports) })
	b.resync() // what expired before
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			reports.Close()
			watch.Wait()
			return nil
		case <-ticker.C:
			b.tick(time.Now())
		}
	}
}

// tick does what is due.
func (b *Backend) tick(now time.Time) {
	b.events.Push()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	for id, since := range b.reserved {
		if now.Sub(since) >= reservation {
			delete(b.reserved, id)
		}
	}
	for id, e := range b.early {
		if now.Sub(e.since) >= earlyLife {
			e.close()
			delete(b.early, id)
		}
	}
	for id, a := range b.sas {
		if a.adopted && (a.expired || !a.replaced.IsZero() && now.Sub(a.replaced) >= keepReplaced) {
			b.log.Info("SA of the process before removed", "sa", id, "reqid", a.record.ReqID)
			if err := b.remove(id, a); err != nil {
				b.log.Warn("SA of the process before not removed", "sa", id, "error", err)
			}
		}
	}
	b.forgetUnused()
}

// forgetUnused removes policies of an earlier process whose SAs are gone. The
// caller holds mu.
func (b *Backend) forgetUnused() {
	for key, e := range b.inherited {
		p := &e.policy
		if p.Action != ipsec.Protect || slices.ContainsFunc(b.adopted(), func(a *association) bool {
			return a.record.ReqID == p.ReqID && a.record.IfID == p.IfID
		}) {
			continue
		}
		if err := b.disinherit(key); err != nil {
			b.log.Warn("policy of the process before not removed", "policy", p.PolicyID, "error", err)
		}
	}
}

// adopted returns the SAs of an earlier process. The caller holds mu.
func (b *Backend) adopted() []*association {
	var list []*association
	for _, a := range b.sas {
		if a.adopted {
			list = append(list, a)
		}
	}
	return list
}

// adopt takes over what an earlier process has left: the devices that bear our
// alias, and the SAs and policies that belong to them.
func (b *Backend) adopt() error {
	if err := b.adoptDevices(); err != nil {
		return err
	}
	if len(b.devices) == 0 {
		return nil
	}
	err := b.conn.dump(nl.XFRM_MSG_GETSA, func(m message) {
		sa, ok := b.parseSA(m.body)
		if !ok || b.devices[sa.IfID].IfID == 0 {
			return
		}
		b.sas[sa.ID()] = &association{record: sa, adopted: true, seen: time.Now()}
	})
	if err != nil {
		return fmt.Errorf("read the SAD: %w", err)
	}
	err = b.conn.dump(nl.XFRM_MSG_GETPOLICY, func(m message) {
		if p, key, ok := b.parsePolicy(m.body); ok && b.devices[key.ifID].IfID != 0 {
			b.inherited[key] = p
		}
	})
	if err != nil {
		return fmt.Errorf("read the SPD: %w", err)
	}
	b.log.Info("taken over from the process before", "interfaces", len(b.devices), "sas", len(b.sas), "policies", len(b.inherited))
	return nil
}

// parseSA reads an SA of the kernel, without keys.
func (b *Backend) parseSA(body []byte) (sa ipsec.SA, ok bool) {
	if len(body) < nl.SizeofXfrmUsersaInfo {
		return sa, false
	}
	info := nl.DeserializeXfrmUsersaInfo(body)
	attrs := attributes(body[nl.SizeofXfrmUsersaInfo:])
	replay := attrs[nl.XFRMA_REPLAY_ESN_VAL]
	if info.Id.Proto != unix.IPPROTO_ESP || info.Mode != modeTunnel || len(replay) < replayESNLen {
		return sa, false
	}
	sa = ipsec.SA{
		SPI: ipsec.SPI(bigEndian32(info.Id.Spi)), Direction: ipsec.In,
		Src: addressOf(info.Saddr, info.Family), Dst: addressOf(info.Id.Daddr, info.Family),
		ReqID: info.Reqid, IfID: b.ifIDOf(attrs), ESN: info.Flags&nl.XFRM_STATE_ESN != 0,
		ReplayWindow: int(nativeUint32(replay[20:])),
		Lifetime:     ipsec.Lifetime{Hard: time.Duration(info.Lft.HardAddExpiresSeconds) * time.Second},
	}
	if sa.ReplayWindow == outboundWindow {
		sa.Direction, sa.ReplayWindow = ipsec.Out, 0
	}
	if encap := attrs[nl.XFRMA_ENCAP]; len(encap) >= nl.SizeofXfrmEncapTmpl {
		t := nl.DeserializeXfrmEncapTmpl(encap)
		sa.Encap, sa.SrcPort, sa.DstPort = true, bigEndian16(t.EncapSport), bigEndian16(t.EncapDport)
	}
	if info.Sel.Family != 0 {
		from, to := selectorsOf(&info.Sel)
		if sa.Direction == ipsec.In {
			from, to = to, from
		}
		sa.Local, sa.Remote = []ipsec.TrafficSelector{from}, []ipsec.TrafficSelector{to}
	}
	readAlgorithms(&sa, attrs, false)
	return sa, true
}

// List implements ipsec.Backend. What an earlier process has left is among it;
// of an SA with several selectors of one side the kernel has not kept them.
func (b *Backend) List() (ipsec.Inventory, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var inv ipsec.Inventory
	for _, a := range b.sas {
		sa := a.record
		sa.Local, sa.Remote = slices.Clone(sa.Local), slices.Clone(sa.Remote)
		inv.SAs = append(inv.SAs, sa)
	}
	for _, p := range b.policies {
		inv.Policies = append(inv.Policies, p)
	}
	for key, e := range b.inherited {
		if key.dir != dirForward { // each of these goes with one for dirIn
			inv.Policies = append(inv.Policies, e.policy)
		}
	}
	for _, i := range b.devices {
		inv.Interfaces = append(inv.Interfaces, i)
	}
	slices.SortFunc(inv.SAs, func(x, y ipsec.SA) int {
		return cmp.Or(x.Dst.Compare(y.Dst), cmp.Compare(x.SPI, y.SPI))
	})
	slices.SortFunc(inv.Policies, func(x, y ipsec.Policy) int {
		return cmp.Or(cmp.Compare(x.IfID, y.IfID), cmp.Compare(x.Direction, y.Direction), cmp.Compare(x.Priority, y.Priority),
			ipsec.CompareSelectors(x.Remote, y.Remote), ipsec.CompareSelectors(x.Local, y.Local))
	})
	slices.SortFunc(inv.Interfaces, func(x, y ipsec.Interface) int { return cmp.Compare(x.IfID, y.IfID) })
	return inv, nil
}

// aim points the device of an SA at the peer, where it needs that. The caller
// holds mu.
func (b *Backend) aim(sa *ipsec.SA) error {
	switch {
	case b.kind != kindVTI || sa.IfID == 0:
		return nil
	case sa.Direction == ipsec.In:
		return b.aimVTI(sa.IfID, sa.Dst, sa.Src)
	default:
		return b.aimVTI(sa.IfID, sa.Src, sa.Dst)
	}
}
