package sa

import "fmt"

// State is where an IKE SA or a CHILD_SA is in its life.
//
//	         ┌──── our rekey, or successor, failed ────┐
//	         ▼                                         │
//	Connecting ──► Established ──► Rekeying ───────────┤
//	    │              │              │  successor up  │
//	    │              ├──────────────┴──► Rekeyed     │
//	    │              │                     │         │
//	    └──────────────┴──► Deleting ◄───────┴─────────┘
//	                           │
//	                           └──► Deleted
//
// Connecting: keys are not yet authenticated, or for a child, it only receives.
// Rekeyed: replaced, the peer will delete it. Deleting: our DELETE is under
// way. Deleted: gone; an IKE SA still answers repeated requests, a child still
// receives what was under way.
type State uint8

// States.
const (
	Connecting State = iota + 1
	Established
	Rekeying
	Rekeyed
	Deleting
	Deleted
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Established:
		return "established"
	case Rekeying:
		return "rekeying"
	case Rekeyed:
		return "rekeyed"
	case Deleting:
		return "deleting"
	case Deleted:
		return "deleted"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// follows reports whether an SA may go from one state to the next.
func (s State) follows(from State) bool {
	switch from {
	case Connecting:
		return s == Established || s == Rekeyed || s == Deleting || s == Deleted
	case Established:
		return s == Rekeying || s == Rekeyed || s == Deleting || s == Deleted
	case Rekeying:
		return s == Established || s == Rekeyed || s == Deleting || s == Deleted
	case Rekeyed:
		return s == Established || s == Deleting || s == Deleted
	case Deleting:
		return s == Deleted
	case Deleted:
	}
	return false
}
