package sslvpn

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// testClient is the other end of a session: just enough of a client to say the
// right things, and the wrong ones.
type testClient struct {
	t      testing.TB
	stream bool
	conn   net.Conn // TCP, or a connected UDP socket
	id     wire.SessionID
	info   string // peer info

	mu     sync.Mutex
	server wire.SessionID
	keyID  uint8
	rel    *reliable
	in     *streamBuffer
	data   chan []byte // DATA packets
	resets chan wire.Control
	closed error

	tls     *tls.Conn
	text    []byte
	randoms wire.Randoms
	push    wire.Push
	key     *dataKey
}

// streamBuffer is a stream that is read while it is written.
type streamBuffer struct {
	mu   sync.Mutex
	more *sync.Cond
	b    []byte
	err  error
}

func newStreamBuffer() *streamBuffer {
	b := &streamBuffer{}
	b.more = sync.NewCond(&b.mu)
	return b
}

func (b *streamBuffer) write(p []byte, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	if b.err == nil {
		b.err = err
	}
	b.more.Broadcast()
}

func (b *streamBuffer) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.b) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.more.Wait()
	}
	n := copy(p, b.b)
	b.b = b.b[n:]
	return n, nil
}

// testStream is what the client's TLS runs over.
type testStream struct {
	controlStream
	in *streamBuffer
	c  *testClient
}

func (s testStream) Read(b []byte) (int, error) { return s.in.Read(b) }

func (s testStream) Write(b []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for rest := b; len(rest) > 0; {
		n := min(len(rest), wire.MaxControlPayload)
		if err := s.c.rel.queue(wire.ControlV1, append([]byte(nil), rest[:n]...)); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	s.c.flush()
	return len(b), nil
}

const infoOf26 = "IV_VER=2.6.14\nIV_PLAT=linux\nIV_PROTO=990\nIV_CIPHERS=AES-128-GCM:AES-256-GCM:CHACHA20-POLY1305\nIV_MTU=1600\nIV_COMP_STUBv2=1\n"

// dialTest connects to an endpoint and exchanges resets.
func dialTest(t testing.TB, network string, address netip.AddrPort) *testClient {
	t.Helper()
	conn, err := net.Dial(network, address.String())
	if err != nil {
		t.Fatal(err)
	}
	c := &testClient{
		t: t, stream: network == "tcp", conn: conn, info: infoOf26,
		data: make(chan []byte, 256), resets: make(chan wire.Control, 16),
	}
	_, _ = rand.Read(c.id[:])
	t.Cleanup(func() { conn.Close() })
	c.restart(0)
	go c.read()
	return c
}

// restart begins with a key id.
func (c *testClient) restart(keyID uint8) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keyID, c.rel, c.in, c.text = keyID, &reliable{stream: c.stream}, newStreamBuffer(), nil
	c.tls = nil
}

// hello exchanges resets.
func (c *testClient) hello() {
	c.t.Helper()
	c.mu.Lock()
	op := wire.HardResetClientV2
	if c.keyID != 0 {
		op = wire.SoftReset
	}
	_ = c.rel.queue(op, nil)
	c.flush()
	c.mu.Unlock()
	c.awaitReset()
}

func (c *testClient) awaitReset() wire.Control {
	c.t.Helper()
	select {
	case r := <-c.resets:
		return r
	case <-time.After(20 * time.Second):
		c.t.Fatal("no reset of the server")
		return wire.Control{}
	}
}

// flush sends what is due. The caller holds mu.
func (c *testClient) flush() {
	c.rel.flush(time.Now(), func(op wire.Opcode, id uint32, acks []uint32, payload []byte) {
		p := wire.Control{Opcode: op, KeyID: c.keyID, Session: c.id, Acks: acks, Remote: c.server, PacketID: id, Payload: payload}
		c.write(p.Append(nil))
	})
}

func (c *testClient) write(packet []byte) {
	if c.stream {
		packet = wire.AppendFrame(nil, packet)
	}
	_, _ = c.conn.Write(packet)
}

// read takes packets until the connection ends.
func (c *testClient) read() {
	buf := make([]byte, 64<<10)
	var pending []byte
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			c.mu.Lock()
			c.closed = err
			c.in.write(nil, io.EOF)
			c.mu.Unlock()
			return
		}
		if !c.stream {
			c.take(append([]byte(nil), buf[:n]...))
			continue
		}
		pending = append(pending, buf[:n]...)
		for {
			packet, rest, err := wire.NextFrame(pending)
			if err != nil || packet == nil {
				break
			}
			c.take(append([]byte(nil), packet...))
			pending = rest
		}
	}
}

func (c *testClient) take(packet []byte) {
	if op, _ := wire.SplitOpcode(packet[0]); op.IsData() {
		select {
		case c.data <- packet:
		default:
		}
		return
	}
	p, err := wire.ParseControl(packet)
	if err != nil {
		c.t.Errorf("control packet of the server: %v", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Opcode == wire.SoftReset && p.KeyID != c.keyID {
		c.resets <- p // the test decides
		return
	}
	if p.KeyID != c.keyID {
		return
	}
	if p.Opcode == wire.HardResetServerV2 {
		c.server = p.Session
	}
	c.rel.acknowledge(p.Acks)
	if p.Opcode == wire.AckV1 {
		c.flush()
		return
	}
	c.rel.receive(p.Opcode, p.PacketID, p.Payload)
	for {
		op, payload, ok := c.rel.deliver()
		if !ok {
			break
		}
		if op == wire.ControlV1 {
			c.in.write(payload, nil)
		} else {
			c.resets <- p
		}
	}
	c.flush()
}

// handshake does the TLS handshake of the key id.
func (c *testClient) handshake(cfg *tls.Config) error {
	c.tls = tls.Client(testStream{in: c.in, c: c}, cfg)
	return c.tls.Handshake()
}

// login sends key method 2 and reads the server's answer.
func (c *testClient) login(user, password string) (wire.ServerKeys, error) {
	c.t.Helper()
	k := wire.ClientKeys{
		Options:  "V4,dev-type tun,link-mtu 1555,tun-mtu 1500,proto TCPv4_CLIENT,auth SHA256,keysize 128,key-method 2,tls-client",
		UserName: user, Password: []byte(password), PeerInfo: c.info,
	}
	_, _ = rand.Read(k.Randoms.PreMaster[:])
	_, _ = rand.Read(k.Randoms.Random1[:])
	_, _ = rand.Read(k.Randoms.Random2[:])
	c.randoms = k.Randoms
	if _, err := c.tls.Write(k.Append(nil)); err != nil {
		return wire.ServerKeys{}, err
	}
	for {
		keys, n, err := wire.ParseServerKeys(c.text)
		if err == nil {
			c.text = c.text[n:]
			return keys, nil
		}
		if !errors.Is(err, wire.ErrIncomplete) {
			return keys, err
		}
		if err := c.more(); err != nil {
			return keys, err
		}
	}
}

func (c *testClient) more() error {
	buf := make([]byte, 4096)
	n, err := c.tls.Read(buf)
	c.text = append(c.text, buf[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

// message returns the next text message.
func (c *testClient) message() (string, error) {
	for {
		m, rest, ok, err := wire.CutMessage(c.text)
		if err != nil {
			return "", err
		}
		if ok {
			c.text = rest
			return m, nil
		}
		if err := c.more(); err != nil {
			return "", err
		}
	}
}

func (c *testClient) say(message string) {
	c.t.Helper()
	if _, err := c.tls.Write(wire.AppendMessage(nil, message)); err != nil {
		c.t.Errorf("send %s: %v", message, err)
	}
}

// pushed reads the settings.
func (c *testClient) pushed() {
	c.t.Helper()
	c.push = wire.Push{}
	for more := true; more; {
		m, err := c.message()
		if err == nil {
			more, err = c.push.Add(m)
		}
		if err != nil {
			c.t.Fatalf("settings: %q, %v", m, err)
		}
	}
}

// install derives the data keys of the key id.
func (c *testClient) install(server *wire.ServerKeys, prf bool) {
	c.t.Helper()
	m := new(wire.KeyMaterial)
	if prf {
		m = wire.PRF(&c.randoms, &server.Randoms, c.id, c.server)
	} else {
		state := c.tls.ConnectionState()
		exported, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.KeyMaterialLen)
		if err != nil {
			c.t.Fatal(err)
		}
		copy(m[:], exported)
	}
	k := dataKeys{cipher: Cipher(c.push.Cipher)}
	k.sendKey, k.sendIV = m.ClientToServer(k.cipher.keyLen())
	k.recvKey, k.recvIV = m.ServerToClient(k.cipher.keyLen())
	key, err := newDataKey(c.keyID, c.push.PeerID, k)
	if err != nil {
		c.t.Fatal(err)
	}
	c.key = key
}

// connect does all of it and fails the test when it does not come to settings.
func (c *testClient) connect(cfg *tls.Config, user, password string) {
	c.t.Helper()
	c.hello()
	if err := c.handshake(cfg); err != nil {
		c.t.Fatalf("TLS: %v", err)
	}
	keys, err := c.login(user, password)
	if err != nil {
		c.t.Fatalf("login: %v", err)
	}
	c.pushed()
	c.install(&keys, false)
}

// refused does all of it up to the server's verdict, which it returns.
func (c *testClient) refused(cfg *tls.Config, user, password string) string {
	c.t.Helper()
	c.hello()
	if err := c.handshake(cfg); err != nil {
		return err.Error()
	}
	if _, err := c.login(user, password); err != nil {
		return err.Error()
	}
	m, err := c.message()
	if err != nil {
		return err.Error()
	}
	return m
}

// send seals an inner packet.
func (c *testClient) send(packet []byte) {
	c.write(c.seal(packet))
}

func (c *testClient) seal(packet []byte) []byte {
	b, _, _ := c.key.sealTo(make([]byte, 0, c.key.sealedLen(len(packet))+tagLen), packet)
	return b
}
