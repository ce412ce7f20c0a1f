package ike

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
)

// recorder is a Transport that keeps what is sent.
type recorder struct {
	mu   sync.Mutex
	sent []sa.Datagram
}

func (r *recorder) SendIKE(local, remote netip.AddrPort, datagram []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, sa.Datagram{Local: local, Remote: remote, Bytes: slices.Clone(datagram)})
	return nil
}

func (r *recorder) take() []sa.Datagram {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := r.sent
	r.sent = nil
	return sent
}

var (
	gatewayAddr = netip.MustParseAddrPort("192.0.2.1:500")
	peerAddr    = netip.MustParseAddrPort("192.0.2.2:500")
)

// idleServer is a Server that takes requests but has no worker to answer them.
func idleServer(t testing.TB, limits Limits) (*Server, *recorder) {
	t.Helper()
	transport := &recorder{}
	s := NewServer(Options{Transport: transport, Backend: ipsectest.NewBackend(), Limits: limits})
	anyPeer := testConnection("any", gatewayAddr.Addr(), netip.Addr{}, 1)
	if err := s.Apply([]sa.Connection{anyPeer}); err != nil {
		t.Fatal(err)
	}
	s.phase = running
	return s, transport
}

// testConnection is a responding connection with one child.
func testConnection(name string, local, remote netip.Addr, reqID uint32) sa.Connection {
	esp := ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.ESN(false),
	}}
	ike := ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupCurve25519),
	}}
	return sa.Connection{
		Name: name, Local: local, Remote: remote,
		LocalID: sa.AddressIdentity(local), RemoteID: sa.AddressIdentity(peerAddr.Addr()),
		PSK: []byte("a key of sixteen"), Proposals: []ipsec.Proposal{ike},
		Children: []sa.Child{{
			Name: name, ReqID: reqID, Proposals: []ipsec.Proposal{esp}, ReplayWindow: 64,
			Local:  []ipsec.TrafficSelector{prefix("10.1.0.0/16")},
			Remote: []ipsec.TrafficSelector{prefix("10.2.0.0/16")},
		}},
	}
}

// initRequest is an IKE_SA_INIT request that passes Check; spi makes it unique.
func initRequest(t testing.TB, spi uint64, cookie []byte) []byte {
	t.Helper()
	c := testConnection("x", gatewayAddr.Addr(), netip.Addr{}, 1)
	m := wire.Message{Header: wire.Header{InitiatorSPI: spi, Exchange: wire.IKESAInit, Initiator: true}}
	if cookie != nil {
		m.Payloads = append(m.Payloads, &wire.Notify{NotifyType: wire.Cookie, Data: cookie})
	}
	nonce := binary.BigEndian.AppendUint64(make([]byte, 24), spi)
	m.Payloads = append(m.Payloads, &wire.SA{Proposals: c.Proposals},
		&wire.KE{Group: ipsec.GroupCurve25519, Data: slices.Repeat([]byte{9}, 32)}, &wire.Nonce{Data: nonce})
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fromAddr(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}), 500)
}

// cookieIn returns the cookie that an answer asks for.
func cookieIn(t *testing.T, answer, request []byte) []byte {
	t.Helper()
	m, err := wire.Parse(answer)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	n, ok := m.Notify(wire.Cookie)
	if !ok || m.ResponderSPI != 0 || len(m.Payloads) != 1 {
		t.Fatalf("no demand for a cookie: %s", m)
	}
	if len(answer) > len(request) {
		t.Errorf("an answer of %d octets to a request of %d", len(answer), len(request))
	}
	return n.Data
}

func TestCookiesAboveTheLimitOfOneAddress(t *testing.T) {
	s, transport := idleServer(t, Limits{})
	spi := uint64(0)
	request := func(cookie []byte) []byte {
		spi++
		b := initRequest(t, spi, cookie)
		s.Deliver(gatewayAddr, peerAddr, b)
		return b
	}
	for range DefaultLimits().CookieAddress {
		request(nil)
	}
	if sent := transport.take(); len(sent) != 0 || s.open.total != DefaultLimits().CookieAddress {
		t.Fatalf("%d answers, %d half-open", len(sent), s.open.total)
	}
	plain := request(nil)
	sent := transport.take()
	if len(sent) != 1 || sent[0].Remote != peerAddr || s.open.total != DefaultLimits().CookieAddress {
		t.Fatalf("%d answers, %d half-open", len(sent), s.open.total)
	}
	cookie := cookieIn(t, sent[0].Bytes, plain)
	// The same SPI and nonce with the cookie are let in; others are not.
	s.Deliver(gatewayAddr, peerAddr, initRequest(t, spi, cookie))
	if s.open.total != DefaultLimits().CookieAddress+1 || len(transport.take()) != 0 {
		t.Errorf("refused with a cookie: %v", s.DropCounts())
	}
	request(cookie)
	if s.open.total != DefaultLimits().CookieAddress+1 || len(transport.take()) != 1 {
		t.Error("let in with another request's cookie")
	}
	// Another address is not concerned.
	s.Deliver(gatewayAddr, fromAddr(1), initRequest(t, 1000, nil))
	if s.open.total != DefaultLimits().CookieAddress+2 {
		t.Errorf("another address: %v", s.DropCounts())
	}
}

// A request that is costly to compare takes a cookie, and there is a limit to
// its length.
func TestLargeOffersTakeACookie(t *testing.T) {
	s, transport := idleServer(t, Limits{})
	request := func(transforms int, vendor int, cookie []byte) []byte {
		var proposals []ipsec.Proposal
		for transforms > 0 {
			p := ipsec.Proposal{Protocol: ipsec.ProtocolIKE}
			for ; transforms > 0 && len(p.Transforms) < wire.MaxTransforms; transforms-- {
				p.Transforms = append(p.Transforms, ipsec.PRF(uint16(transforms)))
			}
			proposals = append(proposals, p)
		}
		m := wire.Message{Header: wire.Header{InitiatorSPI: 7, Exchange: wire.IKESAInit, Initiator: true}}
		if cookie != nil {
			m.Payloads = append(m.Payloads, &wire.Notify{NotifyType: wire.Cookie, Data: cookie})
		}
		m.Payloads = append(m.Payloads, &wire.SA{Proposals: proposals}, &wire.KE{Group: 31, Data: make([]byte, 32)},
			&wire.Nonce{Data: make([]byte, 32)}, &wire.VendorID{Data: make([]byte, vendor)})
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s.Deliver(gatewayAddr, peerAddr, request(largeOffer, 0, nil))
	if len(s.admitted) != 1 || len(transport.take()) != 0 {
		t.Errorf("an offer that is not large: %d admitted", len(s.admitted))
	}
	large := request(largeOffer+1, 0, nil)
	s.Deliver(gatewayAddr, peerAddr, large)
	sent := transport.take()
	if len(s.admitted) != 1 || len(sent) != 1 {
		t.Fatalf("a large offer: %d admitted, %d answers", len(s.admitted), len(sent))
	}
	s.Deliver(gatewayAddr, peerAddr, request(largeOffer+1, 0, cookieIn(t, sent[0].Bytes, large)))
	if len(s.admitted) != 2 {
		t.Error("a large offer with a cookie is not admitted")
	}
	s.Deliver(gatewayAddr, peerAddr, request(1, maxInitRequest, nil))
	if len(s.admitted) != 2 || s.DropCounts()[dropLargeInit] != 1 {
		t.Errorf("a request that is too large: %d admitted, %v", len(s.admitted), s.DropCounts())
	}
}

func TestCookiesAboveTheLimitOfAll(t *testing.T) {
	s, transport := idleServer(t, Limits{})
	for n := range 100 {
		s.Deliver(gatewayAddr, fromAddr(n), initRequest(t, uint64(n+1), nil))
	}
	if want := DefaultLimits().CookieTotal; s.open.total != want || len(transport.take()) != 100-want {
		t.Errorf("%d half-open, want %d", s.open.total, want)
	}
}

// Cookies for addresses that no connection names are bounded, so that a flood of
// them takes no time from the peers that are known.
func TestCookiesForStrangersAreBounded(t *testing.T) {
	s, transport := idleServer(t, Limits{CookieTotal: 1, CookieAddress: 1})
	known := fromAddr(1)
	named := testConnection("named", gatewayAddr.Addr(), known.Addr(), 2)
	if err := s.Apply([]sa.Connection{testConnection("any", gatewayAddr.Addr(), netip.Addr{}, 1), named}); err != nil {
		t.Fatal(err)
	}
	s.strangers = rate.NewLimiter(0, 3)
	for i := range 10 {
		s.Deliver(gatewayAddr, fromAddr(100+i), initRequest(t, uint64(i+1), nil))
	}
	if sent := len(transport.take()); sent != 3 || s.DropCounts()[dropStrangers] != 6 { // one was let in
		t.Errorf("%d cookies went out, drops %v", sent, s.DropCounts())
	}
	s.Deliver(gatewayAddr, known, initRequest(t, 50, nil))
	if sent := len(transport.take()); sent != 1 {
		t.Errorf("%d cookies went to a peer that is known", sent)
	}
}

// One host can have every address of its /64.
func TestHalfOpenLimitsHoldForNetworksOfIPv6(t *testing.T) {
	s, transport := idleServer(t, Limits{CookieTotal: 100, CookieAddress: 1, HalfOpenTotal: 100, HalfOpenAddress: 100, WaitingRequests: 100})
	from := func(address string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(address), 500) }
	for i, test := range []struct {
		from   string
		cookie bool
	}{
		{"2001:db8:1::1", false}, {"2001:db8:1::1", true}, {"2001:db8:1::2", true}, {"2001:db8:1:0:ffff::9", true}, {"2001:db8:1:1::1", false},
	} {
		s.Deliver(gatewayAddr, from(test.from), initRequest(t, uint64(i+1), nil))
		if asked := len(transport.take()) == 1; asked != test.cookie {
			t.Errorf("request %d, from %s: asked for a cookie: %t", i, test.from, asked)
		}
	}
}

func TestHalfOpenLimitsHoldForProvenAddresses(t *testing.T) {
	limits := Limits{CookieTotal: 1, CookieAddress: 1, HalfOpenTotal: 4, HalfOpenAddress: 2, WaitingRequests: 100}
	s, transport := idleServer(t, limits)
	proven := func(from netip.AddrPort, spi uint64) {
		s.Deliver(gatewayAddr, from, initRequest(t, spi, nil))
		if sent := transport.take(); len(sent) == 1 {
			s.Deliver(gatewayAddr, from, initRequest(t, spi, cookieIn(t, sent[0].Bytes, initRequest(t, spi, nil))))
		}
	}
	for n := range 5 {
		proven(fromAddr(1), uint64(n+1))
	}
	if s.open.byAddr[fromAddr(1).Addr()] != limits.HalfOpenAddress {
		t.Errorf("one address: %d half-open", s.open.total)
	}
	for n := range 5 {
		proven(fromAddr(10+n), uint64(n+100))
	}
	if s.open.total != limits.HalfOpenTotal {
		t.Errorf("in all: %d half-open", s.open.total)
	}
	if s.DropCounts()[dropHalfOpen] == 0 {
		t.Error("nothing counted")
	}
}

func TestRequestsWaitInABoundedQueue(t *testing.T) {
	s, _ := idleServer(t, Limits{CookieTotal: 1000, CookieAddress: 1000, WaitingRequests: 3})
	for n := range 10 {
		s.Deliver(gatewayAddr, peerAddr, initRequest(t, uint64(n+1), nil))
	}
	if len(s.admitted) != 3 || s.open.total != 3 || len(s.byInit) != 3 || s.DropCounts()[dropBusy] != 7 {
		t.Errorf("%d wait, %d half-open, %d known, %v", len(s.admitted), s.open.total, len(s.byInit), s.DropCounts())
	}
	// A repetition of one that waits is not another one.
	s.Deliver(gatewayAddr, peerAddr, initRequest(t, 1, nil))
	if s.open.total != 3 {
		t.Errorf("%d half-open", s.open.total)
	}
}

func TestDeliverDropsWithoutState(t *testing.T) {
	header := func(edit func(h *wire.Header)) []byte {
		h := wire.Header{InitiatorSPI: 1, ResponderSPI: 2, MajorVersion: 2, Exchange: wire.Informational, Length: wire.HeaderLen}
		edit(&h)
		return h.Append(nil)
	}
	tests := []struct {
		name     string
		datagram []byte
		reason   string
		answered bool
	}{
		{"empty", nil, dropMalformed, false},
		{"not IKE", []byte("hello"), dropMalformed, false},
		{"unknown SPI", header(func(*wire.Header) {}), dropUnknownSPI, false},
		{"response to nobody", header(func(h *wire.Header) { h.Response, h.Exchange = true, wire.IKESAInit }), dropUnknownSPI, false},
		{"IKEv1", header(func(h *wire.Header) { h.MajorVersion = 1 }), dropUnknownSPI, false},
		{"IKEv1 to a connection of IKEv2", header(func(h *wire.Header) {
			h.MajorVersion, h.ResponderSPI, h.Exchange = 1, 0, wire.ExchangeType(isakmp.IdentityProtection)
		}), dropVersion, false},
		{"IKEv3", header(func(h *wire.Header) { h.MajorVersion = 3 }), dropVersion, true},
		{"IKEv3 response", header(func(h *wire.Header) { h.MajorVersion, h.Response = 3, true }), dropVersion, false},
		{"IKE_SA_INIT without payloads", header(func(h *wire.Header) {
			h.Exchange, h.Initiator, h.ResponderSPI = wire.IKESAInit, true, 0
		}), dropMalformed, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, transport := idleServer(t, Limits{})
			s.Deliver(gatewayAddr, peerAddr, tt.datagram)
			if got := s.DropCounts(); got[tt.reason] != 1 || len(got) != 1 {
				t.Errorf("counted %v, want %s", got, tt.reason)
			}
			sent := transport.take()
			if (len(sent) == 1) != tt.answered {
				t.Fatalf("%d answers", len(sent))
			}
			if tt.answered {
				m, err := wire.Parse(sent[0].Bytes)
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := m.Notify(wire.InvalidMajorVersion); !ok || !m.Response || m.InitiatorSPI != 1 {
					t.Errorf("got %s", m)
				}
			}
			if s.open.total != 0 || len(s.byInit) != 0 {
				t.Error("state was kept")
			}
		})
	}
}

func TestAnswersToUnknownVersionsAreLimited(t *testing.T) {
	s, transport := idleServer(t, Limits{})
	h := wire.Header{InitiatorSPI: 1, MajorVersion: 5, Exchange: wire.IKESAInit, Length: wire.HeaderLen}
	for range 1000 {
		s.Deliver(gatewayAddr, peerAddr, h.Append(nil))
	}
	if n := len(transport.take()); n == 0 || n > 100 {
		t.Errorf("%d answers", n)
	}
}

func TestAddressWithoutConnectionIsIgnored(t *testing.T) {
	s, transport := idleServer(t, Limits{})
	other := netip.MustParseAddrPort("192.0.2.77:500")
	s.Deliver(other, peerAddr, initRequest(t, 1, nil))
	if s.open.total != 0 || len(transport.take()) != 0 || s.DropCounts()[dropNoConnection] != 1 {
		t.Errorf("%d half-open, %v", s.open.total, s.DropCounts())
	}
}

func TestDeliverBeforeRun(t *testing.T) {
	s := NewServer(Options{Transport: &recorder{}, Backend: ipsectest.NewBackend()})
	s.Deliver(gatewayAddr, peerAddr, initRequest(t, 1, nil))
	if s.DropCounts()[dropNotRunning] != 1 {
		t.Errorf("got %v", s.DropCounts())
	}
}

func TestMailboxIsBounded(t *testing.T) {
	box := newMailbox(nil)
	for n := range mailboxDatagrams + 5 {
		if got := box.datagram(sa.Datagram{}); got != (n < mailboxDatagrams) {
			t.Fatalf("datagram %d: taken = %v", n, got)
		}
	}
	for range 3 {
		box.command(sa.Acquire{ReqID: 1})
	}
	box.command(sa.RekeyIKE{})
	box.command(sa.Acquire{ReqID: 1})
	commands, datagrams := box.take()
	if len(commands) != 3 || len(datagrams) != mailboxDatagrams {
		t.Errorf("%d commands, %d datagrams", len(commands), len(datagrams))
	}
	if commands, datagrams = box.take(); commands != nil || datagrams != nil {
		t.Error("not emptied")
	}
}

// TestMailboxWakesOnce: an idle peer has no goroutine, one that works has one, and
// nothing is left behind that comes while it ends its work.
func TestMailboxWakesOnce(t *testing.T) {
	const commands = 1000
	var taken, working atomic.Int32
	done := make(chan struct{})
	box := &mailbox{}
	box.work = func() {
		if n := working.Add(1); n != 1 {
			t.Errorf("%d goroutines at once", n)
		}
		for {
			list, _ := box.take()
			if taken.Add(int32(len(list))) == commands {
				close(done)
			}
			working.Add(-1)
			if box.rest() {
				return
			}
			working.Add(1)
		}
	}
	var senders sync.WaitGroup
	for i := range 4 {
		senders.Go(func() {
			for n := range commands / 4 {
				box.command(sa.Acquire{ReqID: uint32(n*4 + i)})
			}
		})
	}
	senders.Wait()
	<-done
}

func TestGuardSurvivesAPanic(t *testing.T) {
	s := NewServer(Options{Transport: &recorder{}, Backend: ipsectest.NewBackend()})
	if s.guard(func() { panic("out of range") }) || s.DropCounts()[dropPanic] != 1 {
		t.Errorf("got %v", s.DropCounts())
	}
	if !s.guard(func() {}) {
		t.Error("a step without a panic is taken for one with")
	}
}

// FuzzDeliver: no datagram makes a server panic, answer with more than it got, or keep
// what it does not count.
func FuzzDeliver(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(initRequest(f, 1, nil))
	target.Add(initRequest(f, 2, make([]byte, cookieLen)))
	s, transport := idleServer(f, Limits{CookieAddress: 1})
	target.Fuzz(func(t *testing.T, b []byte) {
		// No limit of a rate may have been used up by the inputs before.
		s.answers, s.strangers = rate.NewLimiter(10, 20), rate.NewLimiter(strangerRate, strangerRate/10)
		for range 2 {
			s.Deliver(gatewayAddr, peerAddr, b)
			b = append(slices.Clone(b), 0)
		}
		for _, d := range transport.take() {
			if len(d.Bytes) > len(b)+cookieLen {
				t.Errorf("an answer of %d octets to a request of %d", len(d.Bytes), len(b))
			}
		}
		if waiting := len(s.admitted); s.open.total != waiting || len(s.byInit) != waiting {
			t.Errorf("%d requests wait, %d are counted and %d known", waiting, s.open.total, len(s.byInit))
		}
		for len(s.admitted) > 0 {
			s.leave(<-s.admitted)
		}
		for len(s.events) > 0 {
			<-s.events
		}
		if s.open.total != 0 || len(s.open.byAddr) != 0 || len(s.byInit) != 0 || len(s.peers) != 0 {
			t.Errorf("%d half-open, of %d addresses, %d known and %d machines are left", s.open.total, len(s.open.byAddr), len(s.byInit), len(s.peers))
		}
	})
}
