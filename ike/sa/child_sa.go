package sa

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

const (
	// lingerTime is how long a deleted child still receives what was under way.
	lingerTime = 5 * time.Second
	// yieldTime is how long a child that another one has taken over from goes on to
	// receive before the peer is told to delete it: what we have sent on it is then
	// through.
	yieldTime = 2 * time.Second
	// sendDelay is how long it is left to traffic to show that the peer has a child
	// whose traffic another one carries so far.
	sendDelay = 3 * time.Second
	// probeInterval is how often we look whether the peer uses a new SA.
	probeInterval = 500 * time.Millisecond
	// Bounds of the wait before a child that failed is tried again.
	minRetry, maxRetry = time.Second, time.Minute
)

// slot is one configured child: its configuration, its policies, and when it is
// tried again. The CHILD_SAs that follow each other over rekeys share it.
type slot struct {
	cfg      *Child // does not change: another one takes its place
	template *slot  // that it was made from; nil: it is configured
	removed  bool   // no longer configured
	busy     bool   // an exchange of ours for it is queued or under way
	wanted   bool   // traffic or a command asked for it
	up       bool   // reported to be up
	failures int
	pursuits int // how often more is yet asked for than the peer gives; see pursue
	retryAt  time.Time
	policies []ipsec.Policy
	finding  childFinding // of IKEv2
}

// childSA is one CHILD_SA: two ESP SAs.
type childSA struct {
	m         *core
	slot      *slot
	state     State
	initiator bool // we began the exchange that made it
	in, out   ipsec.SPI
	path      path
	proposal  ipsec.Proposal
	local     []ipsec.TrafficSelector // these two do not change once they are set:
	remote    []ipsec.TrafficSelector // the data plane and Status share them
	keys      *childKeys              // until the data plane has them
	nonce     []byte                  // the lower one of its exchange (rekey collisions)

	hasIn, hasOut bool  // installed in the data plane
	outdated      bool  // negotiated for another configuration of the slot
	refused       error // why the data plane did not take it, in part or whole
	told          bool  // the peer knows of it
	rekeys        bool  // it follows another child
	patient       bool  // see awaitPeer
	first         bool  // of the IKE SA, made by IKE_AUTH
	// Of IKEv1: what the two ends have made of their lifetimes, and the inbound
	// SPI of the child that we rekeyed.
	agreed   *ipsec.Lifetime
	replaces ipsec.SPI
	// The peer was told that it is gone, and how often again.
	announced bool
	retold    int
	// successor is what the peer's rekey exchange made of this child. It sends
	// once this one is deleted or the peer uses it.
	successor *childSA

	established time.Time

	rekeyAt, expireAt time.Time
	redundantAt       time.Time // see redundantTimeout
	probeAt           time.Time // see probeInterval
	sendAt            time.Time // it sends from then on; see awaitUse
	goneAt            time.Time // see lingerTime
}

func (c *childSA) inID() ipsec.SAID  { return ipsec.SAID{Dst: c.path.local.Addr(), SPI: c.in} }
func (c *childSA) outID() ipsec.SAID { return ipsec.SAID{Dst: c.path.remote.Addr(), SPI: c.out} }

// setState moves the child on, as ikeSA.setState does.
func (c *childSA) setState(next State) bool {
	if c.state == next {
		return true
	}
	if !next.follows(c.state) {
		c.m.drop(dropDefectChildState)
		return false
	}
	c.state = next
	return true
}

// counts reports whether the child stands for its slot: it is up, or will be
// once the peer deletes the one before it.
func (c *childSA) counts() bool {
	return c.state == Connecting || c.state == Established || c.state == Rekeying
}

// up reports whether the slot has a child.
func (m *core) up(k *slot) bool {
	return slices.ContainsFunc(m.children, func(c *childSA) bool { return c.slot == k && c.counts() })
}

// upToDate reports whether the slot has a child as it is configured.
func (m *core) upToDate(k *slot) bool {
	return slices.ContainsFunc(m.children, func(c *childSA) bool { return c.slot == k && c.counts() && !c.outdated })
}

// carries reports whether the slot still has a child with an outbound SA.
func (m *core) carries(k *slot) bool {
	return slices.ContainsFunc(m.children, func(c *childSA) bool { return c.slot == k && c.hasOut })
}

// childByID finds a child by one of its SAs.
func (m *core) childByID(id ipsec.SAID) *childSA {
	i := slices.IndexFunc(m.children, func(c *childSA) bool {
		return c.hasIn && c.inID() == id || c.hasOut && c.outID() == id
	})
	if i < 0 {
		return nil
	}
	return m.children[i]
}

// childByOut finds a child by the peer's inbound SPI, as the peer names it.
func (m *core) childByOut(spi ipsec.SPI) *childSA {
	i := slices.IndexFunc(m.children, func(c *childSA) bool { return c.out == spi && c.state != Deleted })
	if i < 0 {
		return nil
	}
	return m.children[i]
}

// slotByReqID finds a configured child.
func (m *core) slotByReqID(id uint32) *slot {
	i := slices.IndexFunc(m.slots, func(k *slot) bool { return k.cfg.ReqID == id })
	if i < 0 {
		return nil
	}
	return m.slots[i]
}

// sa returns the child's SA of one direction for the data plane.
func (c *childSA) sa(d ipsec.Direction) ipsec.SA {
	enc, _ := c.proposal.Get(ipsec.TransformEncryption)
	integ, _ := c.proposal.Get(ipsec.TransformIntegrity)
	esn, _ := c.proposal.Get(ipsec.TransformESN)
	sa := ipsec.SA{
		Direction: d, Encap: c.path.encap, ReqID: c.slot.cfg.ReqID, IfID: c.slot.cfg.IfID,
		Encryption: enc, Integrity: integ, ESN: esn.ID == ipsec.ESNEnabled,
		Local: c.local, Remote: c.remote,
	}
	sa.Lifetime = c.lifetime(sa.ESN)
	src, dst := c.path.local, c.path.remote
	fromInitiator := c.initiator
	sa.SPI = c.out
	if d == ipsec.In {
		src, dst = dst, src
		fromInitiator = !fromInitiator
		sa.SPI, sa.ReplayWindow = c.in, c.slot.cfg.ReplayWindow
	}
	sa.Src, sa.Dst = src.Addr(), dst.Addr()
	if c.path.encap {
		sa.SrcPort, sa.DstPort = src.Port(), dst.Port()
	}
	encKey, integKey := c.keys.encR, c.keys.integR
	if fromInitiator {
		encKey, integKey = c.keys.encI, c.keys.integI
	}
	sa.EncryptionKey, sa.IntegrityKey = bytes.Clone(encKey), bytes.Clone(integKey)
	return sa
}

// limits returns the hard limits of the child's life.
func (c *childSA) limits() ipsec.Lifetime {
	if c.agreed != nil {
		return *c.agreed
	}
	return c.slot.cfg.Lifetime
}

// lifetime returns the limits for the data plane. The time of a rekey is ours
// to watch; the hard end in time is there for the case that we are no more.
// Without extended sequence numbers an SA ends before they run out.
func (c *childSA) lifetime(esn bool) ipsec.Lifetime {
	cfg := c.limits()
	l := ipsec.Lifetime{HardBytes: cfg.HardBytes, HardPackets: cfg.HardPackets}
	if cfg.Hard > 0 {
		l.Hard = cfg.Hard + 2*lingerTime
	}
	const lastSequence = 1<<32 - 1
	if !esn && (l.HardPackets == 0 || l.HardPackets > lastSequence) {
		l.HardPackets = lastSequence
	}
	fraction := c.m.softFraction(c.initiator)
	l.SoftBytes = uint64(float64(l.HardBytes) * fraction)
	l.SoftPackets = uint64(float64(l.HardPackets) * fraction)
	return l
}

// addIn makes the child receive, before the peer learns that it may send.
func (c *childSA) addIn() {
	c.add(ipsec.In)
	c.hasIn = true
	c.slot.protect(c, ipsec.In)
}

// addOut makes the child send, which completes it.
func (c *childSA) addOut() {
	if c.hasOut || c.state == Deleting || c.state == Deleted {
		return
	}
	c.add(ipsec.Out)
	c.hasOut, c.patient = true, false
	c.slot.protect(c, ipsec.Out)
	c.wipe()
	c.probeAt, c.sendAt = time.Time{}, time.Time{}
	c.setState(Established)
	c.established = c.m.now
	c.expireAt = time.Time{}
	if life := c.limits().Hard; life > 0 {
		c.rekeyAt = c.m.now.Add(c.m.soft(life, c.initiator))
		c.expireAt = c.m.now.Add(life)
	}
	c.slot.wanted, c.slot.retryAt = false, time.Time{}
	c.m.after(c.completed)
}

// completed reports the child, which is in the data plane, as up, or as having
// followed another one.
func (c *childSA) completed() {
	if !c.hasOut {
		return // refused
	}
	c.slot.prune(c.m, c)
	kind := ChildUp
	if c.rekeys && c.slot.up {
		kind = ChildRekeyed
	}
	c.slot.up = true
	c.m.emit(Emit{c.event(kind)})
	if c.outdated && !c.slot.removed {
		c.slot.retryAt = c.m.now
	}
	c.m.dismiss()
}

func (c *childSA) add(d ipsec.Direction) {
	sa := c.sa(d)
	c.m.emit(AddSA{sa})
	if c.m.env.KeyLog != nil {
		logged := sa
		logged.EncryptionKey, logged.IntegrityKey = bytes.Clone(sa.EncryptionKey), bytes.Clone(sa.IntegrityKey)
		c.m.env.KeyLog(Keys{ESP: &logged})
	}
}

// remove takes the child out of the data plane. With linger it receives for a
// while what the peer has sent already.
func (c *childSA) remove(linger bool) {
	if c.state == Deleted {
		return
	}
	c.setState(Deleted)
	c.patient = false
	c.stopTimers()
	c.wipe()
	if c.hasOut {
		c.m.emit(DeleteSA{c.outID()})
		c.hasOut = false
	}
	if c.hasIn && linger {
		c.goneAt = c.m.now.Add(lingerTime)
		return
	}
	c.gone()
}

// wipe drops the keys.
func (c *childSA) wipe() {
	if c.keys != nil {
		c.keys.wipe()
		c.keys = nil
	}
}

func (c *childSA) stopTimers() {
	c.rekeyAt, c.expireAt, c.redundantAt = time.Time{}, time.Time{}, time.Time{}
	c.probeAt, c.sendAt = time.Time{}, time.Time{}
}

// lingered ends the time in which a deleted child still receives, unless the peer
// needs more of it.
func (c *childSA) lingered() {
	if c.m.ike.missed(c) {
		c.goneAt = c.m.now.Add(lingerTime)
		return
	}
	c.gone()
}

// gone ends what remove has left of the child.
func (c *childSA) gone() {
	c.goneAt = time.Time{}
	if c.hasIn {
		c.m.emit(DeleteSA{c.inID()})
		c.hasIn = false
	}
	c.slot.outlive(c)
}

// protect adds the policies of one direction for the child's selectors.
func (k *slot) protect(c *childSA, d ipsec.Direction) {
	have := make(map[ipsec.PolicyID]int, len(k.policies))
	for i, p := range k.policies {
		have[p.PolicyID] = i
	}
	for _, p := range c.policies(d) {
		i, ok := have[p.PolicyID]
		switch {
		case !ok:
			k.policies = append(k.policies, p)
		case k.policies[i] == p:
			continue // a rekey leaves it
		default:
			k.policies[i] = p
		}
		c.m.emit(AddPolicy{p})
	}
}

// policies returns one policy for each pair of the child's selectors.
func (c *childSA) policies(d ipsec.Direction) []ipsec.Policy {
	list := make([]ipsec.Policy, 0, len(c.local)*len(c.remote))
	for _, local := range c.local {
		for _, remote := range c.remote {
			list = append(list, ipsec.Policy{
				PolicyID: ipsec.PolicyID{
					Direction: d, Local: local, Remote: remote,
					Priority: ipsec.PriorityProtect, IfID: c.slot.cfg.IfID,
				},
				Action: ipsec.Protect, ReqID: c.slot.cfg.ReqID,
				TunnelLocal: c.path.local.Addr(), TunnelRemote: c.path.remote.Addr(),
			})
		}
	}
	return list
}

// outlive removes the policies that a child which is gone had alone among others that
// are there: a peer may set up any number beside the one in use, for some of the
// traffic each.
func (k *slot) outlive(c *childSA) {
	left := slices.DeleteFunc(slices.Clone(c.m.children), func(o *childSA) bool {
		return o == c || o.slot != k || !o.counts() && !o.hasIn && !o.hasOut
	})
	if len(left) > 0 {
		k.prune(c.m, left...)
	}
}

// prune removes the policies that the children do not have which are left.
func (k *slot) prune(m *core, left ...*childSA) {
	keep := map[ipsec.PolicyID]bool{}
	for _, c := range left {
		for _, p := range append(c.policies(ipsec.In), c.policies(ipsec.Out)...) {
			keep[p.PolicyID] = true
		}
	}
	var gone []ipsec.PolicyID
	k.policies = slices.DeleteFunc(k.policies, func(p ipsec.Policy) bool {
		if !keep[p.PolicyID] {
			gone = append(gone, p.PolicyID)
		}
		return !keep[p.PolicyID]
	})
	m.deletePolicies(gone)
}

// deletePolicies removes policies that a slot no longer has. What another slot
// protects by the same policy is that one's from now on.
func (m *core) deletePolicies(ids []ipsec.PolicyID) {
	for _, id := range ids {
		if heir := m.policy(id); heir != nil {
			m.emit(AddPolicy{*heir})
		} else {
			m.emit(DeletePolicy{id})
		}
	}
}

func (m *core) policy(id ipsec.PolicyID) *ipsec.Policy {
	for _, k := range slices.Concat(m.slots, m.retired) {
		for i := range k.policies {
			if k.policies[i].PolicyID == id {
				return &k.policies[i]
			}
		}
	}
	return nil
}

// redirect puts new outer addresses into the policies.
func (k *slot) redirect(m *core, p *path) {
	for i := range k.policies {
		policy := &k.policies[i]
		if policy.TunnelLocal != p.local.Addr() || policy.TunnelRemote != p.remote.Addr() {
			policy.TunnelLocal, policy.TunnelRemote = p.local.Addr(), p.remote.Addr()
			m.emit(AddPolicy{*policy})
		}
	}
}

// unprotect removes all policies.
func (k *slot) unprotect(m *core) {
	ids := make([]ipsec.PolicyID, len(k.policies))
	for i := range k.policies {
		ids[i] = k.policies[i].PolicyID
	}
	k.policies = nil
	m.deletePolicies(ids)
}

// dropChild ends a child that the peer has ended, too. What follows it takes
// over first, so that traffic has an SA at any time.
func (m *core) dropChild(c *childSA, reason Reason) {
	wasUp := c.hasOut
	c.handOver()
	c.remove(true)
	if wasUp {
		m.lost(c, reason, nil)
	}
}

// deleteChild ends a child by a DELETE to the peer. It sends no more, and
// receives until the peer has answered.
func (m *core) deleteChild(c *childSA, reason Reason, d *Diagnosis) {
	if c.state == Deleting || c.state == Deleted {
		return
	}
	wasUp := c.hasOut || c.refused != nil
	c.handOver()
	if !m.ike.reachable() {
		c.remove(true)
		if wasUp {
			m.lost(c, reason, d)
		}
		return
	}
	c.setState(Deleting)
	c.stopTimers()
	if c.hasOut {
		m.emit(DeleteSA{c.outID()})
		c.hasOut = false
	}
	m.ike.announceDelete(c)
	if wasUp {
		m.lost(c, reason, d)
	}
}

// handOver makes the successor send.
func (c *childSA) handOver() {
	if next := c.successor; next != nil && next.state == Connecting {
		next.addOut()
	}
	c.successor = nil
	for _, other := range c.m.children {
		if other.successor == c {
			other.successor = nil
		}
	}
}

// lost reports that a child was the last of its slot, if so.
func (m *core) lost(c *childSA, reason Reason, d *Diagnosis) {
	if m.carries(c.slot) {
		return
	}
	if !m.up(c.slot) {
		c.slot.unprotect(m)
	}
	if c.slot.up {
		c.slot.up = false
		e := c.event(ChildDown)
		e.Reason, e.Diagnosis = reason, d
		m.emit(Emit{e})
	}
	if m.now.Sub(c.established) > maxRetry {
		c.slot.failures = 0 // it did well for long enough
	}
	m.restore(c.slot)
	m.dismiss()
}

// restore plans a child that went down to be set up again, or one that is not as
// it is configured to be replaced.
func (m *core) restore(k *slot) {
	if k.removed || k.busy || m.upToDate(k) || m.conn == nil || !m.conn.Initiate && !k.wanted && !m.up(k) && !m.inherits(k) {
		return
	}
	k.retryAt = m.now.Add(m.backoff(k))
}

// backoff is the wait before a child that failed once more is tried again.
func (m *core) backoff(k *slot) time.Duration {
	wait := min(minRetry<<min(k.failures, 10), maxRetry)
	k.failures++
	return m.jitter(wait)
}

// retry sets a child up that is wanted and not there, or not as it is
// configured.
func (m *core) retry(k *slot) {
	if k.removed || k.busy || m.upToDate(k) || k.cfg.Template || !m.ike.Established() {
		return
	}
	m.ike.createChild(k)
}

// acquire sets a child up because traffic waits for it.
func (m *core) acquire(reqID uint32) {
	for _, c := range m.children {
		if c.patient && c.slot.cfg.ReqID == reqID {
			c.addOut() // what it leaves the traffic to is gone
		}
	}
	if k := m.slotByReqID(reqID); k != nil && !m.up(k) {
		k.wanted = true
		if k.failures == 0 || k.retryAt.IsZero() {
			m.retry(k)
		}
	}
}

// expired handles a limit that the data plane has met.
func (m *core) expired(e Expired) {
	c := m.childByID(e.ID)
	switch {
	case c == nil:
	case e.Hard && c.state != Deleted:
		c.expire()
	default:
		c.rekeyDue()
	}
}

// expire deletes a child at the end of its life.
func (c *childSA) expire() {
	if c.state == Deleting || c.state == Deleted {
		return
	}
	c.m.deleteChild(c, ReasonChildHardExpiry, nil)
}

// refused removes the child of what the data plane would not take.
func (m *core) refused(r Refused) {
	for _, c := range slices.Clone(m.children) {
		switch {
		case r.SA == ipsec.SAID{}:
			if !c.counts() || !slices.ContainsFunc(c.policies(r.Policy.Direction), func(p ipsec.Policy) bool { return p.PolicyID == r.Policy }) {
				continue
			}
		case c.hasIn && c.inID() == r.SA:
			c.hasIn = false
		case c.hasOut && c.outID() == r.SA:
			c.hasOut = false
		default:
			continue
		}
		if c.counts() {
			m.unfit(c, r.Err)
		}
	}
}

// unfit ends a child that the data plane has not taken in full. The one that it
// was to follow goes on, if it is there.
func (m *core) unfit(c *childSA, err error) {
	c.refused = err
	k := c.slot
	d := &Diagnosis{Reason: ReasonDataPlane, Parameter: "CHILD_SA", Ours: c.proposal.String(), Detail: err.Error()}
	if errors.Is(err, ErrFlowConflict) {
		d = &Diagnosis{Reason: ReasonFlowConflict, Parameter: "traffic selectors", Theirs: flowText(c.local, c.remote), Detail: err.Error()}
	}
	m.emit(Emit{m.childFailure(k, c.initiator, d)})
	k.failures = max(k.failures, 3) // it will hardly be otherwise soon
	for _, old := range m.children {
		if old.successor == c && old.state == Rekeyed {
			old.setState(Established)
			old.redundantAt, old.rekeyAt = time.Time{}, m.now.Add(m.backoff(k))
		}
	}
	if c.told {
		m.deleteChild(c, d.Reason, d)
	} else {
		c.remove(false)
		m.lost(c, d.Reason, d)
	}
	if i := slices.IndexFunc(m.children, func(o *childSA) bool { return o.slot == k && o.hasOut }); i >= 0 {
		k.prune(m, m.children[i])
	}
}
