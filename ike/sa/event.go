package sa

import (
	"net/netip"
	"strings"

	"github.com/vpngw/vpngw/ipsec"
)

// EventKind says what happened in an SA's life.
type EventKind uint8

// Kinds of events.
const (
	IKEUp            EventKind = iota + 1 // authenticated
	IKERekeyed                            // a successor took over
	IKEDown                               // gone; Reason says why
	ChildUp                               // installed in both directions
	ChildRekeyed                          // a successor took over
	ChildDown                             // gone; Reason says why
	PeerMoved                             // the peer's address or port changed
	PeerRedirected                        // the peer was told to go to Gateway (RFC 5685)
	RedirectedByPeer                      // we were, and go there
	Failed                                // a negotiation failed; Diagnosis says why
)

// Event is one thing that happened to a connection.
type Event struct {
	Kind       EventKind
	Connection string // empty while the peer is not known to be one of ours
	Child      string // of child events

	Local, Remote netip.AddrPort
	InitiatorSPI  uint64
	ResponderSPI  uint64
	Version       uint8 // of IKE; zero where no IKE SA is concerned
	// Variant, of IKEUp and IKERekeyed, is how the peer writes differently from
	// the configuration, in the profile GM/T 0022; empty where it does not.
	Variant   string
	Initiator bool // we began the IKE SA, or for a child event the exchange

	Proposal    ipsec.Proposal // what was agreed
	In, Out     ipsec.SPI      // of child events
	LocalTS     []ipsec.TrafficSelector
	RemoteTS    []ipsec.TrafficSelector
	Encap       bool
	NATLocal    bool   // a NAT is in front of us
	NATRemote   bool   // a NAT is in front of the peer
	Gateway     string // of PeerRedirected and RedirectedByPeer: an address or a name
	Reason      Reason
	Diagnosis   *Diagnosis // of Failed, and of IKEDown and ChildDown where there is one
	Established bool       // Failed: an established IKE SA stays

	// InitialContact, of IKEUp: the peer says that it knows of no other IKE SA
	// with us (RFC 7296, section 2.4).
	InitialContact bool
}

// Reason is the short cause of a failed negotiation or of a teardown. The
// words are those of the API's connection log.
type Reason string

// Reasons of a failed negotiation.
const (
	ReasonPhase1Proposal   Reason = "phase1 proposal mismatch"
	ReasonPhase2Proposal   Reason = "phase2 proposal or pfs mismatch"
	ReasonResponderDH      Reason = "responder dh mismatch"
	ReasonInitiatorDH      Reason = "initiator dh mismatch"
	ReasonFlow             Reason = "flow or peer mismatch"
	ReasonVersion          Reason = "version mismatch"
	ReasonMode             Reason = "exchange mode mismatch"
	ReasonPeerAddress      Reason = "peer address mismatch"
	ReasonConfigID         Reason = "config ID mismatch"
	ReasonAuthentication   Reason = "authentication fail"
	ReasonMalformedPayload Reason = "malformed payload"
	ReasonMalformedMessage Reason = "malformed message"
	ReasonMaxTransmit      Reason = "max transmit reached"
	ReasonRekeyFail        Reason = "rekey fail"
	ReasonEncapsulation    Reason = "encapsulation mode mismatch"
	ReasonDataPlane        Reason = "data plane refused"
	ReasonFlowConflict     Reason = "flow conflict"
	ReasonRedirect         Reason = "redirect refused"
)

// Reasons of a teardown.
const (
	ReasonDPDTimeout      Reason = "dpd timeout"
	ReasonPeerRequest     Reason = "peer request"
	ReasonConfigModify    Reason = "config modify or manual offline"
	ReasonIKEHardExpiry   Reason = "phase1 hard expiry"
	ReasonChildHardExpiry Reason = "phase2 hard expiry"
	ReasonIKEReplaced     Reason = "phase1 sa replace"
	ReasonChildReplaced   Reason = "phase2 sa replace"
	ReasonExchangeTimeout Reason = "exchange timeout"
	ReasonReauthTimeout   Reason = "re-auth timeout"
	ReasonRedirected      Reason = "redirected"
)

// Diagnosis is the full story of a failure: in which exchange, the parameter
// that differs, and both values as far as they are known.
type Diagnosis struct {
	Reason    Reason
	Cause     Cause  // empty: that of the reason; see Code
	Exchange  string // "IKE_SA_INIT", "IKE_AUTH", …; of IKEv1 "main mode", "quick mode", …
	Parameter string // "encryption algorithm", "pre-shared key", "peer identity", "traffic selectors", …
	Ours      string // empty when a value is secret or has no meaning
	Theirs    string // empty when the peer did not tell
	Detail    string // one sentence for a person, without a full stop

	// What a remedy can be worked out from, as far as it is known.
	Offers   *Offers  // of proposals
	Flows    *Flows   // of traffic selectors
	Identity Identity // what the peer calls itself or, CauseLocalID, us

	silentPort uint16 // of the peer, from which no answer came
}

// Code returns the cause.
func (d *Diagnosis) Code() Cause {
	if d.Cause != "" {
		return d.Cause
	}
	return d.Reason.Cause()
}

// Same reports whether two diagnoses tell the same.
func (d *Diagnosis) Same(o *Diagnosis) bool {
	return d.Code() == o.Code() && d.String() == o.String()
}

// String reads "phase1 proposal mismatch: encryption algorithm differs in
// IKE_SA_INIT: ours [AES-CBC-256], theirs [AES-CBC-128]: …".
func (d *Diagnosis) String() string {
	var b strings.Builder
	b.WriteString(string(d.Reason))
	if d.Parameter != "" {
		b.WriteString(": " + d.Parameter)
	}
	if d.Exchange != "" {
		b.WriteString(" in " + d.Exchange)
	}
	if d.Ours != "" || d.Theirs != "" {
		theirs := d.Theirs
		if theirs == "" {
			theirs = "not told"
		}
		b.WriteString(": ours [" + d.Ours + "], theirs [" + theirs + "]")
	}
	if d.Detail != "" {
		b.WriteString(": " + d.Detail)
	}
	return b.String()
}
