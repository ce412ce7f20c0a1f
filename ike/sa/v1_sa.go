package sa

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// ISAKMPSA is an IKE SA of version 1. Other packages only hand it on (see
// Env.Handover).
type ISAKMPSA struct {
	m          *MachineV1
	conn       *Connection // as it was authenticated for; nil before
	state      State
	initiator  bool   // we began it
	spii, spir uint64 // the cookies; spir is zero until the responder told it
	mode       isakmp.ExchangeType
	proposal   ipsec.Proposal
	life       lifetime // as agreed
	keys       *isakmpKeys
	// iv is the last block of phase 1, from which the IVs of phase 2 are made.
	iv   []byte
	path path

	// gm is how the peer writes, in the profile GM/T 0022; nil in that of the RFCs.
	gm     *GMVariant
	peerID Identity // of the profile GM/T 0022, once it is proved

	natTraversal, natDraft bool // agreed on; by the numbers of the drafts
	dpd                    bool // the peer answers probes
	fragmentation          bool // the peer takes fragments
	// notifyFirst and apart are the form of the peer's probes: see
	// isakmp.Message.Signed.
	notifyFirst, apart bool

	phase1 *phase1 // until authenticated
	// abandoned: it is deleted as soon as it is authenticated.
	abandoned bool
	// flight is our last message of phase 1, until it is answered.
	flight *flight
	// answered is the last message of phase 1 that we took, and what we said.
	answered answered
	// confirmed says that the peer has the last message of phase 1. While
	// nothing has shown that, unconfirmed is an initiator's one, which goes ahead
	// of what is repeated.
	confirmed   bool
	unconfirmed [][]byte

	quick []*quickMode
	ids   messageIDs

	contact bool // the initiator said that it knew of no other SA

	probe    probe
	theirSeq uint32 // of the last probe that we answered
	probed   bool   // theirSeq is set

	fragments  isakmp.Reassembler
	fragmentID uint16

	established, lastSeen time.Time
	// renewed is when the children were asked to follow to another SA; zero: never.
	// It stays until they have.
	renewed time.Time

	rekeyAt, expireAt time.Time
	halfOpenAt        time.Time // a responder gives up
	refusedAt         time.Time // an initiator stops waiting for a better answer
	reassemblyAt      time.Time // incomplete messages are forgotten
	retireAt          time.Time // see retireTime
}

// flight is a message that is repeated until it is answered.
type flight struct {
	datagrams [][]byte
	rhythm    Retransmit
	sent      time.Time // first
	tries     int       // repeats so far
	next      time.Time // of the next repeat, or of giving up
}

// hurry is the first wait of a request that may have come too early.
const hurry = 500 * time.Millisecond

func (s *ISAKMPSA) newFlight(datagrams [][]byte) *flight {
	f := &flight{datagrams: datagrams, rhythm: s.m.env.rhythm(), sent: s.m.now}
	if s.unconfirmed != nil && f.rhythm.Initial > hurry {
		// A responder in aggressive mode drops what overtakes message 3.
		f.rhythm.Initial = hurry
		f.rhythm.Tries += 3
	}
	f.next = s.m.now.Add(s.m.jitter(f.rhythm.wait(0)))
	return f
}

// repeat sends a flight again; false means that it was the last time.
func (s *ISAKMPSA) repeat(f *flight) bool {
	if f.tries >= f.rhythm.Tries {
		return false
	}
	f.tries++
	f.next = s.m.now.Add(s.m.jitter(f.rhythm.wait(f.tries)))
	s.transmit(s.unconfirmed)
	s.transmit(f.datagrams)
	return true
}

// setState moves the SA on, as ikeSA.setState does.
func (s *ISAKMPSA) setState(next State) bool {
	if s.state == next {
		return true
	}
	if !next.follows(s.state) {
		s.m.drop(dropDefectIKEState)
		return false
	}
	s.state = next
	return true
}

// SPI returns our cookie, by which the peer's messages find us.
func (s *ISAKMPSA) SPI() uint64 {
	if s.initiator {
		return s.spii
	}
	return s.spir
}

// owns reports whether a message belongs to the SA. The first message of either
// end does not have both cookies yet.
func (s *ISAKMPSA) owns(h *isakmp.Header) bool {
	if h.InitiatorSPI != s.spii {
		return false
	}
	return h.ResponderSPI == s.spir || s.initiator && s.spir == 0 || !s.initiator && h.ResponderSPI == 0
}

// live reports whether the SA is authenticated and not on its way out.
func (s *ISAKMPSA) live() bool {
	return s.state == Established || s.state == Rekeying || s.state == Rekeyed
}

// close ends the SA without a word to the peer and wipes its keys.
func (s *ISAKMPSA) close() {
	if s.state == Deleted {
		return
	}
	s.setState(Deleted)
	if s.keys != nil {
		s.keys.wipe()
		s.keys = nil
	}
	if s.phase1 != nil {
		s.phase1.wipe()
		s.phase1 = nil
	}
	for _, q := range slices.Clone(s.quick) {
		q.abandon()
	}
	s.quick, s.flight, s.unconfirmed = nil, nil, nil
	s.fragments.Reset()
	s.probe = probe{}
	s.rekeyAt, s.expireAt, s.halfOpenAt, s.refusedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	s.reassemblyAt, s.retireAt = time.Time{}, time.Time{}
}

// timers visits the SA's timers.
func (s *ISAKMPSA) timers(visit func(timer)) {
	if f := s.flight; f != nil {
		when(visit, &f.next, s, func(s *ISAKMPSA) {
			if s.flight == f { // an earlier timer may have ended what it is of
				s.repeatPhase1()
			}
		})
	}
	for _, q := range s.quick {
		if f := q.flight; f != nil {
			when(visit, &f.next, q, func(q *quickMode) {
				if q.flight == f {
					q.repeat()
				}
			})
		}
		when(visit, &q.forgetAt, q, (*quickMode).forget)
	}
	when(visit, &s.probe.next, s, (*ISAKMPSA).repeatProbe)
	when(visit, &s.rekeyAt, s, (*ISAKMPSA).rekeyDue)
	when(visit, &s.expireAt, s, (*ISAKMPSA).expire)
	when(visit, &s.halfOpenAt, s, (*ISAKMPSA).halfOpenTimeout)
	when(visit, &s.refusedAt, s, (*ISAKMPSA).refused)
	when(visit, &s.reassemblyAt, s, func(s *ISAKMPSA) {
		s.m.drop(dropFragmentsIncomplete)
		s.fragments.Reset()
	})
	when(visit, &s.retireAt, s, (*ISAKMPSA).retire)
}

// header returns the header of a message of ours.
func (s *ISAKMPSA) header(x isakmp.ExchangeType, id uint32) isakmp.Header {
	h := isakmp.Header{InitiatorSPI: s.spii, ResponderSPI: s.spir, Exchange: x, MessageID: id}
	if s.gm != nil && !s.gm.Version10 {
		h.Minor = 1
	}
	return h
}

// encode returns a message as datagrams: one, but for large ones to a peer that
// takes fragments. With an iv it is encrypted, and iv moves on.
func (s *ISAKMPSA) encode(h isakmp.Header, payloads []isakmp.Payload, iv *[]byte) ([][]byte, error) {
	msg := &isakmp.Message{Header: h, Payloads: payloads}
	var encrypt func([]byte)
	block := 0
	if iv != nil {
		block = s.keys.block.BlockSize()
		encrypt = func(b []byte) { *iv = s.keys.encrypt(*iv, b) }
	}
	b, err := msg.Encode(block, encrypt)
	if err != nil || !s.fragmentation {
		return [][]byte{b}, err
	}
	s.fragmentID++
	return isakmp.Fragments(b, s.fragmentID, s.path.fragmentLimit())
}

// transmit sends datagrams to where the peer is.
func (s *ISAKMPSA) transmit(datagrams [][]byte) { s.transmitTo(s.path.local, s.path.remote, datagrams) }

// transmitTo sends datagrams back to where a message came from.
func (s *ISAKMPSA) transmitTo(local, remote netip.AddrPort, datagrams [][]byte) {
	for _, b := range datagrams {
		s.m.emit(Send{Local: local, Remote: remote, Datagram: b})
	}
}

// receive handles a message with the SA's cookies.
func (s *ISAKMPSA) receive(d Datagram, msg *isakmp.Message) {
	if f, ok := isakmp.Find[*isakmp.Fragment](msg); ok {
		s.addFragment(d, msg, f)
		return
	}
	switch msg.Exchange {
	case isakmp.IdentityProtection, isakmp.Aggressive:
		s.receivePhase1(d, msg)
	case isakmp.QuickMode:
		s.receiveQuick(d, msg)
	case isakmp.Informational:
		s.receiveInformational(d, msg)
	default: // such as the configuration method
		s.m.drop(dropExchange)
	}
}

// addFragment takes a piece of a message, and handles the message once it is
// whole. Nobody authenticates a piece, even of an SA that is established: it costs
// no more than a bounded place for a while, which later pieces do not make longer.
func (s *ISAKMPSA) addFragment(d Datagram, msg *isakmp.Message, f *isakmp.Fragment) {
	// Before both cookies are known it is not agreed on, and it travels alone.
	if msg.ResponderSPI == 0 || len(msg.Payloads) != 1 {
		s.m.drop(dropFragment)
		return
	}
	whole, err := s.fragments.Add(f)
	switch {
	case !s.fragments.Pending():
		s.reassemblyAt = time.Time{}
	case s.reassemblyAt.IsZero():
		s.reassemblyAt = s.m.now.Add(reassemblyTimeout)
	}
	if err != nil {
		s.m.drop(dropFragment)
		return
	}
	if whole == nil {
		return
	}
	d.Bytes = whole
	if msg, err = isakmp.Parse(whole); err != nil {
		s.m.drop(dropMalformed)
		return
	}
	if _, nested := isakmp.Find[*isakmp.Fragment](msg); nested || !s.owns(&msg.Header) {
		s.m.drop(dropFragment)
		return
	}
	s.receive(d, msg)
}

// heard notes that the peer is alive: it has sent a message that is authentic.
// fresh says that nobody can have recorded it: then the peer is where it came
// from.
func (s *ISAKMPSA) heard(d Datagram, fresh bool) {
	s.lastSeen = s.m.now
	s.m.heard()
	s.confirmed, s.unconfirmed = true, nil
	if fresh {
		s.m.follow(s, d.Remote)
	}
}

// phase2IV returns the first IV of an exchange of phase 2 (RFC 2409, appendix B).
func (s *ISAKMPSA) phase2IV(id uint32) []byte { return s.keys.iv(s.iv, idOctets(id)) }

func idOctets(id uint32) []byte { return binary.BigEndian.AppendUint32(nil, id) }

// cookies returns both cookies as they stand in a header.
func (s *ISAKMPSA) cookies() []byte {
	b := binary.BigEndian.AppendUint64(nil, s.spii)
	return binary.BigEndian.AppendUint64(b, s.spir)
}

// again answers a repeated message of phase 1, if it is the last one that we
// took, octet by octet.
func (s *ISAKMPSA) again(d Datagram) bool {
	if s.answered.datagrams == nil || sha256.Sum256(d.Bytes) != s.answered.digest {
		return false
	}
	// A responder repeats nothing unasked, and an initiator only where its
	// message was the last one.
	if !s.initiator || s.phase1 == nil && s.mode == isakmp.Aggressive {
		s.transmitTo(d.Local, d.Remote, s.answered.datagrams)
	}
	return true
}

// payloadV1 returns an identity for phase 1. RFC 2407, section 4.6.2, leaves the
// port open.
func (i Identity) payloadV1() *isakmp.ID {
	return &isakmp.ID{IDType: isakmp.IDType(i.Type), Data: []byte(i.Data)}
}

// identityV1 reads one.
func identityV1(p *isakmp.ID) Identity {
	return Identity{Type: wire.IDType(p.IDType), Data: string(p.Data)}
}
