// Package nqa measures network quality: it sends ICMP echo requests (RFC 792)
// to targets all the time, and tells whether they answer, how fast, and how
// many requests were lost.
//
//	Apply ──▶ targets ──▶ probes, each target once an interval ──▶ Socket
//	              ▲                                                  │
//	Snapshot ◀────┴────────────── replies, by token ◀────────────────┘
//
// A target has one request under way at most; it is lost when no reply has come
// by the time of the next one. A reply counts when it carries the target's
// random token and comes from where the request went, so nobody who does not
// see the requests can forge one.
package nqa
