package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

// The vector was computed from the format that stock clients were seen to use.
func TestTLSCrypt(t *testing.T) {
	key := make([]byte, StaticKeyLen)
	sequence(key[128:160], 0)    // Ke from client to server
	sequence(key[192:224], 0x40) // Ka
	client, err := NewTLSCrypt(key, false)
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewTLSCrypt(key, true)
	if err != nil {
		t.Fatal(err)
	}
	packet := unhex(t, clientReset)
	wrapped := client.Append(nil, packet, 1, 0x5f000000)
	if got := hex.EncodeToString(wrapped); got != "380102030405060708000000015f000000b01c3e420d620d2c9825a7eff3676b2fa408288082e93341a66bbf464bb3f134cf0608906e" {
		t.Errorf("wrapped: %s", got)
	}
	if got, err := server.Open(wrapped); err != nil || !bytes.Equal(got, packet) {
		t.Errorf("opened: %x, %v", got, err)
	}
	for i := range wrapped {
		bad := bytes.Clone(wrapped)
		bad[i] ^= 1
		if got, err := server.Open(bad); !errors.Is(err, ErrNotAuthentic) {
			t.Errorf("octet %d changed: %x, %v", i, got, err)
		}
	}
	for n := range wrapped {
		if got, err := server.Open(wrapped[:n]); err == nil {
			t.Errorf("%d octets: %x", n, got)
		}
	}
	if _, err := client.Open(wrapped); !errors.Is(err, ErrNotAuthentic) {
		t.Errorf("reflected: %v", err)
	}
	if _, err := server.Open(client.Append(nil, make([]byte, MaxFrame), 1, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a packet that costs more than any of a client: %v", err)
	}
	if _, err := NewTLSCrypt(key[1:], true); err == nil {
		t.Error("a short key is taken")
	}
}

func FuzzTLSCrypt(f *testing.F) {
	target := fuzztest.New(f)
	key := make([]byte, StaticKeyLen)
	client, _ := NewTLSCrypt(key, false)
	server, _ := NewTLSCrypt(key, true)
	target.Add(client.Append(nil, unhex(f, clientReset), 1, 2))
	target.Fuzz(func(t *testing.T, b []byte) {
		if p, err := server.Open(b); err == nil && len(p) != len(b)-wrapReplay-wrapTag {
			t.Errorf("%d octets out of %d", len(p), len(b))
		}
	})
}
