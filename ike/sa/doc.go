// Package sa is the IKEv2 protocol machine (RFC 7296): what one peer and we do
// about one IKE SA, its successor while it is rekeyed, and all its CHILD_SAs.
//
// A Machine is pure. Datagrams, commands and the time come in; ordered actions
// come out, and the caller performs them in that order:
//
//	          Handle(now, datagram)  ┐            ┌ Send
//	caller ── Do(now, command)       ├─ Machine ──┤ AddSA, UpdateSA, DeleteSA
//	          Timeout(now)           ┘            │ AddPolicy, DeletePolicy
//	          Deadline() → next Timeout           └ Emit (event, diagnosis)
//
// It opens no socket, reads no clock, starts no goroutine and writes no log.
// One goroutine owns one Machine. Randomness, SPIs and the configuration of
// unknown initiators come from Env.
//
// Before authentication bad input can only be dropped: it is counted with its
// reason, and changes nothing. After it, a protocol error carries the notify
// to send and a Diagnosis: what we had, what the peer had, and the parameter
// that differs.
package sa
