// Package control holds what the control plane knows: the objects gateway,
// customer gateway and connection, their defaults, rules and states, the
// inventory of the cloud around them, and the Service that the API calls.
//
// An object has a specification and a status, kept under different keys. The
// specification is written by the Service only, the status by the reconciler
// only, so neither overwrites the other:
//
//	api ── Service ──▶ spec (Generation n) ──▶ reconcile ──▶ engines
//	        ▲                                     │
//	        └───── state(spec, status) ◀── status (Observed n)
//
// The state that users see is derived from both: as long as the reconciler has
// not observed the latest generation, the object is PENDING_CREATE,
// PENDING_UPDATE or, once its deletion was asked for, PENDING_DELETE.
//
// The package speaks the words of the API and of RFC 4301 and 7296, opens no
// socket and imports none of the engines.
package control
