package sa

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// probe is our R-U-THERE under way (RFC 3706).
type probe struct {
	first, last uint32 // sequence numbers of the repeats so far
	tries       int
	sent        time.Time // first; zero: none is under way
	next        time.Time // of the next repeat, or of giving up
}

// probeWait is how long a probe waits where the connection does not say.
const probeWait = 4 * time.Second

// checkLiveness sends a probe when nothing was heard for the interval.
func (m *MachineV1) checkLiveness() {
	s := m.current
	if s == nil || m.conn.DPD.Interval <= 0 {
		return
	}
	m.evidence()
	if next := m.lastSeen.Add(m.conn.DPD.Interval); next.After(m.now) {
		m.dpdAt = next
		return
	}
	s.startProbe()
	m.dpdAt = m.now.Add(m.conn.DPD.Interval)
}

// startProbe asks whether the peer is there, if it can say so.
func (s *ISAKMPSA) startProbe() {
	if !s.dpd || !s.probe.sent.IsZero() || !s.live() {
		return
	}
	seq := s.probe.last + 1
	if s.probe.last == 0 {
		var b [4]byte
		_ = readFull(s.m.env.Rand, b[:]) // any number will do (section 6.2)
		seq = binary.BigEndian.Uint32(b[:])>>1 + 1
	}
	s.probe = probe{first: seq, last: seq, sent: s.m.now}
	s.sendProbe()
}

func (s *ISAKMPSA) sendProbe() {
	wait := s.m.conn.DPD.Timeout
	if wait <= 0 || !s.confirmed {
		wait = probeWait
	}
	s.probe.next = s.m.now.Add(wait)
	s.sayProbe(isakmp.RUThere, s.probe.last)
}

// sayProbe sends a probe, or the answer to one, in the order of payloads that the
// peer has.
func (s *ISAKMPSA) sayProbe(t isakmp.NotifyType, seq uint32) {
	s.informAs([]isakmp.Payload{&isakmp.Notify{
		Protocol: ipsec.ProtocolIKE, SPI: s.probeSPI(), NotifyType: t, Data: binary.BigEndian.AppendUint32(nil, seq),
	}}, s.notifyFirst, s.apart)
}

// repeatProbe is called when a probe is not answered in time.
func (s *ISAKMPSA) repeatProbe() {
	m := s.m
	// That the peer is alive does not show that it has the SA.
	if s.confirmed && m.heardSince(s.probe.sent) {
		s.endProbe()
		return
	}
	if s.probe.tries < livenessRepeats {
		s.probe.tries++
		s.probe.last++
		s.sendProbe()
		return
	}
	d := &Diagnosis{
		Reason: ReasonDPDTimeout, Exchange: isakmp.Informational.String(), Parameter: "peer address",
		Detail: fmt.Sprintf("no answer to R-U-THERE, sent %d times to %s from %s", s.probe.tries+1, s.path.remote, s.path.local),
	}
	if s != m.current || !s.confirmed {
		s.unconfirmed = nil                           // or the peer might set it up now
		s.inform([]isakmp.Payload{s.deletePayload()}) // in case that it has it
		s.leave(ReasonDPDTimeout)
		return
	}
	m.end(d.Reason, d)
}

// endProbe keeps the sequence number only.
func (s *ISAKMPSA) endProbe() { s.probe = probe{last: s.probe.last} }

// answerProbe answers the peer's R-U-THERE. A number that has been there before
// was recorded, or repeated: it is answered, but tells nothing of where the peer
// is.
func (s *ISAKMPSA) answerProbe(d Datagram, n *isakmp.Notify) {
	if len(n.Data) != 4 {
		s.m.drop(dropMalformed)
		return
	}
	seq := binary.BigEndian.Uint32(n.Data)
	if !s.probed || int32(seq-s.theirSeq) > 0 {
		s.probed, s.theirSeq = true, seq
		s.heard(d, true)
	}
	s.sayProbe(isakmp.RUThereAck, seq)
}

// probeAnswered ends a probe.
func (s *ISAKMPSA) probeAnswered(d Datagram, n *isakmp.Notify) {
	if s.probe.sent.IsZero() || len(n.Data) != 4 {
		s.m.drop(dropNoResponseDue)
		return
	}
	if seq := binary.BigEndian.Uint32(n.Data); seq-s.probe.first > s.probe.last-s.probe.first {
		s.m.drop(dropNoResponseDue)
		return
	}
	s.endProbe()
	s.heard(d, true)
}
