package sslvpn

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// ErrClosed is why a Connection has ended after Close.
var ErrClosed = errors.New("the connection was closed")

// Connection is the client's own end of a session.
type Connection struct {
	options ConnectOptions
	log     *slog.Logger
	link    link
	shut    func()
	stream  bool
	local   wire.SessionID
	opened  time.Time
	// wrap protects control packets, wrappedKey is the key of it that the server
	// has to be sent; both are nil without.
	wrap       *wire.TLSCrypt
	wrappedKey []byte
	settings   atomic.Pointer[wire.Push]
	exporter   bool                   // set by Connect
	epoch      bool                   // likewise
	peer       *client                // likewise: the server in the data path
	attached   atomic.Pointer[client] // peer, while it carries data
	drops      drops
	running    sync.WaitGroup

	mu       sync.Mutex
	remote   wire.SessionID
	keyAgain bool   // the server wants the wrapped key again
	sent     uint32 // counts control packets
	keys     [wire.MaxKeyID + 1]*clientKey
	newest   uint8     // key id that was begun last
	current  uint8     // key id that was agreed upon last
	fresh    time.Time // when sealing moves to current; zero: it has
	token    string    // takes the place of the password
	cause    error     // why the connection has ended

	ended chan struct{} // closed with cause
}

// clientKey is the control channel under one key id. All but tls is guarded by
// the connection's mu.
type clientKey struct {
	id     uint8
	rel    reliable
	in     []byte // TLS stream that crypto/tls has not read
	wake   *sync.Cond
	err    error // why there is nothing more to read
	agreed bool
	ends   time.Time // when it is removed; zero: it is the newest
	tls    *tls.Conn
	// Of the one goroutine that reads: the start of a text message, and of a
	// change of settings.
	text   []byte
	change *wire.PushChange
}

// Settings returns what the server has pushed, with its changes since.
func (c *Connection) Settings() wire.Push {
	if p := c.settings.Load(); p != nil {
		return *p
	}
	return wire.Push{}
}

// AuthToken returns what takes the place of the password, and of what else was
// asked for, when the client connects again; empty: nothing.
func (c *Connection) AuthToken() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// Traffic returns the inner packets to the server and from it.
func (c *Connection) Traffic() (sent, received Traffic) {
	received, sent = c.peer.traffic()
	return sent, received
}

// Drops returns the packets dropped, by reason.
func (c *Connection) Drops() map[string]uint64 { return c.drops.snapshot() }

// Ended is closed when the connection has ended.
func (c *Connection) Ended() <-chan struct{} { return c.ended }

// Run carries the packets of a TUN device until the connection or the context
// ends, or the device fails; it closes the device. A nil device carries
// nothing: the session is only kept alive. The error says why the connection
// has ended, nil when the context did.
func (c *Connection) Run(ctx context.Context, dev tun.Device) error {
	stop := context.AfterFunc(ctx, func() { c.end(ErrClosed) })
	defer stop()
	if dev != nil {
		p := newPeerPlane(dev, planeOptions{log: c.log})
		p.attachServer(c.peer)
		c.running.Go(func() {
			err := p.run(ctx)
			c.end(cmp.Or(err, ErrClosed))
		})
		defer p.detach(c.peer)
	}
	<-c.ended
	if dev != nil {
		_ = dev.Close()
	}
	c.running.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return c.err()
}

// Close tells the server that the client leaves, and ends the connection.
func (c *Connection) Close() error {
	if slices.Contains(c.Settings().Flags, wire.FlagExitNotify) && !c.stream {
		c.mu.Lock()
		k := c.keys[c.current]
		c.mu.Unlock()
		if k != nil {
			_, _ = k.tls.Write(wire.AppendMessage(nil, wire.Exit)) // else the server waits for its timeout
		}
	}
	c.end(ErrClosed)
	c.running.Wait()
	return nil
}

func (c *Connection) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// end ends the connection. Only the first call counts.
func (c *Connection) end(err error) {
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return
	}
	c.cause = cmp.Or(err, ErrClosed)
	for _, k := range c.keys {
		if k != nil {
			k.fail(c.cause)
		}
	}
	close(c.ended)
	c.mu.Unlock()
	if peer := c.attached.Swap(nil); peer != nil {
		peer.retireAll()
	}
	go c.shut() // it waits for the goroutine that may be calling
}

// lost says that nothing more comes. What has come is read first: it may say
// why.
func (c *Connection) lost(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keys {
		if k != nil {
			k.fail(err)
		}
	}
}

func (k *clientKey) fail(err error) {
	if k.err == nil {
		k.err = err
		k.wake.Broadcast()
	}
}

// newKey starts the control channel of a key id. The caller holds mu.
func (c *Connection) newKey(id uint8) *clientKey {
	k := &clientKey{id: id, rel: reliable{stream: c.stream}, wake: sync.NewCond(&c.mu)}
	k.tls = tls.Client(&clientStream{c, k}, c.tlsConfig())
	if c.cause != nil {
		k.err = c.cause
	}
	if old := c.keys[id]; old != nil {
		old.fail(errSessionEnded)
	}
	c.keys[id], c.newest = k, id
	return k
}

// receiveData takes DATA packets.
func (c *Connection) receiveData(packets [][]byte) {
	if peer := c.attached.Load(); peer != nil {
		peer.receive(packets)
	}
}

// receiveControl takes a packet of the control channel. What does not fit
// changes nothing.
func (c *Connection) receiveControl(packet []byte) {
	if c.wrap != nil {
		plain, err := c.wrap.Open(packet)
		if err != nil {
			return
		}
		packet = plain
	}
	p, err := wire.ParseControl(packet)
	if err != nil {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.remote == (wire.SessionID{}) && p.Opcode == wire.HardResetServerV2 && p.Remote == c.local {
		c.remote, c.keyAgain = p.Session, c.wrappedKey != nil && wire.WantsKeyAgain(p.Payload)
		if k := c.keys[0]; c.keyAgain && k != nil {
			_ = k.rel.queue(wire.ControlV1, nil) // for the key alone: with more the datagram would be too long
		}
	}
	if c.cause != nil || p.Session != c.remote || len(p.Acks) > 0 && p.Remote != c.local {
		return
	}
	k := c.keys[p.KeyID]
	if p.Opcode == wire.SoftReset && (k == nil || k.agreed) {
		if k = c.softReset(&p); k == nil {
			return
		}
	}
	if k == nil {
		return
	}
	k.rel.acknowledge(p.Acks)
	if p.Opcode != wire.AckV1 && len(k.in) < maxUnread {
		k.rel.receive(p.Opcode, p.PacketID, p.Payload)
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
	k.wake.Broadcast()
	c.flush(now, k)
}

// softReset begins the renegotiation that the server asks for. The caller holds
// mu.
func (c *Connection) softReset(p *wire.Control) *clientKey {
	// A server that goes on at once may be ahead of what we have read.
	if p.KeyID != wire.NextKeyID(c.newest) || p.PacketID != 0 || c.attached.Load() == nil {
		return nil
	}
	// The server has the key before this one; a ping tells it that we have, too.
	c.activate()
	k := c.newKey(p.KeyID)
	_ = k.rel.queue(wire.SoftReset, nil) // an empty queue has room
	c.running.Go(func() {
		if err := c.renew(k); err != nil && !errors.Is(err, errSessionEnded) {
			c.end(fmt.Errorf("renegotiate: %w", err))
		}
	})
	return k
}

// flush sends what is due. The caller holds mu.
func (c *Connection) flush(now time.Time, k *clientKey) {
	k.rel.flush(now, func(op wire.Opcode, id uint32, acks []uint32, payload []byte) {
		p := wire.Control{Opcode: op, KeyID: k.id, Session: c.local, Acks: acks, Remote: c.remote, PacketID: id, Payload: payload}
		// A packet that cannot be sent is a lost one.
		_ = c.link.sendControl(c.format(&p))
	})
}

// format returns a control packet as it goes out, with the wrapped key where the
// server needs it. The caller holds mu.
func (c *Connection) format(p *wire.Control) []byte {
	if c.wrap == nil {
		return p.Append(nil)
	}
	var behind []byte
	switch {
	case c.wrappedKey == nil:
	case p.Opcode == wire.HardResetClientV2:
		p.Opcode, behind = wire.HardResetClientV3, c.wrappedKey
	case c.keyAgain && p.Opcode == wire.ControlV1 && p.KeyID == 0 && p.PacketID == 1:
		p.Opcode, behind = wire.ControlWKCV1, c.wrappedKey
		if len(p.Acks) == 0 { // said again: the server knows nothing of the first time
			p.Acks, p.Remote = []uint32{0}, c.remote
		}
	}
	c.sent++
	return append(c.wrap.Append(nil, p.Append(nil), c.sent, uint32(c.opened.Unix())), behind...)
}

// clientStream is what crypto/tls runs over.
type clientStream struct {
	c *Connection
	k *clientKey
}

func (s *clientStream) Read(b []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	k := s.k
	for len(k.in) == 0 {
		if k.err != nil {
			return 0, k.err
		}
		k.wake.Wait()
	}
	n := copy(b, k.in)
	if k.in = k.in[n:]; len(k.in) == 0 {
		k.in = nil
	}
	return n, nil
}

func (s *clientStream) Write(b []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.k.err != nil {
		return len(b), nil // Read says why, after what came before the end
	}
	for part := range slices.Chunk(b, wire.MaxControlPayload) {
		if err := s.k.rel.queue(wire.ControlV1, bytes.Clone(part)); err != nil {
			return 0, err
		}
	}
	s.c.flush(time.Now(), s.k)
	return len(b), nil
}

// Close implements net.Conn; crypto/tls calls it when a handshake is given up.
func (s *clientStream) Close() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.k.fail(net.ErrClosed)
	return nil
}

func (s *clientStream) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *clientStream) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *clientStream) SetDeadline(time.Time) error      { return nil }
func (s *clientStream) SetReadDeadline(time.Time) error  { return nil }
func (s *clientStream) SetWriteDeadline(time.Time) error { return nil }

// agreement is what a negotiation leaves for the data keys.
type agreement struct {
	client wire.ClientKeys
	server wire.ServerKeys
}

func (a *agreement) wipe() {
	a.client.Wipe()
	a.server.Randoms.Wipe()
}

// negotiate is the TLS handshake and key method 2.
func (c *Connection) negotiate(ctx context.Context, k *clientKey) (*agreement, error) {
	if err := k.tls.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	c.mu.Lock()
	password := c.token
	c.mu.Unlock()
	if password == "" {
		password = wire.AnswerChallenge(c.options.Password, c.options.Answer)
	}
	a := &agreement{client: wire.ClientKeys{
		Options: c.optionsString(), UserName: c.options.UserName, Password: []byte(password), PeerInfo: c.peerInfo(),
	}}
	r := &a.client.Randoms
	for _, b := range [][]byte{r.PreMaster[:], r.Random1[:], r.Random2[:]} {
		_, _ = rand.Read(b)
	}
	message := a.client.Append(nil)
	defer clear(message)
	if _, err := k.tls.Write(message); err != nil {
		return nil, fmt.Errorf("send keys: %w", err)
	}
	buf := make([]byte, 0, 4096)
	for {
		n, err := k.tls.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			var used int
			var parsed error
			if a.server, used, parsed = wire.ParseServerKeys(buf); parsed == nil {
				k.text = slices.Clone(buf[used:])
				clear(buf[:used])
				return a, nil
			} else if !errors.Is(parsed, wire.ErrIncomplete) || len(buf) == cap(buf) {
				return nil, fmt.Errorf("key method 2: %w", parsed)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("receive keys: %w", err)
		}
	}
}

// installKeys hands the data keys of a key id to the data path.
func (c *Connection) installKeys(k *clientKey, a *agreement) error {
	material := new(wire.KeyMaterial)
	if c.exporter {
		state := k.tls.ConnectionState()
		exported, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.KeyMaterialLen)
		if err != nil {
			return fmt.Errorf("export data keys: %w", err)
		}
		copy(material[:], exported)
		clear(exported)
	} else {
		material = wire.PRF(&a.client.Randoms, &a.server.Randoms, c.local, c.remote)
	}
	defer clear(material[:])
	keys := dataKeys{cipher: Cipher(c.Settings().Cipher), epoch: c.epoch}
	keys.sendKey, keys.sendIV = material.ClientToServer(keys.keyLen())
	keys.recvKey, keys.recvIV = material.ServerToClient(keys.keyLen())
	if err := c.peer.installKey(k.id, keys); err != nil {
		return err
	}
	c.mu.Lock()
	k.agreed = true
	c.mu.Unlock()
	return nil
}

// renew brings a new key id into use.
func (c *Connection) renew(k *clientKey) error {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	a, err := c.negotiate(ctx, k)
	if err != nil {
		return err
	}
	defer a.wipe()
	if err := c.installKeys(k, a); err != nil {
		return err
	}
	now := time.Now()
	c.peer.renewed(now)
	c.mu.Lock()
	if c.newest == k.id {
		if old := c.keys[c.current]; old != nil {
			old.ends = now.Add(keyOverlap)
		}
		c.current, c.fresh = k.id, now.Add(keyActivation)
	}
	c.mu.Unlock()
	c.readMessages(k)
	return nil
}

// awaitSettings reads until the server has pushed all its settings.
func (c *Connection) awaitSettings(k *clientKey) error {
	var settings wire.Push
	for {
		m, err := c.nextMessage(k)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(m, wire.PushReply) {
			if err := refusedBy(m); err != nil {
				return err
			}
			continue
		}
		if more, err := settings.Add(m); err != nil {
			return err
		} else if !more {
			c.settings.Store(&settings)
			return nil
		}
	}
}

// refusedBy returns an error for a message that ends a session.
func refusedBy(m string) error {
	for _, word := range []string{wire.AuthFailed, wire.Restart, wire.Halt, wire.Exit} {
		if rest, ok := strings.CutPrefix(m, word); ok && (rest == "" || rest[0] == ',') {
			return &RefusedError{m}
		}
	}
	return nil
}

// readMessages treats the server's messages under a key id until it ends.
func (c *Connection) readMessages(k *clientKey) {
	for {
		m, err := c.nextMessage(k)
		if err != nil {
			c.mu.Lock()
			superseded := c.keys[k.id] != k || c.newest != k.id
			c.mu.Unlock()
			if !superseded {
				c.end(err)
			}
			return
		}
		var update wire.Push
		if strings.HasPrefix(m, wire.PushUpdate) {
			if err := c.change(k, m); err != nil {
				c.end(err) // what the server wants is to be had by connecting anew
				return
			}
		} else if strings.HasPrefix(m, wire.PushReply) {
			if _, err := update.Add(m); err == nil && update.AuthToken != "" {
				c.mu.Lock()
				c.token = update.AuthToken
				c.mu.Unlock()
			}
		} else if err := refusedBy(m); err != nil {
			c.end(err)
			return
		}
	}
}

// change takes a PUSH_UPDATE message under a key id. Settings are in force with the
// last message of a change.
func (c *Connection) change(k *clientKey, message string) error {
	if k.change == nil {
		k.change = wire.NewPushChange(c.Settings())
	}
	more, err := k.change.Add(message)
	switch {
	case err != nil:
		return fmt.Errorf("change of settings: %w", err)
	case more:
		return nil
	}
	now := k.change.Push
	k.change = nil
	c.settings.Store(&now)
	if c.options.OnChange != nil {
		c.options.OnChange(now)
	}
	return nil
}

// nextMessage returns the next text message under a key id.
func (c *Connection) nextMessage(k *clientKey) (string, error) {
	buf := make([]byte, wire.MaxMessage)
	for {
		m, rest, ok, err := wire.CutMessage(k.text)
		if err != nil {
			return "", err
		}
		if ok {
			k.text = rest
			return m, nil
		}
		n, err := k.tls.Read(buf)
		k.text = append(k.text, buf[:n]...)
		if err != nil && n == 0 {
			return "", err
		}
	}
}

// keepTime sends again what UDP has lost, pings, moves to new keys and ends a
// connection whose server is silent.
func (c *Connection) keepTime() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	begun := time.Now()
	for {
		select {
		case <-c.ended:
			return
		case now := <-ticker.C:
			c.resend()
			peer := c.attached.Load()
			if peer == nil {
				continue
			}
			c.turnKeys(now)
			p := c.Settings()
			if every := time.Duration(p.Ping) * time.Second; every > 0 {
				_ = peer.keepAlive(now, every) // without a key: the server's timeout tells
			}
			heard := peer.lastReceived()
			if heard.IsZero() {
				heard = begun
			}
			if limit := time.Duration(p.PingRestart) * time.Second; limit > 0 && now.Sub(heard) > limit {
				c.end(fmt.Errorf("nothing was heard of the server for %s", limit))
			}
		}
	}
}

// resend sends again what is due.
func (c *Connection) resend() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keys {
		if k != nil && c.cause == nil {
			c.flush(now, k)
		}
	}
}

// turnKeys moves sealing to the newest key, and removes those before, when it
// is time.
func (c *Connection) turnKeys(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if due(now, c.fresh) {
		c.activate()
	}
	for id, k := range c.keys {
		if k != nil && due(now, k.ends) {
			c.keys[id] = nil
			k.fail(errSessionEnded)
			c.peer.retireKey(k.id)
		}
	}
}

// activate moves sealing to the key that was agreed upon last. The caller holds
// mu.
func (c *Connection) activate() {
	if !c.fresh.IsZero() {
		c.fresh = time.Time{}
		c.peer.activateKey(c.current)
		_ = c.peer.sendPing() // a ping that is lost is one that was not needed
	}
}
