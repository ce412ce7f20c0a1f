package sa

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// modelState is one state of the collision model: two ends, what is under way
// between them, and what is yet to happen to them.
type modelState struct {
	now   time.Time
	ends  [2]modelEnd
	wire  []modelPacket
	todo  []order // commands that are not given yet
	given time.Duration
	// faults is how many datagrams the network may still lose, repeat or hold.
	faults, lost int
	up           bool // the connection has been set up, and nothing has ended it
}

// modelPacket is a datagram under way.
type modelPacket struct {
	to            int
	local, remote netip.AddrPort // as the receiver sees them
	octets        string
	// held: time may go on, and repeats come, before it arrives.
	held bool
}

// modelEnd is one side: its machines, and a data plane.
type modelEnd struct {
	conn     *Connection
	machines []peer
	sas      []modelSA // in order of installation
	policies []ipsec.PolicyID

	spis          uint32
	draws, nonces uint32
	// What the machines have reported.
	ikeDown, childDown, failed bool
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
	m   *model
	end int
}

func (r *modelRandom) Read(b []byte) (int, error) {
	e, sc := &r.m.at.ends[r.end], &r.m.scenario
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
		switch n := byte(e.nonces); sc.nonces {
		case rising:
			b[0] = n&0x7f | byte(r.end)<<7
		case falling:
			b[0] = 0x7f - n&0x7f | byte(r.end)<<7
		case scattered:
		}
	case 8: // a fraction of a delay, or an IKE SPI
		copy(b, []byte{1, 0, 0, 0})
		if (r.end == 1) != sc.hurriedB {
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

// newEnv returns the surroundings of an end's machines.
func (m *model) newEnv(end int) *Env {
	env := &Env{
		Rand: &modelRandom{m, end},
		AllocSPI: func(netip.Addr) (ipsec.SPI, error) {
			m.at.ends[end].spis++
			return ipsec.SPI(0x1000*(uint32(end)+1) + m.at.ends[end].spis), nil
		},
		Candidates: func(_, _ netip.Addr) []*Connection { return []*Connection{m.at.ends[end].conn} },
		QuerySA: func(id ipsec.SAID) (ipsec.SAState, error) {
			for _, sa := range m.at.ends[end].sas {
				switch {
				case sa.id != id:
				case sa.used.IsZero():
					return ipsec.SAState{}, nil
				default:
					return ipsec.SAState{Packets: 1, LastUsed: sa.used}, nil
				}
			}
			return ipsec.SAState{}, ipsec.ErrNotFound
		},
		Retransmit: Retransmit{Initial: 4 * time.Second, Factor: 1.8, Tries: 3},
		Handover: func(c *Connection, s *ISAKMPSA) bool {
			for _, other := range m.at.ends[end].machines {
				if v1, ok := other.(*MachineV1); ok && v1 != s.m && v1.Connection() == c.Name {
					m.adopted = append(m.adopted, func() { m.perform(end, v1.Do(m.at.now, Adopt{s})) })
					return true
				}
			}
			return false
		},
	}
	if m.lab != nil {
		env.KeyLog = m.lab.learn
	}
	return env
}

// perform does what a machine asks for.
func (m *model) perform(end int, actions []Action) {
	e := &m.at.ends[end]
	for _, a := range actions {
		switch a := a.(type) {
		case Send:
			if !a.Keepalive {
				m.send(end, a)
			}
		case AddSA:
			if e.find(a.SA.ID()) >= 0 {
				m.violated("%s adds SA %s twice", endName(end), a.SA.ID())
			}
			e.sas = append(e.sas, modelSA{id: a.SA.ID(), dir: a.SA.Direction, reqID: a.SA.ReqID, keys: keyDigest(a.SA)})
			m.note("  %s + %s %x", endName(end), a.SA.Direction, uint32(a.SA.SPI))
		case DeleteSA:
			i := e.find(a.ID)
			if i < 0 {
				m.violated("%s deletes SA %s, which is not there", endName(end), a.ID)
				continue
			}
			m.note("  %s - %s %x", endName(end), e.sas[i].dir, uint32(a.ID.SPI))
			e.sas = slices.Delete(e.sas, i, i+1)
		case UpdateSA:
			m.violated("%s moves SA %s", endName(end), a.ID)
		case AddPolicy:
			if !slices.Contains(e.policies, a.Policy.PolicyID) {
				e.policies = append(e.policies, a.Policy.PolicyID)
			}
		case DeletePolicy:
			i := slices.Index(e.policies, a.ID)
			if i < 0 {
				m.violated("%s deletes policy %s, which is not there", endName(end), a.ID)
				continue
			}
			e.policies = slices.Delete(e.policies, i, i+1)
		case Emit:
			m.event(end, a.Event)
		}
	}
	for _, machine := range slices.Clone(e.machines) {
		if machine.Pending() {
			m.perform(end, machine.Timeout(m.at.now))
		}
	}
	e.machines = slices.DeleteFunc(e.machines, peer.Done)
}

func (m *model) event(end int, ev Event) {
	e := &m.at.ends[end]
	switch ev.Kind {
	case IKEDown:
		e.ikeDown = true
	case ChildDown:
		e.childDown = true
	case Failed:
		e.failed = true
	default:
	}
	if m.lab != nil {
		m.note("  %s %s", endName(end), describe(ev))
	}
}

func (e *modelEnd) find(id ipsec.SAID) int {
	return slices.IndexFunc(e.sas, func(sa modelSA) bool { return sa.id == id })
}

var keySeed = maphash.MakeSeed()

func keyDigest(sa ipsec.SA) uint64 {
	return maphash.Bytes(keySeed, slices.Concat(sa.EncryptionKey, sa.IntegrityKey))
}

func endName(end int) string { return string(rune('a' + end)) }

// send puts a datagram on the wire, where the order of datagrams means nothing.
func (m *model) send(end int, s Send) {
	p := modelPacket{to: 1 - end, local: s.Remote, remote: s.Local, octets: string(s.Datagram)}
	if m.lab != nil {
		m.note("  %s sends %s", endName(end), m.lab.print(s.Datagram))
	}
	i, _ := slices.BinarySearchFunc(m.at.wire, p, comparePackets)
	m.at.wire = slices.Insert(m.at.wire, i, p)
}

func comparePackets(p, q modelPacket) int {
	held := func(p modelPacket) int {
		if p.held {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(p.to, q.to), strings.Compare(p.octets, q.octets), cmp.Compare(held(p), held(q)))
}

// receive does what a server does with a datagram.
func (m *model) receive(end int, p modelPacket) {
	e := &m.at.ends[end]
	d := Datagram{Local: p.local, Remote: p.remote, Bytes: []byte(p.octets)}
	for _, machine := range slices.Clone(e.machines) {
		if !ownerOf(machine, d.Bytes) {
			continue
		}
		m.perform(end, machine.Handle(m.at.now, d))
		for len(m.adopted) > 0 {
			adopt := m.adopted[0]
			m.adopted = m.adopted[1:]
			adopt()
		}
		return
	}
	var machine peer
	var out []Action
	if h, err := wire.ParseHeader(d.Bytes); err == nil && h.MajorVersion == 2 {
		if h.Exchange != wire.IKESAInit || h.Response {
			return
		}
		if v2, actions, err := Respond(m.at.now, m.envs[end], d); err == nil && v2 != nil {
			machine, out = v2, actions
		}
	} else if h, err := isakmp.ParseHeader(d.Bytes); err == nil && h.ResponderSPI == 0 {
		if v1, actions, err := RespondV1(m.at.now, m.envs[end], d); err == nil && v1 != nil {
			machine, out = v1, actions
		}
	}
	if machine != nil {
		e.machines = append(e.machines, machine)
		m.perform(end, out)
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

// order is a command that is given to one end, at any time.
type order struct {
	end int
	op  operation
}

func (o order) String() string { return endName(o.end) + " " + o.op.String() }

// operation is what is asked of an end.
type operation uint8

const (
	rekeysChild  operation = iota + 1
	rekeysIKE              // of IKEv1: negotiates phase 1 anew
	deletesChild           // at the end of its life
	removesChild           // by a change of the configuration of this end
	deletesIKE
	probes
)

func (o operation) String() string {
	return map[operation]string{
		rekeysChild: "rekeys the child", rekeysIKE: "rekeys the IKE SA", deletesChild: "deletes the child",
		removesChild: "removes the child", deletesIKE: "deletes the IKE SA", probes: "probes",
	}[o]
}

// command returns what the order is to a machine, or nil where there is nothing
// that it could be given about.
func (m *model) command(o order) Command {
	e := &m.at.ends[o.end]
	child := &m.conns[o.end].Children[len(m.conns[o.end].Children)-1]
	switch o.op {
	case rekeysChild:
		return RekeyChild{ReqID: child.ReqID}
	case rekeysIKE:
		return RekeyIKE{}
	case deletesChild:
		if i := e.outbound(child.ReqID); i >= 0 {
			return Expired{ID: e.sas[i].id, Hard: true}
		}
		return nil
	case removesChild:
		return Update{m.smaller[o.end]}
	case deletesIKE:
		return Terminate{Reason: ReasonConfigModify}
	case probes:
		return Probe{}
	}
	panic("no such operation")
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

// give gives an order to the machine that serves the connection.
func (m *model) give(o order) {
	e := &m.at.ends[o.end]
	m.note("# %s", o)
	switch o.op {
	case deletesChild, removesChild, deletesIKE:
		m.at.up = false
	default:
	}
	if o.op == removesChild {
		e.conn = m.smaller[o.end]
	}
	cmd := m.command(o)
	for _, machine := range slices.Clone(e.machines) {
		if cmd != nil && machine.Connection() != "" {
			m.perform(o.end, machine.Do(m.at.now, cmd))
			return
		}
	}
}

// traffic checks that a packet that an end sends through a child finds the SA at
// the other end, and has it used if the tunnel is busy.
func (m *model) traffic() {
	if !m.at.up {
		return
	}
	for end := range m.at.ends {
		from, to := &m.at.ends[end], &m.at.ends[1-end]
		for _, child := range m.conns[end].Children {
			i := from.outbound(child.ReqID)
			if i < 0 {
				m.violated("%s has no SA to send %s on", endName(end), child.Name)
				continue
			}
			j := slices.IndexFunc(to.sas, func(sa modelSA) bool {
				return sa.dir == ipsec.In && sa.id == from.sas[i].id && sa.keys == from.sas[i].keys
			})
			switch {
			case j < 0:
				m.violated("%s sends %s on %x, which %s has not", endName(end), child.Name, uint32(from.sas[i].id.SPI), endName(1-end))
			case m.scenario.busy:
				to.sas[j].used = m.at.now
			}
		}
	}
}

func (m *model) note(format string, args ...any) {
	if m.lab != nil {
		fmt.Fprintf(&m.lab.transcript, format+"\n", args...)
	}
}
