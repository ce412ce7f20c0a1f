package sa

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// lab is two ends in one goroutine, with a network between them that the test
// holds in its hands, and a clock that only the test moves.
type lab struct {
	t    *testing.T
	now  time.Time
	a, b *end
	// wire holds what is under way, oldest first.
	wire []packet
	// lose, when set, drops a packet.
	lose func(packet) bool
	// transcript records what goes over the wire and what the ends do.
	transcript strings.Builder
	ciphers    map[uint64][2]wire.Cipher // by initiator SPI: initiator's, responder's
	former     map[uint64][2]wire.Cipher // before the last IKE_INTERMEDIATE
	names      map[string]string         // readable names of SPIs
	up         bool                      // both ends have been up: traffic must flow
	flow       [2]netip.Addr             // the only traffic, at a and at b; else all that there are policies for
	nat        *nat
}

// packet is a datagram under way.
type packet struct {
	from, to *end
	d        Datagram // as the receiver sees it
}

// nat is in front of end a: it maps a's addresses to one of its own.
type nat struct {
	inside, outside netip.Addr
	shift           uint16 // what it adds to ports
}

// peer is a machine of either version.
type peer interface {
	Handle(time.Time, Datagram) []Action
	Do(time.Time, Command) []Action
	Timeout(time.Time) []Action
	Deadline() time.Time
	Pending() bool
	Done() bool
	SPIs() []uint64
	Connection() string
	Established() bool
	Status() Status
	Drops() map[string]uint64
}

// end is one side: what a server and a data plane would be, in small.
type end struct {
	lab       *lab
	name      string
	env       *Env
	conns     []*Connection
	machines  []peer
	sas       []ipsec.SA // in order of installation
	policies  map[ipsec.PolicyID]ipsec.Policy
	events    []Event
	used      map[ipsec.SAID]ipsec.SAState
	spis      uint32
	reqIDs    uint32
	replaces  int // Replace actions
	replaceAt Redirected
	// refuse, when set, makes the data plane refuse an action.
	refuse  func(Action) error
	missing map[any]bool // what was refused, by SAID or PolicyID
	// answerInit, when set, may answer an IKE_SA_INIT request in the place of
	// a machine, as a server does that wants a cookie.
	answerInit func(Datagram, *wire.Message) []wire.Payload
	// adopted is what was handed over in the call under way.
	adopted []func()
}

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("198.51.100.1")
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newLab(t *testing.T, seed uint64) *lab {
	l := &lab{t: t, now: start, ciphers: map[uint64][2]wire.Cipher{}, former: map[uint64][2]wire.Cipher{}, names: map[string]string{}}
	l.a, l.b = l.newEnd("a", seed, 0x1000), l.newEnd("b", seed, 0x2000)
	t.Cleanup(func() {
		for _, e := range []*end{l.a, l.b} {
			for _, m := range e.machines {
				for reason, n := range m.Drops() {
					if strings.HasPrefix(reason, "defect") {
						t.Errorf("%s: %s ×%d", e.name, reason, n)
					}
				}
			}
		}
	})
	return l
}

func (l *lab) newEnd(name string, seed uint64, spis uint32) *end {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%s %d", name, seed))
	e := &end{lab: l, name: name, policies: map[ipsec.PolicyID]ipsec.Policy{}, used: map[ipsec.SAID]ipsec.SAState{}, spis: spis, missing: map[any]bool{}}
	e.env = &Env{Host: &Host{
		Rand: rand.NewChaCha8(key),
		AllocSPI: func(netip.Addr) (ipsec.SPI, error) {
			e.spis++
			return ipsec.SPI(e.spis), nil
		},
		AllocReqID: func() uint32 {
			e.reqIDs++
			return 1<<31 | e.reqIDs
		},
		Candidates: func(local, remote netip.Addr) []*Connection {
			var found []*Connection
			for _, c := range e.conns {
				if c.Local == local && (c.Remote == remote || !c.Remote.IsValid()) {
					found = append(found, c)
				}
			}
			return found
		},
		QuerySA: func(id ipsec.SAID) (ipsec.SAState, error) {
			if !slices.ContainsFunc(e.sas, func(sa ipsec.SA) bool { return sa.ID() == id }) {
				return ipsec.SAState{}, ipsec.ErrNotFound
			}
			return e.used[id], nil
		},
		KeyLog: l.learn,
	}}
	return e
}

// learn takes keys for the transcript.
func (l *lab) learn(k Keys) {
	if k.IKE == nil {
		return
	}
	i, errI := newCipher(k.IKE.Encryption, k.IKE.Integrity, k.IKE.SKei, k.IKE.SKai, rand.NewChaCha8([32]byte{}))
	r, errR := newCipher(k.IKE.Encryption, k.IKE.Integrity, k.IKE.SKer, k.IKE.SKar, rand.NewChaCha8([32]byte{}))
	if errI != nil || errR != nil {
		l.t.Fatal(errI, errR)
	}
	if have, ok := l.ciphers[k.IKE.InitiatorSPI]; ok {
		l.former[k.IKE.InitiatorSPI] = have
	}
	l.ciphers[k.IKE.InitiatorSPI] = [2]wire.Cipher{i, r}
}

// perform does what a machine asks for.
func (e *end) perform(actions []Action) {
	var refused []Command
	for _, a := range actions {
		if e.absent(a) {
			continue
		}
		if r, ok := e.refusal(a); ok {
			refused = append(refused, r)
			continue
		}
		switch a := a.(type) {
		case Send:
			e.send(a)
		case AddSA:
			if e.find(a.SA.ID()) >= 0 {
				e.lab.t.Errorf("%s: SA %s added twice", e.name, a.SA.ID())
			}
			e.sas = append(e.sas, a.SA)
			e.note("+ %s %s", a.SA.Direction, e.lab.name(a.SA.SPI))
		case DeleteSA:
			i := e.find(a.ID)
			if i < 0 {
				e.lab.t.Errorf("%s: SA %s deleted, but is not there", e.name, a.ID)
				continue
			}
			e.note("- %s %s", e.sas[i].Direction, e.lab.name(a.ID.SPI))
			e.sas = slices.Delete(e.sas, i, i+1)
		case UpdateSA:
			i := e.find(a.ID)
			if i < 0 {
				e.lab.t.Errorf("%s: SA %s updated, but is not there", e.name, a.ID)
				continue
			}
			sa := &e.sas[i]
			sa.Src, sa.Dst, sa.Encap, sa.SrcPort, sa.DstPort = a.To.Src, a.To.Dst, a.To.Encap, a.To.SrcPort, a.To.DstPort
		case AddPolicy:
			e.policies[a.Policy.PolicyID] = a.Policy
			e.note("+ policy %s", a.Policy.PolicyID)
		case DeletePolicy:
			if _, ok := e.policies[a.ID]; !ok {
				e.lab.t.Errorf("%s: policy %s deleted, but is not there", e.name, a.ID)
			}
			delete(e.policies, a.ID)
			e.note("- policy %s", a.ID)
		case Replace:
			e.replaces, e.replaceAt = e.replaces+1, a.At
			e.note("asks for a replacement")
		case Emit:
			if d := a.Event.Diagnosis; d != nil && !slices.Contains(Causes, d.Code()) {
				e.lab.t.Errorf("%s: the cause %q of %s is none", e.name, d.Code(), d)
			}
			e.events = append(e.events, a.Event)
			e.note("%s", describe(a.Event))
		}
	}
	for _, m := range slices.Clone(e.machines) {
		if len(refused) > 0 {
			var out []Action
			for _, r := range refused {
				out = append(out, m.Do(e.lab.now, r)...)
			}
			e.perform(out)
		}
		if m.Pending() {
			e.perform(m.Timeout(e.lab.now))
		}
	}
	e.machines = slices.DeleteFunc(e.machines, peer.Done)
}

// absent reports whether an action is to delete what was refused.
func (e *end) absent(a Action) bool {
	switch a := a.(type) {
	case DeleteSA:
		return e.missing[a.ID]
	case DeletePolicy:
		return e.missing[a.ID]
	}
	return false
}

// refusal returns what a server tells a machine whose action is refused.
func (e *end) refusal(a Action) (r Refused, refused bool) {
	if e.refuse == nil {
		return r, false
	}
	if r.Err = e.refuse(a); r.Err == nil {
		return r, false
	}
	switch a := a.(type) {
	case AddSA:
		r.SA = a.SA.ID()
		e.missing[r.SA] = true
		e.note("refuses %s %s", a.SA.Direction, e.lab.name(a.SA.SPI))
	case AddPolicy:
		r.Policy = a.Policy.PolicyID
		e.missing[r.Policy] = true
		e.note("refuses policy %s", r.Policy)
	}
	return r, true
}

func (e *end) find(id ipsec.SAID) int {
	return slices.IndexFunc(e.sas, func(sa ipsec.SA) bool { return sa.ID() == id })
}

func (e *end) note(format string, args ...any) {
	fmt.Fprintf(&e.lab.transcript, "  %s %s\n", e.name, fmt.Sprintf(format, args...))
}

// say puts a line of the test into the transcript.
func (l *lab) say(line string) { fmt.Fprintf(&l.transcript, "# %s\n", line) }

var update = flag.Bool("update", false, "write the transcripts anew")

// golden compares the transcript with the one in testdata.
func (l *lab) golden() {
	l.t.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(l.t.Name(), "/", "-")+".txt")
	got := l.transcript.String()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	if got != string(want) {
		l.t.Errorf("the transcript differs from %s; it is now:\n%s", path, got)
	}
}

func describe(ev Event) string {
	kinds := map[EventKind]string{
		IKEUp: "IKE up", IKERekeyed: "IKE rekeyed", IKEDown: "IKE down", ChildUp: "child up",
		ChildRekeyed: "child rekeyed", ChildDown: "child down", PeerMoved: "peer moved", Failed: "failed",
		PeerRedirected: "peer redirected", RedirectedByPeer: "redirected by the peer",
	}
	text := kinds[ev.Kind]
	if ev.Child != "" {
		text += " " + ev.Child
	}
	switch {
	case ev.Diagnosis != nil:
		text += ": " + ev.Diagnosis.String()
	case ev.Reason != "":
		text += ": " + string(ev.Reason)
	}
	return text
}

// name gives an SPI a short readable name.
func (l *lab) name(spi ipsec.SPI) string { return fmt.Sprintf("%x", uint32(spi)) }

// send puts a datagram on the wire, through the NAT if there is one.
func (e *end) send(s Send) {
	l := e.lab
	to := l.b
	if e == l.b {
		to = l.a
	}
	if s.Keepalive {
		e.note("keepalive")
		return
	}
	p := packet{from: e, to: to, d: Datagram{Local: s.Remote, Remote: s.Local, Bytes: s.Datagram}}
	if n := l.nat; n != nil {
		if e == l.a {
			p.d.Remote = netip.AddrPortFrom(n.outside, s.Local.Port()+n.shift)
		} else if s.Remote.Addr() == n.outside {
			p.d.Local = netip.AddrPortFrom(n.inside, s.Remote.Port()-n.shift)
		}
	}
	e.note("sends %s", l.print(s.Datagram))
	l.wire = append(l.wire, p)
}

// drop loses the i-th packet under way.
func (l *lab) drop(i int) {
	l.t.Helper()
	p := l.take(i)
	fmt.Fprintf(&l.transcript, "lost: %s from %s\n", l.header(p.d.Bytes), p.from.name)
}

// header names a datagram.
func (l *lab) header(b []byte) string {
	if h, err := isakmp.ParseHeader(b); err == nil {
		return h.Exchange.String()
	}
	h, err := wire.ParseHeader(b)
	if err != nil {
		return err.Error()
	}
	return h.String()
}

// initiate begins with the first connection.
func (e *end) initiate() *Machine {
	m, out := Initiate(e.lab.now, e.env, e.conns[0])
	e.machines = append(e.machines, m)
	e.perform(out)
	return m
}

// machine returns the only machine.
func (e *end) machine() *Machine {
	e.lab.t.Helper()
	return e.peer().(*Machine)
}

func (e *end) peer() peer {
	e.lab.t.Helper()
	if len(e.machines) != 1 {
		e.lab.t.Fatalf("%s has %d machines:\n%s", e.name, len(e.machines), e.lab.transcript.String())
	}
	return e.machines[0]
}

func (e *end) do(c Command) {
	e.lab.t.Helper()
	e.perform(e.peer().Do(e.lab.now, c))
}

// receive does what a server does with a datagram.
func (e *end) receive(d Datagram) {
	h, err := wire.ParseHeader(d.Bytes)
	if err != nil {
		return
	}
	if h.MajorVersion == 1 {
		e.receiveV1(d)
		return
	}
	ours := h.ResponderSPI
	if !h.Initiator {
		ours = h.InitiatorSPI
	}
	for _, m := range slices.Clone(e.machines) {
		repeat := h.Exchange == wire.IKESAInit && !h.Response &&
			slices.ContainsFunc(m.(*Machine).ikes, func(s *ikeSA) bool { return !s.initiator && s.spii == h.InitiatorSPI })
		if repeat || slices.Contains(m.SPIs(), ours) {
			e.perform(m.Handle(e.lab.now, d))
			return
		}
	}
	if h.Exchange != wire.IKESAInit || h.Response {
		return
	}
	if msg, err := wire.Parse(d.Bytes); err == nil && e.answerInit != nil {
		if payloads := e.answerInit(d, msg); payloads != nil {
			e.forge(d, payloads)
			return
		}
	}
	m, out, err := Respond(e.lab.now, e.env, d)
	if err != nil {
		e.note("dropped: %v", err)
		return
	}
	if m != nil {
		e.machines = append(e.machines, m)
	}
	e.perform(out)
}

// forge answers an IKE_SA_INIT request without any state.
func (e *end) forge(d Datagram, payloads []wire.Payload) {
	h, err := wire.ParseHeader(d.Bytes)
	if err != nil {
		e.lab.t.Fatal(err)
	}
	m := wire.Message{Header: wire.Header{InitiatorSPI: h.InitiatorSPI, Exchange: wire.IKESAInit, Response: true}, Payloads: payloads}
	b, err := m.Append(nil)
	if err != nil {
		e.lab.t.Fatal(err)
	}
	e.send(Send{Local: d.Local, Remote: d.Remote, Datagram: b})
}

// take removes the i-th packet from the wire.
func (l *lab) take(i int) packet {
	l.t.Helper()
	if i >= len(l.wire) {
		l.t.Fatalf("packet %d of %d on the wire", i, len(l.wire))
	}
	p := l.wire[i]
	l.wire = slices.Delete(l.wire, i, i+1)
	return p
}

// deliver hands over the i-th packet under way.
func (l *lab) deliver(i int) {
	l.t.Helper()
	p := l.take(i)
	if l.lose != nil && l.lose(p) {
		fmt.Fprintf(&l.transcript, "lost: %s from %s\n", l.header(p.d.Bytes), p.from.name)
		return
	}
	fmt.Fprintf(&l.transcript, "%s receives %s\n", p.to.name, l.header(p.d.Bytes))
	p.to.receive(p.d)
	l.checkTraffic()
}

// run delivers in order until the wire is empty.
func (l *lab) run() {
	l.t.Helper()
	for n := 0; len(l.wire) > 0; n++ {
		if n > 1000 {
			l.t.Fatal("the ends do not come to rest:\n" + l.transcript.String())
		}
		l.deliver(0)
	}
}

// pass lets time pass, with all timers and packets on the way.
func (l *lab) pass(d time.Duration) {
	l.t.Helper()
	until := l.now.Add(d)
	for {
		l.run()
		next := until
		for _, e := range []*end{l.a, l.b} {
			for _, m := range e.machines {
				if at := m.Deadline(); !at.IsZero() && at.Before(next) {
					next = at
				}
			}
		}
		if next.After(l.now) {
			l.now = next
		}
		if !l.tick() && !l.now.Before(until) && len(l.wire) == 0 {
			return
		}
	}
}

// tick fires what is due, and reports whether something was.
func (l *lab) tick() bool {
	fired := false
	for _, e := range []*end{l.a, l.b} {
		for _, m := range slices.Clone(e.machines) {
			if at := m.Deadline(); !at.IsZero() && !at.After(l.now) {
				fired = true
				e.perform(m.Timeout(l.now))
			}
		}
	}
	l.checkTraffic()
	return fired
}

// print describes a datagram in one line.
func (l *lab) print(b []byte) string {
	if len(b) > 17 && b[17]>>4 == 1 {
		return l.printV1(b)
	}
	m, err := wire.Parse(b)
	if err != nil {
		return err.Error()
	}
	text := m.Header.String()
	if number, total, ok := m.Fragment(); ok {
		return fmt.Sprintf("%s fragment %d/%d", text, number, total)
	}
	if m.Encrypted() {
		pair, ok := l.ciphers[m.InitiatorSPI]
		if m.Exchange == wire.IKEIntermediate && m.Response {
			pair = l.former[m.InitiatorSPI] // it makes the new keys itself
		}
		if !ok {
			return text + " ?"
		}
		c := pair[1]
		if m.Initiator {
			c = pair[0]
		}
		if err := m.Open(b, c); err != nil {
			return text + " " + err.Error()
		}
	}
	for _, p := range m.Payloads {
		text += " " + l.printPayload(p)
	}
	return text
}

func (l *lab) printPayload(p wire.Payload) string {
	switch p := p.(type) {
	case *wire.Notify:
		if p.NotifyType == wire.RekeySA && len(p.SPI) == 4 {
			return fmt.Sprintf("N(REKEY_SA %x)", p.SPI[2:])
		}
		return "N(" + p.NotifyType.String() + ")"
	case *wire.Delete:
		if p.Protocol == ipsec.ProtocolIKE {
			return "D(IKE)"
		}
		names := make([]string, len(p.SPIs))
		for i, spi := range p.SPIs {
			names[i] = l.name(spi)
		}
		return "D(" + strings.Join(names, " ") + ")"
	case *wire.SA:
		if q := p.Proposals[0]; q.Protocol == ipsec.ProtocolESP {
			return fmt.Sprintf("SA(%x)", q.SPI[2:])
		}
		return "SA"
	}
	return p.Type().String()
}

// checkTraffic sends a packet through each child in each direction, once the
// tunnel has been up: at no moment may one be lost.
func (l *lab) checkTraffic() {
	l.t.Helper()
	if !l.up {
		return
	}
	l.send(l.a, l.b)
	l.send(l.b, l.a)
}

// send checks that for every policy of from, the SA that carries its traffic is
// installed at the other end with the same keys and fitting selectors.
func (l *lab) send(from, to *end) {
	l.t.Helper()
	protected := 0
	for _, p := range from.policies {
		if p.Direction != ipsec.Out || l.flow[0].IsValid() && p.PolicyID != l.winner(from) {
			continue
		}
		protected++
		i := -1
		for j, sa := range from.sas { // the last one added counts
			if sa.Direction == ipsec.Out && sa.ReqID == p.ReqID {
				i = j
			}
		}
		if i < 0 {
			l.t.Errorf("%s has no SA for %s\n%s", from.name, p.PolicyID, l.transcript.String())
			continue
		}
		out := from.sas[i]
		j := slices.IndexFunc(to.sas, func(sa ipsec.SA) bool {
			return sa.Direction == ipsec.In && sa.SPI == out.SPI
		})
		if j < 0 {
			l.t.Errorf("%s sends on %s, which %s has not\n%s", from.name, l.name(out.SPI), to.name, l.transcript.String())
			continue
		}
		in := to.sas[j]
		if !bytes.Equal(in.EncryptionKey, out.EncryptionKey) || !bytes.Equal(in.IntegrityKey, out.IntegrityKey) || in.ESN != out.ESN {
			l.t.Errorf("%s: the two ends of %s differ", from.name, l.name(out.SPI))
		}
		if !ipsec.Covers(in.Remote, []ipsec.TrafficSelector{p.Local}) || !ipsec.Covers(in.Local, []ipsec.TrafficSelector{p.Remote}) {
			l.t.Errorf("%s: %s is outside of the selectors of %s", from.name, p.PolicyID, l.name(out.SPI))
		}
		to.used[in.ID()] = ipsec.SAState{Packets: to.used[in.ID()].Packets + 1, LastUsed: l.now}
	}
	if protected == 0 {
		l.t.Errorf("%s protects nothing any more\n%s", from.name, l.transcript.String())
	}
}

// winner returns the policy that the watched flow falls under at an end: the
// narrowest.
func (l *lab) winner(from *end) (best ipsec.PolicyID) {
	host := func(a netip.Addr) []ipsec.TrafficSelector {
		return []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netip.PrefixFrom(a, a.BitLen()))}
	}
	here, there := host(l.flow[0]), host(l.flow[1])
	if from == l.b {
		here, there = there, here
	}
	for id := range from.policies {
		local, remote := []ipsec.TrafficSelector{id.Local}, []ipsec.TrafficSelector{id.Remote}
		if id.Direction == ipsec.Out && ipsec.Covers(local, here) && ipsec.Covers(remote, there) &&
			(best.Direction == 0 || ipsec.Covers([]ipsec.TrafficSelector{best.Local}, local) && ipsec.Covers([]ipsec.TrafficSelector{best.Remote}, remote)) {
			best = id
		}
	}
	return best
}

// settled checks that each end has just one IKE SA and one pair of ESP SAs for
// each child, known to both.
func (l *lab) settled(children int) {
	l.t.Helper()
	for _, e := range []*end{l.a, l.b} {
		st := e.peer().Status()
		if len(st.IKE) != 1 || st.IKE[0].State != Established {
			l.t.Errorf("%s: IKE SAs %+v", e.name, st.IKE)
		}
		if len(st.Children) != children {
			l.t.Errorf("%s: %d children, want %d: %+v", e.name, len(st.Children), children, st.Children)
		}
		if len(e.sas) != 2*children {
			l.t.Errorf("%s: %d SAs, want %d", e.name, len(e.sas), 2*children)
		}
	}
	if l.t.Failed() {
		l.t.Log(l.transcript.String())
	}
}

// empty checks that an end has nothing left in the data plane.
func (e *end) empty() {
	e.lab.t.Helper()
	if len(e.sas) != 0 || len(e.policies) != 0 {
		e.lab.t.Errorf("%s: left %v and %v", e.name, e.sas, e.policies)
	}
}

// last returns the last event of a kind.
func (e *end) last(kind EventKind) Event {
	e.lab.t.Helper()
	for _, ev := range slices.Backward(e.events) {
		if ev.Kind == kind {
			return ev
		}
	}
	e.lab.t.Fatalf("%s: no event of kind %d\n%s", e.name, kind, e.lab.transcript.String())
	return Event{}
}

// count returns how many events of a kind there were.
func (e *end) count(kind EventKind) int {
	n := 0
	for _, ev := range e.events {
		if ev.Kind == kind {
			n++
		}
	}
	return n
}

func selectors(prefixes ...string) []ipsec.TrafficSelector {
	var list []ipsec.TrafficSelector
	for _, p := range prefixes {
		list = append(list, ipsec.SelectorFromPrefix(netip.MustParsePrefix(p)))
	}
	return list
}

func ikeProposal(group uint16) ipsec.Proposal {
	return ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128),
		ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(group),
	}}
}

func espProposal(groups ...uint16) ipsec.Proposal {
	p := ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionAESGCM16, 128)}}
	for _, g := range groups {
		p.Transforms = append(p.Transforms, ipsec.Group(g))
	}
	return p
}

// connA and connB are the two ends of one connection with one child. Timers
// are off.
func connA() *Connection {
	return &Connection{
		Name: "ab", Local: addrA, Remote: addrB, Initiate: true,
		LocalID: AddressIdentity(addrA), RemoteID: FQDNIdentity("gw.example"), PSK: []byte("correct horse battery"),
		Proposals: []ipsec.Proposal{ikeProposal(ipsec.GroupCurve25519)},
		Children: []Child{{
			Name: "net", ReqID: 1, Proposals: []ipsec.Proposal{espProposal(ipsec.GroupCurve25519)},
			Local: selectors("10.1.0.0/16"), Remote: selectors("10.2.0.0/16"),
		}},
	}
}

func connB() *Connection { return mirror(connA(), "ba") }

// mirror returns the other end's view of a connection, which only responds.
func mirror(c *Connection, name string) *Connection {
	m := *c
	m.Name, m.Local, m.Remote, m.Initiate = name, c.Remote, c.Local, false
	m.LocalID, m.RemoteID = c.RemoteID, c.LocalID
	m.Children = slices.Clone(c.Children)
	for i := range m.Children {
		child := &m.Children[i]
		child.Local, child.Remote = child.Remote, child.Local
		child.ReqID += 100
	}
	return &m
}

// establish brings the connection up from end a.
func (l *lab) establish() {
	l.t.Helper()
	if l.a.conns == nil {
		l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	}
	for _, c := range append(l.a.conns, l.b.conns...) {
		if err := c.Validate(); err != nil {
			l.t.Fatal(err)
		}
	}
	if l.a.conns[0].IKEv1() {
		l.a.initiateV1()
	} else {
		l.a.initiate()
	}
	l.run()
	if !l.a.peer().Established() || !l.b.peer().Established() {
		l.t.Fatal("not established:\n" + l.transcript.String())
	}
	l.up = true
	l.checkTraffic()
}
