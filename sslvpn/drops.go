package sslvpn

import "sync/atomic"

// reason says why a packet of the data channel was dropped.
type reason uint8

const (
	reasonNone reason = iota
	reasonTruncated
	reasonUnknownKey
	reasonEpoch
	reasonReplay
	reasonIntegrity
	reasonExhausted
	reasonCompressed
	reasonMalformed
	reasonFamily
	reasonSource
	reasonDenied
	reasonIsolated
	reasonBandwidth
	reasonNoClient
	reasonNoKey
	reasonQueueFull
	reasonSend
	reasonWrite
	reasonCount
)

// reasonNames are the words of EndpointStatus.Drops.
var reasonNames = [reasonCount]string{
	reasonTruncated:  "truncated",   // in: shorter than its headers
	reasonUnknownKey: "unknown_key", // in: no key of this key id
	reasonEpoch:      "epoch",       // in: of an epoch that is over, or too far ahead
	reasonReplay:     "replay",      // in: packet id seen before, or left of the window
	reasonIntegrity:  "integrity",   // in: the tag does not verify
	reasonExhausted:  "exhausted",   // the key is used up; new ones are on the way
	reasonCompressed: "compressed",  // in: the client compresses, which is not spoken here
	reasonMalformed:  "malformed",   // headers of the inner packet contradict themselves
	reasonFamily:     "family",      // in: not IP, or of IPv6 where the client has no address of it
	reasonSource:     "source",      // in: the source is not the client's virtual address
	reasonDenied:     "denied",      // the access policies do not allow the other end
	reasonIsolated:   "isolated",    // the other end is another client
	reasonBandwidth:  "bandwidth",   // above the endpoint's bandwidth
	reasonNoClient:   "no_client",   // out: no client has the destination address
	reasonNoKey:      "no_key",      // out: the client has no key to send with yet
	reasonQueueFull:  "queue_full",  // out: the client does not take packets fast enough
	reasonSend:       "send",        // out: refused by the socket
	reasonWrite:      "write",       // in: refused by the TUN device
}

// String returns the word for metrics.
func (r reason) String() string { return reasonNames[r] }

// drops count dropped packets by reason.
type drops [reasonCount]atomic.Uint64

func (d *drops) add(r reason, n int) { d[r].Add(uint64(n)) }

// snapshot returns the counts that are not zero.
func (d *drops) snapshot() map[string]uint64 {
	m := map[string]uint64{}
	for r := range d {
		if n := d[r].Load(); n != 0 {
			m[reason(r).String()] = n
		}
	}
	return m
}
