package sa

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// modelEnd is one side: its machines, what a server does for them, and a data plane.
type modelEnd struct {
	now     time.Time // by its own clock: see modelWorld
	conn    *Connection
	down    bool // the connection is no longer configured
	members []*modelMember
	again   time.Time // of Rivals.Review
	wakes   time.Time // the deadline, once the state is known
	sas     []modelSA // in order of installation

	spis          uint32
	draws, nonces uint32
	// What was reported while no other machine of the connection was up.
	ikeDown, childDown, failed bool
}

// tick goes by when an IKE SA has been authenticated, and when a review has asked for a
// sign of life, so that what comes next is later.
// Else no time passes while a datagram is under way, unless it is held.
const tick = time.Nanosecond

// modelMember is a machine, and what a server knows of it.
type modelMember struct {
	machine  peer
	rival    Rival
	bound    bool // it has found out that it is the connection's
	policies []ipsec.PolicyID
}

// modelSA is an SA in the data plane.
type modelSA struct {
	id    ipsec.SAID
	dir   ipsec.Direction
	reqID uint32
	keys  uint64
	used  time.Time // inbound: by the last packet
}

// modelRandom is the randomness of one end. What it gives depends on what this
// end has drawn before and on nothing else: so it does not matter in which order
// the two ends did what they did. Which of two nonces is the lower one, and whose
// timers run faster, is the scenario's choice.
type modelRandom struct {
	w   *modelWorld
	end int
}

func (r *modelRandom) Read(b []byte) (int, error) {
	e := r.w.at
	e.draws++
	x := uint64(e.draws)<<8 | uint64(r.end)
	for i := 0; i < len(b); i += 8 {
		x = mix(x)
		var octets [8]byte
		binary.LittleEndian.PutUint64(octets[:], x)
		copy(b[i:], octets[:])
	}
	switch len(b) {
	case nonceLen:
		e.nonces++
		switch n := byte(e.nonces); r.w.nonces {
		case rising:
			b[0] = n&0x7f | byte(r.end)<<7
		case falling:
			b[0] = 0x7f - n&0x7f | byte(r.end)<<7
		case scattered:
		}
	case 8: // a fraction of a delay, or an IKE SPI
		copy(b, []byte{1, 0, 0, 0})
		if (r.end == 1) != r.w.hurriedB {
			b[0] = 0x80
		}
	}
	return len(b), nil
}

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// modelGroup is a key exchange method of the model alone, of a number for private use:
// it costs nothing, hides nothing, and gives both ends the same secret.
const modelGroup = 0xff00

// withModelGroup has the machines know that method for the time of a test.
func withModelGroup(t testing.TB) {
	groups[modelGroup] = func(rand randSource) (keyExchange, error) {
		x := &modelExchange{value: make([]byte, 16)}
		return x, readFull(rand, x.value)
	}
	t.Cleanup(func() { delete(groups, modelGroup) })
}

type modelExchange struct {
	value []byte
	spent bool
}

func (x *modelExchange) public() []byte                     { return x.value }
func (x *modelExchange) wipe()                              { x.spent = true }
func (x *modelExchange) shared(peer []byte) ([]byte, error) { return sharedOnce(x, peer) }
func (x *modelExchange) agree(peer []byte) ([]byte, error) {
	switch {
	case x.spent:
		return nil, errSpent
	case len(peer) != len(x.value):
		return nil, errors.New("public value of another size")
	}
	secret := slices.Clone(x.value)
	for i := range secret {
		secret[i] ^= peer[i]
	}
	return secret, nil
}

// newEnv returns the surroundings of an end's machines.
func (w *modelWorld) newEnv(end int) *Env {
	env := &Env{
		Host: &Host{
			Rand: &modelRandom{w, end},
			AllocSPI: func(netip.Addr) (ipsec.SPI, error) {
				w.at.spis++
				return ipsec.SPI(0x1000*(uint32(end)+1) + w.at.spis), nil
			},
			Candidates: func(_, _ netip.Addr) []*Connection {
				if w.at.down {
					return nil
				}
				return []*Connection{w.at.conn}
			},
			QuerySA: func(id ipsec.SAID) (ipsec.SAState, error) {
				i := w.at.find(id)
				switch {
				case i < 0:
					return ipsec.SAState{}, ipsec.ErrNotFound
				case w.at.sas[i].used.IsZero():
					return ipsec.SAState{}, nil
				}
				return ipsec.SAState{Packets: 1, LastUsed: w.at.sas[i].used}, nil
			},
			Retransmit: Retransmit{Initial: 4 * time.Second, Factor: 1.8, Tries: 3},
		},
		InitialContact: func(*Connection) bool { return w.at.rivals().Alone(&w.acting.rival) },
		Handover: func(_ *Connection, s *ISAKMPSA) bool {
			for _, mb := range w.at.members {
				if v1, ok := mb.machine.(*MachineV1); ok && v1 != s.m && mb.bound && !mb.rival.Ending {
					w.adopted = append(w.adopted, func() { w.do(mb, Adopt{s}) })
					return true
				}
			}
			return false
		},
	}
	if w.lab != nil {
		env.KeyLog = w.lab.learn
	}
	return env
}

// rivals returns the machines that are the connection's.
func (e *modelEnd) rivals() Rivals {
	var all Rivals
	for _, mb := range e.members {
		if mb.bound {
			all = append(all, &mb.rival)
		}
	}
	return all
}

// best returns the one that serves the connection, or nil.
func (e *modelEnd) best() *modelMember { return e.member(e.rivals().Best()) }

func (e *modelEnd) member(r *Rival) *modelMember {
	i := slices.IndexFunc(e.members, func(mb *modelMember) bool { return &mb.rival == r })
	if i < 0 {
		return nil
	}
	return e.members[i]
}

// deadline is when the end's first timer is due; zero: none runs.
func (e *modelEnd) deadline() time.Time {
	first := e.again
	for _, mb := range e.members {
		if at := mb.machine.Deadline(); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

func (e *modelEnd) find(id ipsec.SAID) int {
	return slices.IndexFunc(e.sas, func(sa modelSA) bool { return sa.id == id })
}

// outbound returns the SA that carries the traffic of a child: the last one added.
func (e *modelEnd) outbound(reqID uint32) int {
	for i, sa := range slices.Backward(e.sas) {
		if sa.dir == ipsec.Out && sa.reqID == reqID {
			return i
		}
	}
	return -1
}

// policies returns how many there are: one that several machines hold is one.
func (e *modelEnd) policies() int {
	var all []ipsec.PolicyID
	for _, mb := range e.members {
		for _, id := range mb.policies {
			if !slices.Contains(all, id) {
				all = append(all, id)
			}
		}
	}
	return len(all)
}

// do gives a command to a machine and does what comes of it.
func (w *modelWorld) do(mb *modelMember, c Command) {
	w.acting = mb
	w.settle(mb, mb.machine.Do(w.at.now, c))
}

// settle does what a machine asks for, to its end.
func (w *modelWorld) settle(mb *modelMember, actions []Action) {
	w.perform(mb, actions)
	for mb.machine.Pending() {
		w.acting = mb
		w.perform(mb, mb.machine.Timeout(w.at.now))
	}
	st, wasUp := mb.machine.Status(), mb.rival.Up()
	mb.rival.Observe(&st)
	if !wasUp && mb.rival.Up() {
		w.at.now = w.at.now.Add(tick)
	}
	if !mb.bound && st.Connection != "" && mb.rival.Up() {
		mb.bound = true
		if w.at.down {
			w.end(mb, ReasonConfigModify)
			return
		}
	}
	if mb.machine.Done() {
		mb.rival.Leave()
		if len(mb.policies) > 0 {
			w.violated("%s: a machine that is done holds %d policies", endName(w.side), len(mb.policies))
		}
		w.at.members = slices.DeleteFunc(w.at.members, func(o *modelMember) bool { return o == mb })
	}
}

// end has a machine terminate, once.
func (w *modelWorld) end(mb *modelMember, reason Reason) {
	if !mb.rival.Ending {
		mb.rival.Ending = true
		w.do(mb, Terminate{reason})
	}
}

// review sees to it that one IKE SA remains, as a server does after each step.
func (w *modelWorld) review() {
	e := w.at
	for e.again = (time.Time{}); !e.down; {
		all := e.rivals()
		v := all.Review(e.now, len(e.conn.Children))
		for _, r := range v.End {
			w.note("  %s ends the worse IKE SA", endName(w.side))
			w.do(e.member(r), Terminate{ReasonIKEReplaced})
		}
		for _, r := range v.Probe {
			w.do(e.member(r), Probe{})
			e.now = e.now.Add(tick)
		}
		if v.Begin {
			w.initiate(e.conn)
		}
		if len(v.End) == 0 && len(v.Probe) == 0 && !v.Begin {
			e.again = v.Again
			return
		}
	}
}

// initiate begins an IKE SA.
func (w *modelWorld) initiate(c *Connection) {
	e := w.at
	mb := &modelMember{bound: true}
	mb.rival.Begin(e.now)
	e.members = append(e.members, mb)
	w.acting = mb
	var actions []Action
	if c.IKEv1() {
		mb.machine, actions = InitiateV1(e.now, w.envs[w.side], c)
	} else {
		mb.machine, actions = Initiate(e.now, w.envs[w.side], c)
	}
	w.settle(mb, actions)
}

// receive does what a server does with a datagram.
func (w *modelWorld) receive(p modelPacket) {
	e := w.at
	d := Datagram{Local: p.local, Remote: p.remote, Bytes: []byte(p.octets)}
	for _, mb := range e.members {
		if !ownerOf(mb.machine, d.Bytes) {
			continue
		}
		w.acting = mb
		w.settle(mb, mb.machine.Handle(e.now, d))
		for len(w.adopted) > 0 {
			adopt := w.adopted[0]
			w.adopted = w.adopted[1:]
			adopt()
		}
		return
	}
	mb := &modelMember{}
	mb.rival.Begin(e.now)
	w.acting = mb
	var actions []Action
	if h, err := wire.ParseHeader(d.Bytes); err == nil && h.MajorVersion == 2 {
		if h.Exchange != wire.IKESAInit || h.Response || h.ResponderSPI != 0 {
			return
		}
		if v2, out, err := Respond(e.now, w.envs[w.side], d); err == nil && v2 != nil {
			mb.machine, actions = v2, out
		}
	} else if h, err := isakmp.ParseHeader(d.Bytes); err == nil && h.ResponderSPI == 0 {
		if v1, out, err := RespondV1(e.now, w.envs[w.side], d); err == nil && v1 != nil {
			mb.machine, actions = v1, out
		}
	}
	if mb.machine != nil {
		e.members = append(e.members, mb)
		w.settle(mb, actions)
	}
}

// ownerOf reports whether a datagram is for a machine.
func ownerOf(machine peer, octets []byte) bool {
	switch machine := machine.(type) {
	case *Machine:
		h, err := wire.ParseHeader(octets)
		return err == nil && slices.ContainsFunc(machine.ikes, func(s *ikeSA) bool { return s.owns(&h) })
	case *MachineV1:
		h, err := isakmp.ParseHeader(octets)
		return err == nil && slices.ContainsFunc(machine.sas, func(s *ISAKMPSA) bool { return s.owns(&h) })
	}
	return false
}

// due lets all timers fire that are due.
func (w *modelWorld) due() {
	e := w.at
	for _, mb := range slices.Clone(e.members) {
		if at := mb.machine.Deadline(); !at.IsZero() && !at.After(e.now) {
			w.acting = mb
			w.settle(mb, mb.machine.Timeout(e.now))
		}
	}
}

// perform does what a machine asks for.
func (w *modelWorld) perform(mb *modelMember, actions []Action) {
	e, name := w.at, endName(w.side)
	for _, a := range actions {
		switch a := a.(type) {
		case Send:
			if !a.Keepalive {
				w.send(a)
			}
		case AddSA:
			if e.find(a.SA.ID()) >= 0 {
				w.violated("%s adds SA %s twice", name, a.SA.ID())
			}
			e.sas = append(e.sas, modelSA{id: a.SA.ID(), dir: a.SA.Direction, reqID: a.SA.ReqID, keys: keyDigest(a.SA)})
			w.note("  %s + %s %x", name, a.SA.Direction, uint32(a.SA.SPI))
		case DeleteSA:
			i := e.find(a.ID)
			if i < 0 {
				w.violated("%s deletes SA %s, which is not there", name, a.ID)
				continue
			}
			w.note("  %s - %s %x", name, e.sas[i].dir, uint32(a.ID.SPI))
			e.sas = slices.Delete(e.sas, i, i+1)
		case UpdateSA:
			w.violated("%s moves SA %s", name, a.ID)
		case AddPolicy:
			if !slices.Contains(mb.policies, a.Policy.PolicyID) {
				mb.policies = append(mb.policies, a.Policy.PolicyID)
			}
		case DeletePolicy:
			i := slices.Index(mb.policies, a.ID)
			if i < 0 {
				w.violated("%s deletes policy %s, which is not there", name, a.ID)
				continue
			}
			mb.policies = slices.Delete(mb.policies, i, i+1)
		case Replace:
			mb.rival.Replace(e.now)
		case Emit:
			w.event(mb, a.Event)
		}
	}
}

func (w *modelWorld) event(mb *modelMember, ev Event) {
	e := w.at
	others := slices.DeleteFunc(e.rivals(), func(r *Rival) bool { return r == &mb.rival })
	switch ev.Kind {
	case IKEDown:
		e.ikeDown = e.ikeDown || others.Best() == nil
	case ChildDown:
		for _, child := range w.conns[w.side].Children {
			e.childDown = e.childDown || child.Name == ev.Child && e.outbound(child.ReqID) < 0
		}
	case Failed:
		// A first message that comes late once more makes a half-open IKE SA, which fails.
		e.failed = e.failed || mb.bound
	default:
	}
	if w.lab != nil {
		w.note("  %s %s", endName(w.side), describe(ev))
	}
}

var keySeed = maphash.MakeSeed()

func keyDigest(sa ipsec.SA) uint64 {
	return maphash.Bytes(keySeed, slices.Concat(sa.EncryptionKey, sa.IntegrityKey))
}

func endName(end int) string { return string(rune('a' + end)) }

// send puts a datagram on the wire.
func (w *modelWorld) send(s Send) {
	p := modelPacket{to: 1 - w.side, local: s.Remote, remote: s.Local, octets: string(s.Datagram)}
	if w.lab != nil {
		w.note("  %s sends %s", endName(w.side), w.lab.print(s.Datagram))
	}
	w.sent = append(w.sent, w.packetID(p))
}

// operation is what is asked of an end.
type operation uint8

const (
	rekeysChild  operation = iota + 1
	rekeysIKE              // of IKEv1: negotiates phase 1 anew
	deletesChild           // at the end of its life
	removesChild           // by a change of the configuration of this end
	deletesIKE             // the connection is taken down
	reauthenticates
	probes
)

func (o operation) String() string {
	return map[operation]string{
		rekeysChild: "rekeys the child", rekeysIKE: "rekeys the IKE SA", deletesChild: "deletes the child",
		removesChild: "removes the child", deletesIKE: "deletes the IKE SA", reauthenticates: "reauthenticates", probes: "probes",
	}[o]
}

// give does what an order asks for, as a server does it.
func (w *modelWorld) give(op operation) {
	e := w.at
	child := &w.conns[w.side].Children[len(w.conns[w.side].Children)-1]
	w.note("# %s %s", endName(w.side), op)
	var c Command
	switch op {
	case rekeysChild:
		c = RekeyChild{ReqID: child.ReqID}
	case rekeysIKE:
		c = RekeyIKE{}
	case reauthenticates:
		c = Reauthenticate{}
	case probes:
		c = Probe{}
	case deletesChild:
		if i := e.outbound(child.ReqID); i >= 0 {
			id := e.sas[i].id
			for _, mb := range slices.Clone(e.members) {
				w.do(mb, Expired{ID: id, Hard: true})
			}
		}
		return
	case removesChild:
		e.conn = w.smaller[w.side]
		attempting := e.rivals().Attempting()
		for _, mb := range slices.Clone(e.members) {
			switch {
			case !mb.bound:
			case !mb.rival.Up():
				w.end(mb, ReasonConfigModify)
			default:
				w.do(mb, Update{e.conn})
			}
		}
		if best := e.best(); best != nil && attempting {
			best.rival.Replace(e.now)
		}
		return
	case deletesIKE:
		e.down = true
		for _, mb := range slices.Clone(e.members) {
			if mb.bound {
				w.end(mb, ReasonConfigModify)
			}
		}
		return
	}
	if best := e.best(); best != nil {
		w.do(best, c)
	}
}

// use has packets come through some of the inbound SAs.
func (w *modelWorld) use(mask uint64) {
	for i := range w.at.sas {
		if mask>>i&1 != 0 {
			w.at.sas[i].used = w.at.now
		}
	}
}

// defects returns what an end's machines count as a defect of this package.
func (e *modelEnd) defects() string {
	for _, mb := range e.members {
		for reason, n := range mb.machine.Drops() {
			if strings.HasPrefix(reason, "defect") {
				return fmt.Sprintf("%s ×%d", reason, n)
			}
		}
	}
	return ""
}
