package reconcile

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// place is where a connection stands, for its log lines.
type place struct {
	gateway netip.Addr // the gateway's address as peers see it
	peer    netip.Addr // the configured one; invalid while unknown
	name    string     // of the connection
	ifIndex int        // of the tunnel's device; zero while there is none
	pid     int
}

// sentences of the connection log, in the wording of the routers whose
// messages the API shows.
var sentences = map[sa.EventKind]string{
	sa.IKEUp:            "An IKE SA is established.",
	sa.IKERekeyed:       "An IKE SA is rekeyed.",
	sa.IKEDown:          "An IKE SA is teared down.",
	sa.ChildUp:          "An IPSec tunnel is established.",
	sa.ChildRekeyed:     "An IPSec tunnel is rekeyed.",
	sa.ChildDown:        "An IPSec tunnel is teared down.",
	sa.PeerMoved:        "The address of the peer has changed.",
	sa.PeerRedirected:   "The peer is redirected to another gateway.",
	sa.RedirectedByPeer: "The peer redirects to another gateway.",
	sa.Failed:           "IPSec tunnel negotiation fails.",
}

// message tells an event in one line without its time: host, process, address,
// sentence, and the values that name the peer and the reason; behind them,
// after a dash, what a person needs to know to set it right.
func (p place) message(e sa.Event, d *control.Diagnosis) string {
	var b strings.Builder
	host := strings.NewReplacer(".", "-", ":", "-").Replace(p.gateway.String())
	fmt.Fprintf(&b, "host-%s ipsec_ike[%d]: [%s] %s (IfIndex=[%d], PolicyName=[%s], SeqNum=[0], PeerAddress=[%s], PeerPort=[%d]",
		host, p.pid, p.gateway, sentences[e.Kind], p.ifIndex, p.name, p.peerAddress(e), peerPort(e))
	if e.Kind == sa.Failed {
		fmt.Fprintf(&b, ", Reason=[%s]", e.Reason)
	} else if e.Reason != "" {
		fmt.Fprintf(&b, ", OfflineReason=[%s]", e.Reason)
	}
	b.WriteByte(')')
	if detail := detail(e, d); detail != "" {
		b.WriteString(" - " + detail)
	}
	return printable(b.String())
}

// probeMessage tells in one line that the peer's tunnel address answers, or
// that it does not.
func (p place) probeMessage(peer netip.Addr, verdict nqa.Verdict) string {
	sentence := "The NQA test fails. Routes into the tunnel are withdrawn."
	if verdict == nqa.Reachable {
		sentence = "The NQA test succeeds. Routes lead into the tunnel."
	}
	host := strings.NewReplacer(".", "-", ":", "-").Replace(p.gateway.String())
	return printable(fmt.Sprintf("host-%s nqa[%d]: [%s] %s (IfIndex=[%d], PolicyName=[%s], DestinationAddress=[%s])",
		host, p.pid, p.gateway, sentence, p.ifIndex, p.name, peer))
}

// maxMessage bounds a log line, in octets.
const maxMessage = 1024

// printable makes text that may hold what a peer sent safe to show: one line,
// no control characters, bounded.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "..."
	}
	return text
}

func (p place) peerAddress(e sa.Event) string {
	switch {
	case e.Remote.IsValid():
		return e.Remote.Addr().Unmap().String()
	case p.peer.IsValid():
		return p.peer.String()
	}
	return ""
}

func peerPort(e sa.Event) uint16 {
	if !e.Remote.IsValid() {
		return 500
	}
	return e.Remote.Port()
}

// detail is what follows the dash.
func detail(e sa.Event, d *control.Diagnosis) string {
	switch e.Kind {
	case sa.Failed:
		text := describe(d)
		if e.Child != "" {
			text = join("; ", "child "+e.Child, text)
		}
		return text
	case sa.IKEUp, sa.IKERekeyed:
		text := fmt.Sprintf("%s; initiator SPI %016x, responder SPI %016x", e.Proposal, e.InitiatorSPI, e.ResponderSPI)
		if e.Version == 1 {
			text = "IKEv1; " + text
		}
		if e.Variant != "" {
			text += "; peer uses " + e.Variant
		}
		switch {
		case e.NATLocal && e.NATRemote:
			text += "; NAT in front of both sides"
		case e.NATLocal:
			text += "; NAT in front of the gateway"
		case e.NATRemote:
			text += "; NAT in front of the peer"
		}
		return text
	case sa.ChildUp, sa.ChildRekeyed:
		carrier := "ESP"
		if e.Encap {
			carrier = "ESP in UDP"
		}
		return fmt.Sprintf("child %s; %s; %s; SPI in %s, out %s; local %s, remote %s", e.Child, e.Proposal, carrier,
			e.In, e.Out, ipsec.SelectorList(e.LocalTS), ipsec.SelectorList(e.RemoteTS))
	case sa.IKEDown:
		return describe(d)
	case sa.ChildDown:
		return join("; ", "child "+e.Child, describe(d))
	case sa.PeerMoved:
		return fmt.Sprintf("now at %s", e.Remote)
	case sa.PeerRedirected, sa.RedirectedByPeer:
		return "to " + e.Gateway
	}
	return ""
}

// join joins the texts that are not empty.
func join(separator string, texts ...string) string {
	var kept []string
	for _, t := range texts {
		if t != "" {
			kept = append(kept, t)
		}
	}
	return strings.Join(kept, separator)
}
