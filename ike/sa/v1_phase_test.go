package sa

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// Each failure names the exchange and the parameter that differs, at each end as
// far as it can know.
func TestV1Diagnosis(t *testing.T) {
	hash := func(id uint16) []ipsec.Proposal {
		p := proposalV1(ipsec.GroupECP256)
		p.Transforms = []ipsec.Transform{p.Transforms[0], ipsec.PRF(id), ipsec.Group(ipsec.GroupECP256)}
		return []ipsec.Proposal{p}
	}
	for name, tc := range map[string]struct {
		edit       func(b *Connection)
		aggressive bool
		a, b       []string // of the Failed events; nil: none
	}{
		"key": {
			edit: func(b *Connection) { b.PSK = []byte("another one") },
			a:    []string{"max transmit reached: pre-shared key in main mode", "no answer to message 5"},
			b:    []string{"authentication fail: pre-shared key in main mode", "message 5 does not decrypt"},
		},
		"key, aggressive": {
			edit: func(b *Connection) { b.PSK = []byte("another one") }, aggressive: true,
			a: []string{"authentication fail: pre-shared key in aggressive mode", "the hash in message 2 is not ours"},
			b: []string{"exchange timeout: message 3 in aggressive mode"},
		},
		"identity of the initiator": {
			edit: func(b *Connection) { b.RemoteID = FQDNIdentity("other.example") },
			a:    []string{"max transmit reached: pre-shared key in main mode"},
			b:    []string{"config ID mismatch: peer identity in main mode", "ours [fqdn other.example]", "theirs [ipv4 192.0.2.1]"},
		},
		"identity of the initiator, aggressive": {
			edit: func(b *Connection) { b.RemoteID = FQDNIdentity("other.example") }, aggressive: true,
			a: []string{"config ID mismatch: local identity in aggressive mode", "ours [ipv4 192.0.2.1]"},
			b: []string{"config ID mismatch: peer identity in aggressive mode", "theirs [ipv4 192.0.2.1]"},
		},
		"identity of the responder": {
			edit: func(b *Connection) { b.LocalID = FQDNIdentity("other.example") },
			a:    []string{"config ID mismatch: peer identity in main mode", "ours [fqdn gw.example]", "theirs [fqdn other.example]"},
		},
		"hash": {
			edit: func(b *Connection) { b.Proposals = hash(ipsec.PRFHMACSHA1) },
			a:    []string{"phase1 proposal mismatch: proposal in main mode", "ours [IKE: AES-CBC-256, PRF-HMAC-SHA2-256"},
			b:    []string{"phase1 proposal mismatch: hash algorithm in main mode", "ours [PRF-HMAC-SHA1]", "theirs [PRF-HMAC-SHA2-256]"},
		},
		"group": {
			edit: func(b *Connection) { b.Proposals = []ipsec.Proposal{proposalV1(ipsec.GroupMODP2048)} },
			a:    []string{"phase1 proposal mismatch"},
			b:    []string{"responder dh mismatch: DH group in main mode", "ours [MODP-2048", "theirs [ECP-256"},
		},
		"mode": {
			edit: func(b *Connection) { b.Aggressive = true },
			a:    []string{"phase1 proposal mismatch", "in main mode"},
			b:    []string{"exchange mode mismatch: mode of phase 1", "ours [aggressive mode]", "theirs [main mode]"},
		},
		"ESP": {
			edit: func(b *Connection) { b.Children[0].Proposals[0].Transforms[0].KeyBits = 256 },
			a:    []string{"phase2 proposal or pfs mismatch: proposal in quick mode", "ours [ESP: AES-GCM-16-128"},
			b:    []string{"phase2 proposal or pfs mismatch: encryption algorithm in quick mode", "ours [AES-GCM-16-256]", "theirs [AES-GCM-16-128]"},
		},
		"PFS": {
			edit: func(b *Connection) { b.Children[0].Proposals = []ipsec.Proposal{espProposal()} },
			a:    []string{"phase2 proposal or pfs mismatch: proposal in quick mode"},
			b:    []string{"phase2 proposal or pfs mismatch: PFS group in quick mode", "ours [NONE]", "theirs [ECP-256"},
		},
		"selectors": {
			edit: func(b *Connection) { b.Children[0].Remote = selectors("10.1.0.0/17") },
			a:    []string{"flow or peer mismatch: traffic selectors in quick mode", "ours [local 10.1.0.0/16"},
			b:    []string{"flow or peer mismatch: traffic selectors in quick mode", "remote 10.1.0.0/17", "theirs [local 10.2.0.0/16, remote 10.1.0.0/16]"},
		},
		"nobody": {
			edit: func(b *Connection) { b.Remote = netip.MustParseAddr("203.0.113.5") },
			a:    []string{"phase1 proposal mismatch"},
			b:    []string{"peer address mismatch"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.useV1(func(c *Connection) { c.Aggressive = tc.aggressive })
			b := l.b.conns[0]
			b.Children[0].Proposals = []ipsec.Proposal{espProposal(ipsec.GroupECP256)}
			tc.edit(b)
			l.a.initiateV1()
			l.pass(170 * time.Second)
			for _, each := range []struct {
				e    *end
				want []string
			}{{l.a, tc.a}, {l.b, tc.b}} {
				if each.want == nil {
					continue
				}
				got := each.e.last(Failed).Diagnosis.String()
				for _, part := range each.want {
					if !strings.Contains(got, part) {
						t.Errorf("%s: %q lacks %q", each.e.name, got, part)
					}
				}
				if strings.Contains(got, "correct horse") || strings.Contains(got, "another one") {
					t.Errorf("%s tells a key: %q", each.e.name, got)
				}
			}
		})
	}
}

// Several connections with one peer's address: the key and then the identity tell
// which one is meant.
func TestV1SelectConnection(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	right := l.b.conns[0]
	otherKey, otherID := *right, *right
	otherKey.Name, otherKey.PSK = "other key", []byte("another key")
	otherID.Name, otherID.RemoteID = "other identity", FQDNIdentity("x")
	l.b.conns = []*Connection{&otherKey, &otherID, right}
	l.establish()
	if got := l.b.peer().Connection(); got != right.Name {
		t.Errorf("it is taken for %q", got)
	}
}

// Probes in both orders of payloads, and in the peer's once it is known.
func TestV1DPD(t *testing.T) {
	for _, notifyFirst := range []bool{false, true} {
		l := newLab(t, 1)
		l.useV1(func(c *Connection) {
			c.DPD = DPD{Interval: 30 * time.Second, Timeout: 5 * time.Second, NotifyFirst: notifyFirst}
		})
		l.b.conns[0].DPD = DPD{}
		l.establish()
		l.up = false // no traffic, which would be a sign of life
		l.pass(10 * time.Minute)
		for _, e := range []*end{l.a, l.b} {
			s := e.peer().(*MachineV1).current
			if s == nil {
				t.Fatal(l.transcript.String())
			}
			if s.notifyFirst != notifyFirst || m(e).lastSeen.Before(l.now.Add(-time.Minute)) {
				t.Errorf("%s: notify first %t, last seen %s", e.name, s.notifyFirst, m(e).lastSeen)
			}
		}
		l.lose = func(packet) bool { return true }
		l.pass(time.Minute)
		if len(l.a.machines) != 0 || l.a.last(IKEDown).Reason != ReasonDPDTimeout {
			t.Error("a dead peer is not noticed\n" + l.transcript.String())
		}
		l.a.empty()
	}
}

func m(e *end) *MachineV1 { return e.peer().(*MachineV1) }

// Some senders compute the hash before they link it to the notification.
func TestV1ProbeForms(t *testing.T) {
	for _, form := range [][2]bool{{false, false}, {true, false}, {true, true}} {
		l := newLab(t, 1)
		l.useV1()
		l.establish()
		s := m(l.a).current
		s.notifyFirst, s.apart = form[0], form[1]
		l.a.do(Probe{})
		l.run()
		if peer := m(l.b).current; peer.notifyFirst != form[0] || peer.apart != form[1] {
			t.Errorf("%v: the peer answers with %t, %t", form, peer.notifyFirst, peer.apart)
		}
		if !s.probe.sent.IsZero() {
			t.Errorf("%v: the probe is not answered\n%s", form, l.transcript.String())
		}
	}
}

// NAT in front of the initiator, in both modes; its mapping changes.
func TestV1NAT(t *testing.T) {
	for _, mode := range []bool{false, true} {
		l := newLab(t, 1)
		l.nat = &nat{inside: addrA, outside: netip.MustParseAddr("203.0.113.7"), shift: 10000}
		l.useV1(func(c *Connection) { c.Aggressive = mode })
		l.b.conns[0].Remote, l.b.conns[0].Children[0].Name = netip.MustParseAddr("203.0.113.7"), "net"
		l.establish()
		a, b := l.a.peer().Status().IKE[0], l.b.peer().Status().IKE[0]
		if !a.NATLocal || a.NATRemote || b.NATLocal || !b.NATRemote || !a.Encap || !b.Encap || a.Local.Port() != 4500 || b.Remote.Port() != 14500 {
			t.Errorf("aggressive %t: %+v, %+v", mode, a, b)
		}
		if sa := l.b.sas[0]; !sa.Encap || sa.DstPort+sa.SrcPort != 4500+14500 {
			t.Errorf("aggressive %t: SA %+v", mode, sa)
		}
		l.nat.shift = 20000
		l.a.do(Probe{})
		l.run()
		if at := l.b.peer().Status().IKE[0].Remote.Port(); at != 24500 || l.b.count(PeerMoved) != 1 {
			t.Errorf("aggressive %t: the peer is taken to be at port %d", mode, at)
		}
		l.a.do(RekeyIKE{})
		l.run()
		l.pass(time.Minute)
		l.settled(1)
		if !strings.Contains(l.transcript.String(), "keepalive") {
			t.Error("no keepalive")
		}
	}
}

// A connection that asks for UDP encapsulation has it without a NAT, too.
func TestV1ForceEncap(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(func(c *Connection) { c.ForceEncap, c.RequireEncap = true, true })
	l.establish()
	l.settled(1)
	if !l.a.sas[0].Encap || !l.b.sas[0].Encap {
		t.Error("ESP does not go in UDP")
	}
}

// manyProposals makes the offer of a quick mode too large for one packet.
func manyProposals(c *Connection) {
	c.Children[0].Proposals = nil
	for range 30 {
		c.Children[0].Proposals = append(c.Children[0].Proposals, ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{
			ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), ipsec.Group(ipsec.GroupECP256),
		}})
	}
}

// A message too large for one packet goes in fragments.
func TestV1Fragments(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(manyProposals)
	for _, p := range [][2]*Connection{{l.a.conns[0], l.b.conns[0]}} {
		if err := p[0].Validate(); err != nil {
			t.Fatal(err)
		}
	}
	l.establish()
	l.settled(1)
	if !strings.Contains(l.transcript.String(), "quick mode fragment 2") {
		t.Error("nothing was in fragments\n" + l.transcript.String())
	}
}

// The peer deletes the ISAKMP SA only: the children go on, and a new one comes.
func TestV1DeleteISAKMP(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.establish()
	l.pass(time.Minute)
	s := m(l.b).current
	s.inform([]isakmp.Payload{s.deletePayload()})
	s.close()
	m(l.b).current = nil
	m(l.b).orphanedAt, m(l.b).orphanedBy = l.now.Add(orphanTime), ReasonPeerRequest
	l.b.perform(m(l.b).finish())
	l.run()
	l.pass(time.Minute)
	l.settled(1)
	if l.a.count(ChildDown)+l.b.count(ChildDown)+l.a.count(IKEDown) != 0 || l.a.count(IKERekeyed) != 1 || l.a.count(ChildRekeyed) != 1 {
		t.Error(l.transcript.String())
	}
}

// INVALID-SPI under protection: the peer has lost a child, which is set up anew.
func TestV1InvalidSPI(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.establish()
	l.up = false
	out := l.a.peer().Status().Children[0].Out.SPI
	m(l.b).current.inform([]isakmp.Payload{&isakmp.Notify{
		Protocol: ipsec.ProtocolESP, NotifyType: isakmp.InvalidSPI, Data: []byte{byte(out >> 24), byte(out >> 16), byte(out >> 8), byte(out)},
	}})
	l.b.perform(m(l.b).finish())
	l.run()
	if l.a.count(ChildDown) != 1 {
		t.Error(l.transcript.String())
	}
	l.pass(time.Minute)
	if got := l.a.peer().Status().Children; len(got) != 1 || got[0].Out.SPI == out {
		t.Errorf("children %+v", got)
	}
}

// What the data plane refuses is not told of, or withdrawn; what it was to
// replace goes on.
func TestV1Refused(t *testing.T) {
	for _, direction := range []ipsec.Direction{ipsec.In, ipsec.Out} {
		for _, end := range []string{"a", "b"} {
			l := newLab(t, 1)
			l.useV1()
			l.establish()
			l.pass(time.Minute)
			e := l.a
			if end == "b" {
				e = l.b
			}
			refused := 0
			e.refuse = func(a Action) error {
				if add, ok := a.(AddSA); ok && add.SA.Direction == direction && refused == 0 {
					refused++
					return ipsec.ErrUnsupported
				}
				return nil
			}
			l.a.do(RekeyChild{1})
			l.run()
			l.pass(10 * time.Minute)
			l.quietV1(1)
			if refused != 1 || e.count(Failed) == 0 || t.Failed() {
				t.Fatalf("%s, %s: %d refused\n%s", direction, end, refused, l.transcript.String())
			}
		}
	}
}

// A peer without PFS where we want it, in a set of its own: the sets are compared
// whole.
func TestV1Sets(t *testing.T) {
	c := connV1(func(c *Connection) {
		c.Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
			ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Encryption(ipsec.EncryptionAESCBC, 256),
			ipsec.PRF(ipsec.PRFHMACSHA1), ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupMODP2048),
		}}}
		c.Lifetime = 48 * time.Hour // more seconds than two octets hold
	})
	offer, err := phase1Offer(c)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(offer.Proposals[0].Transforms); n != 4 {
		t.Errorf("%d transforms", n)
	}
	ours := []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupMODP2048),
	}}}
	ch, err := choosePhase1(ours, offer)
	if err != nil || ch.life.seconds != 48*3600 || len(ch.answer.Proposals) != 1 || len(ch.answer.Proposals[0].Transforms) != 1 {
		t.Errorf("chose %+v, %v", ch, err)
	}
	for name, change := range map[string]func(*isakmp.Transform){
		"unknown attribute": func(t *isakmp.Transform) { t.Attributes = append(t.Attributes, isakmp.Number(99, 1)) },
		"twice":             func(t *isakmp.Transform) { t.Attributes = append(t.Attributes, t.Attributes[0]) },
		"RSA":               func(t *isakmp.Transform) { t.Attributes[4] = isakmp.Number(isakmp.Phase1AuthMethod, 3) },
		"key length":        func(t *isakmp.Transform) { t.Attributes[1] = isakmp.Number(isakmp.Phase1KeyLength, 192) },
		"transform":         func(t *isakmp.Transform) { t.ID = 2 },
	} {
		only := *offer
		only.Proposals = slices.Clone(offer.Proposals)
		tr := offer.Proposals[0].Transforms[3]
		tr.Attributes = slices.Clone(tr.Attributes)
		change(&tr)
		only.Proposals[0].Transforms = []isakmp.Transform{tr}
		if _, err := choosePhase1(ours, &only); err == nil {
			t.Errorf("%s: chosen all the same", name)
		}
	}
}

func TestV1Validate(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Connection)
		want string
	}{
		"fine":             {func(*Connection) {}, ""},
		"version":          {func(c *Connection) { c.Version = 3 }, "version 3"},
		"mode of IKEv2":    {func(c *Connection) { c.Version, c.Aggressive = 2, true }, "IKEv1 only"},
		"AEAD":             {func(c *Connection) { c.Proposals = []ipsec.Proposal{aeadIKE()} }, "not defined for IKEv1"},
		"curve":            {func(c *Connection) { c.Proposals = []ipsec.Proposal{proposalV1(ipsec.GroupCurve25519)} }, "not defined for IKEv1"},
		"curve for PFS":    {func(c *Connection) { c.Children[0].Proposals = []ipsec.Proposal{espProposal(31)} }, "not defined for IKEv1"},
		"two selectors":    {func(c *Connection) { c.Children[0].Local = selectors("10.0.0.0/24", "10.0.1.0/24") }, "one a side"},
		"a range of ports": {func(c *Connection) { c.Children[0].Local[0].StartPort = 80 }, "range of ports"},
	} {
		c := connV1(tc.edit)
		err := c.Validate()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func aeadIKE() ipsec.Proposal {
	return ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupECP256),
	}}
}

// A peer that answers in IKEv2 is told of.
func TestV1OtherVersion(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.b.conns[0].Version = 2
	a := l.a.initiateV1()
	h := wire.Header{InitiatorSPI: a.attempt.spii, MajorVersion: 2, Exchange: wire.IKESAInit, Response: true, Length: wire.HeaderLen}
	l.a.perform(a.Handle(l.now, Datagram{Local: a.attempt.path.local, Remote: a.attempt.path.remote, Bytes: h.Append(nil)}))
	l.wire = nil
	l.pass(betterAnswer + time.Second)
	if d := l.a.last(Failed).Diagnosis; d.Reason != ReasonVersion || d.Theirs != "2" {
		t.Errorf("it is told that %s", d)
	}
}

// A peer that knows the drafts of NAT traversal only has their numbers.
func TestV1NATDrafts(t *testing.T) {
	for _, v := range []*isakmp.VendorID{&isakmp.VendorNATTDraft02, &isakmp.VendorNATTDraft02n, &isakmp.VendorNATTDraft03} {
		s := &ISAKMPSA{phase1: &phase1{}, proposal: proposalV1(ipsec.GroupECP256), path: path{encap: true}}
		s.learn(&isakmp.Message{Payloads: []isakmp.Payload{v}})
		at := netip.AddrPortFrom(addrA, 500)
		nat, err := s.natPayloads(at, at)
		if err != nil || len(nat) != 2 || nat[0].Type() != isakmp.TypeNATDDraft || s.encapMode() != encapUDPTunnelDraft {
			t.Errorf("%x: %v, %v, mode %d", v.Data, nat, err, s.encapMode())
		}
		if !slices.ContainsFunc(s.vendorAnswer(), func(p isakmp.Payload) bool {
			v, ok := p.(*isakmp.VendorID)
			return ok && v == &isakmp.VendorNATTDraft03
		}) {
			t.Errorf("%x: we do not answer with a draft", v.Data)
		}
		if err := s.detectNAT(&isakmp.Message{Payloads: nat}, at, at); err != nil || s.path.natLocal || s.path.natRemote {
			t.Errorf("%x: a NAT where there is none: %v", v.Data, err)
		}
	}
}

// Limits in octets are agreed on, too.
func TestV1Kilobytes(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(func(c *Connection) { c.Children[0].Lifetime = ipsec.Lifetime{Hard: time.Hour, HardBytes: 1 << 32} })
	l.b.conns[0].Children[0].Lifetime.HardBytes = 1 << 30
	l.establish()
	for _, e := range []*end{l.a, l.b} {
		for _, sa := range e.sas {
			if sa.Lifetime.HardBytes != 1<<30 || sa.Lifetime.SoftBytes == 0 || sa.Lifetime.SoftBytes >= 1<<30 {
				t.Errorf("%s: %+v", e.name, sa.Lifetime)
			}
		}
	}
	l.a.do(Expired{ID: l.a.sas[0].ID()})
	l.run()
	l.pass(time.Minute)
	l.settled(1)
	if l.a.count(ChildRekeyed) != 1 {
		t.Error("a soft limit brings about no rekey")
	}
}

// TestV1DeleteOvertakesDelete: the peer ends everything, and its DELETE of the ISAKMP SA
// comes ahead of that of the children, one of which has just been rekeyed and waits
// for traffic. Under the next ISAKMP SA none of the old ones is used.
func TestV1DeleteOvertakesDelete(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.establish()
	l.up = false
	l.a.do(RekeyChild{ReqID: 1})
	l.deliver(0)
	l.deliver(0)
	l.deliver(0) // message 3
	l.transcript.Reset()
	l.b.do(Terminate{ReasonConfigModify})
	l.deliver(1) // the DELETE of the ISAKMP SA
	l.run()
	l.pass(3 * time.Minute)
	l.up = true
	l.pass(time.Second)
	l.quietV1(1)
}
