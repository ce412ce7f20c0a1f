package sslvpn

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// sinkTransport takes everything.
type sinkTransport struct{ *testLink }

func (t *sinkTransport) sendControl([]byte) error { return nil }

func (t *sinkTransport) shut() {}

// FuzzSession feeds a session that nobody has logged in to with control
// packets: their opcodes, key ids, packet ids, acknowledgements and payloads
// are input, and the session ids are right, as those of an attacker who sees
// the traffic.
func FuzzSession(f *testing.F) {
	target := fuzztest.New(f)
	server := New(Options{})
	ca := newAuthority(f, "server CA")
	cfg, err := newSettings(Endpoint{
		ID: "ep1", Device: "test0", Cipher: AES128GCM, Auth: AuthPassword, Certificate: ca.server("vpn.example.org"),
		TCP: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}, Pool: testPool,
		Users: []User{{ID: "u1", Name: "alice", PasswordHash: "x"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	hello := []byte{0x16, 3, 1, 0, 4, 1, 0, 0, 0}
	packet := func(op wire.Opcode, keyID uint8, id uint32, acks []uint32, payload []byte) []byte {
		b := []byte{op.Octet(keyID), byte(len(acks))}
		for _, a := range acks {
			b = binary.BigEndian.AppendUint32(b, a)
		}
		b = binary.BigEndian.AppendUint32(b, id)
		return append(append(b, byte(len(payload))), payload...)
	}
	target.Add(packet(wire.ControlV1, 0, 1, []uint32{0}, hello), true)
	target.Add(append(packet(wire.AckV1, 0, 0, []uint32{0, 1, 2}, nil), packet(wire.ControlV1, 0, 3, nil, hello)...), false)
	target.Add(packet(wire.SoftReset, 1, 0, nil, nil), true)
	target.Fuzz(func(t *testing.T, script []byte, stream bool) {
		ep := &endpoint{
			server: server, id: "ep1", log: server.log, opening: map[*session]bool{}, sessions: map[*session]*client{}, perUser: map[string]int{}, codes: newUsedCodes(time.Now()),
		}
		ep.settings.Store(cfg)
		var err error
		if ep.plane, err = newPlane(tun.NewChannel("test0", 1, 1), testPool, planeOptions{}); err != nil {
			t.Fatal(err)
		}
		link := &sinkTransport{&testLink{stream: stream}}
		s := newSession(ep, link, stream, netip.MustParseAddrPort("192.0.2.1:1"), &controlPacket{Control: wire.Control{Session: wire.SessionID{1}}})
		if !server.halfOpen.enter(s.from, server.opts.Limits) {
			t.Fatal("half-open clients are left from before")
		}
		if err := ep.open(s); err != nil {
			t.Fatal(err)
		}
		s.accept()
		for len(script) >= 2 {
			c := wire.Control{Session: s.remote, Remote: s.local}
			c.Opcode, c.KeyID = wire.SplitOpcode(script[0])
			n := int(script[1]) % (wire.MaxAcks + 1)
			script = script[2:]
			if len(script) < 4*n+5 {
				break
			}
			for range n {
				c.Acks = append(c.Acks, binary.BigEndian.Uint32(script))
				script = script[4:]
			}
			c.PacketID = binary.BigEndian.Uint32(script)
			m := min(int(script[4]), len(script)-5)
			c.Payload = script[5 : 5+m]
			script = script[5+m:]
			if parsed, err := wire.ParseControl(c.Append(nil)); err == nil {
				s.receive(&parsed)
			}
		}
		s.end(ending{reason: "the fuzzer is done"})
		s.finish()
		server.negotiations.Wait()
		if s.client.Load() != nil || len(ep.sessions) != 0 || len(ep.opening) != 0 {
			t.Error("somebody is logged in, or left over")
		}
	})
}
