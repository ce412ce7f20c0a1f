package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/fuzztest"
)

// Keys as openvpn --genkey tls-crypt-v2-server and tls-crypt-v2-client of
// OpenVPN 2.6.14 made them. Nobody uses them.
const (
	serverKeyOf26 = "f6LYWh8Zbxj0fEodFPhQtEzOi8JKOghoV9uuEKVwSkgAMMJRmum/vNH8HHSkCf9k" +
		"KJdwIutDrz5ez2xHf94qGqScf/OTMUwMLDWjplEbixrUTZ51QHejArIgceK6x6tn" +
		"XjAH9pUiveUvOovplj0+LCozY7SCa84qFhlCySKq8oU="
	clientKeyOf26 = "11df3ye5fAaD/ssJoJq07h2SNF4p1Rp7PS9vQ7byHTLJW/EK70+OFfcZ1tM0o7+3" +
		"B9+Bhd6omlxlnq7/IoG9MPOue8Bh//qXyqSmSk7lQMJIaU+GupNpTW5gO8tiZKJ4" +
		"vY82HvSXhDlDEq7FTwG86f4FgYmdI9FSSO1Z7oBACJ0Dom7g6yoPzhmICDK/1Sjz" +
		"A4nLpxvDfKluwztfybvuhnLKq6nhLH0rhnSJYKNFIFTOkBo2FvTMGcjciNICj+0v" +
		"uneisDRv/TmYrx65a7sgRrAFdcq2pmrXMXtqmpccj7ou4Nu62WrpA0zL+qmetzQM" +
		"jbS99cnQHCH0RlwOOMkmA1E03mUhvNOcYVuOnWJrm2OOPmnWkdBYG5/gECAKY4Xw" +
		"Y00jrJeGRFydVjubRsAiXkgnU+s4PmLnSTJRyHSo4uyRp8znTbNCao9ZjCaxJHI0" +
		"O8nv2Lx4OFzSyvGXQ3Dmna6D92Xlcnu2ABlxrITKyouoC0JJlW5NcqLWhufOyx2m" +
		"bZdAlgU6FRb5+fFAjKPr3lOmZ/mdTQwb76GOUf8W+qaj/qYvTmh1jIAdSTqmHgo2" +
		"AHLAsQ0BadFTDQVFvsaH0ZWiAA+SYGXd2mntVr1DfaSvPG82kCj5ukTLG9PdSwUJ" +
		"m3nSrWnN0Zc6CXJbPFvEkAq4hHiBYu175q7B4bCJxa10Vo/yKOEdvDdCbx4PWa2V" +
		"DUsuJrh3AxWhJBfvfM3fDZtSgcMFNy2H1gEr"
)

func keysOf26(t testing.TB) (v *TLSCryptV2, key, wrapped []byte) {
	t.Helper()
	server, err1 := base64.StdEncoding.DecodeString(serverKeyOf26)
	client, err2 := base64.StdEncoding.DecodeString(clientKeyOf26)
	v, err3 := NewTLSCryptV2(server)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return v, client[:StaticKeyLen], client[StaticKeyLen:]
}

// fits reports whether what a client wraps with a key opens with w, and back.
func fits(t *testing.T, w *TLSCrypt, key []byte) bool {
	t.Helper()
	client, err := NewTLSCrypt(key, false)
	if err != nil {
		t.Fatal(err)
	}
	packet := unhex(t, clientReset)
	there, err1 := w.Open(client.Append(nil, packet, 1, 2))
	back, err2 := client.Open(w.Append(nil, packet, 1, 2))
	return err1 == nil && err2 == nil && bytes.Equal(there, packet) && bytes.Equal(back, packet)
}

func TestClientKeyID(t *testing.T) {
	_, _, wrapped := keysOf26(t)
	id := ClientKeyIDOf(wrapped)
	back, err := ParseClientKeyID(id.String())
	if err != nil || back != id || id.String() != hex.EncodeToString(wrapped[:16]) {
		t.Errorf("%s is read back as %s, %v", id, back, err)
	}
	if ClientKeyIDOf(wrapped[:15]) != (ClientKeyID{}) || (ClientKeyID{}).String() != "" {
		t.Error("a short key has an id")
	}
	for _, s := range []string{"", "00", strings.Repeat("AB", 16), strings.Repeat("0", 31), strings.Repeat("g", 32), strings.Repeat("0", 34)} {
		if id, err := ParseClientKeyID(s); err == nil {
			t.Errorf("%q is %s", s, id)
		}
	}
}

func TestTLSCryptV2(t *testing.T) {
	v, key, wrapped := keysOf26(t)
	w, err := v.Open(wrapped)
	if err != nil || !fits(t, w, key) {
		t.Fatalf("a key that OpenVPN wrapped: %v", err)
	}
	for i := range wrapped {
		bad := bytes.Clone(wrapped)
		bad[i] ^= 1
		if _, err := v.Open(bad); err == nil {
			t.Errorf("octet %d changed: it opens", i)
		}
	}
	for n := range wrapped {
		if _, err := v.Open(wrapped[:n]); err == nil {
			t.Errorf("%d octets of it open", n)
		}
	}
	own := make([]byte, StaticKeyLen)
	sequence(own, 7)
	made := time.Unix(1700000000, 0)
	ours, err := v.Wrap(own, made)
	if err != nil {
		t.Fatal(err)
	}
	if w, err := v.Open(ours); err != nil || !fits(t, w, own) || fits(t, w, key) {
		t.Errorf("a key that we wrapped: %v", err)
	}
	if len(ours) != len(wrapped) { // the same metadata
		t.Errorf("%d octets, OpenVPN's have %d", len(ours), len(wrapped))
	}
	other, err := NewTLSCryptV2(make([]byte, TLSCryptV2KeyLen))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(ours); !errors.Is(err, ErrNotAuthentic) {
		t.Errorf("with another server's key: %v", err)
	}
	if _, err := NewTLSCryptV2(own); err == nil {
		t.Error("a long server key is taken")
	}
	if _, err := v.Wrap(own[1:], made); err == nil {
		t.Error("a short client key is wrapped")
	}
}

func TestCutWrappedKey(t *testing.T) {
	_, _, wrapped := keysOf26(t)
	packet := append([]byte("packet"), wrapped...)
	rest, got, err := CutWrappedKey(packet)
	if err != nil || string(rest) != "packet" || !bytes.Equal(got, wrapped) || cap(rest) != len(rest) {
		t.Errorf("%q, %d octets, %v", rest, len(got), err)
	}
	for _, n := range []int{0, minWrappedKey - 1, len(packet) + 1, maxWrappedKey + 1, 1<<16 - 1} {
		bad := bytes.Clone(packet)
		binary.BigEndian.PutUint16(bad[len(bad)-2:], uint16(n))
		if _, _, err := CutWrappedKey(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("a length of %d: %v", n, err)
		}
	}
	for _, b := range [][]byte{nil, {0}, wrapped[:minWrappedKey-1], make([]byte, MaxFrame+1)} {
		if _, _, err := CutWrappedKey(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d octets: %v", len(b), err)
		}
	}
}

func TestKeyAgain(t *testing.T) {
	for _, tt := range []struct {
		payload string
		want    bool
	}{
		{"000100020001", true},
		{"0009000301020300010002ffff", true},
		{"000100020002", false},
		{"00010001010001", false},
		{"0001000200", false},
		{"0001", false},
		{"", false},
	} {
		if got := WantsKeyAgain(unhex(t, tt.payload)); got != tt.want {
			t.Errorf("%s: %t", tt.payload, got)
		}
	}
	if !WantsKeyAgain(KeyAgain) {
		t.Error("our own payload is not understood")
	}
	client, err := NewTLSCrypt(make([]byte, StaticKeyLen), false)
	if err != nil {
		t.Fatal(err)
	}
	for counter, want := range map[uint32]bool{1: false, EarlyCounter: true, 0x0effffff: false, 0x10000001: false} {
		if got := ResendsKey(client.Append(nil, unhex(t, clientReset), counter, 5)); got != want {
			t.Errorf("counter %#x: %t", counter, got)
		}
	}
	if ResendsKey(nil) {
		t.Error("nothing resends")
	}
}

func FuzzWrappedKey(f *testing.F) {
	target := fuzztest.New(f)
	v, key, wrapped := keysOf26(f)
	client, _ := NewTLSCrypt(key, false)
	target.Add(append(client.Append(nil, unhex(f, clientReset), EarlyCounter, 2), wrapped...))
	target.Add(wrapped)
	target.Fuzz(func(t *testing.T, b []byte) {
		WantsKeyAgain(b)
		ResendsKey(b)
		rest, key, err := CutWrappedKey(b)
		if err != nil {
			return
		}
		if len(rest)+len(key) != len(b) {
			t.Errorf("%d and %d octets of %d", len(rest), len(key), len(b))
		}
		if w, err := v.Open(key); err == nil {
			_, _ = w.Open(rest)
		}
	})
}
