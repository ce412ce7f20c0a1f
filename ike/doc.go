// Package ike is the key exchange server: it runs the machines of package sa
// and performs their actions on a data plane and on the network.
//
//	Transport ── Deliver ──► demux by SPI ──► peer ──► sa.Machine
//	                 │                         ▲  │
//	                 │ IKE_SA_INIT             │  └─ actions, in order:
//	                 ▼                         │     Transport, ipsec.Backend,
//	             admission ──► workers ────────┤     Events, Snapshot
//	      (cookies, limits)    (DH)            │
//	      Apply ──► connection ────────────────┘
//	             (keeps up, retries, replaces duplicates)
//
// Each machine has a peer, which alone touches it, from one goroutine at a time. All
// that reaches a peer goes through its mailbox, which starts that goroutine; it ends
// when nothing is left to do, so that an idle peer has none. What peers share (the tables of
// SPIs, SAs and connections) is under the mutex of Server; no call of the
// Backend, the Transport or a machine is made under it. Policies, which
// machines share while one replaces another, have a table with a mutex of its
// own (policy.go).
//
// Nothing that an unauthenticated peer can cause is without a bound: see
// Limits. It changes nothing but counters and half-open SAs.
package ike
