package sslvpn

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// ConnectOptions are what a client connects with: what a profile says.
type ConnectOptions struct {
	Remote netip.AddrPort
	UDP    bool // else TCP
	// RootCAs are the trust anchors of the server's certificate, which has to be
	// for server authentication; its name is not checked.
	RootCAs *x509.CertPool
	// Certificate is the client's own, nil for none.
	Certificate *tls.Certificate
	// UserName and Password are for servers that ask for them; empty: none.
	UserName, Password string
	// Answer is what the server asks for besides the password (the challenge of a
	// profile), such as a one-time code; empty: nothing.
	Answer string
	// AuthToken takes the place of password and answer: that of a connection
	// before.
	AuthToken string
	// TLSCryptKey is a static key of 256 octets that the server has too. Of
	// TLSCryptV2Key the first 256 octets are such a key, and the rest is the same
	// one wrapped for the server.
	TLSCryptKey, TLSCryptV2Key []byte
	// Ciphers are those that the server may choose, the best first; empty: all.
	Ciphers []Cipher
	Logger  *slog.Logger // nil: no log
	// Dialer is for TCP; nil: the zero Dialer.
	Dialer *net.Dialer
	// Local is where UDP packets leave from; the zero value: where the kernel
	// wants.
	Local netip.Addr

	// OnChange is called when the server has changed its settings, with those of
	// now; calls come one by one. nil: Settings tells.
	OnChange func(wire.Push)

	keyOnce         bool // send a wrapped key with the first packet alone, as clients before 2.6 do
	withoutExporter bool // derive data keys as clients before 2.6 do
	withoutEpoch    bool // keep to the data format of clients before 2.7
}

// RefusedError is the server's refusal of a login, or its last word.
type RefusedError struct {
	Message string // as the server said it
}

func (e *RefusedError) Error() string { return "the server says: " + e.Message }

// LoginFailed reports whether the login was turned down, and no session ended.
func (e *RefusedError) LoginFailed() bool { return strings.HasPrefix(e.Message, wire.AuthFailed) }

// Final reports whether connecting again with the same login is of no use.
func (e *RefusedError) Final() bool {
	rest, failed := strings.CutPrefix(e.Message, wire.AuthFailed)
	if failed {
		return !strings.HasPrefix(rest, ",TEMP") && !strings.HasPrefix(rest, ",SESSION")
	}
	return strings.HasPrefix(e.Message, wire.Halt)
}

// handshakeTime is how long a connection may take to be established, and a
// renegotiation.
const handshakeTime = time.Minute

// Connect connects to a server, logs in and takes the server's settings. Errors
// wrap a RefusedError where the server has refused. The context ends the
// attempt and nothing else.
func Connect(ctx context.Context, o ConnectOptions) (*Connection, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RootCAs == nil {
		// Whoever has a certificate of a public CA would be taken for the server.
		return nil, errors.New("RootCAs: trust anchors of the server's certificate are needed")
	}
	if len(o.Ciphers) == 0 {
		o.Ciphers = []Cipher{AES128GCM, AES256GCM, ChaCha20Poly1305}
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	c := &Connection{options: o, log: o.Logger, ended: make(chan struct{}), token: o.AuthToken, opened: time.Now()}
	_, _ = rand.Read(c.local[:])
	if err := c.setWrap(); err != nil {
		return nil, err
	}
	if err := c.open(ctx); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", o.Remote, err)
	}
	stop := context.AfterFunc(ctx, func() { c.end(context.Cause(ctx)) })
	defer stop()
	c.running.Go(c.keepTime)
	if err := c.establish(ctx); err != nil {
		c.end(err)
		c.running.Wait()
		return nil, fmt.Errorf("connect to %s: %w", o.Remote, c.err())
	}
	return c, nil
}

// setWrap readies the wrap of the control channel.
func (c *Connection) setWrap() (err error) {
	key := c.options.TLSCryptKey
	if v2 := c.options.TLSCryptV2Key; v2 != nil {
		if key != nil || len(v2) <= wire.StaticKeyLen {
			return errors.New("TLSCryptV2Key: must have a key and the same one wrapped, and goes without TLSCryptKey")
		}
		key, c.wrappedKey = v2[:wire.StaticKeyLen], v2[wire.StaticKeyLen:]
		if !c.options.keyOnce {
			c.sent = wire.EarlyCounter - 1
		}
	}
	if key != nil {
		c.wrap, err = wire.NewTLSCrypt(key, false)
	}
	return err
}

// open makes the way to the server and starts to read from it.
func (c *Connection) open(ctx context.Context) error {
	if c.options.UDP {
		local := c.options.Local
		if !local.IsValid() {
			if local = netip.IPv4Unspecified(); c.options.Remote.Addr().Is6() {
				local = netip.IPv6Unspecified()
			}
		}
		socket, err := openUDP(netip.AddrPortFrom(local, 0), (*fromServer)(c), udpOptions{log: c.log})
		if err != nil {
			return err
		}
		link, err := newUDPLink(socket, c.options.Remote, &c.drops)
		if err != nil {
			return errors.Join(err, socket.close())
		}
		c.link, c.shut = link, func() { _ = socket.close() }
		return nil
	}
	dialer := c.options.Dialer
	if dialer == nil {
		dialer = &net.Dialer{}
	}
	conn, err := dialer.DialContext(ctx, "tcp", c.options.Remote.String())
	if err != nil {
		return err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return errors.Join(fmt.Errorf("dialled a %T, not TCP", conn), conn.Close())
	}
	link, err := newTCPLink(tcp, &c.drops)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	c.link, c.stream, c.shut = link, true, link.close
	c.running.Go(func() {
		err := link.run(
			func(packet []byte) error { c.receiveControl(packet); return nil },
			func(packets [][]byte) error { c.receiveData(packets); return nil })
		c.lost(err)
	})
	return nil
}

// fromServer hands over what arrives on UDP from the server's address.
type fromServer Connection

func (f *fromServer) control(from netip.AddrPort, packet []byte) {
	if c := (*Connection)(f); from == c.options.Remote {
		c.receiveControl(packet)
	}
}

func (f *fromServer) data(from netip.AddrPort, _ uint32, packets [][]byte) {
	if c := (*Connection)(f); from == c.options.Remote {
		c.receiveData(packets)
	}
}

// establish is the first handshake, up to the server's settings.
func (c *Connection) establish(ctx context.Context) error {
	c.mu.Lock()
	k := c.newKey(0)
	_ = k.rel.queue(wire.HardResetClientV2, nil) // an empty queue has room
	c.flush(time.Now(), k)
	// Before its answer a server on UDP knows of no session.
	for c.remote == (wire.SessionID{}) && k.err == nil {
		k.wake.Wait()
	}
	c.mu.Unlock()
	keys, err := c.negotiate(ctx, k)
	if err != nil {
		return err
	}
	defer keys.wipe()
	if err := c.awaitSettings(k); err != nil {
		return err
	}
	settings := c.Settings()
	p := &settings
	cipher := Cipher(p.Cipher)
	switch {
	case !slices.Contains(c.options.Ciphers, cipher):
		return fmt.Errorf("the server chose the cipher %q, which was not offered", p.Cipher)
	case !p.Local.Is4():
		return errors.New("the server gave no IPv4 address")
	}
	c.epoch = slices.Contains(p.Flags, wire.FlagEpochData)
	c.exporter = p.KeyDerivation == wire.FlagTLSExporter || slices.Contains(p.Flags, wire.FlagTLSExporter)
	c.peer = newClient(p.PeerID, p.Local, c.link)
	c.peer.name = "server"
	if p.Local6.IsValid() {
		c.peer.address6 = addressNumber(p.Local6.Addr())
	}
	if p.CompLZO {
		c.peer.framing = framingCompLZO
	}
	if p.AuthToken != "" {
		c.token = p.AuthToken
	}
	if err := c.installKeys(k, keys); err != nil {
		return err
	}
	c.attached.Store(c.peer)
	c.running.Go(func() { c.readMessages(k) })
	return nil
}

// tlsConfig verifies the server as stock clients do with remote-cert-tls.
func (c *Connection) tlsConfig() *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// There is no name to verify; VerifyConnection does all the rest.
		InsecureSkipVerify:          true, //nolint:gosec // See VerifyConnection.
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			intermediates := x509.NewCertPool()
			for _, cert := range state.PeerCertificates[1:] {
				intermediates.AddCert(cert)
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: c.options.RootCAs, Intermediates: intermediates,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			return err
		},
	}
	if c.options.Certificate != nil {
		cfg.Certificates = []tls.Certificate{*c.options.Certificate}
	}
	return cfg
}

// peerInfo is what the client says of itself.
func (c *Connection) peerInfo() string {
	names := make([]string, len(c.options.Ciphers))
	for i, cipher := range c.options.Ciphers {
		names[i] = string(cipher)
	}
	proto := wire.ProtoDataV2 | wire.ProtoRequestPush | wire.ProtoTLSExporter | wire.ProtoExitNotify |
		wire.ProtoAuthTemp | wire.ProtoEpochData | wire.ProtoDNS | wire.ProtoPushUpdate
	if c.options.withoutExporter {
		proto &^= wire.ProtoTLSExporter | wire.ProtoEpochData
	}
	if c.options.withoutEpoch {
		proto &^= wire.ProtoEpochData
	}
	return fmt.Sprintf("IV_VER=vpngw\nIV_PLAT=%s\nIV_PROTO=%d\nIV_CIPHERS=%s\nIV_MTU=%d\nIV_TCPNL=1\nIV_COMP_STUBv2=1\n",
		platform(), proto, strings.Join(names, ":"), tunMTU)
}

// platform is the system by its name in IV_PLAT.
func platform() string {
	switch runtime.GOOS {
	case "windows":
		return "win"
	case "darwin":
		return "mac"
	}
	return runtime.GOOS
}

// optionsString is compared by nobody; stock servers log it.
func (c *Connection) optionsString() string {
	proto := "UDPv4"
	if c.stream {
		proto = "TCPv4_CLIENT"
	}
	return "V4,dev-type tun,tun-mtu 1500,proto " + proto + ",key-method 2,tls-client"
}
