package sa

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// fromTemplate is a lab whose end b takes what a asks for within a template.
func fromTemplate(t *testing.T, seed uint64, remote ...string) *lab {
	l := newLab(t, seed)
	a, b := connA(), connB()
	a.Children = nil
	for i, r := range remote {
		a.Children = append(a.Children, Child{
			Name: fmt.Sprint("net", i), ReqID: uint32(i + 1), Proposals: []ipsec.Proposal{espProposal(ipsec.GroupCurve25519)},
			Local: selectors(r), Remote: selectors("10.2.0.0/16"),
		})
	}
	b.Remote = netip.Addr{}
	b.Children[0].Template = true
	b.Children[0].Local, b.Children[0].Remote = selectors("10.2.0.0/16", "10.3.0.0/16"), selectors("10.1.0.0/16")
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	return l
}

// The peer chooses what is protected: each pair is a child of its own, which is
// rekeyed as any other and leaves nothing.
func TestTemplate(t *testing.T) {
	l := fromTemplate(t, 1, "10.1.1.0/24", "10.1.2.0/24", "10.1.2.128/25")
	l.establish()
	l.settled(3)
	st := l.b.machine().Status()
	reqIDs := map[uint32]bool{}
	for _, c := range st.Children {
		reqIDs[c.ReqID] = true
		if c.ReqID>>31 != 1 || !slices.Equal(c.Local, selectors("10.2.0.0/16")) || len(c.Remote) != 1 {
			t.Errorf("child %+v", c)
		}
	}
	if len(reqIDs) != 3 {
		t.Errorf("%d ReqIDs for 3 children", len(reqIDs))
	}
	for _, k := range slices.Clone(l.b.machine().slots) {
		if k.template != nil {
			l.b.do(RekeyChild{ReqID: k.cfg.ReqID})
			l.run()
		}
	}
	l.a.do(RekeyChild{ReqID: 2})
	l.pass(10 * time.Second)
	l.settled(3)
	if n := l.b.count(ChildRekeyed); n != 4 {
		t.Errorf("%d rekeys, want 4", n)
	}
	l.b.do(RekeyChild{ReqID: l.b.conns[0].Children[0].ReqID}) // of the template itself there is none
	l.b.do(Acquire{ReqID: l.b.conns[0].Children[0].ReqID})
	l.pass(time.Second)
	l.settled(3)

	// One goes: its slot with it.
	l.up = false
	next := *l.a.conns[0]
	next.Children = next.Children[:2]
	l.a.do(Update{&next})
	l.pass(10 * time.Second)
	l.settled(2)
	if n := len(l.b.machine().slots); n != 3 {
		t.Errorf("%d slots, want the template and two", n)
	}
	l.a.do(Terminate{ReasonConfigModify})
	l.pass(time.Minute)
	l.a.empty()
	l.b.empty()
}

// What is outside of the template is cut off, or refused.
func TestTemplateNarrows(t *testing.T) {
	l := fromTemplate(t, 2, "10.1.0.0/15", "10.9.0.0/16")
	l.a.initiate()
	l.run()
	st := l.b.machine().Status()
	if len(st.Children) != 1 || !slices.Equal(st.Children[0].Remote, selectors("10.1.0.0/16")) {
		t.Errorf("children %+v", st.Children)
	}
	if d := l.b.last(Failed).Diagnosis; d == nil || d.Reason != ReasonFlow {
		t.Errorf("diagnosis %v", d)
	}
}

// A configuration that still allows a child keeps it; one that does not ends it.
func TestTemplateUpdate(t *testing.T) {
	l := fromTemplate(t, 3, "10.1.1.0/24", "10.1.2.0/24")
	l.establish()
	spis := func() (list []ipsec.SPI) {
		for _, c := range l.b.machine().Status().Children {
			list = append(list, c.In.SPI)
		}
		return list
	}
	before := spis()
	next := *l.b.conns[0]
	next.Children = slices.Clone(next.Children)
	next.Children[0].Remote = selectors("10.1.0.0/20", "10.77.0.0/16")
	next.Children[0].Lifetime.Hard = time.Hour
	l.b.do(Update{&next})
	l.run()
	l.settled(2)
	if got := spis(); !slices.Equal(got, before) {
		t.Errorf("SAs %v became %v", before, got)
	}
	l.up = false
	again := next
	again.Children = slices.Clone(next.Children)
	again.Children[0].Remote = selectors("10.1.2.0/23")
	l.b.do(Update{&again})
	l.pass(10 * time.Second)
	if got := l.b.machine().Status().Children; len(got) != 1 || !slices.Equal(got[0].Remote, selectors("10.1.2.0/24")) {
		t.Errorf("children %+v", got)
	}
}

// Other algorithms of the template come into the children that stand at once, by a
// new child under the same IKE SA.
func TestTemplateAlgorithms(t *testing.T) {
	l := fromTemplate(t, 4, "10.1.1.0/24", "10.1.2.0/24")
	both := []ipsec.Proposal{espProposal(ipsec.GroupCurve25519), espProposal(ipsec.GroupECP384)}
	for i := range l.a.conns[0].Children {
		l.a.conns[0].Children[i].Proposals = both
	}
	l.establish()
	l.flow = [2]netip.Addr{netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("10.2.7.1")}
	next := *l.b.conns[0]
	next.Children = slices.Clone(next.Children)
	next.Children[0].Proposals = both[1:]
	l.b.conns[0] = &next
	l.b.do(Update{&next})
	l.pass(10 * time.Second)
	l.settled(2)
	for _, c := range l.b.machine().Status().Children {
		if group, _ := c.Proposal.Get(ipsec.TransformGroup); c.Outdated || group.ID != ipsec.GroupECP384 {
			t.Errorf("child %s has %s", c.Name, c.Proposal)
		}
	}
	if n := l.b.count(IKEUp); n != 1 {
		t.Errorf("%d IKE SAs", n)
	}
}

// Of a child with an additional key exchange, for which there is no CHILD_SA yet
// while that is done, the same holds: it counts, and goes with the template.
func TestTemplateFollowup(t *testing.T) {
	var nets []string
	for i := range maxMade + 3 {
		nets = append(nets, fmt.Sprintf("10.1.%d.0/24", i))
	}
	l := fromTemplate(t, 9, nets...)
	for _, c := range []*Connection{l.a.conns[0], l.b.conns[0]} {
		for i := range c.Children {
			p := &c.Children[i].Proposals[0]
			p.Transforms = append(slices.Clone(p.Transforms), ipsec.Additional(1, ipsec.GroupMLKEM768))
		}
	}
	l.a.initiate()
	l.run()
	m := l.b.machine()
	if n := len(m.Status().Children); n != maxMade {
		t.Errorf("%d children, want %d", n, maxMade)
	}
	for _, c := range m.children {
		if !slices.Contains(m.slots, c.slot) {
			t.Errorf("nothing holds the slot of child %q", c.slot.cfg.Name)
		}
	}
	next := *l.b.conns[0]
	next.Children = slices.Clone(next.Children)
	next.Children[0].Remote = selectors("10.1.1.0/24")
	l.up = false
	l.b.do(Update{&next})
	l.pass(10 * time.Second)
	for _, c := range m.Status().Children {
		if !slices.Equal(c.Remote, next.Children[0].Remote) {
			t.Errorf("a child of %s outlives its template", c.Name)
		}
	}
}

// What one peer makes the data plane keep is bounded: the pairs of selectors of all
// its children together.
func TestTemplatePairsLimit(t *testing.T) {
	l := fromTemplate(t, 8, "10.1.1.0/24")
	l.establish()
	many := func(prefix string, n int) (list []ipsec.TrafficSelector) {
		for i := range n {
			list = append(list, selectors(fmt.Sprintf("%s.%d/32", prefix, i))...)
		}
		return list
	}
	m := l.b.machine()
	template := m.slots[0]
	if _, err := m.instantiate(template, many("10.2.1", 31), many("10.1.2", 32)); err != nil {
		t.Fatalf("a child of 31 by 32 selectors: %v", err)
	}
	if _, err := m.instantiate(template, many("10.2.2", 8), many("10.1.3", 8)); err == nil {
		t.Errorf("%d pairs, and 64 more", 31*32+1)
	}
	if _, err := m.instantiate(template, many("10.2.3", 1), many("10.1.4", 31)); err != nil {
		t.Errorf("up to %d pairs: %v", maxMadePairs, err)
	}
	if _, err := m.instantiate(template, many("10.2.4", 1), many("10.1.5", 1)); err == nil {
		t.Errorf("more than %d pairs", maxMadePairs)
	}
}

// The number of children of one peer is bounded.
func TestTemplateLimit(t *testing.T) {
	var nets []string
	for i := range maxMade + 3 {
		nets = append(nets, fmt.Sprintf("10.1.%d.0/24", i))
	}
	l := fromTemplate(t, 4, nets...)
	l.a.initiate()
	l.run()
	if n := len(l.b.machine().Status().Children); n != maxMade {
		t.Errorf("%d children, want %d", n, maxMade)
	}
}

// A policy that another claimant holds is refused with TS_UNACCEPTABLE, and the
// IKE SA stays.
func TestTemplateFlowConflict(t *testing.T) {
	taken := ipsec.SelectorFromPrefix(netip.MustParsePrefix("10.1.1.0/24"))
	for _, which := range []int{0, 1} {
		l := fromTemplate(t, 5, []string{"10.1.1.0/24", "10.1.2.0/24"}[which], []string{"10.1.2.0/24", "10.1.1.0/24"}[which])
		l.b.refuse = func(a Action) error {
			if p, ok := a.(AddPolicy); ok && p.Policy.Remote == taken {
				return fmt.Errorf("%w: by c", ErrFlowConflict)
			}
			return nil
		}
		l.a.initiate()
		l.run()
		if !l.a.machine().Established() || !l.b.machine().Established() {
			t.Fatal("no IKE SA")
		}
		if got := l.b.machine().Status().Children; len(got) != 1 || got[0].Remote[0] == taken {
			t.Errorf("children %+v", got)
		}
		d := l.b.last(Failed).Diagnosis
		if d.Reason != ReasonFlowConflict || d.Code() != CauseTaken {
			t.Errorf("diagnosis %v", d)
		}
		if d := l.a.last(Failed).Diagnosis; d.Reason != ReasonFlow {
			t.Errorf("the peer is told %v", d)
		}
	}
}

// The same in IKEv1, where a quick mode has one pair that cannot be narrowed.
func TestTemplateV1(t *testing.T) {
	l := fromTemplate(t, 6, "10.1.1.0/24", "10.1.2.0/24", "10.9.0.0/16")
	for _, c := range []*Connection{l.a.conns[0], l.b.conns[0]} {
		c.Version, c.Aggressive = 1, true
		c.Proposals = []ipsec.Proposal{ikeProposal(ipsec.GroupMODP2048)}
		for i := range c.Children {
			c.Children[i].Proposals = []ipsec.Proposal{espProposal(ipsec.GroupMODP2048)}
		}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	l.a.initiateV1()
	l.pass(20 * time.Second)
	st := l.b.peer().Status()
	if len(st.Children) != 2 {
		t.Fatalf("%d children, want 2\n%s", len(st.Children), l.transcript.String())
	}
	for _, c := range st.Children {
		if c.ReqID>>31 != 1 {
			t.Errorf("child %+v", c)
		}
		l.b.do(RekeyChild{ReqID: c.ReqID})
		l.pass(20 * time.Second)
	}
	if n := l.b.count(ChildRekeyed); n != 2 {
		t.Errorf("%d rekeys", n)
	}
	if len(l.b.peer().Status().Children) != 2 {
		t.Errorf("children %+v", l.b.peer().Status().Children)
	}
}

func TestTemplateInitiatesNothing(t *testing.T) {
	c := connA()
	c.Children[0].Template = true
	if err := c.Validate(); err == nil {
		t.Error("a connection that initiates takes a template")
	}
	refused := &childSA{refused: errors.New("x")}
	if refused.refusal() != wire.NoAdditionalSAs {
		t.Error("another refusal")
	}
}
