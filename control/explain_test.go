package control

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestExplain(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	child := ChildFacts{Name: "any", BegunBy: OurSide, Proposal: "ESP: AES-GCM-16-128, no ESN", Established: now.Add(-time.Hour), SPIIn: "c0ffee01", SPIOut: "0badcafe"}
	busy := child
	busy.Received, busy.LastReceived = Traffic{Packets: 12, Octets: 1200}, now.Add(-3*time.Second)
	standing := IKEFacts{
		Version: 2, BegunBy: PeerSide, Proposal: "IKE: AES-GCM-16-128", Established: now.Add(-2 * time.Hour), NAT: []Side{PeerSide}, UDP: true,
		Local: netip.MustParseAddrPort("203.0.113.10:4500"), Peer: netip.MustParseAddrPort("198.51.100.7:4500"),
	}
	answered, silent := &ProbeFacts{Target: netip.MustParseAddr("169.254.1.2"), Known: true, Answered: true, RTT: time.Millisecond}, &ProbeFacts{Target: netip.MustParseAddr("169.254.1.2"), Known: true}
	psk := &Diagnosis{Cause: "pre-shared-key", Parameter: "pre-shared key"}
	for _, test := range []struct {
		name    string
		state   ConnectionState
		status  ConnectionStatus
		gateway GatewayState
		tunnel  TunnelState
		style   Style
		mode    HAMode
		want    Situation
		words   []string // of the summary, the facts or what is next
	}{
		{
			name: "healthy", state: ConnectionActive, status: ConnectionStatus{LastChange: now.Add(-2 * time.Hour)},
			tunnel: TunnelState{Wanted: 1, IKE: []IKEFacts{standing}, Children: []ChildFacts{busy}, Probe: answered}, want: SituationUp,
			words: []string{
				"2h0m0s ago", "IKEv2, begun by the peer", "AES-GCM-16-128", "in front of the peer; ESP goes in UDP", "sent: nothing yet",
				"12 packets, 1200 octets, the last one 3s ago", "answered in 1ms", "nothing is to be done",
			},
		},
		{
			name: "no traffic yet, and only the peer begins", state: ConnectionActive, tunnel: TunnelState{Wanted: 1, Children: []ChildFacts{child}}, want: SituationUp,
			words: []string{"sent: nothing yet", "received: nothing yet"},
		},
		{
			name: "one of two", state: ConnectionActive, status: ConnectionStatus{Message: "1 of 2 CHILD_SAs are up", Diagnosis: psk},
			tunnel: TunnelState{Wanted: 2, Children: []ChildFacts{child, child}}, want: SituationPartlyUp, words: []string{"1 of 2"},
		},
		{
			name: "probe", state: ConnectionActive, tunnel: TunnelState{Wanted: 1, Children: []ChildFacts{child}, Probe: silent}, want: SituationProbeDown,
			words: []string{"169.254.1.2", "not answered"},
		},
		{
			name: "standby", state: ConnectionActive, mode: ActiveStandby, tunnel: TunnelState{Wanted: 1, Children: []ChildFacts{child}}, want: SituationStandby,
			words: []string{"as a standby"},
		},
		{
			name: "failed", state: ConnectionDown, status: ConnectionStatus{Message: "authentication fail", Diagnosis: psk},
			tunnel: TunnelState{Initiates: true, Failures: 3, NextTry: now.Add(time.Minute)}, want: SituationFailed, words: []string{"authentication fail", "tried again"},
		},
		{name: "waiting", state: ConnectionDown, status: ConnectionStatus{Message: "waiting for the peer"}, want: SituationWaiting, words: []string{"the peer has to begin"}},
		{
			name: "negotiating", state: ConnectionDown, status: ConnectionStatus{Message: "negotiating with 198.51.100.7"},
			tunnel: TunnelState{Initiates: true}, want: SituationNegotiating, words: []string{"negotiating with"},
		},
		{
			name: "a stranger", state: ConnectionDown, tunnel: TunnelState{Strangers: []Stranger{{Address: netip.MustParseAddr("198.51.100.9"), Last: now}}},
			want: SituationWaiting, words: []string{"unknown peer 198.51.100.9", "cgw_id"},
		},
		{
			name: "weak algorithm refused", state: ConnectionError, status: ConnectionStatus{Message: `ikepolicy.dh_group: "group1" is refused`},
			want: SituationNotApplied, words: []string{"ikepolicy.dh_group"},
		},
		{name: "gateway being made", state: ConnectionPendingCreate, gateway: GatewayPendingCreate, want: SituationGateway, words: []string{"PENDING_CREATE"}},
		{name: "gateway at fault", state: ConnectionDown, gateway: GatewayFault, want: SituationGateway, words: []string{"FAULT"}},
		{name: "not yet applied", state: ConnectionPendingUpdate, want: SituationPending},
		{name: "frozen", state: ConnectionFreezed, want: SituationFrozen},
		{name: "being deleted", state: ConnectionPendingDelete, want: SituationDeleting},
		{
			name: "without a node", state: ConnectionUnknown, status: ConnectionStatus{Node: "one", Message: noNodeServes + "; the last one was one"},
			want: SituationUnserved, words: []string{"the last one was one"},
		},
		{name: "stopped", state: ConnectionUnknown, status: ConnectionStatus{Message: "the node that serves it is stopped"}, want: SituationNoSuchReport},
	} {
		v := &ConnectionView{State: test.state, Status: test.status}
		v.Style, v.Gateway.HAMode = StyleStatic, test.mode
		gateway := test.gateway
		if gateway == "" {
			gateway = GatewayActive
		}
		x := explain(v, gateway, test.tunnel, now)
		text := x.Summary + "\n" + x.Next
		for _, f := range x.Facts {
			text += "\n" + strings.TrimSpace(f.Name) + ": " + f.Value
		}
		if x.Situation != test.want || x.Summary == "" || x.Next == "" && test.want != SituationFrozen {
			t.Errorf("%s: %s, want %s:\n%s", test.name, x.Situation, test.want, text)
		}
		for _, word := range test.words {
			if !strings.Contains(text, word) {
				t.Errorf("%s: nothing of %q:\n%s", test.name, word, text)
			}
		}
	}
}

// Who is told a situation finds in the documentation what it means.
func TestEverySituationIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## How a connection is\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var documented []Situation
	for line := range strings.Lines(section) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "### `"); ok {
			documented = append(documented, Situation(strings.TrimSuffix(name, "`")))
		}
	}
	slices.Sort(documented)
	wanted := slices.Sorted(slices.Values(Situations))
	if !slices.Equal(documented, wanted) {
		t.Errorf("docs/troubleshooting.md has entries for\n%q, there are\n%q", documented, wanted)
	}
}
