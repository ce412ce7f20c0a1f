package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func sampleClientKeys() ClientKeys {
	k := ClientKeys{
		Options:  "V4,dev-type tun,link-mtu 1555,tun-mtu 1500,proto TCPv4_CLIENT,auth SHA256,keysize 128,key-method 2,tls-client",
		UserName: "alice", Password: []byte("correct horse"),
		PeerInfo: "IV_VER=2.6.14\nIV_PLAT=linux\nIV_PROTO=990\n",
	}
	k.Randoms.PreMaster[0], k.Randoms.Random1[1], k.Randoms.Random2[31] = 1, 2, 3
	return k
}

func TestClientKeys(t *testing.T) {
	want := sampleClientKeys()
	b := want.Append(nil)
	for n := range b { // it may come in any number of records
		if _, _, err := ParseClientKeys(b[:n]); !errors.Is(err, ErrIncomplete) {
			t.Fatalf("the first %d octets: %v", n, err)
		}
	}
	got, n, err := ParseClientKeys(append(b, "PUSH_REQUEST\x00"...))
	if err != nil || n != len(b) || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %d of %d octets, %v", got, n, len(b), err)
	}
	got.Wipe()
	if !bytes.Equal(got.Password, make([]byte, len(want.Password))) || got.Randoms.PreMaster[0] != 0 {
		t.Error("secrets are left after Wipe")
	}
	empty := ClientKeys{Options: "V4"}
	if got, n, err := ParseClientKeys(empty.Append(nil)); err != nil || n != 5+112+5+6 || got.UserName != "" {
		t.Errorf("without a password: %+v, %d, %v", got, n, err)
	}
}

func TestClientKeysRejects(t *testing.T) {
	sample := sampleClientKeys()
	good := sample.Append(nil)
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	long := sampleClientKeys()
	long.PeerInfo = strings.Repeat("a", maxPeerInfo+1)
	inner := sampleClientKeys()
	inner.UserName = "al\x00ice"
	for name, b := range map[string][]byte{
		"prefix":         change(func(b []byte) []byte { b[0] = 1; return b }),
		"key method 1":   change(func(b []byte) []byte { b[4] = 1; return b }),
		"huge string":    change(func(b []byte) []byte { b[117] = 0xff; return b }),
		"no NUL":         change(func(b []byte) []byte { b[119+len(sample.Options)] = 'x'; return b }),
		"NUL in a name":  inner.Append(nil),
		"long peer info": long.Append(nil),
	} {
		if k, _, err := ParseClientKeys(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
}

func TestServerKeys(t *testing.T) {
	want := ServerKeys{Options: "V4,tls-server"}
	want.Randoms.Random1[0], want.Randoms.Random2[0] = 7, 8
	b := want.Append(nil)
	got, n, err := ParseServerKeys(b)
	if err != nil || n != len(b) || got != want {
		t.Errorf("got %+v, %d, %v", got, n, err)
	}
}

func sequence(b []byte, from byte) {
	for i := range b {
		b[i] = from + byte(i)
	}
}

// The vector was computed from the formats that stock clients were seen to use.
func TestPRF(t *testing.T) {
	var client, server Randoms
	sequence(client.PreMaster[:], 0)
	for _, f := range []struct {
		b []byte
		v byte
	}{{client.Random1[:], 0x11}, {server.Random1[:], 0x22}, {client.Random2[:], 0x33}, {server.Random2[:], 0x44}} {
		copy(f.b, bytes.Repeat([]byte{f.v}, 32))
	}
	var clientID, serverID SessionID
	sequence(clientID[:], 1)
	sequence(serverID[:], 0x11)
	m := PRF(&client, &server, clientID, serverID)
	key, iv := m.ClientToServer(32)
	if hex.EncodeToString(key) != "f768d5abf7e4ffd6f2c6c6b9d48d8584d05b443d87aa5880ab173fd01a3bc3f8" || hex.EncodeToString(iv) != "10dddfd8ca6827d3" {
		t.Errorf("client to server: key %x, IV %x", key, iv)
	}
	key, iv = m.ServerToClient(32)
	if hex.EncodeToString(key) != "bf1bfeaf4a1d2661d97edca182bd5d617ea540fec82a96ca2c8e369b5176e5ed" || hex.EncodeToString(iv) != "0ee73fa601577373" {
		t.Errorf("server to client: key %x, IV %x", key, iv)
	}
	if sum := sha256.Sum256(m[:]); hex.EncodeToString(sum[:]) != "39e7f1efd207b0b8c3d71e697bf6167453635cc0c3950bbe6c39ee613a1c812c" {
		t.Errorf("digest of the material: %x", sum)
	}
}
