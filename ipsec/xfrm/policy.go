package xfrm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// Directions and actions of the kernel's policies (struct
// xfrm_userpolicy_info).
const (
	dirIn      uint8 = 0
	dirOut     uint8 = 1
	dirForward uint8 = 2

	actionAllow uint8 = 0
	actionBlock uint8 = 1
)

// entryKey names one policy of the kernel's SPD.
type entryKey struct {
	dir      uint8
	selector nl.XfrmSelector
	ifID     uint32
}

// entry is a policy of the kernel that one of ours wants. The kernel has one for
// a selector, whatever the priority: of several of ours it is told the first.
type entry struct {
	policy   ipsec.Policy
	priority uint32 // the kernel's
}

// Of the kernel's priority, the bits below rankBits order policies of one
// priority of ours, the narrower first, as the data plane in user space does.
const (
	rankBits    = 15
	maxPriority = 1<<(32-rankBits) - 1
)

// rank orders selectors: by the remote addresses, then the local ones, then
// whether protocol or ports are given. Of IPv6 prefixes the lengths 0 and 1 have
// one rank.
func rank(remoteBits, localBits, width int, narrow bool) uint32 {
	steps := min(width+1, 128)
	remote, local := min(width-remoteBits, steps-1), min(width-localBits, steps-1)
	n := 2 * (remote*steps + local)
	if !narrow {
		n++
	}
	return uint32(n)
}

// entriesOf returns the kernel's policies for one of ours, with their priority.
// Inbound ones come twice: for what this host receives and for what it forwards.
// Inbound policies that do not protect have none: what an SA has delivered passes
// under a protecting one only.
func entriesOf(p *ipsec.Policy) (map[entryKey]uint32, error) {
	from, to := p.Local, p.Remote
	dirs := []uint8{dirOut}
	if p.Direction == ipsec.In {
		from, to = to, from
		dirs = []uint8{dirIn, dirForward}
	}
	list, err := selectors(from, to)
	if err != nil || p.Direction == ipsec.In && p.Action != ipsec.Protect {
		return nil, err
	}
	width := p.Local.Start.BitLen()
	entries := map[entryKey]uint32{}
	for _, sel := range list {
		remote, local := int(sel.PrefixlenD), int(sel.PrefixlenS)
		if p.Direction == ipsec.In {
			remote, local = local, remote
		}
		narrow := sel.Proto != 0 || sel.SportMask != 0 || sel.DportMask != 0
		for _, dir := range dirs {
			entries[entryKey{dir, sel, p.IfID}] = p.Priority<<rankBits | rank(remote, local, width, narrow)
		}
	}
	return entries, nil
}

// AddPolicy implements ipsec.Backend.
func (b *Backend) AddPolicy(p ipsec.Policy) error {
	if err := b.checkPolicy(&p); err != nil {
		return fmt.Errorf("add policy %s: %w", p.PolicyID, err)
	}
	entries, err := entriesOf(&p)
	if err != nil {
		return fmt.Errorf("add policy %s: %w", p.PolicyID, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("add policy %s: %w", p.PolicyID, errClosed)
	}
	before, replaced := b.policies[p.PolicyID]
	var errs []error
	for key, priority := range entries {
		errs = append(errs, b.setEntry(key, p.PolicyID, &entry{p, priority}))
	}
	if err := errors.Join(errs...); err != nil {
		for key, priority := range entries {
			var back *entry
			if replaced {
				back = &entry{before, priority}
			}
			err = errors.Join(err, b.setEntry(key, p.PolicyID, back))
		}
		return fmt.Errorf("add policy %s: %w", p.PolicyID, err)
	}
	b.policies[p.PolicyID] = p
	if p.Direction == ipsec.In {
		b.deliverEarly()
	}
	return nil
}

// setEntry gives an entry of the kernel another policy of ours in the place of
// the one with an ID, or none, and tells the kernel the first of those it then
// has. The kernel replaces an entry in one step: at no time is there none while
// some policy wants it. The caller holds mu.
func (b *Backend) setEntry(key entryKey, id ipsec.PolicyID, want *entry) error {
	list := slices.DeleteFunc(slices.Clone(b.entries[key]), func(e entry) bool { return e.policy.PolicyID == id })
	if want != nil {
		list = append(list, *want)
	}
	slices.SortStableFunc(list, func(x, y entry) int { return cmp.Compare(x.priority, y.priority) })
	old, inherited := b.inherited[key]
	now := b.entries[key]
	var err error
	switch {
	case inherited && (len(list) == 0 || old.priority < list[0].priority):
		// What the process before has left goes on, until its own successor comes.
	case len(list) == 0 && len(now) == 0:
	case len(list) == 0:
		err = b.removeEntry(key)
	case len(now) == 0 || inherited || list[0] != now[0]:
		if err = b.conn.do(b.policyRequest(key, &list[0]), nil); err == nil {
			delete(b.inherited, key)
		}
	}
	if err != nil {
		return err
	}
	if b.entries[key] = list; len(list) == 0 {
		delete(b.entries, key)
	}
	return nil
}

// disinherit ends a policy that an earlier process has left. The caller holds mu.
func (b *Backend) disinherit(key entryKey) error {
	var err error
	if list := b.entries[key]; len(list) > 0 {
		err = b.conn.do(b.policyRequest(key, &list[0]), nil)
	} else {
		err = b.removeEntry(key)
	}
	if err == nil {
		delete(b.inherited, key)
	}
	return err
}

func (b *Backend) checkPolicy(p *ipsec.Policy) error {
	switch {
	case p.Direction != ipsec.In && p.Direction != ipsec.Out:
		return fmt.Errorf("direction %d: must be in or out", p.Direction)
	case !p.Local.Valid():
		return fmt.Errorf("local selector %s: not valid", p.Local)
	case !p.Remote.Valid():
		return fmt.Errorf("remote selector %s: not valid", p.Remote)
	case p.Priority > maxPriority:
		return fmt.Errorf("priority %d: at most %d", p.Priority, maxPriority)
	case p.IfID != 0 && b.kind == kindNone:
		return fmt.Errorf("interface %d: the kernel has neither XFRM interfaces nor VTI: %w", p.IfID, ipsec.ErrUnsupported)
	}
	switch p.Action {
	case ipsec.Protect:
		if p.ReqID == 0 {
			return errors.New("reqid 0: a protecting policy names its SAs")
		}
		if !p.TunnelLocal.IsValid() || !p.TunnelRemote.IsValid() || p.TunnelLocal.Is4() != p.TunnelRemote.Is4() {
			return fmt.Errorf("outer addresses %s and %s: must be of one family", p.TunnelLocal, p.TunnelRemote)
		}
	case ipsec.Discard, ipsec.Bypass:
	default:
		return fmt.Errorf("action %d: must be protect, discard or bypass", p.Action)
	}
	return nil
}

// policyRequest makes the request that adds or replaces a policy of the kernel.
func (b *Backend) policyRequest(key entryKey, e *entry) *request {
	p := &e.policy
	info := nl.XfrmUserpolicyInfo{
		Sel: key.selector, Priority: e.priority, Dir: key.dir,
		Lft: nl.XfrmLifetimeCfg{
			SoftByteLimit: nl.XFRM_INF, HardByteLimit: nl.XFRM_INF, SoftPacketLimit: nl.XFRM_INF, HardPacketLimit: nl.XFRM_INF,
		},
	}
	if p.Action == ipsec.Discard {
		info.Action = actionBlock
	}
	r := newRequest(nl.XFRM_MSG_UPDPOLICY, unix.NLM_F_ACK, info.Serialize())
	if p.Action == ipsec.Protect {
		src, dst := p.TunnelLocal.Unmap(), p.TunnelRemote.Unmap()
		if p.Direction == ipsec.In {
			src, dst = dst, src
		}
		const all = ^uint32(0)
		template := nl.XfrmUserTmpl{
			XfrmId: nl.XfrmId{Daddr: address(dst), Proto: unix.IPPROTO_ESP}, Saddr: address(src), Family: familyOf(dst),
			Reqid: p.ReqID, Mode: modeTunnel, Aalgos: all, Ealgos: all, Calgos: all,
		}
		r.attribute(nl.XFRMA_TMPL, template.Serialize())
	}
	b.tag(r, p.IfID, true)
	return r
}

// DeletePolicy implements ipsec.Backend.
func (b *Backend) DeletePolicy(id ipsec.PolicyID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.policies[id]
	if !ok {
		return fmt.Errorf("delete policy %s: %w", id, ipsec.ErrNotFound)
	}
	if err := b.dropPolicy(&p); err != nil {
		return fmt.Errorf("delete policy %s: %w", id, err)
	}
	return nil
}

// dropPolicy takes a policy out of the SPD. The caller holds mu.
func (b *Backend) dropPolicy(p *ipsec.Policy) error {
	entries, err := entriesOf(p)
	if err != nil {
		return err
	}
	var errs []error
	for key := range entries {
		errs = append(errs, b.setEntry(key, p.PolicyID, nil))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	delete(b.policies, p.PolicyID)
	return nil
}

// removeEntry deletes a policy of the kernel.
func (b *Backend) removeEntry(key entryKey) error {
	id := nl.XfrmUserpolicyId{Sel: key.selector, Dir: key.dir}
	r := newRequest(nl.XFRM_MSG_DELPOLICY, unix.NLM_F_ACK, id.Serialize())
	b.tag(r, key.ifID, true)
	if err := b.conn.do(r, nil); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// parsePolicy reads a policy of the kernel; ok is false for what is none of
// package xfrm's making.
func (b *Backend) parsePolicy(body []byte) (found entry, key entryKey, ok bool) {
	if len(body) < nl.SizeofXfrmUserpolicyInfo {
		return found, key, false
	}
	info := nl.DeserializeXfrmUserpolicyInfo(body)
	attrs := attributes(body[nl.SizeofXfrmUserpolicyInfo:])
	if info.Dir > dirForward || info.Sel.Family != unix.AF_INET && info.Sel.Family != unix.AF_INET6 {
		return found, key, false
	}
	key = entryKey{info.Dir, info.Sel, b.ifIDOf(attrs)}
	var p ipsec.Policy
	from, to := selectorsOf(&info.Sel)
	p.PolicyID = ipsec.PolicyID{Direction: ipsec.Out, Local: from, Remote: to, Priority: info.Priority >> rankBits, IfID: key.ifID}
	if info.Dir != dirOut {
		p.Direction, p.Local, p.Remote = ipsec.In, to, from
	}
	template := attrs[nl.XFRMA_TMPL]
	switch {
	case info.Action == actionBlock:
		p.Action = ipsec.Discard
	case len(template) < nl.SizeofXfrmUserTmpl:
		p.Action = ipsec.Bypass
	default:
		t := nl.DeserializeXfrmUserTmpl(template)
		p.Action, p.ReqID = ipsec.Protect, t.Reqid
		src, dst := addressOf(t.Saddr, t.Family), addressOf(t.XfrmId.Daddr, t.Family)
		if p.Direction == ipsec.In {
			src, dst = dst, src
		}
		p.TunnelLocal, p.TunnelRemote = src, dst
	}
	return entry{p, info.Priority}, key, true
}

// ifIDOf returns the IfID of an SA or policy.
func (b *Backend) ifIDOf(attrs map[int][]byte) uint32 {
	if b.kind == kindVTI {
		if m := attrs[nl.XFRMA_MARK]; len(m) >= nl.SizeofXfrmMark {
			return nl.DeserializeXfrmMark(m).Value
		}
		return 0
	}
	if id := attrs[nl.XFRMA_IF_ID]; len(id) >= 4 {
		return nativeUint32(id)
	}
	return 0
}
