package reconcile

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// party is what a remedy is for: a connection and how both its ends are known.
type party struct {
	connection      *control.Connection
	localID, peerID string     // in effect
	local, peer     netip.Addr // as the other end sees them; peer is invalid while unknown
}

// diagnose tells a failure in the words of the API, with the smallest change on
// either side that ends it.
func (p *party) diagnose(e *sa.Event) *control.Diagnosis {
	d := e.Diagnosis
	if d == nil {
		return nil
	}
	out := &control.Diagnosis{
		Cause: string(d.Code()), Exchange: d.Exchange, BegunBy: side(e.Initiator),
		Parameter: d.Parameter, Ours: printable(d.Ours), Theirs: printable(d.Theirs), Detail: printable(d.Detail),
	}
	if remedy := remedies[d.Code()]; remedy != nil {
		remedy(p, d, out)
	}
	for _, list := range [][]control.Remedy{out.Changes, out.PeerChanges} {
		for i := range list {
			list[i].From, list[i].To = printable(list[i].From), printable(list[i].To)
		}
	}
	return out
}

// remedies fill in the changes, by cause. Causes that no change of a
// configuration ends are not there.
var remedies = map[sa.Cause]func(*party, *sa.Diagnosis, *control.Diagnosis){
	sa.CauseIKEProposal:    (*party).ofProposals,
	sa.CauseIKEGroup:       (*party).ofProposals,
	sa.CauseChildProposal:  (*party).ofProposals,
	sa.CausePFS:            (*party).ofProposals,
	sa.CauseAdditional:     (*party).ofAdditional,
	sa.CausePPK:            (*party).ofPPK,
	sa.CauseUnknownToPeer:  (*party).ofUnknown,
	sa.CausePSK:            (*party).ofPSK,
	sa.CausePeerID:         (*party).ofPeerID,
	sa.CauseLocalID:        (*party).ofLocalID,
	sa.CauseKeyOrIdentity:  (*party).ofKeyOrIdentity,
	sa.CauseAuthMethod:     (*party).ofAuthMethod,
	sa.CauseSelectors:      (*party).ofSelectors,
	sa.CauseSwapped:        (*party).ofMirror,
	sa.CauseMirrored:       (*party).ofMirror,
	sa.CauseSinglePair:     (*party).ofSinglePair,
	sa.CauseNegotiatedAway: (*party).ofMirror,
	sa.CauseVersion:        (*party).ofVersion,
	sa.CauseMode:           (*party).ofMode,
	sa.CauseEncapsulation:  (*party).ofEncapsulation,
	sa.CauseUnreachable:    (*party).ofUnreachable,
	sa.CauseUDP4500:        (*party).ofUDP4500,
	sa.CauseFragments:      (*party).ofFragments,
	sa.CauseUnknownPeer:    (*party).ofUnknownPeer,
	sa.CauseTrust:          (*party).ofTrust,
	sa.CauseOwnTrust:       (*party).ofOwnTrust,
	sa.CauseValidity:       (*party).ofValidity,
	sa.CauseOwnValidity:    (*party).ofOwnValidity,
	sa.CauseKeyUsage:       (*party).ofKeyUsage,
	sa.CauseSubject:        (*party).ofSubject,
	sa.CauseEnvelope:       (*party).ofEnvelope,
	sa.CauseInitiator:      (*party).ofInitiator,
}

// Values of the API, the strongest first. Of equally small changes the one that
// comes first is proposed.
var (
	rankedEncryptions   = []string{"aes-256-gcm-16", "chacha20-poly1305", "aes-128-gcm-16", "aes-256", "aes-192", "aes-128", "3des"}
	rankedIntegrities   = []string{"sha2-512", "sha2-384", "sha2-256", "sha1", "md5"}
	rankedGroups        = []string{"group21", "group20", "group31", "group19", "group16", "group15", "group14", "group5", "group2", "group1"}
	rankedGroupsOfPFS   = append(slices.Clone(rankedGroups), string(control.PFSDisable))
	fieldsOfIKEPolicy   = [3]string{"ikepolicy.encryption_algorithm", "ikepolicy.authentication_algorithm", "ikepolicy.dh_group"}
	fieldsOfIPsecPolicy = [3]string{"ipsecpolicy.encryption_algorithm", "ipsecpolicy.authentication_algorithm", "ipsecpolicy.pfs"}
)

func (p *party) ofProposals(d *sa.Diagnosis, out *control.Diagnosis) {
	o := d.Offers
	if o == nil {
		return
	}
	c := p.connection
	if o.Of == sa.OfferIKE || o.Of == sa.OfferPhase1 {
		out.Changes = algorithms(o, fieldsOfIKEPolicy, [3]string{string(c.IKE.Encryption), string(c.IKE.Authentication), string(c.IKE.Group)},
			[3][]string{rankedEncryptions, rankedIntegrities, rankedGroups}, ikeProposalWith(c.IKE))
	} else {
		out.Changes = algorithms(o, fieldsOfIPsecPolicy, [3]string{string(c.IPsec.Encryption), string(c.IPsec.Authentication), string(c.IPsec.PFS)},
			[3][]string{rankedEncryptions, rankedIntegrities, rankedGroupsOfPFS}, espProposalWith(c.IPsec))
	}
	out.PeerChanges = peerAlgorithms(o)
}

// proposalWith makes the proposal of a policy with other algorithms.
type proposalWith func(encryption, authentication, group string) (ipsec.Proposal, error)

func ikeProposalWith(k control.IKEPolicy) proposalWith {
	return func(encryption, authentication, group string) (ipsec.Proposal, error) {
		k.Encryption, k.Authentication, k.Group = control.Encryption(encryption), control.Authentication(authentication), control.Group(group)
		return ikeProposal(&k)
	}
}

func espProposalWith(k control.IPsecPolicy) proposalWith {
	return func(encryption, authentication, group string) (ipsec.Proposal, error) {
		k.Encryption, k.Authentication, k.PFS = control.Encryption(encryption), control.Authentication(authentication), control.Group(group)
		return espProposal(&k)
	}
}

// ofAdditional has the additional key exchange of one end be that of the other.
func (p *party) ofAdditional(d *sa.Diagnosis, out *control.Diagnosis) {
	o := d.Offers
	if o == nil {
		return
	}
	ike, child := p.connection.IKE, p.connection.IPsec
	have, field := &ike.Additional, "ikepolicy.additional_key_exchange"
	proposal := func() (ipsec.Proposal, error) { return ikeProposal(&ike) }
	if o.Of != sa.OfferIKE {
		have, field = &child.Additional, "ipsecpolicy.additional_key_exchange"
		proposal = func() (ipsec.Proposal, error) { return espProposal(&child) }
	}
	from, to := control.NoAdditional, control.MLKEM768
	if have.Given() {
		from, to = to, from
	}
	*have = to
	if changed, err := proposal(); err == nil && o.Accepts(changed) {
		out.Changes = []control.Remedy{{Field: field, From: string(from), To: string(to)}}
	}
	out.PeerChanges = peerAlgorithms(o)
}

func (p *party) ofPPK(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.AnyOf = true
	out.Changes = []control.Remedy{
		{Field: "ppk", To: keyOfPeer},
		{Field: "ikepolicy.ppk_id", From: p.connection.IKE.PPKID, To: "that of the peer's key"},
	}
	if p.connection.IKE.PPKRequired {
		out.Changes = append(out.Changes, control.Remedy{Field: "ikepolicy.ppk_required", From: "true", To: "false"})
	}
	out.PeerChanges = []control.Remedy{{Field: "post-quantum pre-shared key and its id", To: keyOfOurs}}
}

// peerAlgorithms are the fewest algorithms that have to change at the peer.
func peerAlgorithms(o *sa.Offers) (changes []control.Remedy) {
	amendments, known := o.PeerAmendments()
	for _, a := range amendments {
		changes = append(changes, control.Remedy{
			Field: transformField(o.Of, a.Type), From: ipsec.TransformList(a.Have), To: ipsec.TransformList(a.Want),
		})
	}
	if !known {
		return []control.Remedy{{Field: "proposal", To: ipsec.List(o.Ours, "; ")}}
	}
	return changes
}

// transformField is what a type of algorithm is called at the peer.
func transformField(of sa.OfferKind, t ipsec.TransformType) string {
	switch {
	case of == sa.OfferPhase1 && t == ipsec.TransformPRF:
		return "hash algorithm"
	case of != sa.OfferPhase1 && of != sa.OfferIKE && t == ipsec.TransformGroup:
		return "PFS group"
	}
	return t.String()
}

// algorithms returns the fewest fields of a policy that have to change so that
// the peer's offer is agreed with; none when no values of the API do that.
func algorithms(o *sa.Offers, fields, have [3]string, values [3][]string, proposal proposalWith) []control.Remedy {
	var best []control.Remedy
	tries := [3][]string{}
	for i := range tries {
		tries[i] = append([]string{have[i]}, values[i]...)
	}
	for _, encryption := range tries[0] {
		for _, authentication := range tries[1] {
			for _, group := range tries[2] {
				var changes []control.Remedy
				for i, to := range [3]string{encryption, authentication, group} {
					if to != have[i] {
						changes = append(changes, control.Remedy{Field: fields[i], From: have[i], To: to})
					}
				}
				if len(changes) == 0 || best != nil && len(changes) >= len(best) {
					continue
				}
				if p, err := proposal(encryption, authentication, group); err == nil && o.Accepts(p) {
					best = changes
				}
			}
		}
	}
	return best
}

func (p *party) ofUnknown(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.PeerChanges = []control.Remedy{{Field: "remote address", To: p.local.String()}}
}

// Texts in the place of a key.
const (
	keyOfPeer = "that of the peer"
	keyOfOurs = "that of the connection"
)

func (p *party) ofPSK(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.Changes = []control.Remedy{{Field: "psk", To: keyOfPeer}}
	out.PeerChanges = []control.Remedy{{Field: "pre-shared key", To: keyOfOurs}}
}

func (p *party) ofPeerID(d *sa.Diagnosis, out *control.Diagnosis) {
	k := &p.connection.IKE
	out.Changes = identityChanges("ikepolicy.peer_id", string(k.PeerIDType), p.peerID, d.Identity)
	out.PeerChanges = []control.Remedy{{Field: "local identity", From: d.Theirs, To: d.Ours}}
}

func (p *party) ofLocalID(d *sa.Diagnosis, out *control.Diagnosis) {
	k := &p.connection.IKE
	out.Changes = identityChanges("ikepolicy.local_id", string(k.LocalIDType), p.localID, d.Identity)
	out.PeerChanges = []control.Remedy{{Field: "remote identity", From: d.Theirs, To: d.Ours}}
}

// identityChanges returns what makes an identity of ours be another one; none
// where that is not known or the API has no such type.
func identityChanges(field, haveType, have string, want sa.Identity) (changes []control.Remedy) {
	kind, value, ok := identityInAPI(want)
	if !ok {
		return nil
	}
	if kind != haveType {
		changes = append(changes, control.Remedy{Field: field + "_type", From: haveType, To: kind})
	}
	if value != have {
		changes = append(changes, control.Remedy{Field: field, From: have, To: value})
	}
	return changes
}

func (p *party) ofKeyOrIdentity(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.AnyOf = true
	out.Changes = []control.Remedy{
		{Field: "psk", To: keyOfPeer},
		{Field: "ikepolicy.local_id", From: p.localID, To: "what the peer expects"},
		{Field: "ikepolicy.peer_id", From: p.peerID, To: "what the peer calls itself"},
	}
	out.PeerChanges = []control.Remedy{
		{Field: "pre-shared key", To: keyOfOurs}, {Field: "remote identity", To: p.localID}, {Field: "local identity", To: p.peerID},
	}
}

func (p *party) ofAuthMethod(d *sa.Diagnosis, out *control.Diagnosis) {
	out.PeerChanges = []control.Remedy{{Field: "authentication method", From: d.Theirs, To: d.Ours}}
}

// fromPeer is a flow as the peer sees it.
func fromPeer(f sa.Flow) string { return sa.Flow{Local: f.Remote, Remote: f.Local}.String() }

// closest returns which of our flows has most in common with the peer's.
func closest(f *sa.Flows) int {
	best, most := 0, -1
	for i, o := range f.Ours {
		common := 0
		for _, lists := range [][2][]ipsec.TrafficSelector{{o.Local, f.Theirs.Local}, {o.Remote, f.Theirs.Remote}} {
			if len(ipsec.Narrow(lists[0], lists[1])) > 0 {
				common++
			}
		}
		if common > most {
			best, most = i, common
		}
	}
	return best
}

func (p *party) ofSelectors(d *sa.Diagnosis, out *control.Diagnosis) {
	p.ofMirror(d, out)
	f := d.Flows
	c := p.connection
	if f == nil || len(f.Theirs.Local) == 0 || len(f.Ours) == 0 || c.Style != control.StylePolicy {
		return
	}
	// The rule that is closest gets the side of the peer's selectors that it lacks.
	ours := f.Ours[closest(f)]
	for i, rule := range c.PolicyRules {
		if !slices.Equal(ours.Local, selectorsOf(rule.Source)) || !ipsec.Covers(selectorsOf(rule.Destinations...), ours.Remote) {
			continue
		}
		place := "policy_rules[" + strconv.Itoa(i) + "]."
		source, destination := networks(f.Theirs.Local), networks(f.Theirs.Remote)
		if have := []netip.Prefix{rule.Source.Masked()}; len(source) == 1 && !p.fits(ours.Local, f.Theirs.Local) {
			out.Changes = append(out.Changes, control.Remedy{Field: place + "source", From: prefixList(have), To: prefixList(source)})
		}
		if !p.fits(ours.Remote, f.Theirs.Remote) {
			if len(rule.Destinations) > 1 { // the others go on
				destination = append(slices.Clone(rule.Destinations), destination...)
			}
			out.Changes = append(out.Changes, control.Remedy{Field: place + "destination", From: prefixList(rule.Destinations), To: prefixList(destination)})
		}
		return
	}
}

func selectorsOf(list ...netip.Prefix) []ipsec.TrafficSelector {
	selectors := make([]ipsec.TrafficSelector, len(list))
	for i, p := range list {
		selectors[i] = ipsec.SelectorFromPrefix(p)
	}
	return selectors
}

// fits reports whether our selectors of one side do for the peer's: in IKEv1 they
// have to be equal.
func (p *party) fits(ours, theirs []ipsec.TrafficSelector) bool {
	if p.connection.IKE.Version == control.IKEv1 {
		return slices.Equal(ours, theirs)
	}
	return len(ipsec.Narrow(ours, theirs)) > 0
}

func prefixList(list []netip.Prefix) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}

// ofMirror asks the peer for the mirror image of ours.
func (p *party) ofMirror(d *sa.Diagnosis, out *control.Diagnosis) {
	f := d.Flows
	if f == nil || len(f.Ours) == 0 {
		return
	}
	change := control.Remedy{Field: "traffic selectors", To: fromPeer(f.Ours[closest(f)])}
	if len(f.Theirs.Local) > 0 {
		change.From = fromPeer(f.Theirs)
	}
	out.PeerChanges = []control.Remedy{change}
}

func (p *party) ofSinglePair(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.PeerChanges = []control.Remedy{{Field: "traffic selectors of one CHILD_SA", From: "one pair", To: "several"}}
}

func (p *party) ofVersion(_ *sa.Diagnosis, out *control.Diagnosis) {
	c := p.connection
	to := control.IKEv1
	if c.IKE.Version == control.IKEv1 {
		to = control.IKEv2
	}
	out.Changes = []control.Remedy{{Field: "ikepolicy.ike_version", From: string(c.IKE.Version), To: string(to)}}
	if to == control.IKEv1 && c.IKE.Encryption.IsAEAD() {
		// The API has AEADs for the IKE SA in IKEv2 only.
		plain, _, gcm := strings.Cut(string(c.IKE.Encryption), "-gcm")
		if !gcm {
			plain = string(control.AES256)
		}
		out.Changes = append(out.Changes, control.Remedy{Field: "ikepolicy.encryption_algorithm", From: string(c.IKE.Encryption), To: plain})
	}
	out.PeerChanges = []control.Remedy{{Field: "IKE version", From: string(to), To: string(c.IKE.Version)}}
}

func (p *party) ofMode(_ *sa.Diagnosis, out *control.Diagnosis) {
	have, other := p.connection.IKE.NegotiationMode, control.ModeAggressive
	if have == control.ModeAggressive {
		other = control.ModeMain
	}
	out.Changes = []control.Remedy{{Field: "ikepolicy.phase1_negotiation_mode", From: have, To: other}}
	out.PeerChanges = []control.Remedy{{Field: "mode of phase 1", From: other, To: have}}
}

func (p *party) ofEncapsulation(d *sa.Diagnosis, out *control.Diagnosis) {
	change := control.Remedy{Field: d.Parameter, From: d.Theirs, To: d.Ours}
	if d.Parameter == "UDP encapsulation" {
		change = control.Remedy{Field: "NAT traversal", From: "off", To: "on"}
	}
	out.PeerChanges = []control.Remedy{change}
}

// between names both ends of a way that a firewall stands on.
func (p *party) between() string {
	if !p.peer.IsValid() {
		return p.local.String() + " and the peer"
	}
	return p.local.String() + " and " + p.peer.String()
}

func (p *party) ofUnreachable(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.AnyOf = true
	if p.peer.IsValid() {
		out.Changes = []control.Remedy{{Field: "cgw_id", To: "a customer gateway with the address that the peer really has, if it is not " + p.peer.String()}}
	}
	out.PeerChanges = []control.Remedy{
		{Field: "remote address", To: p.local.String()},
		{Field: "firewall", To: "pass UDP ports 500 and 4500 between " + p.between()},
	}
}

func (p *party) ofUDP4500(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.PeerChanges = []control.Remedy{{Field: "firewall", To: "pass UDP port 4500 between " + p.between()}}
}

func (p *party) ofFragments(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.AnyOf = true
	out.PeerChanges = []control.Remedy{
		{Field: "fragmentation of IKE messages (RFC 7383)", To: "on"},
		{Field: "firewall", To: "pass IP fragments between " + p.between()},
	}
}

func (p *party) ofUnknownPeer(d *sa.Diagnosis, out *control.Diagnosis) {
	if d.Theirs != "" && p.peer.IsValid() {
		out.Changes = []control.Remedy{{Field: "cgw_id", From: "customer gateway " + p.peer.String(), To: "customer gateway " + d.Theirs}}
	}
}

// identityInAPI returns an identity in the words of the API; ok is false where it
// has none.
func identityInAPI(id sa.Identity) (kind, value string, ok bool) {
	for _, kind := range []control.IDType{control.IDTypeIP, control.IDTypeFQDN} {
		value := id.Value()
		if again, err := identity(kind, value); err == nil && again == id {
			return string(kind), value, true
		}
	}
	return "", "", false
}
