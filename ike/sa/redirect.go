package sa

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

// A gateway that is about to stop sends initiators elsewhere (RFC 5685), if they
// said in IKE_SA_INIT that they can be sent:
//
//	initiator                                    gateway
//	SA, KE, Ni, N(REDIRECT_SUPPORTED)  ────────►
//	       ◄──────  N(REDIRECT, gateway, Ni)           instead of a key exchange
//
//	{IDi, AUTH, …}  ───────────────────────────►
//	       ◄──────  {IDr, AUTH, N(REDIRECT, gateway)}  instead of a CHILD_SA
//
//	       ◄──────  {N(REDIRECT, gateway)}             when it stands
//	{}  ───────────────────────────────────────►
//
// The initiator then begins an IKE SA with the other gateway, which has to prove
// the same identity by the same key, and deletes the one it has. That other one is
// told where the initiator comes from, N(REDIRECTED_FROM).

// redirectGrace is how long an initiator that was sent elsewhere may take to
// delete the IKE SA, before we do.
const redirectGrace = 30 * time.Second

// Redirected says where a gateway has sent an initiator. The zero value means that
// none has: the gateway is the connection's.
type Redirected struct{ From, To netip.Addr }

// Redirect tells an initiator that can be sent elsewhere to go there. Others are
// left alone.
type Redirect struct{ To wire.GatewayIdentity }

func (Redirect) command() {}

// supportsRedirect reports whether an IKE_SA_INIT request tells of an initiator
// that can be sent elsewhere.
func supportsRedirect(msg *wire.Message) bool {
	_, ok := msg.Notify(wire.RedirectSupported)
	_, from := msg.Notify(wire.RedirectedFrom)
	return ok || from
}

// redirects returns where an initiator is to go that can be sent elsewhere and
// speaks to an address of ours. It is not sent back to where it comes from.
func (m *Machine) redirects(local netip.Addr) (to wire.GatewayIdentity, ok bool) {
	if !m.redirectable || m.env.Redirect == nil {
		return to, false
	}
	to, ok = m.env.Redirect(local.Unmap())
	return to, ok && to != m.redirectedFrom
}

// redirectInit answers IKE_SA_INIT with another gateway, and keeps nothing. The
// nonce shows that we have seen the request.
func (m *Machine) redirectInit(s *ikeSA, d Datagram, to wire.GatewayIdentity, ni []byte) error {
	data, err := wire.RedirectData(to, ni)
	if err != nil {
		return err
	}
	return m.refuseInit(s, d, wire.Redirect, data, nil)
}

// redirectAuth adds to the answer of IKE_AUTH, in the place of a CHILD_SA, the
// gateway that the peer is to go to, if so.
func (s *ikeSA) redirectAuth(payloads []wire.Payload) (reply, bool) {
	m := s.m
	to, ok := m.redirects(s.path.local.Addr())
	if !ok {
		return reply{}, false
	}
	data, err := wire.RedirectData(to, nil)
	if err != nil {
		return reply{}, false
	}
	payloads = append(payloads, &wire.Notify{NotifyType: wire.Redirect, Data: data})
	return reply{payloads: payloads, then: func() { m.leaves(to) }}, true
}

// redirect tells the peer of an established IKE SA where to go, once.
func (m *Machine) redirect(to wire.GatewayIdentity) {
	s := m.current
	if s == nil || !s.live() || m.began || !m.redirectable || !m.leaveAt.IsZero() || m.redirectedFrom == to {
		return
	}
	s.enqueue(&redirect{to})
	m.leaves(to)
}

// leaves notes that the peer was told to go.
func (m *Machine) leaves(to wire.GatewayIdentity) {
	m.leaveAt = m.now.Add(redirectGrace)
	e := m.event(PeerRedirected, m.current)
	e.Gateway = to.String()
	m.emit(Emit{e})
}

// left ends an IKE SA whose peer was told to go and has not gone.
func (m *Machine) left() { m.terminate(ReasonRedirected, nil) }

// redirect tells the initiator of an established IKE SA to go to another gateway.
type redirect struct{ to wire.GatewayIdentity }

func (x *redirect) kind() wire.ExchangeType { return wire.Informational }

func (x *redirect) request(*ikeSA) ([]wire.Payload, bool) {
	data, err := wire.RedirectData(x.to, nil)
	return []wire.Payload{&wire.Notify{NotifyType: wire.Redirect, Data: data}}, err == nil
}

func (x *redirect) response(*ikeSA, Datagram, *wire.Message) {} // its DELETE follows, or ours

func (x *redirect) unanswered(s *ikeSA, o *outstanding) { s.dead(o) }

// gateway is the peer's address that the IKE SA was begun with.
func (m *Machine) gateway() netip.Addr {
	if m.redirected.To.IsValid() {
		return m.redirected.To
	}
	return m.conn.Remote
}

// announceRedirect returns what IKE_SA_INIT says of redirects.
func (m *Machine) announceRedirect() []wire.Payload {
	if len(m.conn.RedirectTo) == 0 {
		return nil
	}
	if from := m.redirected.From; from.IsValid() {
		if data, err := wire.RedirectData(wire.GatewayIdentity{Addr: from}, nil); err == nil {
			return []wire.Payload{&wire.Notify{NotifyType: wire.RedirectedFrom, Data: data}}
		}
	}
	return []wire.Payload{&wire.Notify{NotifyType: wire.RedirectSupported}}
}

// permitted returns where a REDIRECT sends us, if the connection allows for it and
// we have not been sent about too often.
func (m *Machine) permitted(x wire.ExchangeType, n *wire.Notify) (to netip.Addr, d *Diagnosis) {
	g, _, err := wire.ParseRedirect(n.Data)
	to = g.Addr.Unmap()
	switch {
	case err != nil:
	case !to.IsValid():
		err = errors.New("the peer names the other gateway by a name, and only addresses are followed")
	case to.BitLen() != m.conn.Local.BitLen() || !slices.ContainsFunc(m.conn.RedirectTo, func(p netip.Prefix) bool { return p.Contains(to) }):
		err = errors.New("the connection does not permit that gateway")
	case m.current != nil && to == m.current.path.remote.Addr().Unmap():
		err = errors.New("the peer sends us to where we are")
	case m.env.FollowRedirect == nil || !m.env.FollowRedirect(m.conn):
		err = fmt.Errorf("we were sent from gateway to gateway %d times within %s", MaxRedirects, RedirectPeriod)
	}
	if err == nil {
		return to, nil
	}
	ours := make([]string, len(m.conn.RedirectTo))
	for i, p := range m.conn.RedirectTo {
		ours[i] = p.String()
	}
	return to, &Diagnosis{
		Reason: ReasonRedirect, Exchange: x.String(), Parameter: "gateway",
		Ours: strings.Join(ours, ", "), Theirs: printable(g.String()), Detail: err.Error(),
	}
}

// Bounds of the redirects that a connection follows.
const (
	MaxRedirects   = 5
	RedirectPeriod = 5 * time.Minute
)

// redirected handles a REDIRECT in the place of an answer to IKE_SA_INIT, which
// anybody may have sent who has seen our request. The other gateway has to prove
// itself, and the connection to permit it.
func (x ikeSAInit) redirected(s *ikeSA, n *wire.Notify) {
	m := s.m
	_, nonce, err := wire.ParseRedirect(n.Data)
	if err != nil || len(m.conn.RedirectTo) == 0 || !hmac.Equal(nonce, s.handshake.ni) {
		m.drop(dropRedirect)
		return
	}
	to, d := m.permitted(wire.IKESAInit, n)
	if d != nil {
		x.remember(s, d)
		return
	}
	m.goTo(s, to)
	s.vanish()
}

// redirectedAuth handles a REDIRECT in the answer of IKE_AUTH by a peer that has
// proven itself. There is no CHILD_SA then.
func (s *ikeSA) redirectedAuth(n *wire.Notify) {
	m := s.m
	to, d := m.permitted(wire.IKEAuth, n)
	if d != nil {
		m.report(d)
	}
	s.setState(Deleting) // the peer takes it for established
	s.queue = []exchange{&deleteIKE{}}
	if m.current = nil; d == nil {
		m.goTo(s, to)
	}
}

// goTo begins an IKE SA with another gateway, in the place of one that does not
// come about.
func (m *Machine) goTo(s *ikeSA, to netip.Addr) {
	e := m.event(RedirectedByPeer, s)
	e.Gateway = to.String()
	m.emit(Emit{e})
	m.redirected = Redirected{From: s.path.remote.Addr().Unmap(), To: to}
	m.initiate()
}

// heedRedirect follows a REDIRECT for an established IKE SA, or says why not.
func (s *ikeSA) heedRedirect(msg *wire.Message) {
	m := s.m
	n, ok := msg.Notify(wire.Redirect)
	if !ok || !m.began || s != m.current || !s.live() || len(m.conn.RedirectTo) == 0 {
		return
	}
	to, d := m.permitted(msg.Exchange, n)
	if d != nil {
		e := m.event(Failed, s)
		e.Reason, e.Diagnosis, e.Established = d.Reason, d, true
		m.emit(Emit{e})
		return
	}
	e := m.event(RedirectedByPeer, s)
	e.Gateway = to.String()
	m.emit(Emit{e})
	m.emit(Replace{Redirected{From: s.path.remote.Addr().Unmap(), To: to}})
}
