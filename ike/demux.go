package ike

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ike/wire"
)

// initKey names an IKE_SA_INIT request by all of it: only an exact repetition
// reaches the machine that has answered it.
type initKey [sha256.Size]byte

func newInitKey(local, remote netip.AddrPort, datagram []byte) initKey {
	h := sha256.New()
	for _, a := range []netip.AddrPort{local, remote} {
		ip := a.Addr().As16()
		h.Write(binary.BigEndian.AppendUint16(ip[:], a.Port()))
	}
	h.Write(datagram)
	return initKey(h.Sum(nil))
}

// Deliver takes an IKE datagram without a non-ESP marker. It may be called by
// any goroutine, copies what it keeps and does not block: what a peer or the
// workers cannot take is dropped and counted.
func (s *Server) Deliver(local, remote netip.AddrPort, datagram []byte) {
	h, err := wire.ParseHeader(datagram)
	if err != nil {
		s.drops.add(dropMalformed, 1)
		return
	}
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	if h.MajorVersion == 1 {
		s.deliverV1(sa.Datagram{Local: local, Remote: remote, Bytes: datagram}, &h)
		return
	}
	if h.MajorVersion != 2 {
		s.otherVersion(sa.Datagram{Local: local, Remote: remote, Bytes: datagram}, &h)
		return
	}
	if h.Exchange == wire.IKESAInit && h.Initiator && !h.Response && h.ResponderSPI == 0 {
		s.deliverFirst(sa.Datagram{Local: local, Remote: remote, Bytes: datagram}, false)
		return
	}
	spi := h.InitiatorSPI
	if h.Initiator {
		spi = h.ResponderSPI
	}
	s.mu.Lock()
	p, phase := s.bySPI[spi], s.phase
	s.mu.Unlock()
	switch {
	case phase == created || phase == stopped:
		s.drops.add(dropNotRunning, 1)
	case p == nil:
		s.drops.add(dropUnknownSPI, 1)
	default:
		s.toPeer(p, sa.Datagram{Local: local, Remote: remote, Bytes: datagram})
	}
}

// otherVersion drops a datagram of another major version of IKE. What may be
// the answer of a peer that speaks no IKEv2 goes to the machine that asked, as
// part of its diagnosis.
func (s *Server) otherVersion(d sa.Datagram, h *wire.Header) {
	s.drops.add(dropVersion, 1)
	s.mu.Lock()
	p := s.bySPI[h.InitiatorSPI]
	s.mu.Unlock()
	switch {
	case p != nil:
		s.toPeer(p, d)
	default:
		s.answerVersion(d.Local, d.Remote, h)
	}
}

// deliverV1 takes a datagram of IKEv1, whose header does not tell which end sent
// it: to the machine that has one of its cookies, or as the first message of an
// ISAKMP SA where a connection is of IKEv1.
func (s *Server) deliverV1(d sa.Datagram, h *wire.Header) {
	s.mu.Lock()
	p := s.bySPI[h.ResponderSPI]
	if p == nil {
		p = s.bySPI[h.InitiatorSPI]
	}
	phase := s.phase
	s.mu.Unlock()
	x := isakmp.ExchangeType(h.Exchange)
	begins := h.InitiatorSPI != 0 && h.ResponderSPI == 0 && (x == isakmp.IdentityProtection || x == isakmp.Aggressive)
	switch {
	case phase == created || phase == stopped:
		s.drops.add(dropNotRunning, 1)
	case p != nil && !p.v1:
		s.drops.add(dropVersion, 1)
		s.toPeer(p, d) // perhaps the answer of a peer that speaks no IKEv2
	case p != nil:
		s.toPeer(p, d)
	case !begins:
		s.drops.add(dropUnknownSPI, 1)
	case s.directory.Load().speaksV1(d.Local.Addr(), d.Remote.Addr()):
		s.deliverFirst(d, true)
	default:
		s.drops.add(dropVersion, 1)
		s.olderVersion(d)
	}
}

// olderVersion notes that an initiator asks for IKEv1, where its address means
// one connection.
func (s *Server) olderVersion(d sa.Datagram) {
	if len(s.directory.Load().candidates(d.Local.Addr(), d.Remote.Addr())) == 0 {
		s.stranger(d, "phase 1")
		return
	}
	if meant := s.directory.Load().exact(d.Local.Addr(), d.Remote.Addr()); len(meant) == 1 {
		s.emit(sa.Event{
			Kind: sa.Failed, Connection: meant[0].Name, Local: d.Local, Remote: d.Remote, Reason: sa.ReasonVersion,
			Diagnosis: &sa.Diagnosis{
				Reason: sa.ReasonVersion, Exchange: wire.IKESAInit.String(), Parameter: "IKE version",
				Ours: "2", Theirs: "1", Detail: "the peer begins with IKEv1",
			},
		})
	}
}

// toPeer puts a copy of a datagram into a mailbox.
func (s *Server) toPeer(p *peer, d sa.Datagram) {
	d.Bytes = bytes.Clone(d.Bytes)
	if !p.in.datagram(d) {
		s.drops.add(dropMailboxFull, 1)
	}
}

// answerVersion tells the sender of a request of a later major version which
// one we speak (RFC 7296, section 2.5).
func (s *Server) answerVersion(local, remote netip.AddrPort, h *wire.Header) {
	if h.MajorVersion < 3 || h.Response || !s.answers.Allow() {
		return
	}
	s.answer(local, remote, h, &wire.Notify{NotifyType: wire.InvalidMajorVersion})
}

// answer sends a notify in the clear to the sender of a request, without any
// state. It is never longer than an IKE_SA_INIT request.
func (s *Server) answer(local, remote netip.AddrPort, h *wire.Header, n *wire.Notify) {
	m := wire.Message{Header: *h, Payloads: []wire.Payload{n}}
	m.Response, m.Initiator = true, !h.Initiator
	b, err := m.Append(nil)
	if err == nil {
		err = s.opts.Transport.SendIKE(local, remote, b)
	}
	if err != nil {
		s.drops.add(dropSendFailed, 1)
	}
}

// deliverFirst takes an IKE_SA_INIT request, or the first message of IKEv1: to
// the machine that has answered it, or through admission to a worker.
func (s *Server) deliverFirst(d sa.Datagram, v1 bool) {
	key := newInitKey(d.Local, d.Remote, d.Bytes)
	s.mu.Lock()
	p, known := s.byInit[key]
	phase := s.phase
	s.mu.Unlock()
	switch {
	case phase != running:
		s.drops.add(dropNotRunning, 1)
	case known && p == nil:
		s.drops.add(dropBusy, 1)
	case known:
		s.toPeer(p, d)
	case v1:
		s.admitV1(key, d)
	default:
		s.admit(time.Now(), key, d)
	}
}
