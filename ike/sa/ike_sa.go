package sa

import (
	"bytes"
	"crypto/sha256"
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

const (
	// halfOpenTimeout is how long a responder waits for IKE_AUTH.
	halfOpenTimeout = 30 * time.Second
	// reassemblyTimeout is how long fragments of one message wait for the
	// others (RFC 7383, section 2.6).
	reassemblyTimeout = 30 * time.Second
	// repeatWindow is how long the answer to a last request, such as a DELETE,
	// is kept for a peer that missed it.
	repeatWindow = 10 * time.Second
	// redundantTimeout is how long an SA that the peer should delete, because a
	// rekey has replaced it, waits for that before we delete it. The peer may
	// repeat its request for some 165 s before it learns of the new SA.
	redundantTimeout = 3 * time.Minute
	// fragmentSize is the IP packet that an IKE message may fill, the smallest
	// that IPv6 guarantees. Larger messages go in fragments.
	fragmentSize = 1280
)

// ikeSA is one IKE SA.
type ikeSA struct {
	m          *Machine
	state      State
	initiator  bool   // we began it: the flag in our messages
	spii, spir uint64 // spir is zero until the responder told it
	proposal   ipsec.Proposal
	keys       *ikeKeys
	out, in    wire.Cipher // for what we send and receive
	nonce      []byte      // the lower one of its exchange (rekey collisions)

	path          path
	fragmentation bool
	authenticated bool // IKE_AUTH is done, on this SA or on one before it
	ppk           bool // a PPK is in the keys of what follows (RFC 8784)

	handshake *handshake // IKE_SA_INIT and IKE_AUTH, until authenticated

	// Our requests: one at a time.
	nextID uint32
	queue  []exchange
	active *outstanding

	// The peer's requests: the next id, and the last answer.
	expectID      uint32
	answered      *answered
	firstFragment [sha256.Size]byte // digest of the request's first fragment
	requests      wire.Reassembler
	responses     wire.Reassembler

	// While this SA is being rekeyed: what the peer's exchange made.
	successor *ikeSA
	// The peer's exchange whose additional key exchanges are not done yet.
	followedUp *followedUp

	established, lastSeen time.Time
	confirmed             time.Time // by an answer to a request of ours

	rekeyAt, expireAt time.Time
	halfOpenAt        time.Time // a responder gives up
	refusedAt         time.Time // an initiator stops waiting for a better answer
	reassemblyAt      time.Time // incomplete messages are forgotten
	redundantAt       time.Time // see redundantTimeout
	forgetAt          time.Time // see repeatWindow
	followupAt        time.Time // see followupTimeout
}

// path is where an SA's packets go.
type path struct {
	local, remote       netip.AddrPort
	natLocal, natRemote bool // a NAT is in front of us, of the peer
	encap               bool // ESP goes in UDP
}

// answered is a request of the peer and what we said to it.
type answered struct {
	at        time.Time
	id        uint32
	digest    [sha256.Size]byte
	datagrams [][]byte
}

// setState moves the SA on. A step that the life of an SA does not have is
// refused and counted: it would be a defect of this package.
func (s *ikeSA) setState(next State) bool {
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

// spi returns our SPI, by which the peer's messages find us.
func (s *ikeSA) spi() uint64 {
	if s.initiator {
		return s.spii
	}
	return s.spir
}

// owns reports whether a message belongs to the SA, by both its SPIs and by
// the role of its sender.
func (s *ikeSA) owns(h *wire.Header) bool {
	if h.Initiator == s.initiator || h.InitiatorSPI != s.spii {
		return false
	}
	if h.Exchange == wire.IKESAInit && (h.Response && s.spir == 0 || !h.Response && h.ResponderSPI == 0) {
		return true
	}
	return s.spir != 0 && h.ResponderSPI == s.spir
}

// live reports whether the SA is authenticated and not on its way out.
func (s *ikeSA) live() bool {
	return s.state == Established || s.state == Rekeying || s.state == Rekeyed
}

// setKeys derives the keys for the chosen proposal. It wipes the seed.
func (s *ikeSA) setKeys(chosen ipsec.Proposal, seed, ni, nr []byte) error {
	keys, err := newIKEKeys(chosen, seed, ni, nr, s.spii, s.spir)
	if err != nil {
		return err
	}
	fromInitiator, fromResponder, err := keys.ciphers(chosen, s.m.env.Rand)
	if err != nil {
		keys.wipe()
		return err
	}
	s.proposal, s.keys = chosen, keys
	s.out, s.in = fromInitiator, fromResponder
	if !s.initiator {
		s.out, s.in = s.in, s.out
	}
	s.nonce = bytes.Clone(lowestNonce(ni, nr))
	if s.m.env.KeyLog != nil {
		enc, _ := chosen.Get(ipsec.TransformEncryption)
		integ, _ := chosen.Get(ipsec.TransformIntegrity)
		s.m.env.KeyLog(Keys{IKE: &IKEKeys{
			InitiatorSPI: s.spii, ResponderSPI: s.spir, Encryption: enc, Integrity: integ,
			SKei: bytes.Clone(keys.ei), SKer: bytes.Clone(keys.er),
			SKai: bytes.Clone(keys.ai), SKar: bytes.Clone(keys.ar),
		}})
	}
	return nil
}

// establish marks the SA as authenticated and sets the times of its life.
func (s *ikeSA) establish(now time.Time) {
	s.setState(Established)
	s.authenticated = true
	s.established, s.lastSeen = now, now
	s.halfOpenAt, s.refusedAt = time.Time{}, time.Time{}
	if s.handshake != nil {
		s.handshake.wipe()
		s.handshake = nil
	}
	if life := s.m.conn.Lifetime; life > 0 {
		s.rekeyAt = now.Add(s.m.soft(life, s.initiator))
		s.expireAt = now.Add(life)
	}
}

// close ends the SA without a word to the peer and wipes its keys. It still
// repeats its last answer for a while.
func (s *ikeSA) close() {
	if s.state == Deleted {
		return
	}
	s.setState(Deleted)
	if s.keys != nil {
		s.keys.wipe()
	}
	s.keys, s.out, s.in = nil, nil, nil
	discard(s.queue...)
	if s.active != nil {
		discard(s.active.exchange)
	}
	s.queue, s.active = nil, nil
	s.forgetFollowup()
	s.requests.Reset()
	s.responses.Reset()
	if s.handshake != nil {
		s.handshake.wipe()
		s.handshake = nil
	}
	s.rekeyAt, s.expireAt, s.halfOpenAt = time.Time{}, time.Time{}, time.Time{}
	s.refusedAt, s.reassemblyAt, s.redundantAt = time.Time{}, time.Time{}, time.Time{}
	s.forgetAt = s.m.now
	if s.answered != nil {
		s.forgetAt = s.answered.at.Add(repeatWindow)
	}
}

// message returns a message of ours, with the header filled in.
func (s *ikeSA) message(x wire.ExchangeType, response bool, id uint32, payloads []wire.Payload) *wire.Message {
	return &wire.Message{
		Header: wire.Header{
			InitiatorSPI: s.spii, ResponderSPI: s.spir, Exchange: x,
			Initiator: s.initiator, Response: response, MessageID: id,
		},
		Payloads: payloads,
	}
}

// encode turns a message into datagrams: one, but for large ones to a peer that
// takes fragments.
func (s *ikeSA) encode(msg *wire.Message) ([][]byte, error) {
	if msg.Exchange == wire.IKESAInit {
		b, err := msg.Append(nil)
		return [][]byte{b}, err
	}
	if s.fragmentation {
		return msg.SealFragments(s.out, s.path.fragmentLimit())
	}
	b, err := msg.Seal(s.out)
	return [][]byte{b}, err
}

// fragmentLimit is what is left for an IKE message in an IP packet of
// fragmentSize octets, after the IP and UDP headers and the non-ESP marker.
func (p *path) fragmentLimit() int {
	const udp, marker = 8, 4
	if p.remote.Addr().Unmap().Is4() {
		return fragmentSize - 20 - udp - marker
	}
	return fragmentSize - 40 - udp - marker
}
