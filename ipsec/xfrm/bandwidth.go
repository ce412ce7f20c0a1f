package xfrm

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// A bandwidth is two police actions of traffic control, one for each direction,
// which the devices of its local addresses share. So their tunnels draw from it
// together. An action ends with the last filter that names it: what passes a device
// is limited for as long as the device is there, whatever becomes of the process,
// and nothing is left behind.

const (
	// policeBurst is how much may pass at once, as time at the rate itself, and
	// leastBurst the octets that may at any rate: a packet larger than the burst would
	// never pass, and one before its segmentation has up to 64 KiB and a header for
	// each segment.
	policeBurst = 50 * time.Millisecond
	leastBurst  = 72 << 10
	// policedSize is more octets than any packet has, which the kernel would drop.
	policedSize = 1 << 17

	policeHandle = 1
)

// police is one direction's filter of a device.
type police struct {
	parent uint32 // where the filter is attached
	offset uint32 // of the action's number behind the bandwidth's
}

var directions = []police{{netlink.HANDLE_MIN_EGRESS, 0}, {netlink.HANDLE_MIN_INGRESS, 1}}

// bandwidth is one ipsec.Bandwidth. The kernel knows it by the numbers of its two
// actions, number and the next, which follow from its name: so a process that comes
// after finds them again.
type bandwidth struct {
	number uint32
	mbps   int
}

// octets returns the rate in octets per second.
func (w *bandwidth) octets() uint32 { return uint32(w.mbps) * (1_000_000 / 8) }

// action describes the action of a direction.
func (w *bandwidth) action(d police) *netlink.PoliceAction {
	a := netlink.NewPoliceAction()
	a.Index = int(w.number + d.offset)
	a.Rate = w.octets()
	a.Burst = max(leastBurst, uint32(uint64(a.Rate)*uint64(policeBurst)/uint64(time.Second)))
	a.Mtu = policedSize
	a.ExceedAction, a.NotExceedAction = netlink.TC_POLICE_SHOT, netlink.TC_POLICE_OK
	return a
}

// SetBandwidths takes the place of all limits. A tunnel draws from the one with the
// Local of its ipsec.Interface; without one it has none. What is above a limit is
// dropped. Where the kernel cannot limit (see Abilities), nothing is limited. An
// error names the bandwidth that is wrong, and nothing is changed then, or the
// interface that does not have its limit.
func (b *Backend) SetBandwidths(want []ipsec.Bandwidth) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("set bandwidths: %w", errClosed)
	}
	if b.abilities.Bandwidth != nil {
		return nil
	}
	next := map[netip.Addr]*bandwidth{}
	taken := map[uint32]bool{}
	for _, w := range want {
		if w.Mbps < 1 {
			return fmt.Errorf("bandwidth %s: %d Mbit/s: must be at least 1", w.Name, w.Mbps)
		}
		one := &bandwidth{number: numberOf(w.Name), mbps: w.Mbps}
		for taken[one.number] {
			one.number += 2
		}
		taken[one.number] = true
		for _, a := range w.Addresses {
			if a = a.Unmap(); next[a] != nil {
				return fmt.Errorf("bandwidth %s: address %s has one already", w.Name, a)
			}
			next[a] = one
		}
	}
	b.limits = next
	var errs []error
	for _, i := range b.devices {
		if !i.Local.IsValid() {
			continue // of an earlier process, or without a limit anyway
		}
		if err := b.limit(i); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", i.Name, err))
		}
	}
	return errors.Join(errs...)
}

// numberOf returns the number of a bandwidth's first action: even, and in the upper
// half of those that the kernel does not pick by itself first.
func numberOf(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return 1<<30 | h.Sum32()&(1<<29-1)<<1
}

// limit gives a device the limit of its local address, or none. The caller holds mu.
func (b *Backend) limit(i ipsec.Interface) error {
	want := b.limits[i.Local.Unmap()]
	have, known := b.limited[i.IfID]
	if known && (want == nil) == (have == bandwidth{}) && (want == nil || *want == have) {
		return nil
	}
	link, err := b.links.LinkByName(i.Name)
	if err != nil {
		return err
	}
	for _, d := range directions {
		if err := b.policeLink(link, d, want); err != nil {
			delete(b.limited, i.IfID)
			return fmt.Errorf("limit of the bandwidth: %w", err)
		}
	}
	if b.limited[i.IfID] = (bandwidth{}); want != nil {
		b.limited[i.IfID] = *want
	}
	return nil
}

// policeLink makes a device's filter of one direction that of a bandwidth, or
// removes it. There is no moment without a limit when there was one and will be.
func (b *Backend) policeLink(link netlink.Link, d police, want *bandwidth) error {
	filters, err := b.policeFilters(link, d)
	if err != nil {
		return err
	}
	var right *netlink.MatchAll
	for _, f := range filters {
		if want != nil && policeOf(f).Index == int(want.number+d.offset) {
			right = f
		}
	}
	switch {
	case want == nil:
	case right == nil:
		err = b.addPolice(link, d, want, filters)
	case policeOf(right).Rate != want.octets():
		err = b.changePolice(want.action(d))
	}
	if err != nil {
		return err
	}
	for _, f := range filters {
		if f == right {
			b.meetPolice(f)
			continue
		}
		b.countPolice(f)
		if err := b.links.FilterDel(f); err != nil {
			return err
		}
	}
	return nil
}

// policeFilters returns the filters of ours of a device and direction.
func (b *Backend) policeFilters(link netlink.Link, d police) ([]*netlink.MatchAll, error) {
	all, err := b.links.FilterList(link, d.parent)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // there is nothing to attach filters to
	}
	if err != nil {
		return nil, fmt.Errorf("read the filters: %w", err)
	}
	var ours []*netlink.MatchAll
	for _, f := range all {
		if m, ok := f.(*netlink.MatchAll); ok && m.Handle == policeHandle && policeOf(m) != nil {
			ours = append(ours, m)
		}
	}
	return ours, nil
}

func policeOf(f *netlink.MatchAll) *netlink.PoliceAction {
	if len(f.Actions) != 1 {
		return nil
	}
	a, _ := f.Actions[0].(*netlink.PoliceAction)
	return a
}

// droppedBy returns the packets that the action of a filter has dropped.
func droppedBy(f *netlink.MatchAll) uint64 {
	if s := policeOf(f).Statistics; s != nil && s.Queue != nil {
		return uint64(s.Queue.Drops)
	}
	return 0
}

// meetPolice begins to count what an action drops from now on.
func (b *Backend) meetPolice(f *netlink.MatchAll) {
	if _, met := b.policed[policeOf(f).Index]; !met {
		b.policed[policeOf(f).Index] = droppedBy(f)
	}
}

// countPolice adds what an action has dropped since it was last asked.
func (b *Backend) countPolice(f *netlink.MatchAll) {
	now, index := droppedBy(f), policeOf(f).Index
	last, met := b.policed[index]
	if now < last {
		last = 0 // it is a new one of the same number
	}
	if met {
		b.aboveBandwidth += now - last
	}
	b.policed[index] = now
}

// addPolice attaches a filter beside those there, of another priority. The first
// that names an action makes it; the others, whatever they say of it, share it.
func (b *Backend) addPolice(link netlink.Link, d police, want *bandwidth, beside []*netlink.MatchAll) error {
	index := link.Attrs().Index
	err := b.links.QdiscAdd(&netlink.GenericQdisc{
		QdiscType:  "clsact",
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("classifier of the device: %w", err)
	}
	priority := uint16(1)
	for _, f := range beside {
		if f.Priority == priority {
			priority = 3 - priority
		}
	}
	err = b.links.FilterAdd(&netlink.MatchAll{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: d.parent, Priority: priority, Handle: policeHandle, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{want.action(d)},
	})
	if err != nil {
		return err
	}
	filters, err := b.policeFilters(link, d)
	if err != nil {
		return err
	}
	for _, f := range filters {
		if a := policeOf(f); a.Index == int(want.number+d.offset) {
			b.meetPolice(f)
			if a.Rate != want.octets() { // that of an earlier process, which others share
				return b.changePolice(want.action(d))
			}
		}
	}
	return nil
}

// changePolice changes an action in place.
func (b *Backend) changePolice(a *netlink.PoliceAction) error {
	return b.inNamespace(func() error {
		r := nl.NewNetlinkRequest(unix.RTM_NEWACTION, unix.NLM_F_REPLACE|unix.NLM_F_ACK)
		r.AddData(&nl.TcActionMsg{})
		table := nl.NewRtAttr(nl.TCA_ACT_TAB, nil)
		if err := netlink.EncodeActions(table, []netlink.Action{a}); err != nil {
			return err
		}
		r.AddData(table)
		_, err := r.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// countBandwidth brings the count of what was above a limit up to date. The caller
// holds mu.
func (b *Backend) countBandwidth() {
	seen := map[uint32]bool{}
	for ifID, w := range b.limited {
		if w == (bandwidth{}) || seen[w.number] {
			continue
		}
		link, err := b.links.LinkByName(b.devices[ifID].Name)
		if err != nil {
			continue // whose drops the next one to ask may find
		}
		seen[w.number] = true
		for _, d := range directions {
			filters, _ := b.policeFilters(link, d)
			for _, f := range filters {
				b.countPolice(f)
			}
		}
	}
}
