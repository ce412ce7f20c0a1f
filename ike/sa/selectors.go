package sa

import (
	"cmp"
	"slices"

	"github.com/vpngw/vpngw/ipsec"
)

// slotMatch is a configured child that fits the peer's selectors, and what is
// left of them (RFC 7296, section 2.9).
type slotMatch struct {
	slot          *slot
	local, remote []ipsec.TrafficSelector
	score         int
}

// match returns the configured children that share something with the peer's
// selectors, best first: one that is just what the peer asks for, then one that
// is not yet up, then one that takes the packet that made the peer ask (the
// first selector of each list). A rekey stays with its child.
func (m *core) match(local, remote []ipsec.TrafficSelector, old *childSA) []slotMatch {
	var found []slotMatch
	for _, k := range m.slots {
		if k.removed || old != nil && k != old.slot || old == nil && k.template != nil {
			continue
		}
		f := slotMatch{slot: k, local: narrow(k.cfg.Local, local), remote: narrow(k.cfg.Remote, remote)}
		if len(f.local) == 0 || len(f.remote) == 0 {
			continue
		}
		if k.cfg.Template { // what is left out is refused by narrowing
			f.local, f.remote = f.local[:min(len(f.local), maxMadeSelectors)], f.remote[:min(len(f.remote), maxMadeSelectors)]
		}
		if made := m.madeFrom(k, f.local, f.remote); made != nil {
			f.slot = made
		}
		if ipsec.Covers(f.local, k.cfg.Local) && ipsec.Covers(f.remote, k.cfg.Remote) {
			f.score++
			if ipsec.Covers(f.local, local) && ipsec.Covers(f.remote, remote) {
				f.score += 8
			}
		}
		if !m.up(k) {
			f.score += 4
		}
		if ipsec.Covers(f.local, local[:1]) && ipsec.Covers(f.remote, remote[:1]) {
			f.score += 2
		}
		found = append(found, f)
	}
	slices.SortStableFunc(found, func(a, b slotMatch) int { return cmp.Compare(b.score, a.score) })
	return found
}

// narrow is ipsec.Narrow. Where that leaves just what is configured, as it mostly does,
// it is the configuration's own list: a gateway has many children.
func narrow(configured, offered []ipsec.TrafficSelector) []ipsec.TrafficSelector {
	list := ipsec.Narrow(configured, offered)
	if slices.Equal(configured, list) {
		return configured
	}
	return list
}
