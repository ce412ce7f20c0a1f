package sa

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// The collision model takes two machines as they are through all that can happen
// when both ends, or one of them twice, rekey, delete or probe at once. Each of
// these is a choice, and all sequences of choices are tried:
//
//   - which of the datagrams under way arrives next, at any end;
//   - which of them is lost, arrives and stays to arrive once more, or is held
//     while time goes on: as often as the scenario has faults;
//   - when each command is given;
//   - which end's timers come first, where both are due;
//   - if nothing else is left: time goes on to the next timer.
//
// States that behave the same are explored once. In each, traffic must find
// its SA at the other end, unless something was to be deleted. Where nothing is left
// to happen, there must be what the commands ask for and nothing else.

// nonceOrder says how the nonces that one end draws compare. Those of the ends
// have the one or the other half of the range to themselves: so the lowest of four
// is always the same end's, and rising and falling make each exchange the one
// that it is in.
type nonceOrder uint8

const (
	rising nonceOrder = iota
	falling
	scattered
)

// scenario is one run of the model.
type scenario struct {
	orders []order
	// initiates says which ends set up what is missing: bit 0 for a, 1 for b.
	initiates int
	nonces    nonceOrder
	hurriedB  bool // the timers of b are the faster ones
	busy      bool // packets pass at any time; else none does
	faults    int
	v1        bool
}

func (sc scenario) String() string {
	var list []string
	for _, o := range sc.orders {
		list = append(list, o.String())
	}
	text := strings.Join(list, ", ")
	text += fmt.Sprintf("; initiates %02b, nonces %d, faults %d", sc.initiates, sc.nonces, sc.faults)
	if sc.hurriedB {
		text += ", b is faster"
	}
	if sc.busy {
		text += ", busy"
	}
	return text
}

func (sc *scenario) has(ops ...operation) bool {
	return slices.ContainsFunc(sc.orders, func(o order) bool { return slices.Contains(ops, o.op) })
}

// move is one thing that happens next.
type move struct {
	kind moveKind
	n    int // of the packet, order or end
}

type moveKind uint8

const (
	arrives moveKind = iota + 1
	isLost
	arrivesTwice
	isHeld
	isOrdered
	isDue
	timePasses
)

const (
	// longestRun bounds the choices of one run: more of them mean that the ends do
	// not come to rest.
	longestRun = 600
	// orderTime is how long after the start a command may be given.
	orderTime = 12 * time.Second
	// tolerance is how late a timer may be: so long may the other end's come first.
	tolerance = 500 * time.Millisecond
)

// model explores one scenario.
type model struct {
	scenario scenario
	conns    [2]*Connection
	smaller  [2]*Connection // without the last child
	envs     [2]*Env
	at       *modelState // where the call under way is
	adopted  []func()
	lab      *lab // for a transcript, else nil

	first    map[ipsec.SPI]bool // of the children at the start
	firstIKE uint64
	visited  map[[16]byte]struct{}
	states   int // different ones
	steps    int
	ends     int // states in which nothing is left to happen
	deepest  int

	copier   copier
	digester digester
	path     []move
	failed   string // the first violation
}

func (m *model) violated(format string, args ...any) {
	if m.failed == "" {
		m.failed = fmt.Sprintf(format, args...)
	}
	m.note("! "+format, args...)
}

// setUp makes the state in which the connection is up and at rest.
func (m *model) setUp() *modelState {
	a := connA()
	a.Proposals = []ipsec.Proposal{modelProposal()}
	a.Children[0].Proposals = []ipsec.Proposal{espProposal()}
	if m.scenario.v1 {
		a.Version = 1
		a.Proposals = []ipsec.Proposal{proposalV1(ipsec.GroupCurve25519)}
	}
	if m.scenario.has(removesChild) {
		second(a)
	}
	b := mirror(a, "ba")
	a.Initiate, b.Initiate = m.scenario.initiates&1 != 0, m.scenario.initiates&2 != 0
	m.conns = [2]*Connection{a, b}
	for i, c := range m.conns {
		fewer := *c
		fewer.Children = c.Children[:1]
		m.smaller[i] = &fewer
		m.envs[i] = m.newEnv(i)
	}
	s := &modelState{now: start}
	m.at = s
	s.ends[0].conn, s.ends[1].conn = a, b
	starter := *a
	starter.Initiate = true
	if m.scenario.v1 {
		machine, out := InitiateV1(s.now, m.envs[0], &starter)
		s.ends[0].machines = []peer{machine}
		m.perform(0, out)
	} else {
		machine, out := Initiate(s.now, m.envs[0], &starter)
		s.ends[0].machines = []peer{machine}
		m.perform(0, out)
	}
	for range longestRun {
		next := m.moves()
		if len(next) == 0 {
			break
		}
		m.apply(next[0])
	}
	if len(s.ends[0].machines) != 1 || len(s.ends[1].machines) != 1 || len(s.ends[0].sas) != 2*len(a.Children) {
		m.violated("the connection does not come up")
		return s
	}
	m.perform(0, s.ends[0].machines[0].Do(s.now, Update{a}))
	m.first = map[ipsec.SPI]bool{}
	for _, sa := range s.ends[0].sas {
		m.first[sa.id.SPI] = true
	}
	m.firstIKE = s.ends[0].machines[0].SPIs()[0]
	s.todo, s.faults = slices.Clone(m.scenario.orders), m.scenario.faults
	s.given = s.now.Sub(start)
	s.up = true
	return s
}

// modelProposal is of an AEAD, the fastest there is.
func modelProposal() ipsec.Proposal {
	return ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupCurve25519),
	}}
}

// moves lists what can happen next.
func (m *model) moves() []move {
	s := m.at
	var list []move
	waiting := false // for something that must happen before time goes on
	for i, p := range s.wire {
		if i > 0 && p == s.wire[i-1] {
			continue
		}
		list = append(list, move{arrives, i})
		waiting = waiting || !p.held
		if s.faults > 0 {
			list = append(list, move{isLost, i})
			if !p.held {
				list = append(list, move{arrivesTwice, i}, move{isHeld, i})
			}
		}
	}
	for i, o := range s.todo {
		if i == 0 || o != s.todo[i-1] {
			list = append(list, move{isOrdered, i})
		}
	}
	for i := range s.ends {
		if at := s.ends[i].deadline(); !at.IsZero() && !at.After(s.now) {
			list = append(list, move{isDue, i})
			waiting = true
		}
	}
	if !waiting && !m.next().IsZero() && (len(s.todo) == 0 || m.next().Sub(start) < s.given+orderTime) {
		list = append(list, move{kind: timePasses})
	}
	return list
}

func (e *modelEnd) deadline() (first time.Time) {
	for _, machine := range e.machines {
		if at := machine.Deadline(); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// next is when time stops again: at the first timer, or a little later, when that
// of the other end is due as well.
func (m *model) next() time.Time {
	a, b := m.at.ends[0].deadline(), m.at.ends[1].deadline()
	switch {
	case a.IsZero():
		return b
	case b.IsZero():
		return a
	case a.After(b):
		a, b = b, a
	}
	if b.Sub(a) < tolerance {
		return b
	}
	return a
}

// apply makes a choice happen.
func (m *model) apply(c move) {
	s := m.at
	switch c.kind {
	case arrives, isLost, arrivesTwice, isHeld:
		p := s.wire[c.n]
		s.wire = slices.Delete(s.wire, c.n, c.n+1)
		if m.lab != nil {
			m.note("%s: %s", [...]string{arrives: "arrives", isLost: "lost", arrivesTwice: "arrives, and will again", isHeld: "held"}[c.kind], m.lab.header([]byte(p.octets)))
		}
		if c.kind != arrives {
			s.faults--
		}
		if c.kind == arrivesTwice || c.kind == isHeld {
			held := p
			held.held = true
			i, _ := slices.BinarySearchFunc(s.wire, held, comparePackets)
			s.wire = slices.Insert(s.wire, i, held)
		}
		if c.kind == isLost {
			s.lost++
		}
		if c.kind == arrives || c.kind == arrivesTwice {
			m.receive(p.to, p)
		}
	case isOrdered:
		o := s.todo[c.n]
		s.todo = slices.Delete(s.todo, c.n, c.n+1)
		m.give(o)
	case isDue:
		m.note("%s is due", endName(c.n))
		for _, machine := range slices.Clone(s.ends[c.n].machines) {
			if at := machine.Deadline(); !at.IsZero() && !at.After(s.now) {
				m.perform(c.n, machine.Timeout(s.now))
			}
		}
	case timePasses:
		s.now = m.next()
		m.note("at %s", s.now.Sub(start))
	}
	m.traffic()
	m.steps++
}

// explore tries all that can follow. It takes the state over.
func (m *model) explore(s *modelState) {
	m.at = s
	list := m.moves()
	m.deepest = max(m.deepest, len(m.path))
	if len(list) == 0 {
		m.ends++
		m.rest()
		return
	}
	if len(m.path) >= longestRun {
		m.violated("the ends do not come to rest")
		return
	}
	for i, c := range list {
		next := s
		if i < len(list)-1 {
			next = copyOf(&m.copier, s)
		}
		m.at = next
		m.path = append(m.path, c)
		m.apply(c)
		if m.failed != "" {
			return
		}
		digest := digestOf(&m.digester, next, next.now)
		if _, seen := m.visited[digest]; !seen {
			m.visited[digest] = struct{}{}
			m.states++
			m.explore(next)
			if m.failed != "" {
				return
			}
		}
		m.path = m.path[:len(m.path)-1]
	}
}

// rest checks a state in which nothing is left to happen.
func (m *model) rest() {
	s, sc := m.at, &m.scenario
	for end := range s.ends {
		e := &s.ends[end]
		name := endName(end)
		for _, machine := range e.machines {
			for reason, n := range machine.Drops() {
				if strings.HasPrefix(reason, "defect") {
					m.violated("%s: %s ×%d", name, reason, n)
				}
			}
		}
		if sc.has(deletesIKE) {
			if len(e.machines)+len(e.sas)+len(e.policies) > 0 {
				m.violated("%s has %d machines, %d SAs and %d policies after a DELETE of the IKE SA", name, len(e.machines), len(e.sas), len(e.policies))
			}
			continue
		}
		m.restOf(end)
	}
}

// restOf checks that an end has just one of what is wanted, and the other end
// the same.
func (m *model) restOf(end int) {
	s, sc := m.at, &m.scenario
	e, other, name := &s.ends[end], &s.ends[1-end], endName(end)
	if len(e.machines) != 1 || len(other.machines) != 1 {
		m.violated("%s has %d machines", name, len(e.machines))
		return
	}
	st, theirs := e.machines[0].Status(), other.machines[0].Status()
	switch {
	case len(st.IKE) != 1 || len(theirs.IKE) != 1 || st.IKE[0].State != Established:
		m.violated("%s has the IKE SAs %+v", name, st.IKE)
		return
	case st.IKE[0].InitiatorSPI != theirs.IKE[0].InitiatorSPI || st.IKE[0].ResponderSPI != theirs.IKE[0].ResponderSPI:
		m.violated("the ends have different IKE SAs")
	case sc.has(rekeysIKE) && (st.IKE[0].InitiatorSPI == m.firstIKE):
		m.violated("the IKE SA was not rekeyed")
	case e.ikeDown:
		m.violated("%s reported an IKE SA down", name)
	case e.childDown && !sc.has(deletesChild, removesChild):
		m.violated("%s reported a child down", name)
	case e.failed && !sc.v1 && !sc.has(deletesChild, removesChild):
		m.violated("%s reported a failure", name)
	}
	wanted := m.conns[end].Children
	if sc.has(removesChild) {
		wanted = wanted[:1]
	}
	if sc.has(deletesChild) && sc.initiates == 0 && len(st.Children) == 0 {
		wanted = nil // nobody asked for it again
	}
	if len(st.Children) != len(wanted) || len(e.sas) != 2*len(wanted) || len(e.policies) != 2*len(wanted) {
		m.violated("%s has %d children, %d SAs and %d policies; wanted are %d children", name, len(st.Children), len(e.sas), len(e.policies), len(wanted))
		return
	}
	for _, child := range wanted {
		m.restOfChild(end, &child, st.Children)
	}
}

// restOfChild checks one child.
func (m *model) restOfChild(end int, child *Child, have []ChildStatus) {
	s, name := m.at, endName(end)
	e, other := &s.ends[end], &s.ends[1-end]
	i := slices.IndexFunc(have, func(c ChildStatus) bool { return c.ReqID == child.ReqID })
	if i < 0 || have[i].State != Established {
		m.violated("%s: %s is not up", name, child.Name)
		return
	}
	for _, id := range []ipsec.SAID{have[i].In, have[i].Out} {
		mine, theirs := e.find(id), other.find(id)
		if mine < 0 || theirs < 0 || e.sas[mine].dir == other.sas[theirs].dir || e.sas[mine].keys != other.sas[theirs].keys {
			m.violated("%s: the ends have different SAs of %s", name, child.Name)
		}
	}
	last := &m.conns[end].Children[len(m.conns[end].Children)-1]
	if m.scenario.has(rekeysChild, deletesChild) && child.ReqID == last.ReqID && m.first[have[i].In.SPI] {
		m.violated("%s: %s was not rekeyed", name, child.Name)
	}
}

// run explores a scenario.
func (sc scenario) run() *model {
	m := &model{scenario: sc, visited: map[[16]byte]struct{}{}}
	s := m.setUp()
	if m.failed == "" {
		m.explore(s)
	}
	return m
}

// transcript runs what led to a violation once more, and tells of it.
func (m *model) transcript(t *testing.T) string {
	again := &model{scenario: m.scenario, lab: newLab(t, 0)}
	s := again.setUp()
	again.at = s
	again.lab.transcript.Reset()
	for _, c := range m.path {
		again.apply(c)
	}
	if again.failed == "" && len(again.moves()) == 0 {
		again.rest()
	}
	return again.lab.transcript.String()
}
