package sslvpn

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// parameters are what a session keeps to from its first key on.
type parameters struct {
	cipher   Cipher
	exporter bool // data keys by TLS exporter, else by PRF
	epoch    bool // data packets of the epoch format
	info     wire.PeerInfo
	framing  framing
	stubV2   bool   // the client is told to leave its own compression framing
	token    string // the auth-token that was pushed last
	pushed   time.Time
}

// refusal is a login that is turned down: what the client is told and what the
// connection log says.
type refusal struct {
	why     loginFailure
	message string // of the control channel
	reason  string
}

func (r *refusal) Error() string { return r.reason }

// refuse is a refusal that says the same on both sides.
func refuse(why loginFailure, format string, args ...any) *refusal {
	reason := fmt.Sprintf(format, args...)
	return &refusal{why: why, message: wire.RefuseLogin(reason), reason: reason}
}

// negotiate brings a key id from the first TLS octets to its data keys. It runs
// in a goroutine of its own, since crypto/tls waits, and ends with the
// negotiation.
func (s *session) negotiate(k *keyState) {
	err := s.guarded(k)
	if err == nil {
		s.readMessages(k) // what came meanwhile
		return
	}
	s.failed(k, err)
}

var errInternal = errors.New("internal error")

// guarded runs the exchange, in its place among the running handshakes. A panic
// in it is a bug of ours that a client may have provoked: it ends the session
// and nothing else.
func (s *session) guarded(k *keyState) (err error) {
	s.ep.server.enterHandshake()
	defer s.ep.server.leaveHandshake()
	defer func() {
		if r := recover(); r != nil {
			s.ep.control.add(dropPanic)
			s.ep.log.Error("internal error in a negotiation", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = errInternal
		}
	}()
	return s.exchange(k)
}

// exchange is one negotiation: TLS, key method 2, the login, data keys.
func (s *session) exchange(k *keyState) error {
	if err := k.tls.HandshakeContext(context.Background()); err != nil {
		return s.handshakeError(k, err)
	}
	s.mu.Lock()
	k.secured = true
	s.mu.Unlock()
	client, rest, err := readClientKeys(k.tls)
	defer client.Wipe()
	if err != nil {
		return fmt.Errorf("key method 2: %w", err)
	}
	k.text = rest
	var server wire.ServerKeys
	defer server.Randoms.Wipe()
	_, _ = rand.Read(server.Randoms.Random1[:])
	_, _ = rand.Read(server.Randoms.Random2[:])
	server.Options = wire.ServerOptions(client.Options)
	// The client takes nothing else before this message, a refusal included.
	if _, err := k.tls.Write(server.Append(nil)); err != nil {
		return fmt.Errorf("send keys: %w", err)
	}
	state := k.tls.ConnectionState()
	if k.id != 0 {
		return s.renew(k, &state, &client, &server)
	}
	return s.establish(k, &state, &client, &server)
}

// readClientKeys reads the client's message of key method 2, however many
// records it comes in, and what was read behind it.
func readClientKeys(conn *tls.Conn) (k wire.ClientKeys, rest []byte, err error) {
	buf := make([]byte, 0, 2048)
	defer func() { clear(buf[:cap(buf)]) }()
	for {
		if len(buf) == cap(buf) {
			if len(buf) >= wire.MaxClientKeys {
				return k, nil, fmt.Errorf("%w: message of more than %d octets", wire.ErrMalformed, wire.MaxClientKeys)
			}
			grown := make([]byte, len(buf), 2*cap(buf))
			copy(grown, buf)
			clear(buf)
			buf = grown
		}
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			var used int
			k, used, parseErr := wire.ParseClientKeys(buf)
			if parseErr == nil {
				return k, slices.Clone(buf[used:]), nil
			}
			if !errors.Is(parseErr, wire.ErrIncomplete) {
				return k, nil, parseErr
			}
		}
		if err != nil {
			return k, nil, err
		}
	}
}

// establish judges the first login and starts the data channel.
func (s *session) establish(k *keyState, state *tls.ConnectionState, client *wire.ClientKeys, server *wire.ServerKeys) error {
	p := parameters{info: wire.ParsePeerInfo(client.PeerInfo)}
	id, err := s.authenticate(state, client)
	if err != nil {
		return err
	}
	if err := s.choose(&p, client); err != nil {
		return err
	}
	c, err := s.ep.admit(s, id, &p.info)
	if err != nil {
		return err
	}
	c.framing = p.framing
	c.onRekey = func() { s.renegotiate("the data keys are used up") }
	c.onExit = func() { s.end(ending{reason: "the client has left"}) }
	if err := s.installKeys(c, k, &p, state, client, server); err != nil {
		return err
	}
	now := time.Now()
	p.token = s.ep.token(id, now)

	// A request for the settings waits until there is traffic to be had by them.
	k.reading.Lock()
	defer k.reading.Unlock()
	s.mu.Lock()
	if s.phase != phaseOpening || k.err != nil {
		defer s.mu.Unlock()
		return cmp.Or(k.err, errSessionEnded)
	}
	s.phase, s.identity, s.params, s.established = phaseEstablished, id, p, now
	s.client.Store(c)
	k.agreed = true
	s.times.established(now, s.ep.server.opts)
	s.schedule(now)
	s.ep.connected(s.snapshotLocked()) // before anybody can end the session
	s.mu.Unlock()

	if err := s.ep.attach(s, c); err != nil {
		return err
	}
	if p.info.Proto.Has(wire.ProtoRequestPush) {
		s.push()
	}
	return nil
}

// choose settles what both sides speak.
func (s *session) choose(p *parameters, client *wire.ClientKeys) error {
	info, want := &p.info, s.ep.config().Cipher
	switch {
	case info.Proto.Has(wire.ProtoNoPull):
		return refuse(failedParameters, "the client takes no settings from the server: its profile needs the option client or pull")
	case !info.Proto.Has(wire.ProtoDataV2):
		return refuse(failedParameters, "the client is too old: OpenVPN 2.4 or later is needed")
	case !info.Supports(string(want), client.Options):
		return refuse(failedParameters, "Data channel cipher negotiation failed (no shared cipher): the server has %s", want)
	}
	p.cipher = want
	p.exporter = info.Proto.Has(wire.ProtoTLSExporter)
	// It is agreed upon by protocol-flags, which the client has to understand.
	p.epoch = info.Proto.Has(wire.ProtoEpochData|wire.ProtoTLSExporter|wire.ProtoExitNotify) && !s.ep.config().ClassicKeys
	frames := wire.FramesCompression(client.Options)
	p.stubV2 = info.StubV2 && (frames || s.ep.config().Compressed)
	if frames && !info.StubV2 {
		p.framing = framingCompLZO
	}
	return nil
}

// installKeys derives the data keys of a key id and hands them to the data path.
func (s *session) installKeys(c *client, k *keyState, p *parameters, state *tls.ConnectionState, client *wire.ClientKeys, server *wire.ServerKeys) error {
	material := new(wire.KeyMaterial)
	if p.exporter {
		exported, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.KeyMaterialLen)
		if err != nil {
			return fmt.Errorf("export data keys: %w", err)
		}
		copy(material[:], exported)
		clear(exported)
	} else {
		material = wire.PRF(&client.Randoms, &server.Randoms, s.remote, s.local)
	}
	defer clear(material[:])
	keys := dataKeys{cipher: p.cipher, epoch: p.epoch}
	keys.recvKey, keys.recvIV = material.ClientToServer(keys.keyLen())
	keys.sendKey, keys.sendIV = material.ServerToClient(keys.keyLen())
	return c.installKey(k.id, keys)
}

// renew ends a renegotiation: the same client, other data keys.
func (s *session) renew(k *keyState, state *tls.ConnectionState, client *wire.ClientKeys, server *wire.ServerKeys) error {
	s.mu.Lock()
	was, c, p := s.identity, s.client.Load(), s.params
	s.mu.Unlock()
	id, err := s.authenticate(state, client)
	if err != nil {
		return err
	}
	if !id.same(was) {
		return refuse(failedOther, "the login of the renegotiation is not that of the session")
	}
	if err := s.installKeys(c, k, &p, state, client, server); err != nil {
		return err
	}
	token := s.ep.token(id, time.Now())

	s.mu.Lock()
	if s.phase != phaseEstablished || k.err != nil {
		defer s.mu.Unlock()
		c.retireKey(k.id)
		return cmp.Or(k.err, errSessionEnded)
	}
	now := time.Now()
	c.renewed(now)
	old := s.current
	if !s.times.retire.IsZero() {
		s.retire(s.times.old) // of three keys the oldest has had its time
	}
	s.identity, s.current, s.params.token = id, k.id, token
	k.agreed = true
	s.times.renewed(now, s.ep.server.opts, old)
	s.schedule(now)
	s.mu.Unlock()
	s.review() // the settings may have changed since the login was judged
	if token != "" {
		s.send(wire.PushToken(token))
	}
	return nil
}

// send sends a text message under the newest key id, unless the session has
// ended meanwhile.
func (s *session) send(message string) {
	s.mu.Lock()
	k, over := s.keys[s.current], s.phase >= phaseLeaving
	s.mu.Unlock()
	if over || k == nil {
		return
	}
	if _, err := k.tls.Write(wire.AppendMessage(nil, message)); err != nil && !errors.Is(err, errSessionEnded) {
		s.end(ending{reason: "the control channel failed: " + err.Error()})
	}
}

// readMessages treats the text messages that have come under a key id.
func (s *session) readMessages(k *keyState) {
	k.reading.Lock()
	defer k.reading.Unlock()
	buf := make([]byte, wire.MaxMessage)
	for {
		for {
			message, rest, ok, err := wire.CutMessage(k.text)
			if !ok && err == nil {
				break
			}
			k.text = rest
			if err != nil {
				s.ep.control.add(dropMessage)
				if !ok {
					s.end(ending{reason: "the client broke the protocol: " + err.Error()})
					return
				}
				continue
			}
			s.message(message)
		}
		if len(k.text) == 0 {
			k.text = nil
		}
		n, err := k.tls.Read(buf)
		k.text = append(k.text, buf[:n]...)
		switch {
		case errors.Is(err, errNoData{}):
			return
		case errors.Is(err, errSessionEnded):
			return
		case err != nil:
			s.end(ending{reason: "the control channel failed: " + err.Error()})
			return
		}
	}
}

// message treats one text message. What a server does not know it passes over.
func (s *session) message(m string) {
	switch m {
	case wire.PushRequest:
		s.mu.Lock()
		again := s.params.pushed.IsZero() || time.Since(s.params.pushed) >= pushRepeat
		established := s.phase == phaseEstablished
		s.mu.Unlock()
		if established && again {
			s.push()
		}
	case wire.Exit:
		s.end(ending{reason: "the client has left"})
	default:
		s.ep.control.add(dropMessage)
	}
}

// handshakeError words what went wrong in a TLS handshake, in terms of what to
// change.
func (s *session) handshakeError(k *keyState, err error) error {
	s.mu.Lock()
	why := k.err
	s.mu.Unlock()
	if why != nil {
		return why
	}
	return s.describeTLSError(err)
}
