package sa

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// modelWorld is what scenarios that differ only in their commands and faults have in
// common: the two ends as they start, and all that the ends have been found to do.
//
// An end knows nothing of the other but its datagrams, and keeps a clock of its own.
// So what it does in one of its states depends on what comes in and on nothing else;
// each such step is computed once, however many states of the whole it is part of.
type modelWorld struct {
	setting
	conns   [2]*Connection
	smaller [2]*Connection // without the last child
	envs    [2]*Env
	lab     *lab // for a transcript, else nil
	fresh   bool // every step is computed, and none is kept
	// From these states on, each is left for ever by its first step: no copy is made.
	passing [2]endID

	known   [2][]*modelEnd // states of an end
	endIDs  [2]map[[16]byte]endID
	steps   [2]map[modelInput]modelStep
	packets []modelPacket
	ids     map[modelPacket]packetID

	start    modelState         // the connection is up and at rest
	first    map[ipsec.SPI]bool // of the children then
	firstIKE uint64

	// The call under way.
	side    int
	at      *modelEnd
	acting  *modelMember
	sent    []packetID
	adopted []func()
	failed  string

	copier   copier
	digester digester
}

// setting is what a world is made with.
type setting struct {
	// initiates says which ends set up what is missing: bit 0 for a, 1 for b.
	initiates int
	nonces    nonceOrder
	hurriedB  bool // the timers of b are the faster ones
	two       bool // there are two children
	v1        bool
	// aged: the IKE SA is so old that an end that has not begun it may replace it at
	// once. Else that waits.
	aged bool
	// dpd: an end that hears nothing asks for a sign of life. Where both go on, it does so
	// for ever.
	dpd bool
}

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

type (
	endID    uint32
	packetID uint32
)

// modelPacket is a datagram.
type modelPacket struct {
	to            int
	local, remote netip.AddrPort // as the receiver sees them
	octets        string
}

// modelInput is what happens to an end.
type modelInput struct {
	end  endID
	kind inputKind
	n    uint64
}

type inputKind uint8

const (
	inPacket  inputKind = iota + 1 // n: a packetID
	inOrder                        // n: an operation
	inDue                          // its timers
	inAdvance                      // n: a time.Duration that goes by
	inTraffic                      // n: the inbound SAs that packets come through, by bits
)

// modelStep is what comes of an input.
type modelStep struct {
	to     endID
	sent   []packetID
	failed string
}

// step takes an end through an input.
func (w *modelWorld) step(side int, in modelInput) modelStep {
	if done, ok := w.steps[side][in]; ok && !w.fresh {
		return done
	}
	w.side, w.at = side, w.known[side][in.end]
	if w.passing[side] == 0 || in.end < w.passing[side] {
		w.at = w.copy(w.at, in.kind)
	}
	w.sent, w.failed = nil, ""
	switch in.kind {
	case inPacket:
		w.receive(w.packets[in.n])
	case inOrder:
		w.give(operation(in.n))
	case inDue:
		w.note("%s is due", endName(side))
		w.due()
	case inAdvance:
		w.at.now = w.at.now.Add(time.Duration(in.n))
	case inTraffic:
		w.use(in.n)
	}
	if in.kind != inAdvance && in.kind != inTraffic {
		w.review()
	}
	done := modelStep{to: w.endID(side, w.at), sent: w.sent, failed: w.failed}
	if !w.fresh {
		w.steps[side][in] = done
	}
	w.at, w.acting, w.sent = nil, nil, nil
	return done
}

// copy returns a copy of an end, as deep as an input may change it.
func (w *modelWorld) copy(e *modelEnd, kind inputKind) *modelEnd {
	if kind != inAdvance && kind != inTraffic {
		return copyOf(&w.copier, e)
	}
	c := *e // its machines do nothing
	c.sas = slices.Clone(e.sas)
	return &c
}

// endID returns the number of a state of an end, which is not to be changed any more.
func (w *modelWorld) endID(side int, e *modelEnd) endID {
	next := endID(len(w.known[side]))
	if !w.fresh {
		digest := digestOf(&w.digester, e, e.now)
		if id, ok := w.endIDs[side][digest]; ok {
			return id
		}
		w.endIDs[side][digest] = next
	}
	e.wakes = e.deadline()
	w.known[side] = append(w.known[side], e)
	return next
}

func (w *modelWorld) packetID(p modelPacket) packetID {
	id, ok := w.ids[p]
	if !ok {
		id = packetID(len(w.packets))
		w.packets = append(w.packets, p)
		w.ids[p] = id
	}
	return id
}

func (w *modelWorld) violated(format string, args ...any) {
	if w.failed == "" {
		w.failed = fmt.Sprintf(format, args...)
	}
	w.note("! "+format, args...)
}

func (w *modelWorld) note(format string, args ...any) {
	if w.lab != nil {
		fmt.Fprintf(&w.lab.transcript, format+"\n", args...)
	}
}

// age is how long an aged IKE SA has been there: no two that each end begins can be
// taken to cross it.
const age = 10 * time.Minute

// newWorld sets the connection up. With a lab it writes a transcript.
func newWorld(s setting, l *lab) (*modelWorld, error) {
	w := &modelWorld{setting: s, lab: l, fresh: l != nil, ids: map[modelPacket]packetID{}, first: map[ipsec.SPI]bool{}}
	a := connA()
	a.Proposals = []ipsec.Proposal{modelProposal()}
	a.Children[0].Proposals = []ipsec.Proposal{espProposal(modelGroup)}
	if s.v1 {
		a.Version = 1
		a.Proposals = []ipsec.Proposal{proposalV1(modelGroup)}
	}
	if s.dpd {
		a.DPD = DPD{Interval: 10 * time.Second}
	}
	if s.two {
		second(a)
	}
	b := mirror(a, "ba")
	a.Initiate, b.Initiate = s.initiates&1 != 0, s.initiates&2 != 0
	w.conns = [2]*Connection{a, b}
	m := &model{world: w}
	for i, c := range w.conns {
		fewer := *c
		fewer.Children = c.Children[:1]
		w.smaller[i] = &fewer
		w.envs[i] = w.newEnv(i)
		w.endIDs[i], w.steps[i] = map[[16]byte]endID{}, map[modelInput]modelStep{}
		m.at.ends[i] = w.endID(i, &modelEnd{now: start, conn: c})
	}
	starter := *a
	starter.Initiate = true
	w.side, w.at = 0, copyOf(&w.copier, w.known[0][m.at.ends[0]])
	w.initiate(&starter)
	m.at.ends[0] = w.endID(0, w.at)
	m.send(w.sent)
	for range longestRun {
		next := m.moves()
		if len(next) == 0 {
			break
		}
		m.apply(next[0])
	}
	e := m.end(0)
	if m.failed != "" || len(e.members) != 1 || len(m.end(1).members) != 1 || len(e.sas) != 2*len(a.Children) {
		return w, fmt.Errorf("the connection does not come up: %s", m.failed)
	}
	w.side, w.at, w.sent = 0, copyOf(&w.copier, e), nil
	w.do(w.at.members[0], Update{a})
	m.at.ends[0] = w.endID(0, w.at)
	if s.aged {
		m.advance(age)
	}
	for _, sa := range e.sas {
		w.first[sa.id.SPI] = true
	}
	w.firstIKE = e.members[0].machine.SPIs()[0]
	w.start = m.at
	w.start.elapsed = 0
	return w, nil
}

// modelProposal is of an AEAD, the fastest there is.
func modelProposal() ipsec.Proposal {
	return ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(modelGroup),
	}}
}

// order is a command that is given to one end, at any time.
type order struct {
	end int
	op  operation
}

func (o order) String() string { return endName(o.end) + " " + o.op.String() }

// translate returns a move of another world, where packets have other numbers.
func (w *modelWorld) translate(from *modelWorld, c move) move {
	if c.kind.isOfPacket() {
		c.packet.id = w.ids[from.packets[c.packet.id]]
	}
	return c
}

// wait returns how long it is to the first timer of an end; ok is false where none
// runs.
func (e *modelEnd) wait() (wait time.Duration, ok bool) {
	return e.wakes.Sub(e.now), !e.wakes.IsZero()
}
