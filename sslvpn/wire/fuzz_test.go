package wire

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

func FuzzControl(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(unhex(f, clientReset))
	target.Add(unhex(f, "400102030405060708010000000009090909090909090000000000"))
	target.Add(unhex(f, "28010203040506070802000000030000000109090909090909ff"))
	target.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseControl(b)
		if err != nil {
			return
		}
		again, err := ParseControl(c.Append(nil))
		if err != nil || again.Opcode != c.Opcode || again.PacketID != c.PacketID || !bytes.Equal(again.Payload, c.Payload) || !reflect.DeepEqual(again.Acks, c.Acks) {
			t.Errorf("got %+v, %v, want %+v", again, err, c)
		}
	})
}

func FuzzFrame(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(AppendFrame(nil, []byte("packet")))
	target.Fuzz(func(t *testing.T, b []byte) {
		for rest := b; ; {
			packet, after, err := NextFrame(rest)
			if err != nil || packet == nil {
				return
			}
			if len(packet)+FrameHeaderLen+len(after) != len(rest) || len(packet) > MaxFrame {
				t.Fatalf("%d octets of %d, %d left", len(packet), len(rest), len(after))
			}
			rest = after
		}
	})
}

func FuzzClientKeys(f *testing.F) {
	target := fuzztest.New(f)
	k := sampleClientKeys()
	target.Add(k.Append(nil))
	target.Fuzz(func(t *testing.T, b []byte) {
		k, n, err := ParseClientKeys(b)
		if err != nil {
			return
		}
		if n > len(b) || n > MaxClientKeys {
			t.Fatalf("message of %d octets in %d", n, len(b))
		}
		again, _, err := ParseClientKeys(k.Append(nil))
		if err != nil || !bytes.Equal(again.Append(nil), k.Append(nil)) {
			t.Errorf("got %+v, %v, want %+v", again, err, k)
		}
		info := ParsePeerInfo(k.PeerInfo)
		info.Supports("AES-128-GCM", k.Options)
		if len(ServerOptions(k.Options)) > 2*maxServerOptions {
			t.Error("options string grew")
		}
		_, _, _ = Password(k.Password)
	})
}

func FuzzServerKeys(f *testing.F) {
	target := fuzztest.New(f)
	k := ServerKeys{Options: "V4,tls-server"}
	target.Add(k.Append(nil))
	target.Fuzz(func(t *testing.T, b []byte) {
		if _, n, err := ParseServerKeys(b); err == nil && n > len(b) {
			t.Errorf("message of %d octets in %d", n, len(b))
		}
	})
}

func FuzzMessage(f *testing.F) {
	target := fuzztest.New(f)
	p := samplePush(3)
	for _, m := range p.Messages() {
		target.Add(AppendMessage(nil, m))
	}
	target.Add([]byte("PUSH_REQUEST\x00EXIT\x00"))
	target.Fuzz(func(t *testing.T, b []byte) {
		for {
			m, rest, ok, err := CutMessage(b)
			if !ok {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("nothing was cut off")
			}
			b = rest
			if err != nil {
				continue
			}
			var p Push
			if _, err := p.Add(m); err != nil {
				continue
			}
			// What could be read can be pushed, and reads as itself.
			if !p.Local.IsValid() || !p.Peer.IsValid() {
				continue
			}
			var again Push
			for _, m := range p.Messages() {
				if _, err := again.Add(m); err != nil {
					t.Fatalf("%q: %v", m, err)
				}
			}
		}
	})
}
