package sa

// dropReason is why a message came to nothing. The set is closed, so that no
// peer can make the counters grow.
type dropReason uint8

const (
	dropMalformed dropReason = iota
	dropMalformedInit
	dropUnknownSPI
	dropNoResponseDue
	dropResponsePlain
	dropPlain
	dropIntegrity
	dropOutOfWindow
	dropDeletedSA
	dropUnauthenticated
	dropAuthAgain
	dropInitOutOfPlace
	dropInitRounds
	dropCookie
	dropGroup
	dropRekeyIKE
	dropRedirect
	dropFragment
	dropFragmentNotAgreed
	dropFragmentsIncomplete
	// Of IKEv1.
	dropExchange
	dropPhase1OutOfPlace
	dropPhase1Refused
	dropQuickModes
	// Defects of this package.
	dropDefectIKEState
	dropDefectChildState
	dropDefectAnswer

	dropReasons // how many there are
)

var dropNames = [dropReasons]string{
	dropMalformed:           "malformed message",
	dropMalformedInit:       "malformed IKE_SA_INIT response",
	dropUnknownSPI:          "unknown SPI",
	dropNoResponseDue:       "response to nothing",
	dropResponsePlain:       "response without protection",
	dropPlain:               "message without protection",
	dropIntegrity:           "integrity check failed",
	dropOutOfWindow:         "request out of window",
	dropDeletedSA:           "request on a deleted IKE SA",
	dropUnauthenticated:     "request before authentication",
	dropAuthAgain:           "IKE_AUTH after authentication",
	dropInitOutOfPlace:      "IKE_SA_INIT request out of place",
	dropInitRounds:          "too many rounds of IKE_SA_INIT",
	dropCookie:              "cookie refused",
	dropGroup:               "group refused",
	dropRekeyIKE:            "rekey of the IKE SA refused",
	dropRedirect:            "redirect refused",
	dropFragment:            "fragment refused",
	dropFragmentNotAgreed:   "fragment without agreement",
	dropFragmentsIncomplete: "fragments incomplete",
	dropExchange:            "exchange not supported",
	dropPhase1OutOfPlace:    "message of phase 1 out of place",
	dropPhase1Refused:       "message of phase 1 refused",
	dropQuickModes:          "too many quick modes",
	dropDefectIKEState:      "defect: impossible step of an IKE SA",
	dropDefectChildState:    "defect: impossible step of a CHILD_SA",
	dropDefectAnswer:        "defect: answer not encodable",
}

func (m *core) drop(reason dropReason) {
	if m.drops == nil {
		m.drops = &[dropReasons]uint64{}
	}
	m.drops[reason]++
}

// Drops returns how many messages were dropped, by reason. The reasons are a
// closed set. It is nil where there were none.
func (m *core) Drops() map[string]uint64 {
	if m.drops == nil {
		return nil
	}
	counts := map[string]uint64{}
	for reason, n := range m.drops {
		if n > 0 {
			counts[dropNames[reason]] = n
		}
	}
	return counts
}
