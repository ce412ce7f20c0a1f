package reconcile

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// History keeps what happens to connections beyond the life of the process.
type History interface {
	// Append adds an event to a connection's history.
	Append(connection string, e control.ConnectionEvent)
	// Retain forgets all connections but those that are there.
	Retain(there func(connection string) bool)
}

// story is what has happened to a connection under its present configuration, as
// far as it explains why it is not up.
type story struct {
	failure *failure // the last one, until it is healed
	repeats repeats
	learned learned
}

// failure is why a connection, or a child of it, is not up.
type failure struct {
	child     string // empty: the connection, or a child that is not known
	ofChild   bool   // the IKE SA stands
	reason    sa.Reason
	diagnosis *control.Diagnosis // nil where the reason says all
}

// repeats counts failures that tell the same.
type repeats struct {
	text  string
	count int
	since time.Time
}

// add counts a failure and reports whether it is worth a record: the first one,
// and each time the count has doubled.
func (r *repeats) add(now time.Time, text string) bool {
	if r.text != text || r.count == 0 {
		*r = repeats{text: text, since: now}
	}
	r.count++
	return r.count&(r.count-1) == 0
}

// learned is what the peer has told of itself by its own attempts. Where it
// refuses ours without a reason, that tells what is at fault.
type learned struct {
	offers map[sa.OfferKind][]ipsec.Proposal
	auth   *sa.Diagnosis // of its proof or its identities
	flows  *sa.Diagnosis // of its selectors
	kind   *sa.Diagnosis // of the version or the mode that it begins with
}

// note keeps what an attempt of the peer shows.
func (k *learned) note(d *sa.Diagnosis) {
	if o := d.Offers; o != nil && len(o.Theirs) > 0 {
		if k.offers == nil {
			k.offers = make(map[sa.OfferKind][]ipsec.Proposal)
		}
		k.offers[o.Of] = o.Theirs
	}
	switch d.Code() {
	case sa.CausePSK, sa.CausePeerID, sa.CauseLocalID:
		k.auth = d
	case sa.CauseVersion, sa.CauseMode:
		k.kind = d
	case sa.CauseSelectors, sa.CauseSwapped, sa.CauseMirrored:
		if d.Flows != nil && len(d.Flows.Theirs.Local) > 0 {
			k.flows = d
		}
	default:
	}
}

const shownByPeer = "the peer's own attempts show what it has"

// complete adds what is known of the peer to a failure of ours that says less.
func (k *learned) complete(d *sa.Diagnosis) *sa.Diagnosis {
	known := func(of *sa.Diagnosis) *sa.Diagnosis {
		more := *of
		more.Exchange = d.Exchange
		more.Detail = join("; ", d.Detail, shownByPeer, of.Detail)
		return &more
	}
	switch o := d.Offers; {
	case k.kind != nil && mayBeOfKind[d.Code()] && (o == nil || len(o.Theirs) == 0):
		return known(k.kind)
	case d.Code() == sa.CauseSelectors && k.flows != nil && d.Flows != nil && len(d.Flows.Theirs.Local) == 0:
		return known(k.flows)
	case o != nil && len(o.Theirs) == 0 && len(k.offers[o.Of]) > 0:
		theirs := k.offers[o.Of]
		if _, err := ipsec.Choose(o.Ours, theirs); err == nil {
			return d // it is something else that the peer does not like
		}
		more := *d
		more.Offers = &sa.Offers{Of: o.Of, Ours: o.Ours, Theirs: theirs}
		more.Theirs = ipsec.List(theirs, "; ")
		more.Detail = join("; ", d.Detail, shownByPeer)
		return &more
	case d.Code() == sa.CauseKeyOrIdentity && k.auth != nil:
		return known(k.auth)
	}
	return d
}

// mayBeOfKind are the causes by which a peer refuses a version or a mode that it
// does not want, or is silent.
var mayBeOfKind = map[sa.Cause]bool{
	sa.CauseIKEProposal: true, sa.CauseKeyOrIdentity: true, sa.CauseUnknownToPeer: true, sa.CauseUnreachable: true, sa.CauseSilence: true,
	sa.CauseRefusedByPeer: true, sa.CausePSK: true, sa.CauseMode: true,
}

// tell works out what an event says: to the diagnosis that it has, what is known
// of the peer is added.
func (l *live) tell(e *sa.Event) *control.Diagnosis {
	if e.Diagnosis == nil {
		return nil
	}
	if e.Kind == sa.Failed && !e.Initiator {
		l.story.learned.note(e.Diagnosis)
	} else {
		e.Diagnosis = l.story.learned.complete(e.Diagnosis)
	}
	p := party{
		connection: &l.connection, localID: l.localID, peerID: l.peerID,
		local: l.place.gateway, peer: l.place.peer,
	}
	if !p.peer.IsValid() && e.Remote.IsValid() {
		p.peer = e.Remote.Addr().Unmap()
	}
	return p.diagnose(e)
}

// explain adds the last failure to a status.
func (l *live) explain(s *control.ConnectionStatus) {
	f := l.story.failure
	if f == nil {
		return
	}
	s.Message = printable(join("; ", s.Message, string(f.reason), describe(f.diagnosis)))
	s.Diagnosis = f.diagnosis
}

// record writes an event into the log and the history of its connection.
func (r *Reconciler) record(now time.Time, e sa.Event) {
	if e.Connection == "" && e.Diagnosis != nil && e.Diagnosis.Code() == sa.CauseUnknownPeer {
		r.lookout.note(now, e.Local.Addr().Unmap(), e.Remote.Addr().Unmap())
	}
	r.recorded = true
	for _, l := range r.concerned(e) {
		r.recordOf(l, now, e)
	}
}

func (r *Reconciler) recordOf(l *live, now time.Time, e sa.Event) {
	d := l.tell(&e)
	l.journal.add(now, l.place.message(e, d))
	event := historyOf(now, &e, d)
	worth := true
	if e.Kind == sa.Failed {
		worth = l.story.repeats.add(now, string(e.Reason)+e.Child+describe(d))
		event.Count, event.Since = l.story.repeats.count, l.story.repeats.since.UTC()
	}
	if worth {
		r.History.Append(l.connection.ID, event)
	}
	why := &failure{child: e.Child, ofChild: e.Established, reason: e.Reason, diagnosis: d}
	if d == nil {
		why.diagnosis = &control.Diagnosis{Cause: string(e.Reason.Cause())}
	}
	have := l.story.failure
	switch e.Kind {
	case sa.Failed:
		l.story.failure = why
	case sa.IKEDown, sa.ChildDown:
		if replaced := e.Reason == sa.ReasonIKEReplaced || e.Reason == sa.ReasonChildReplaced; !replaced && (e.Diagnosis != nil || e.Kind == sa.IKEDown) {
			l.story.failure = why // should nothing take its place, this is why it is down
		}
	case sa.IKEUp:
		l.story.learned.auth, l.story.learned.kind = nil, nil
		if have != nil && have.child == "" && !have.ofChild {
			l.story.failure = nil
		}
	case sa.ChildUp:
		if have != nil && (have.child == "" || have.child == e.Child) {
			l.story.failure = nil
		}
	case sa.IKERekeyed, sa.ChildRekeyed, sa.PeerMoved, sa.PeerRedirected, sa.RedirectedByPeer:
	}
}

// eventNames are what the history calls events.
var eventNames = map[sa.EventKind]control.EventName{
	sa.IKEUp: control.EventIKEUp, sa.IKERekeyed: control.EventIKERekeyed, sa.IKEDown: control.EventIKEDown,
	sa.ChildUp: control.EventChildUp, sa.ChildRekeyed: control.EventChildRekeyed, sa.ChildDown: control.EventChildDown,
	sa.PeerMoved: control.EventPeerMoved, sa.PeerRedirected: control.EventRedirected, sa.RedirectedByPeer: control.EventRedirected, sa.Failed: control.EventFailed,
}

// historyOf returns an event as the history keeps it.
func historyOf(now time.Time, e *sa.Event, d *control.Diagnosis) control.ConnectionEvent {
	event := control.ConnectionEvent{
		Time: now.UTC(), Event: eventNames[e.Kind], IKEVersion: int(e.Version), Child: e.Child,
		Local: endpoint(e.Local), Peer: endpoint(e.Remote), Reason: string(e.Reason), Cause: string(e.Reason.Cause()), Diagnosis: d,
		BegunBy: side(e.Initiator), Gateway: printable(e.Gateway),
	}
	if d != nil {
		event.Cause = d.Cause
	}
	if e.InitiatorSPI != 0 {
		event.InitiatorSPI = fmt.Sprintf("%016x", e.InitiatorSPI)
	}
	if e.ResponderSPI != 0 {
		event.ResponderSPI = fmt.Sprintf("%016x", e.ResponderSPI)
	}
	if e.In != 0 || e.Out != 0 {
		event.SPIIn, event.SPIOut = e.In.String(), e.Out.String()
	}
	if len(e.Proposal.Transforms) > 0 {
		event.Proposal = e.Proposal.String()
	}
	if e.Child != "" {
		event.LocalSelectors, event.PeerSelectors = selectorTexts(e.LocalTS), selectorTexts(e.RemoteTS)
	}
	event.NAT, event.UDP = natOf(e.NATLocal, e.NATRemote), e.Encap
	return event
}

// natOf names the ends that have a NAT in front of them.
func natOf(local, remote bool) (sides []control.Side) {
	if local {
		sides = append(sides, control.OurSide)
	}
	if remote {
		sides = append(sides, control.PeerSide)
	}
	return sides
}

func endpoint(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

// selectorTexts names selectors, of many the first ones.
func selectorTexts(list []ipsec.TrafficSelector) []string {
	const most = 16
	var texts []string
	for _, s := range list[:min(len(list), most)] {
		texts = append(texts, s.String())
	}
	if more := len(list) - most; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return texts
}

// describe names the parameter that differs, both values as far as they are
// known, and what would make them agree.
func describe(d *control.Diagnosis) string {
	if d == nil {
		return ""
	}
	parts := []string{}
	for _, part := range [][2]string{
		{"parameter: ", d.Parameter},
		{"ours: ", d.Ours},
		{"theirs: ", d.Theirs},
		{"exchange: ", d.Exchange},
		{"", d.Detail},
		{"remedy: ", d.Remedies()},
	} {
		if part[1] != "" {
			parts = append(parts, part[0]+part[1])
		}
	}
	return strings.Join(parts, "; ")
}

// probeEvent tells that the peer's tunnel address answers, or that it does not.
func probeEvent(now time.Time, peer netip.Addr, verdict nqa.Verdict) control.ConnectionEvent {
	e := control.ConnectionEvent{Time: now.UTC(), Event: control.EventProbeDown, Peer: peer.String()}
	if verdict == nqa.Reachable {
		e.Event = control.EventProbeUp
	}
	return e
}
