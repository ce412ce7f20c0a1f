package sa

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// The collision model takes two ends as they are through all that can happen
// when both of them, or one of them twice, rekey, delete, reauthenticate or probe at
// once. Each of these is a choice, and all sequences of choices are tried:
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

// scenario is one run of the model.
type scenario struct {
	setting
	orders []order
	busy   bool // packets pass at any time; else none does
	faults int
}

func (sc scenario) String() string {
	var list []string
	for _, o := range sc.orders {
		list = append(list, o.String())
	}
	text := strings.Join(list, ", ")
	text += fmt.Sprintf("; initiates %02b, nonces %d, faults %d", sc.initiates, sc.nonces, sc.faults)
	for _, has := range []struct {
		it   bool
		name string
	}{{sc.hurriedB, "b is faster"}, {sc.busy, "busy"}, {sc.aged, "aged"}, {sc.v1, "IKEv1"}} {
		if has.it {
			text += ", " + has.name
		}
	}
	return text
}

func (sc *scenario) has(ops ...operation) bool {
	return slices.ContainsFunc(sc.orders, func(o order) bool { return slices.Contains(ops, o.op) })
}

// deletes reports whether the scenario has something that traffic may stop for.
func (sc *scenario) deletes() bool { return sc.has(deletesChild, removesChild, deletesIKE) }

// modelState is one state of the model: the two ends, what is under way
// between them, and what is yet to happen to them.
type modelState struct {
	ends    [2]endID
	wire    []waiting // in the order of compareWaiting, which means nothing
	given   uint8     // of the orders, by bits
	faults  int       // how many datagrams the network may still lose, repeat or hold
	up      bool      // nothing was to be deleted yet
	elapsed time.Duration
}

// waiting is a datagram under way.
type waiting struct {
	id packetID
	// held: time may go on, and repeats come, before it arrives.
	held bool
}

func compareWaiting(p, q waiting) int {
	held := func(p waiting) int {
		if p.held {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(p.id, q.id), cmp.Compare(held(p), held(q)))
}

// move is one thing that happens next.
type move struct {
	kind   moveKind
	packet waiting // of those that are about one
	n      int     // else: of the order or end
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

func (k moveKind) isOfPacket() bool { return k <= isHeld }

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
	world    *modelWorld
	at       modelState

	visited map[[16]byte]struct{}
	states  int // different ones
	steps   int
	ends    int // states in which nothing is left to happen
	deepest int

	path   []move
	buffer []byte
	failed string // the first violation
}

func (m *model) violated(format string, args ...any) {
	if m.failed == "" {
		m.failed = fmt.Sprintf(format, args...)
	}
	m.world.note("! "+format, args...)
}

// end returns a side in its present state.
func (m *model) end(side int) *modelEnd { return m.world.known[side][m.at.ends[side]] }

// moves lists what can happen next.
func (m *model) moves() []move {
	s := &m.at
	var list []move
	urgent := false // something must happen before time goes on
	for i, p := range s.wire {
		if i > 0 && p == s.wire[i-1] {
			continue
		}
		list = append(list, move{kind: arrives, packet: p})
		urgent = urgent || !p.held
		if s.faults > 0 {
			list = append(list, move{kind: isLost, packet: p})
			if !p.held {
				list = append(list, move{kind: arrivesTwice, packet: p}, move{kind: isHeld, packet: p})
			}
		}
	}
	for i, o := range m.scenario.orders {
		if s.given>>i&1 == 0 && (i == 0 || o != m.scenario.orders[i-1] || s.given>>(i-1)&1 != 0) {
			list = append(list, move{kind: isOrdered, n: i})
		}
	}
	for i := range s.ends {
		if wait, ok := m.end(i).wait(); ok && wait <= 0 {
			list = append(list, move{kind: isDue, n: i})
			urgent = true
		}
	}
	if wait, ok := m.next(); ok && !urgent && (!m.ordering() || s.elapsed+wait < orderTime) {
		list = append(list, move{kind: timePasses})
	}
	return list
}

// ordering reports whether a command is yet to be given.
func (m *model) ordering() bool { return int(m.at.given) != 1<<len(m.scenario.orders)-1 }

// next is how long it is until time stops again: at the first timer, or a little
// later, when that of the other end is due as well.
func (m *model) next() (wait time.Duration, ok bool) {
	a, okA := m.end(0).wait()
	b, okB := m.end(1).wait()
	switch {
	case !okA:
		return b, okB
	case !okB:
		return a, true
	case a > b:
		a, b = b, a
	}
	if b-a < tolerance {
		return b, true
	}
	return a, true
}

// step takes an end through an input.
func (m *model) step(side int, kind inputKind, n uint64) {
	done := m.world.step(side, modelInput{m.at.ends[side], kind, n})
	m.at.ends[side] = done.to
	m.send(done.sent)
	if done.failed != "" && m.failed == "" {
		m.failed = done.failed
	}
}

// send puts datagrams on the wire.
func (m *model) send(list []packetID) {
	for _, id := range list {
		m.put(waiting{id: id})
	}
}

func (m *model) put(p waiting) {
	i, _ := slices.BinarySearchFunc(m.at.wire, p, compareWaiting)
	m.at.wire = slices.Insert(m.at.wire, i, p)
}

// advance lets time pass at both ends.
func (m *model) advance(d time.Duration) {
	for side := range m.at.ends {
		m.step(side, inAdvance, uint64(d))
	}
	m.at.elapsed += d
}

// apply makes a choice happen.
func (m *model) apply(c move) {
	s, w := &m.at, m.world
	switch c.kind {
	case arrives, isLost, arrivesTwice, isHeld:
		if w.lab != nil {
			w.note("%s: %s", [...]string{arrives: "arrives", isLost: "lost", arrivesTwice: "arrives, and will again", isHeld: "held"}[c.kind], w.lab.header([]byte(w.packets[c.packet.id].octets)))
		}
		i, ok := slices.BinarySearchFunc(s.wire, c.packet, compareWaiting)
		if !ok {
			m.violated("the model has no such packet")
			return
		}
		s.wire = slices.Delete(s.wire, i, i+1)
		if c.kind != arrives {
			s.faults--
		}
		if c.kind == arrivesTwice || c.kind == isHeld {
			m.put(waiting{c.packet.id, true})
		}
		if c.kind == arrives || c.kind == arrivesTwice {
			m.step(w.packets[c.packet.id].to, inPacket, uint64(c.packet.id))
		}
	case isOrdered:
		o := m.scenario.orders[c.n]
		s.given |= 1 << c.n
		if o.op == deletesChild || o.op == removesChild || o.op == deletesIKE {
			s.up = false
		}
		m.step(o.end, inOrder, uint64(o.op))
	case isDue:
		m.step(c.n, inDue, 0)
	case timePasses:
		wait, _ := m.next()
		m.advance(wait)
		w.note("at %s", s.elapsed)
	}
	m.traffic()
	m.steps++
}

// traffic checks that a packet that an end sends through a child finds the SA at
// the other end, and has it used if the tunnel is busy.
func (m *model) traffic() {
	if !m.at.up {
		return
	}
	for side := range m.at.ends {
		from, to := m.end(side), m.end(1-side)
		used := uint64(0)
		for i := range m.world.conns[side].Children {
			child := &m.world.conns[side].Children[i]
			out := from.outbound(child.ReqID)
			if out < 0 {
				m.violated("%s has no SA to send %s on", endName(side), child.Name)
				continue
			}
			in := slices.IndexFunc(to.sas, func(sa modelSA) bool {
				return sa.dir == ipsec.In && sa.id == from.sas[out].id && sa.keys == from.sas[out].keys
			})
			switch {
			case in < 0:
				m.violated("%s sends %s on %x, which %s has not", endName(side), child.Name, uint32(from.sas[out].id.SPI), endName(1-side))
			case m.scenario.busy && !to.sas[in].used.Equal(to.now):
				used |= 1 << in
			}
		}
		if used != 0 {
			m.step(1-side, inTraffic, used)
		}
	}
}

// digest returns what tells the state apart.
func (m *model) digest() [16]byte {
	s := &m.at
	b := m.buffer[:0]
	b = binary.AppendUvarint(b, uint64(s.ends[0]))
	b = binary.AppendUvarint(b, uint64(s.ends[1]))
	b = append(b, s.given, byte(s.faults))
	if s.up {
		b = append(b, 1)
	}
	if m.ordering() {
		b = binary.AppendUvarint(b, uint64(s.elapsed))
	}
	for _, p := range s.wire {
		n := uint64(p.id) << 1
		if p.held {
			n |= 1
		}
		b = binary.AppendUvarint(b, n)
	}
	m.buffer = b
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// explore tries all that can follow.
func (m *model) explore() {
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
	before := m.at
	for _, c := range list {
		m.at = before
		m.at.wire = append(make([]waiting, 0, len(before.wire)+2), before.wire...)
		m.path = append(m.path, c)
		m.apply(c)
		if m.failed != "" {
			return
		}
		digest := m.digest()
		if _, seen := m.visited[digest]; !seen {
			m.visited[digest] = struct{}{}
			m.states++
			m.explore()
			if m.failed != "" {
				return
			}
		}
		m.path = m.path[:len(m.path)-1]
	}
}

// rest checks a state in which nothing is left to happen.
func (m *model) rest() {
	for side := range m.at.ends {
		e, name := m.end(side), endName(side)
		if defects := e.defects(); defects != "" {
			m.violated("%s: %s", name, defects)
		}
		if !m.scenario.has(deletesIKE) {
			m.restOf(side)
		} else if len(e.members)+len(e.sas) > 0 {
			m.violated("%s has %d machines and %d SAs after a DELETE of the IKE SA", name, len(e.members), len(e.sas))
		}
	}
}

// restOf checks that an end has just one of what is wanted, and the other end
// the same.
func (m *model) restOf(side int) {
	sc, e, other, name := &m.scenario, m.end(side), m.end(1-side), endName(side)
	if len(e.members) != 1 || len(other.members) != 1 {
		m.violated("%s has %d machines, the other end %d", name, len(e.members), len(other.members))
		return
	}
	st, theirs := e.members[0].machine.Status(), other.members[0].machine.Status()
	switch {
	case len(st.IKE) != 1 || len(theirs.IKE) != 1 || st.IKE[0].State != Established:
		m.violated("%s has the IKE SAs %+v", name, st.IKE)
		return
	case st.IKE[0].InitiatorSPI != theirs.IKE[0].InitiatorSPI || st.IKE[0].ResponderSPI != theirs.IKE[0].ResponderSPI:
		m.violated("the ends have different IKE SAs")
	case sc.has(rekeysIKE, reauthenticates) && st.IKE[0].InitiatorSPI == m.world.firstIKE:
		m.violated("the IKE SA is the one of the beginning")
	case e.ikeDown:
		m.violated("%s reported an IKE SA down", name)
	case e.childDown && !sc.deletes():
		m.violated("%s reported a child down", name)
	case e.failed && !sc.v1 && !sc.deletes():
		m.violated("%s reported a failure", name)
	}
	wanted := m.world.conns[side].Children
	if sc.has(removesChild) {
		wanted = wanted[:1]
	}
	if sc.has(deletesChild) && sc.initiates == 0 && len(st.Children) == 0 {
		wanted = nil // nobody asked for it again
	}
	if len(st.Children) != len(wanted) || len(e.sas) != 2*len(wanted) || e.policies() != 2*len(wanted) {
		m.violated("%s has %d children, %d SAs and %d policies; wanted are %d children", name, len(st.Children), len(e.sas), e.policies(), len(wanted))
		return
	}
	for i := range wanted {
		m.restOfChild(side, &wanted[i], st.Children)
	}
}

// restOfChild checks one child.
func (m *model) restOfChild(side int, child *Child, have []ChildStatus) {
	e, other, name := m.end(side), m.end(1-side), endName(side)
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
	children := m.world.conns[side].Children
	if m.scenario.has(rekeysChild, deletesChild) && child.ReqID == children[len(children)-1].ReqID && m.world.first[have[i].In.SPI] {
		m.violated("%s: %s was not rekeyed", name, child.Name)
	}
}

// newModel returns the model of a scenario at its start.
func newModel(sc scenario, w *modelWorld) *model {
	m := &model{scenario: sc, world: w, at: w.start, visited: map[[16]byte]struct{}{}}
	m.at.faults, m.at.up = sc.faults, true
	return m
}

// transcript runs what led to a violation once more, and tells of it.
func (m *model) transcript(t *testing.T) string {
	l := newLab(t, 0)
	w, err := newWorld(m.scenario.setting, l)
	if err != nil {
		return err.Error()
	}
	again := newModel(m.scenario, w)
	l.transcript.Reset()
	for _, c := range m.path {
		again.apply(w.translate(m.world, c))
	}
	if again.failed == "" && len(again.moves()) == 0 {
		again.rest()
	}
	return l.transcript.String()
}
