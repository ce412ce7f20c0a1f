package control

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Situation is the code of how a connection is and why: a closed set.
type Situation string

// Situations.
const (
	SituationUp           Situation = "up"           // all CHILD_SAs are
	SituationPartlyUp     Situation = "partly-up"    // some are
	SituationProbeDown    Situation = "probe-down"   // up, and the NQA probe is not answered
	SituationFailed       Situation = "failed"       // the last negotiation failed, or the tunnel ended; see the diagnosis
	SituationNegotiating  Situation = "negotiating"  // nothing has failed yet
	SituationWaiting      Situation = "waiting"      // only the peer can begin, and has not
	SituationNotApplied   Situation = "not-applied"  // the engines could not be given it
	SituationPending      Situation = "pending"      // it has not been applied yet
	SituationGateway      Situation = "gateway"      // the gateway is not ready for connections
	SituationFrozen       Situation = "frozen"       //
	SituationDeleting     Situation = "deleting"     //
	SituationUnserved     Situation = "unserved"     // no node serves it
	SituationNoSuchReport Situation = "not-reported" // the node that serves it does not report
	SituationStandby      Situation = "standby"      // up, and another connection or node carries the traffic
)

// Situations are all of them.
var Situations = []Situation{
	SituationUp, SituationPartlyUp, SituationProbeDown, SituationFailed, SituationNegotiating, SituationWaiting, SituationNotApplied,
	SituationPending, SituationGateway, SituationFrozen, SituationDeleting, SituationUnserved, SituationNoSuchReport, SituationStandby,
}

// Explanation tells how a connection is, why, what would change it, and what is
// done about it.
type Explanation struct {
	Name      string // of the connection
	State     ConnectionState
	Situation Situation
	Summary   string // one sentence
	Facts     []Fact
	Diagnosis *Diagnosis
	// Count is how often the failure of the diagnosis has come in a row, from
	// First to Last. Zero: the engines do not count it.
	Count       int
	First, Last time.Time
	Next        string    // what happens next without a change
	NextTry     time.Time // of a negotiation; zero: none is planned
}

// Fact is something that is known of a connection.
type Fact struct{ Name, Value string }

// TunnelState is what the engines of a node know of a connection.
type TunnelState struct {
	Initiates bool // we begin, too
	Wanted    int  // CHILD_SAs
	IKE       []IKEFacts
	Children  []ChildFacts
	Failures  int // in a row
	First     time.Time
	Last      time.Time
	NextTry   time.Time
	Probe     *ProbeFacts // nil: none
	Strangers []Stranger  // who asked for an IKE SA at the address, and is no connection's peer
}

// IKEFacts is an IKE SA that is in use.
type IKEFacts struct {
	Version            int
	BegunBy            Side
	Local, Peer        netip.AddrPort
	LocalID, PeerID    string
	Proposal           string
	NAT                []Side
	UDP                bool
	InitiatorSPI       string
	ResponderSPI       string
	Established, Rekey time.Time
	LastSeen           time.Time
}

// ChildFacts is a CHILD_SA that is in use.
type ChildFacts struct {
	Name           string
	BegunBy        Side
	SPIIn, SPIOut  string
	Proposal       string
	Local, Peer    string // selectors
	Established    time.Time
	Rekey          time.Time
	Sent, Received Traffic
	LastSent       time.Time // zero: never
	LastReceived   time.Time
}

// ProbeFacts is a probe through a tunnel.
type ProbeFacts struct {
	Target   netip.Addr
	Known    bool // it is not too early to say
	Answered bool
	RTT      time.Duration
}

// Stranger is an address that is no connection's peer.
type Stranger struct {
	Address netip.Addr
	Last    time.Time
	Count   int
}

// ExplainConnection tells how a connection is and why. It fails with *Elsewhere
// when another node serves the connection.
func (s *Service) ExplainConnection(ctx context.Context, project, id string) (Explanation, error) {
	view, err := s.ShowConnection(ctx, project, id)
	if err != nil {
		return Explanation{}, err
	}
	gateway, err := s.read(ctx).gatewayStatus(view.Gateway.Meta)
	if err != nil {
		return Explanation{}, err
	}
	t, served := s.tunnel(id)
	if !served {
		if elsewhere := s.elsewhere(&view); elsewhere != nil {
			return Explanation{}, elsewhere
		}
	}
	return explain(&view, view.Gateway.State(gateway), t, s.now()), nil
}

func (s *Service) tunnel(connection string) (TunnelState, bool) {
	if s.engines == nil {
		return TunnelState{}, false
	}
	return s.engines.Tunnel(connection)
}

// elsewhere says which other node serves a connection; nil: none does.
func (s *Service) elsewhere(v *ConnectionView) error {
	d := s.division()
	owner := d.Owner(&v.Gateway, v.Slot)
	if owner == "" || owner == d.Node {
		return nil
	}
	return &Elsewhere{Node: d.Nodes[owner], Refusal: servedElsewhere(v.ID, owner)}
}

// ConnectionHistory returns what happened to a connection on the node that serves
// it, the newest event first. It fails with *Elsewhere when that is another one.
func (s *Service) ConnectionHistory(ctx context.Context, project, id string, q HistoryQuery) ([]ConnectionEvent, error) {
	if q.Limit < 1 || q.Limit > MaxHistory {
		return nil, Invalid("limit", "must be from 1 to %d", MaxHistory)
	}
	view, err := s.ShowConnection(ctx, project, id)
	if err != nil {
		return nil, err
	}
	if _, served := s.tunnel(id); !served {
		if elsewhere := s.elsewhere(&view); elsewhere != nil {
			return nil, elsewhere
		}
	}
	if s.history == nil {
		return nil, nil
	}
	return s.history.Read(id, q)
}

// explain works an explanation out from what is stored and what the engines know.
func explain(v *ConnectionView, gateway GatewayState, t TunnelState, now time.Time) Explanation {
	x := Explanation{Name: v.Name, State: v.State, Diagnosis: v.Status.Diagnosis, Summary: v.Status.Message, NextTry: t.NextTry}
	if x.Diagnosis != nil {
		x.Count, x.First, x.Last = t.Failures, t.First, t.Last
	}
	x.fact("customer gateway", v.CustomerGateway.IDValue)
	x.fact("identities", fmt.Sprintf("we are %s, the peer has to be %s", v.LocalID, v.PeerID))
	switch v.State {
	case ConnectionPendingDelete:
		x.Situation, x.Summary, x.Next = SituationDeleting, "it is being deleted", "it goes when its tunnel is down"
	case ConnectionFreezed:
		x.Situation, x.Summary, x.Next = SituationFrozen, "it is frozen", "nothing until it is unfrozen"
	case ConnectionPendingCreate, ConnectionPendingUpdate:
		x.pending(gateway)
	case ConnectionError:
		x.Situation, x.Next = SituationNotApplied, "it is tried again at growing intervals"
	case ConnectionUnknown:
		x.unknown(v)
	case ConnectionActive:
		x.up(v, t, now)
	case ConnectionDown:
		x.down(v, gateway, t)
	}
	x.facts(t, now)
	return x
}

func (x *Explanation) fact(name, value string) {
	if value != "" {
		x.Facts = append(x.Facts, Fact{name, value})
	}
}

func (x *Explanation) pending(gateway GatewayState) {
	x.Situation, x.Next = SituationPending, "it is applied as soon as a node gets to it"
	x.Summary = cmp.Or(x.Summary, "its configuration has not been applied yet")
	if gateway != GatewayActive {
		x.Situation, x.Summary = SituationGateway, "its gateway is "+string(gateway)
		x.Next = "it follows when the gateway is ACTIVE"
	}
}

func (x *Explanation) unknown(v *ConnectionView) {
	x.Situation, x.Next = SituationNoSuchReport, "its node reports when it runs again"
	if v.Status.Node != "" && strings.HasPrefix(v.Status.Message, noNodeServes) {
		x.Situation, x.Next = SituationUnserved, "the next node that can have its address takes it over"
	}
}

func (x *Explanation) up(v *ConnectionView, t TunnelState, now time.Time) {
	x.Situation, x.Diagnosis = SituationUp, nil
	since := v.Status.LastChange
	var names []string
	for _, c := range t.Children {
		names = append(names, c.Name)
	}
	x.Summary = fmt.Sprintf("it is up since %s (%s)", FormatTime(since), ago(now, since))
	x.Next = "nothing is to be done"
	switch {
	case t.Probe != nil && !t.Probe.Answered:
		x.Situation, x.Next = SituationProbeDown, "routes lead into it as soon as the probe is answered"
		x.Summary = fmt.Sprintf("its SAs are up, but probes to %s are not answered: no traffic is routed into it", t.Probe.Target)
	case t.Wanted > len(distinct(names)):
		x.Situation, x.Diagnosis, x.Next = SituationPartlyUp, v.Status.Diagnosis, "the others are tried again at growing intervals"
		x.Summary = v.Status.Message
	case v.Style != StylePolicy && v.Gateway.HAMode == ActiveStandby && len(v.Status.Routes) == 0:
		x.Situation = SituationStandby
		x.Summary += ", as a standby: the traffic goes through another connection or node"
	}
}

func distinct(names []string) map[string]bool {
	set := map[string]bool{}
	for _, name := range names {
		set[name] = true
	}
	return set
}

func (x *Explanation) down(v *ConnectionView, gateway GatewayState, t TunnelState) {
	switch {
	case gateway != GatewayActive && x.Diagnosis == nil:
		x.Situation, x.Next = SituationGateway, "it follows when the gateway is ACTIVE"
		x.Summary = "its gateway is " + string(gateway)
	case x.Diagnosis != nil || t.Failures > 0:
		x.Situation, x.Next = SituationFailed, "we wait for the peer"
		if t.Initiates {
			x.Next = "negotiation is tried again at growing intervals"
		}
	case !t.Initiates:
		x.Situation, x.Next = SituationWaiting, "the peer has to begin"
		x.Summary = "the address of the peer is not known, so that we cannot begin, and the peer has not"
	case v.Status.Message != "" && t.NextTry.IsZero():
		x.Situation, x.Next = SituationNegotiating, "it is up or its failure known within minutes"
	default:
		x.Situation, x.Next = SituationFailed, "negotiation is tried again at growing intervals"
	}
}

// facts lists what the engines know.
func (x *Explanation) facts(t TunnelState, now time.Time) {
	for _, i := range t.IKE {
		text := fmt.Sprintf("IKEv%d, begun by the %s %s, %s", i.Version, i.BegunBy, ago(now, i.Established), i.Proposal)
		x.fact("IKE SA", text)
		x.fact("  addresses", fmt.Sprintf("%s and %s", i.Local, i.Peer))
		x.fact("  SPIs", i.InitiatorSPI+" and "+i.ResponderSPI)
		x.fact("  NAT", natText(i.NAT, i.UDP))
		x.fact("  rekeyed", in(now, i.Rekey))
		x.fact("  peer heard of", ago(now, i.LastSeen))
	}
	for _, c := range t.Children {
		x.fact("CHILD_SA "+c.Name, fmt.Sprintf("begun by the %s %s, %s", c.BegunBy, ago(now, c.Established), c.Proposal))
		x.fact("  selectors", fmt.Sprintf("local %s, remote %s", c.Local, c.Peer))
		x.fact("  SPIs", fmt.Sprintf("in %s, out %s", c.SPIIn, c.SPIOut))
		x.fact("  rekeyed", in(now, c.Rekey))
		x.fact("  sent", trafficText(now, c.Sent, c.LastSent))
		x.fact("  received", trafficText(now, c.Received, c.LastReceived))
	}
	if p := t.Probe; p != nil {
		text := "too early to say"
		switch {
		case p.Known && p.Answered:
			text = fmt.Sprintf("answered in %v", p.RTT)
		case p.Known:
			text = "not answered"
		}
		x.fact("probe to "+p.Target.String(), text)
	}
	for _, s := range t.Strangers {
		if x.State != ConnectionActive {
			x.fact("unknown peer "+s.Address.String(), fmt.Sprintf(
				"asks for an IKE SA, %s; if this is the peer, give the connection (cgw_id) a customer gateway with this id_value", ago(now, s.Last)))
		}
	}
}

func natText(sides []Side, udp bool) string {
	text := "none"
	if len(sides) > 0 {
		names := make([]string, len(sides))
		for i, s := range sides {
			names[i] = "in front of the " + string(s)
		}
		text = strings.Join(names, " and ")
	}
	if udp {
		return text + "; ESP goes in UDP"
	}
	return text
}

func trafficText(now time.Time, t Traffic, last time.Time) string {
	if t.Packets == 0 {
		return "nothing yet"
	}
	text := fmt.Sprintf("%d packets, %d octets", t.Packets, t.Octets)
	if !last.IsZero() {
		text += ", the last one " + ago(now, last)
	}
	return text
}

// ago tells a time before now, or "never".
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return span(now.Sub(t)) + " ago"
}

// in tells a time after now, empty for none.
func in(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return "in " + span(t.Sub(now))
}

func span(d time.Duration) string { return max(d, 0).Truncate(time.Second).String() }
