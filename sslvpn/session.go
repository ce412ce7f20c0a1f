package sslvpn

import (
	"net/netip"
	"time"
)

// Session is one connected client as of the time of a Snapshot.
type Session struct {
	ID       string // UUID
	Endpoint string // id
	// User is the name of the user or the common name of the client's
	// certificate; UserID is empty with certificates.
	User, UserID string
	VirtualIP    netip.Addr
	VirtualIPv6  netip.Addr // the zero Addr where the endpoint has no Pool6
	// ClientKey is the id of the key of the client's profile, in hexadecimal digits
	// (wire.ClientKeyID); empty without TLSCryptV2Key.
	ClientKey   string
	Remote      netip.AddrPort
	Established time.Time
	// Inbound is what came from the client, Outbound what went to it: inner IP
	// packets and their octets.
	Inbound, Outbound Traffic
}

// Traffic counts inner packets.
type Traffic struct{ Packets, Octets uint64 }

// EventKind is what happened to a session.
type EventKind int

// Kinds of events.
const (
	EventConnected EventKind = iota + 1
	EventDisconnected
	EventAuthFailed
)

// Event is a fact for the connection log.
type Event struct {
	Kind    EventKind
	Time    time.Time
	Session Session // counters are final in EventDisconnected
	// Reason says why, for people, in terms of what to change: "wrong
	// password", "certificate expired on 2024-06-19", "disconnected by the
	// operator".
	Reason string
}

// EndpointStatus tells how an endpoint does.
type EndpointStatus struct {
	ID       string
	Err      error // why it does not serve, nil when it does
	Sessions []Session
	Drops    map[string]uint64 // dropped packets by reason

	// Since the endpoint was started: logins, those that were turned down by
	// reason, and the traffic of all sessions, which have ended or not.
	Logins            uint64
	LoginFailures     map[string]uint64
	Inbound, Outbound Traffic
}
