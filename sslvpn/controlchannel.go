package sslvpn

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// transport is the way to one client and back.
type transport interface {
	link
	// shut closes the way once what waits was sent, at the latest after a
	// second. It does not wait itself.
	shut()
}

// phase is where a session is in its life.
type phase uint8

const (
	phaseOpening     phase = iota // up to the verdict about the first login
	phaseEstablished              // the data channel is in use
	phaseLeaving                  // a last message is under way; no data any more
	phaseEnded
)

// session is one client from its first packet on: the control channel and the
// keys that come out of it. The keys go to its client in the data path.
//
// Packets and timers come from several goroutines; mu serialises them. It is
// held for no call to crypto/tls, whose reads and writes come back for it, and
// for no call to the endpoint.
type session struct {
	ep       *endpoint
	id       string // UUID
	link     transport
	stream   bool // TCP
	opened   time.Time
	from     netip.Addr   // where it came from at first
	listener *udpListener // nil on TCP, as udp is
	udp      *udpLink
	local    wire.SessionID   // ours
	remote   wire.SessionID   // the client's
	wrap     *wire.TLSCrypt   // of control packets; nil: they go plain
	key      wire.ClientKeyID // that wrap is made of, with tls-crypt-v2

	mu          sync.Mutex
	addr        netip.AddrPort // of the client; moves on UDP
	claimed     string         // who the client says it is
	sent        uint32         // control packets
	moved       time.Time      // when addr last changed
	phase       phase
	current     uint8                        // the newest key id that was agreed upon
	keys        [wire.MaxKeyID + 1]*keyState // by key id
	identity    *identity                    // from phaseEstablished on
	client      atomic.Pointer[client]       // likewise
	params      parameters                   // likewise
	times       timetable
	established time.Time
	timer       *time.Timer
	farewell    *keyState // the last message is queued under it: finish when the client has it

	pushing sync.Mutex // held while settings are sent; before mu
	told    *wire.Push // guarded by pushing: what the client was told last
}

// keyState is the control channel under one key id: a TLS session over a
// reliability layer.
type keyState struct {
	id  uint8
	rel reliable // guarded by mu of the session

	in      []byte     // guarded by mu: TLS stream that crypto/tls has not read
	wake    *sync.Cond // on mu: in has grown, or err is set
	err     error      // guarded by mu: why there is nothing more to read
	started bool       // guarded by mu: negotiation runs, or has run
	secured bool       // guarded by mu: the TLS handshake is complete
	agreed  bool       // guarded by mu: negotiation is over; reads do not wait any more
	ours    bool       // we began the renegotiation

	tls      *tls.Conn
	deadline time.Time // of the negotiation
	reading  sync.Mutex
	text     []byte // guarded by reading: the start of a text message
}

// maxUnread bounds the TLS stream that waits to be read, in octets.
const maxUnread = 32 << 10

var (
	errSessionEnded = errors.New("the session has ended")
	errNegotiation  = errors.New("the handshake took too long")
)

// newSession returns the session of a client whose first packet has come.
func newSession(ep *endpoint, link transport, stream bool, addr netip.AddrPort, first *controlPacket) *session {
	s := &session{
		ep: ep, id: uuid.NewString(), link: link, stream: stream, addr: addr, from: addr.Addr(), opened: time.Now(),
		remote: first.Session, wrap: first.wrap, key: first.clientKey,
	}
	for s.local == (wire.SessionID{}) {
		_, _ = rand.Read(s.local[:])
	}
	return s
}

// accept begins with the client's reset, which it has received.
func (s *session) accept() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opened
	k := s.newKey(now, 0)
	k.rel.receive(wire.HardResetClientV2, 0, nil)
	k.rel.deliver()
	_ = k.rel.queue(wire.HardResetServerV2, nil) // an empty queue has room
	s.flush(now, k)
	s.schedule(now)
}

// resume begins after a stateless exchange of resets, whose answer carried the
// session id.
func (s *session) resume(local wire.SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local, s.sent = local, 1 // the answer to the reset
	k := s.newKey(s.opened, 0)
	k.rel.expected, k.rel.nextID = 1, 1
	s.schedule(s.opened)
}

// newKey starts another key id. The caller holds mu.
func (s *session) newKey(now time.Time, id uint8) *keyState {
	k := &keyState{
		id: id, rel: reliable{stream: s.stream}, wake: sync.NewCond(&s.mu),
		deadline: now.Add(s.ep.server.opts.Limits.HandshakeTimeout),
	}
	k.tls = tls.Server(controlStream{s, k}, s.ep.tlsConfig())
	s.keys[id] = k
	return k
}

// receive takes a packet of the control channel. What does not fit is counted
// and changes nothing.
func (s *session) receive(c *wire.Control) {
	now := time.Now()
	s.mu.Lock()
	k, why := s.route(now, c)
	if k == nil {
		s.mu.Unlock()
		s.ep.control.add(why)
		return
	}
	k.rel.acknowledge(c.Acks)
	if c.Opcode != wire.AckV1 && len(k.in) < maxUnread && !k.rel.receive(c.Opcode, c.PacketID, c.Payload) {
		s.ep.control.add(dropWindow)
	}
	for {
		op, payload, ok := k.rel.deliver()
		if !ok {
			break
		}
		if op == wire.ControlV1 {
			k.in = append(k.in, payload...)
		}
	}
	if len(k.in) > 0 && !k.started && k.err == nil {
		k.started = true
		s.ep.server.negotiations.Go(func() { s.negotiate(k) })
	}
	k.wake.Broadcast()
	s.flush(now, k)
	s.schedule(now)
	done, agreed := s.farewell != nil && s.delivered(s.farewell), k.agreed
	s.mu.Unlock()
	switch {
	case done:
		s.finish()
	case agreed:
		s.readMessages(k)
	}
}

// route finds the key id that a packet belongs to, and starts the next one when
// the client asks for it. why says why there is none.
func (s *session) route(now time.Time, c *wire.Control) (k *keyState, why controlDrop) {
	switch {
	case s.phase == phaseEnded:
		return nil, dropEnded
	case c.Session != s.remote, len(c.Acks) > 0 && c.Remote != s.local:
		return nil, dropSessionID
	}
	k = s.keys[c.KeyID]
	switch c.Opcode {
	case wire.HardResetClientV2:
		// Only the first packet, said again; all else would be another session.
		if c.KeyID != 0 || c.PacketID != 0 || k == nil {
			return nil, dropUnexpected
		}
	case wire.SoftReset:
		if k == nil || k.agreed {
			if k, why = s.softReset(now, c); k == nil {
				return nil, why
			}
		}
	case wire.ControlV1, wire.AckV1:
		if k == nil {
			return nil, dropKeyID
		}
	default:
		return nil, dropUnexpected
	}
	return k, ""
}

// delivered reports whether the client has, or on a stream will get, what was
// queued. The caller holds mu.
func (s *session) delivered(k *keyState) bool {
	return k.rel.idle() || s.stream && k.rel.allSent()
}

// flush sends what is due under a key id.
func (s *session) flush(now time.Time, k *keyState) {
	if s.phase == phaseEnded {
		return
	}
	k.rel.flush(now, func(op wire.Opcode, id uint32, acks []uint32, payload []byte) {
		c := wire.Control{Opcode: op, KeyID: k.id, Session: s.local, Acks: acks, Remote: s.remote, PacketID: id, Payload: payload}
		// A packet that cannot be sent is a lost one; the deadline of the
		// handshake and the client's silence end the session.
		s.sent++
		_ = s.link.sendControl(format(&c, s.wrap, s.sent, s.opened))
	})
}

// controlStream is what crypto/tls runs over: the TLS stream of one key id.
type controlStream struct {
	s *session
	k *keyState
}

// errNoData is returned by Read when the session does not wait for more. A
// temporary error leaves a tls.Conn as it was.
type errNoData struct{}

func (errNoData) Error() string   { return "no data waits in the control channel" }
func (errNoData) Timeout() bool   { return true }
func (errNoData) Temporary() bool { return true }

// Read takes from the stream. While the negotiation runs it waits, and gives
// its place among the running handshakes to another session meanwhile.
func (c controlStream) Read(b []byte) (int, error) {
	s, k := c.s, c.k
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(k.in) == 0 {
		switch {
		case k.err != nil:
			return 0, k.err
		case k.agreed:
			return 0, errNoData{}
		}
		s.ep.server.leaveHandshake()
		k.wake.Wait()
		s.mu.Unlock()
		s.ep.server.enterHandshake()
		s.mu.Lock()
	}
	n := copy(b, k.in)
	if k.in = k.in[n:]; len(k.in) == 0 {
		k.in = nil
	}
	return n, nil
}

// Write puts octets into the stream. It does not wait.
func (c controlStream) Write(b []byte) (int, error) {
	s, k := c.s, c.k
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.err != nil {
		return 0, k.err
	}
	for part := range slices.Chunk(b, wire.MaxControlPayload) {
		if err := k.rel.queue(wire.ControlV1, bytes.Clone(part)); err != nil {
			k.fail(err)
			return 0, err
		}
	}
	s.flush(now, k)
	s.schedule(now)
	return len(b), nil
}

// fail ends the reads of a key id.
func (k *keyState) fail(err error) {
	if k.err == nil {
		k.err = err
		k.wake.Broadcast()
	}
}

// Close does nothing: the session ends in its own way.
func (c controlStream) Close() error                     { return nil }
func (c controlStream) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c controlStream) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c controlStream) SetDeadline(time.Time) error      { return nil }
func (c controlStream) SetReadDeadline(time.Time) error  { return nil }
func (c controlStream) SetWriteDeadline(time.Time) error { return nil }
