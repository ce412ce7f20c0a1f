package sslvpn

import (
	"maps"
	"sync"
)

// controlDrop says why a packet of the control channel, or what came before
// one, was dropped.
type controlDrop string

const (
	dropMalformed   controlDrop = "control_malformed"      // no control packet
	dropWrap        controlDrop = "tls_crypt"              // not wrapped with the endpoint's key
	dropRevoked     controlDrop = "client_key_revoked"     // wrapped with the key of a revoked profile
	dropSessionID   controlDrop = "control_session_id"     // of another session
	dropKeyID       controlDrop = "control_key_id"         // of no key that is in use
	dropUnexpected  controlDrop = "control_unexpected"     // not now
	dropWindow      controlDrop = "control_window"         // too far ahead
	dropEnded       controlDrop = "control_ended"          // the session has ended
	dropTooOften    controlDrop = "renegotiation_too_soon" // soft resets
	dropNegotiation controlDrop = "renegotiation_failed"   // begun by the client
	dropMessage     controlDrop = "control_message"        // text that means nothing to a server
	dropHalfOpen    controlDrop = "half_open_limit"        // too many clients before their login
	dropNotOpenVPN  controlDrop = "not_openvpn"            // TCP: no first packet
	dropSlow        controlDrop = "first_packet_timeout"   // TCP: no first packet in time
	dropCookie      controlDrop = "cookie"                 // UDP: no session, and no cookie of ours
	dropResetRate   controlDrop = "reset_rate"             // UDP: resets that were not answered
	dropMove        controlDrop = "move"                   // UDP: to another address, too soon or to another client's
	dropHandshake   controlDrop = "handshake_failed"       // before a login
	dropPanic       controlDrop = "internal_error"         // in a negotiation
	dropSharedLimit controlDrop = "shared_limit"           // TCP: for another server, which has enough of them
	dropSharedDial  controlDrop = "shared_unreachable"     // likewise, which does not answer
	dropEvent       controlDrop = "event_lost"             // nobody took it
)

// controlDrops count by reason; reasons are a closed set.
type controlDrops struct {
	mu     sync.Mutex
	counts map[controlDrop]uint64
}

func (d *controlDrops) add(why controlDrop) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts == nil {
		d.counts = map[controlDrop]uint64{}
	}
	d.counts[why]++
}

func (d *controlDrops) snapshot() map[string]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := make(map[string]uint64, len(d.counts))
	for why, n := range maps.All(d.counts) {
		m[string(why)] = n
	}
	return m
}
