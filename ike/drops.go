package ike

import (
	"maps"
	"sync"
)

// Reasons to drop, beside those of the machines.
const (
	dropNotRunning     = "server not running"
	dropMalformed      = "malformed header"
	dropVersion        = "unsupported major version"
	dropLargeInit      = "IKE_SA_INIT request too large"
	dropUnknownSPI     = "unknown SPI"
	dropNoConnection   = "no connection for the addresses"
	dropCookieDue      = "cookie asked for"
	dropStrangers      = "too many strangers ask for a cookie"
	dropHalfOpen       = "too many half-open SAs"
	dropDisplaced      = "half-open SA displaced by a newer one"
	dropBusy           = "too many requests wait"
	dropMailboxFull    = "mailbox full"
	dropPanic          = "internal error"
	dropEventLost      = "event lost"
	dropUntold         = "event of an unproven initiator withheld"
	dropSendFailed     = "sending failed"
	dropRefusedRequest = "IKE_SA_INIT refused"
)

// dropCounter counts by reason. Reasons are a closed set, so it is bounded.
type dropCounter struct {
	mu     sync.Mutex
	counts map[string]uint64
}

func (d *dropCounter) add(reason string, n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[reason] += n
}

func (d *dropCounter) snapshot() map[string]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.counts)
}
