package control

import "strings"

// Diagnosis says why a negotiation failed or a tunnel ended, and by which changes
// both sides agree.
type Diagnosis struct {
	Cause     string `json:"cause,omitempty"`    // code; docs/troubleshooting.md has an entry for each
	Exchange  string `json:"exchange,omitempty"` // "IKE_SA_INIT", "main mode", …
	BegunBy   Side   `json:"begun_by,omitempty"` // who asked for what was refused
	Parameter string `json:"parameter"`
	Ours      string `json:"ours"`
	Theirs    string `json:"theirs"` // empty where the peer did not say
	Detail    string `json:"detail,omitempty"`

	// Changes are the fewest fields of the API by which both sides agree, and
	// PeerChanges what would do instead at the peer. With AnyOf one of either
	// list is at fault, and which was not told.
	Changes     []Remedy `json:"changes,omitempty"`
	PeerChanges []Remedy `json:"peer_changes,omitempty"`
	AnyOf       bool     `json:"any_of,omitempty"`
}

// Side is one end of a tunnel.
type Side string

// Sides.
const (
	OurSide  Side = "gateway"
	PeerSide Side = "peer"
)

// Remedy is one value to be changed.
type Remedy struct {
	Field string `json:"field"` // of the API, such as "ikepolicy.dh_group"; at the peer, its usual name
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
}

// String reads "ikepolicy.dh_group: group14 → group19".
func (r Remedy) String() string {
	switch {
	case r.From == "" && r.To == "":
		return r.Field
	case r.From == "":
		return r.Field + ": " + r.To
	case r.To == "":
		return r.Field + ": remove " + r.From
	}
	return r.Field + ": " + r.From + " → " + r.To
}

// Remedies reads "here ikepolicy.dh_group: group19 → group15; or at the peer DH
// group: MODP-3072 (group 15) → ECP-256 (group 19)". It is empty when no change
// is known to help.
func (d *Diagnosis) Remedies() string {
	separator := ", "
	if d.AnyOf {
		separator = ", or "
	}
	list := func(of []Remedy) string {
		texts := make([]string, len(of))
		for i, r := range of {
			texts[i] = r.String()
		}
		return strings.Join(texts, separator)
	}
	switch {
	case len(d.Changes) == 0 && len(d.PeerChanges) == 0:
		return ""
	case len(d.Changes) == 0:
		return "at the peer " + list(d.PeerChanges)
	case len(d.PeerChanges) == 0:
		return "here " + list(d.Changes)
	}
	return "here " + list(d.Changes) + "; or at the peer " + list(d.PeerChanges)
}
