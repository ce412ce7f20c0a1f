package control

import "time"

// EventName says what happened to a connection.
type EventName string

// Events of a connection.
const (
	EventIKEUp        EventName = "ike-up"        // authenticated
	EventIKERekeyed   EventName = "ike-rekeyed"   // a successor took over
	EventIKEDown      EventName = "ike-down"      // gone; Reason says why
	EventChildUp      EventName = "child-up"      // installed in both directions
	EventChildRekeyed EventName = "child-rekeyed" // a successor took over
	EventChildDown    EventName = "child-down"    // gone; Reason says why
	EventPeerMoved    EventName = "peer-moved"    // the peer's address or port changed
	EventRedirected   EventName = "redirected"    // a gateway sent the initiator to Gateway (RFC 5685)
	EventFailed       EventName = "failed"        // a negotiation failed; Diagnosis says why
	EventProbeUp      EventName = "probe-up"      // the peer's tunnel address answers
	EventProbeDown    EventName = "probe-down"    // it does not, and nothing is routed into the tunnel
)

// ConnectionEvent is one entry of a connection's history. It holds no secret.
type ConnectionEvent struct {
	Time       time.Time `json:"time"`
	Event      EventName `json:"event"`
	BegunBy    Side      `json:"begun_by,omitempty"` // of the IKE SA, or for a child of the exchange
	IKEVersion int       `json:"ike_version,omitempty"`
	Local      string    `json:"local,omitempty"` // address and port
	Peer       string    `json:"peer,omitempty"`

	InitiatorSPI string `json:"initiator_spi,omitempty"` // of the IKE SA, in hexadecimal
	ResponderSPI string `json:"responder_spi,omitempty"`
	Proposal     string `json:"proposal,omitempty"` // what was agreed
	NAT          []Side `json:"nat,omitempty"`      // who has a NAT in front
	UDP          bool   `json:"udp,omitempty"`      // ESP goes in UDP

	Child          string   `json:"child,omitempty"`
	SPIIn          string   `json:"spi_in,omitempty"`
	SPIOut         string   `json:"spi_out,omitempty"`
	LocalSelectors []string `json:"local_selectors,omitempty"`
	PeerSelectors  []string `json:"peer_selectors,omitempty"`

	Gateway   string     `json:"gateway,omitempty"` // of EventRedirected: an address or a name
	Reason    string     `json:"reason,omitempty"`
	Cause     string     `json:"cause,omitempty"`
	Diagnosis *Diagnosis `json:"diagnosis,omitempty"`
	// Count is how often a failure has come in a row since Since.
	Count int       `json:"count,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// MaxHistory is how many events one query returns at most.
const MaxHistory = 1000

// HistoryQuery restricts a history. Of what matches the latest are returned.
type HistoryQuery struct {
	Since time.Time // zero: all
	Limit int
}
