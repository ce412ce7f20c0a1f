package reconcile

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// suite is the algorithms of one policy.
type suite [3]string

func anySuite(r *rand.Rand, groups []string) suite {
	one := func(list []string) string { return list[r.IntN(len(list))] }
	return suite{one(rankedEncryptions), one(rankedIntegrities), one(groups)}
}

// apply makes the changes of a diagnosis, as the API would.
func (s suite) apply(t *testing.T, fields [3]string, changes []control.Remedy) suite {
	t.Helper()
	for _, c := range changes {
		found := false
		for i, field := range fields {
			if field == c.Field {
				if s[i] != c.From {
					t.Errorf("%v is not %s", s, c)
				}
				s[i], found = c.To, true
			}
		}
		if !found {
			t.Errorf("%s is none of %v", c, fields)
		}
	}
	return s
}

// Whatever the peer offers of what the API knows, applying the changes makes both
// sides agree, and no fewer changes do.
func TestAlgorithmChangesMakeBothSidesAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, test := range []struct {
		name     string
		of       sa.OfferKind
		fields   [3]string
		groups   []string
		proposal proposalWith
	}{
		{"IKE", sa.OfferIKE, fieldsOfIKEPolicy, rankedGroups, ikeProposalWith(control.IKEPolicy{})},
		{"CHILD_SA", sa.OfferChild, fieldsOfIPsecPolicy, rankedGroupsOfPFS, espProposalWith(control.IPsecPolicy{})},
		{"quick mode", sa.OfferQuickMode, fieldsOfIPsecPolicy, rankedGroupsOfPFS, espProposalWith(control.IPsecPolicy{})},
	} {
		for range 300 {
			have, want := anySuite(r, test.groups), anySuite(r, test.groups)
			ours, err := test.proposal(have[0], have[1], have[2])
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := test.proposal(want[0], want[1], want[2])
			if err != nil {
				t.Fatal(err)
			}
			o := sa.Offers{Of: test.of, Ours: []ipsec.Proposal{ours}, Theirs: []ipsec.Proposal{theirs}}
			if o.Accepts(ours) {
				continue
			}
			c := control.Connection{
				IKE:   control.IKEPolicy{Encryption: control.Encryption(have[0]), Authentication: control.Authentication(have[1]), Group: control.Group(have[2])},
				IPsec: control.IPsecPolicy{Encryption: control.Encryption(have[0]), Authentication: control.Authentication(have[1]), PFS: control.Group(have[2])},
			}
			p := party{connection: &c}
			d := p.diagnose(&sa.Event{Kind: sa.Failed, Diagnosis: &sa.Diagnosis{Cause: sa.CauseIKEProposal, Offers: &o}})
			differ := 0
			for i := range have {
				if have[i] != want[i] {
					differ++
				}
			}
			if len(d.Changes) == 0 || len(d.Changes) > differ {
				t.Fatalf("%s: %v toward %v by %v", test.name, have, want, d.Changes)
			}
			next := have.apply(t, test.fields, d.Changes)
			changed, err := test.proposal(next[0], next[1], next[2])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ipsec.Choose([]ipsec.Proposal{changed}, []ipsec.Proposal{theirs}); err != nil {
				t.Fatalf("%s: %v toward %v by %v: %v", test.name, have, want, d.Changes, err)
			}
			for i := range d.Changes {
				less := have.apply(t, test.fields, append(append([]control.Remedy{}, d.Changes[:i]...), d.Changes[i+1:]...))
				if p, err := test.proposal(less[0], less[1], less[2]); err == nil && o.Accepts(p) {
					t.Fatalf("%s: %v toward %v: %v is not needed", test.name, have, want, d.Changes[i])
				}
			}
			if len(d.PeerChanges) == 0 {
				t.Errorf("%s: nothing for the peer", test.name)
			}
		}
	}
}

func TestSelectorChangesMakeBothSidesAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	any := func() netip.Prefix {
		a := netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(4)), 0})
		return netip.PrefixFrom(a, 20+r.IntN(8)).Masked()
	}
	flowOf := func(local netip.Prefix, remote ...netip.Prefix) sa.Flow {
		f := sa.Flow{Local: []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(local)}}
		for _, p := range remote {
			f.Remote = append(f.Remote, ipsec.SelectorFromPrefix(p))
		}
		return f
	}
	changed := 0
	for range 500 {
		c := control.Connection{Style: control.StylePolicy, IKE: control.IKEPolicy{Version: control.IKEv2}}
		var ours []sa.Flow
		for range 1 + r.IntN(3) {
			rule := control.PolicyRule{Source: any(), Destinations: []netip.Prefix{any()}}
			c.PolicyRules = append(c.PolicyRules, rule)
			ours = append(ours, flowOf(rule.Source, rule.Destinations...))
		}
		theirs := flowOf(any(), any())
		fits := func(rules []control.PolicyRule) bool {
			for _, rule := range rules {
				if flowOf(rule.Source, rule.Destinations...).Meets(theirs) {
					return true
				}
			}
			return false
		}
		if fits(c.PolicyRules) {
			continue
		}
		p := party{connection: &c}
		d := p.diagnose(&sa.Event{Kind: sa.Failed, Diagnosis: &sa.Diagnosis{Cause: sa.CauseSelectors, Flows: &sa.Flows{Ours: ours, Theirs: theirs}}})
		if len(d.Changes) == 0 || len(d.PeerChanges) != 1 {
			t.Fatalf("changes %v, at the peer %v", d.Changes, d.PeerChanges)
		}
		for _, change := range d.Changes {
			place, member, _ := strings.Cut(change.Field, "].")
			i := int(place[len(place)-1] - '0')
			rule := &c.PolicyRules[i]
			if member == "source" {
				rule.Source = netip.MustParsePrefix(change.To)
				continue
			}
			rule.Destinations = nil
			for text := range strings.SplitSeq(change.To, ",") {
				rule.Destinations = append(rule.Destinations, netip.MustParsePrefix(text))
			}
		}
		if !fits(c.PolicyRules) {
			t.Fatalf("%v does not make %v fit", d.Changes, theirs)
		}
		changed++
	}
	if changed == 0 {
		t.Fatal("nothing was to be changed")
	}
}

func TestRemedies(t *testing.T) {
	c := control.Connection{
		Style: control.StylePolicy,
		IKE: control.IKEPolicy{
			Version: control.IKEv2, Encryption: control.AES128GCM16, Authentication: control.SHA2256, Group: control.Group19,
			LocalIDType: control.IDTypeIP, PeerIDType: control.IDTypeIP,
		},
		PolicyRules: []control.PolicyRule{{
			Source: netip.MustParsePrefix("10.0.0.0/24"), Destinations: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")},
		}},
	}
	v1 := c
	v1.IKE.Version, v1.IKE.NegotiationMode, v1.IKE.Encryption = control.IKEv1, control.ModeMain, control.AES128
	local, peer := netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("198.51.100.10")
	ours := sa.Flow{Local: []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netip.MustParsePrefix("10.0.0.0/24"))}, Remote: []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netip.MustParsePrefix("10.1.0.0/24"))}}
	swapped := sa.Flow{Local: ours.Remote, Remote: ours.Local}
	for _, test := range []struct {
		connection *control.Connection
		diagnosis  sa.Diagnosis
		want       string
	}{
		{&c, sa.Diagnosis{Cause: sa.CausePSK}, "here psk: that of the peer; or at the peer pre-shared key: that of the connection"},
		{
			&c,
			sa.Diagnosis{Cause: sa.CausePeerID, Ours: "ipv4 198.51.100.10", Theirs: "fqdn gw.example", Identity: sa.FQDNIdentity("gw.example")},
			"here ikepolicy.peer_id_type: ip → fqdn, ikepolicy.peer_id: 198.51.100.10 → gw.example; or at the peer local identity: fqdn gw.example → ipv4 198.51.100.10",
		},
		{
			&c,
			sa.Diagnosis{Cause: sa.CauseLocalID, Ours: "ipv4 203.0.113.10", Theirs: "ipv4 203.0.113.11", Identity: sa.AddressIdentity(netip.MustParseAddr("203.0.113.11"))},
			"here ikepolicy.local_id: 203.0.113.10 → 203.0.113.11; or at the peer remote identity: ipv4 203.0.113.11 → ipv4 203.0.113.10",
		},
		{
			&c,
			sa.Diagnosis{Cause: sa.CauseKeyOrIdentity},
			"here psk: that of the peer, or ikepolicy.local_id: 203.0.113.10 → what the peer expects, or ikepolicy.peer_id: 198.51.100.10 → what the peer calls itself; " +
				"or at the peer pre-shared key: that of the connection, or remote identity: 203.0.113.10, or local identity: 198.51.100.10",
		},
		{&v1, sa.Diagnosis{Cause: sa.CauseVersion}, "here ikepolicy.ike_version: v1 → v2; or at the peer IKE version: v2 → v1"},
		{
			&c,
			sa.Diagnosis{Cause: sa.CauseVersion},
			"here ikepolicy.ike_version: v2 → v1, ikepolicy.encryption_algorithm: aes-128-gcm-16 → aes-128; or at the peer IKE version: v1 → v2",
		},
		{&v1, sa.Diagnosis{Cause: sa.CauseMode}, "here ikepolicy.phase1_negotiation_mode: main → aggressive; or at the peer mode of phase 1: aggressive → main"},
		{
			&c,
			sa.Diagnosis{Cause: sa.CauseSwapped, Flows: &sa.Flows{Ours: []sa.Flow{ours}, Theirs: swapped}},
			"at the peer traffic selectors: local 10.0.0.0/24, remote 10.1.0.0/24 → local 10.1.0.0/24, remote 10.0.0.0/24",
		},
		{&c, sa.Diagnosis{Cause: sa.CauseUDP4500}, "at the peer firewall: pass UDP port 4500 between 203.0.113.10 and 198.51.100.10"},
		{
			&c,
			sa.Diagnosis{Cause: sa.CauseFragments},
			"at the peer fragmentation of IKE messages (RFC 7383): on, or firewall: pass IP fragments between 203.0.113.10 and 198.51.100.10",
		},
		{&c, sa.Diagnosis{Cause: sa.CauseUnknownToPeer}, "at the peer remote address: 203.0.113.10"},
		{&c, sa.Diagnosis{Cause: sa.CauseDataPlane}, ""},
		{&c, sa.Diagnosis{Cause: sa.CauseTrust, Ours: "CN=a", Theirs: "CN=b"}, "here customer_gateway.ca_certificate: CN=a → CN=b; or at the peer certificates: issued by CN=a"},
		{&c, sa.Diagnosis{Cause: sa.CauseOwnTrust}, "here certificate of the gateway: one that the peer trusts; or at the peer trusted certificate authority: that of the gateway's certificate"},
		{&c, sa.Diagnosis{Cause: sa.CauseValidity}, "at the peer certificates: ones in force, or clock"},
		{&c, sa.Diagnosis{Cause: sa.CauseOwnValidity}, "here certificate of the gateway: one in force"},
		{&c, sa.Diagnosis{Cause: sa.CauseKeyUsage, Ours: "a", Theirs: "b"}, "at the peer key usage of its certificates: b → a"},
		{&c, sa.Diagnosis{Cause: sa.CauseSubject, Ours: "CN=a", Theirs: "CN=b"}, "at the peer local identity: CN=b → CN=a"},
		{
			&c,
			sa.Diagnosis{Cause: sa.CauseEnvelope},
			"here ike.gm of the configuration: signature_input: that of the peer; or at the peer certificates: those of its keys, " +
				"or what it has stored of ours: the certificates that the gateway shows",
		},
		{&c, sa.Diagnosis{Cause: sa.CauseInitiator}, "here ike.gm of the configuration: initiator: us → either; or at the peer initiator: only the gateway"},
	} {
		p := party{connection: test.connection, localID: "203.0.113.10", peerID: "198.51.100.10", local: local, peer: peer}
		if have := p.diagnose(&sa.Event{Kind: sa.Failed, Diagnosis: &test.diagnosis}).Remedies(); have != test.want {
			t.Errorf("%s:\nhave %s\nwant %s", test.diagnosis.Cause, have, test.want)
		}
	}
}

// What an attempt of the peer showed completes a refusal that says nothing.
func TestPeersAttemptsTellWhatItRefuses(t *testing.T) {
	gcm, err := ikeProposalWith(control.IKEPolicy{})("aes-128-gcm-16", "sha2-256", "group19")
	if err != nil {
		t.Fatal(err)
	}
	cbc, err := ikeProposalWith(control.IKEPolicy{})("aes-256", "sha2-256", "group19")
	if err != nil {
		t.Fatal(err)
	}
	var k learned
	refused := &sa.Diagnosis{Reason: sa.ReasonPhase1Proposal, Offers: &sa.Offers{Of: sa.OfferIKE, Ours: []ipsec.Proposal{gcm}}}
	if k.complete(refused) != refused {
		t.Error("something is known of a peer that never began")
	}
	k.note(&sa.Diagnosis{Offers: &sa.Offers{Of: sa.OfferIKE, Ours: []ipsec.Proposal{gcm}, Theirs: []ipsec.Proposal{cbc}}})
	d := k.complete(refused)
	if d == refused || len(d.Offers.Theirs) != 1 || !strings.Contains(d.Theirs, "AES-CBC-256") || len(refused.Offers.Theirs) != 0 {
		t.Errorf("have %+v", d)
	}
	k.note(&sa.Diagnosis{Cause: sa.CausePSK, Parameter: "pre-shared key"})
	if d := k.complete(&sa.Diagnosis{Reason: sa.ReasonAuthentication}); d.Code() != sa.CausePSK || d.Parameter != "pre-shared key" {
		t.Errorf("have %+v", d)
	}
}

func TestAdditionalExchangeChanges(t *testing.T) {
	for _, of := range []sa.OfferKind{sa.OfferIKE, sa.OfferChild} {
		for _, have := range []control.KeyExchange{control.NoAdditional, control.MLKEM768} {
			c := control.Connection{
				IKE:   control.IKEPolicy{Encryption: control.AES256, Authentication: control.SHA2256, Group: control.Group19, Additional: have},
				IPsec: control.IPsecPolicy{Encryption: control.AES256, Authentication: control.SHA2256, PFS: control.Group19, Additional: have},
			}
			other := c
			field := "ikepolicy.additional_key_exchange"
			want := control.MLKEM768
			if have.Given() {
				want = control.NoAdditional
			}
			other.IKE.Additional, other.IPsec.Additional = want, want
			ours, errOurs := ikeProposal(&c.IKE)
			theirs, errTheirs := ikeProposal(&other.IKE)
			if of == sa.OfferChild {
				field = "ipsecpolicy.additional_key_exchange"
				ours, errOurs = espProposal(&c.IPsec)
				theirs, errTheirs = espProposal(&other.IPsec)
			}
			if errOurs != nil || errTheirs != nil {
				t.Fatal(errOurs, errTheirs)
			}
			p := party{connection: &c}
			d := p.diagnose(&sa.Event{Kind: sa.Failed, Diagnosis: &sa.Diagnosis{Cause: sa.CauseAdditional, Offers: &sa.Offers{
				Of: of, Ours: []ipsec.Proposal{ours}, Theirs: []ipsec.Proposal{theirs},
			}}})
			if len(d.Changes) != 1 || d.Changes[0] != (control.Remedy{Field: field, From: string(have), To: string(want)}) || len(d.PeerChanges) != 1 {
				t.Errorf("%s toward %s: %v, or at the peer %v", have, want, d.Changes, d.PeerChanges)
			}
		}
	}
}

// Events go into the history, of a failure that repeats itself the first one and
// each time that its count has doubled; the end of an SA that another one has
// replaced hides no failure.
func TestHistoryOfAConnection(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		failed := sa.Event{Kind: sa.Failed, Initiator: true, Reason: sa.ReasonAuthentication, Diagnosis: &sa.Diagnosis{
			Reason: sa.ReasonAuthentication, Cause: sa.CausePSK, Exchange: "IKE_AUTH", Parameter: "pre-shared key",
		}}
		for range 5 {
			w.engines.down(id, failed)
		}
		w.engines.events <- sa.Event{Kind: sa.IKEDown, Connection: id, Reason: sa.ReasonIKEReplaced}
		time.Sleep(storeDelay)
		w.settle()
		w.wantState(id, control.ConnectionDown, "authentication fail", "remedy: here psk: that of the peer")
		if d := w.show(id).Status.Diagnosis; d == nil || d.Cause != string(sa.CausePSK) || d.BegunBy != control.OurSide || len(d.Changes) != 1 {
			t.Errorf("the diagnosis is %+v", d)
		}
		events, err := w.happened.Read(id, control.HistoryQuery{Limit: 10})
		if err != nil || len(events) != 2 || events[0].Event != control.EventIKEDown || events[0].Cause != string(sa.CauseReplaced) ||
			events[1].Count != 4 || events[1].Diagnosis == nil || events[1].Cause != string(sa.CausePSK) {
			t.Errorf("the history is %+v, %v", events, err)
		}
	})
}

// A peer behind another address than its customer gateway has is named to the
// connections that wait at the address that it asks.
func TestStrangersAreNamed(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		for _, from := range []string{"198.51.100.99:500", "198.51.100.98:500", "198.51.100.99:4500"} {
			w.engines.events <- sa.Event{
				Kind: sa.Failed, Reason: sa.ReasonPeerAddress, Local: netip.MustParseAddrPort(address1 + ":500"), Remote: netip.MustParseAddrPort(from),
				Diagnosis: &sa.Diagnosis{Reason: sa.ReasonPeerAddress},
			}
		}
		w.settle()
		state, served := w.r.Tunnel(id)
		if !served || !state.Initiates || state.Wanted != 1 || len(state.Strangers) != 2 || state.Strangers[0].Address.String() != "198.51.100.99" || state.Strangers[0].Count != 2 {
			t.Errorf("served %v, state %+v", served, state)
		}
		if lines := w.log(id); len(lines) != 0 {
			t.Errorf("the log of another peer's connection has %v", lines)
		}
	})
}
