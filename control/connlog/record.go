package connlog

import (
	"encoding/json"
	"net/netip"
	"strings"
	"time"
)

// Event is what a record tells of.
type Event string

// Events.
const (
	Connected            Event = "connected"
	Disconnected         Event = "disconnected"
	AuthenticationFailed Event = "authentication_failed"
)

// Record is one line of the log. Absent members do not apply to the event.
type Record struct {
	Time        time.Time  `json:"time"`
	Event       Event      `json:"event"`
	Project     string     `json:"project_id,omitempty"`
	Gateway     string     `json:"p2c_vgw_id"`
	Server      string     `json:"vpn_server_id"`
	Connection  string     `json:"connection_id,omitempty"`
	User        string     `json:"client_user_name,omitempty"`
	ClientIP    netip.Addr `json:"client_ip,omitzero"`
	VirtualIP   netip.Addr `json:"client_virtual_ip,omitzero"`
	VirtualIPv6 netip.Addr `json:"client_virtual_ip_v6,omitzero"`
	ClientKey   string     `json:"client_key_id,omitempty"`
	Reason      string     `json:"reason,omitempty"`

	// Traffic of the connection; inbound is from the client. Bytes are octets.
	InboundPackets  uint64 `json:"inbound_packets,omitzero"`
	OutboundPackets uint64 `json:"outbound_packets,omitzero"`
	InboundBytes    uint64 `json:"inbound_bytes,omitzero"`
	OutboundBytes   uint64 `json:"outbound_bytes,omitzero"`
}

// maxText bounds the members that clients choose, in octets.
const maxText = 256

// line returns the record as one line of JSON, without its end.
func (r *Record) line() []byte {
	bounded := *r
	bounded.Time = r.Time.UTC().Truncate(time.Millisecond)
	bounded.User, bounded.Reason = cut(r.User), cut(r.Reason)
	text, err := json.Marshal(bounded)
	if err != nil { // of no member is there a value without an encoding
		return []byte("{}")
	}
	return text
}

func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "")
}
