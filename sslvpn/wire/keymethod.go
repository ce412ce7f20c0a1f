package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits of the client's key method 2 message, in octets.
const (
	maxOptions  = 1024
	maxUserName = 4096
	maxPassword = 4096
	maxPeerInfo = 4096
	// MaxClientKeys is the longest message that ParseClientKeys accepts.
	MaxClientKeys = 16 << 10
)

// ErrIncomplete is returned by ParseClientKeys and ParseServerKeys while more
// octets of the message have to come.
var ErrIncomplete = errors.New("message is incomplete")

// keyMethodPrefix stands before each message of key method 2. OpenVPN 3
// compares all of it.
var keyMethodPrefix = []byte{0, 0, 0, 0, 2}

// Randoms is what one side adds to the keys of the PRF.
type Randoms struct {
	PreMaster        [48]byte // of the client only
	Random1, Random2 [32]byte
}

// ClientKeys is the client's message of key method 2.
type ClientKeys struct {
	Randoms  Randoms
	Options  string // the options string, such as "V4,dev-type tun,…"
	UserName string
	Password []byte // the receiver wipes it
	PeerInfo string // lines of NAME=value
}

// ServerKeys is the server's message of key method 2.
type ServerKeys struct {
	Randoms Randoms // PreMaster is not sent
	Options string
}

// ParseClientKeys reads a client's message from the start of its TLS stream and
// returns its length. It returns ErrIncomplete while b is too short for it.
func ParseClientKeys(b []byte) (k ClientKeys, n int, err error) {
	if err := checkKeyMethod(b); err != nil {
		return k, 0, err
	}
	const fixed = 5 + 48 + 32 + 32
	if len(b) < fixed {
		return k, 0, ErrIncomplete
	}
	copy(k.Randoms.PreMaster[:], b[5:])
	copy(k.Randoms.Random1[:], b[53:])
	copy(k.Randoms.Random2[:], b[85:])
	rest := b[fixed:]
	fields := [...]struct {
		name string
		max  int
		b    []byte
	}{{"options string", maxOptions, nil}, {"user name", maxUserName, nil}, {"password", maxPassword, nil}, {"peer info", maxPeerInfo, nil}}
	for i := range fields {
		f := &fields[i]
		if f.b, rest, err = cutString(rest, f.name, f.max); err != nil {
			return ClientKeys{}, 0, err
		}
	}
	k.Options, k.UserName, k.PeerInfo = string(fields[0].b), string(fields[1].b), string(fields[3].b)
	k.Password = bytes.Clone(fields[2].b)
	return k, len(b) - len(rest), nil
}

// Append appends the message to b.
func (k *ClientKeys) Append(b []byte) []byte {
	b = append(b, keyMethodPrefix...)
	b = append(b, k.Randoms.PreMaster[:]...)
	b = append(b, k.Randoms.Random1[:]...)
	b = append(b, k.Randoms.Random2[:]...)
	b = appendString(b, []byte(k.Options))
	b = appendString(b, []byte(k.UserName))
	b = appendString(b, k.Password)
	return appendString(b, []byte(k.PeerInfo))
}

// Wipe overwrites the secrets.
func (k *ClientKeys) Wipe() {
	k.Randoms.Wipe()
	clear(k.Password)
}

// Wipe overwrites the secrets.
func (r *Randoms) Wipe() {
	clear(r.PreMaster[:])
	clear(r.Random1[:])
	clear(r.Random2[:])
}

// ParseServerKeys reads a server's message, as ParseClientKeys does a client's.
func ParseServerKeys(b []byte) (k ServerKeys, n int, err error) {
	if err := checkKeyMethod(b); err != nil {
		return k, 0, err
	}
	const fixed = 5 + 32 + 32
	if len(b) < fixed {
		return k, 0, ErrIncomplete
	}
	copy(k.Randoms.Random1[:], b[5:])
	copy(k.Randoms.Random2[:], b[37:])
	options, rest, err := cutString(b[fixed:], "options string", maxOptions)
	if err != nil {
		return ServerKeys{}, 0, err
	}
	k.Options = string(options)
	for range 3 { // user name, password and peer info say nothing here
		if len(rest) == 0 {
			break
		}
		if _, rest, err = cutString(rest, "empty string", maxPeerInfo); err != nil {
			return ServerKeys{}, 0, err
		}
	}
	return k, len(b) - len(rest), nil
}

// Append appends the message to b. It has to go out as one TLS record.
func (k *ServerKeys) Append(b []byte) []byte {
	b = append(b, keyMethodPrefix...)
	b = append(b, k.Randoms.Random1[:]...)
	b = append(b, k.Randoms.Random2[:]...)
	b = appendString(b, []byte(k.Options))
	return append(b, 0, 0, 0, 0, 0, 0)
}

func checkKeyMethod(b []byte) error {
	n := min(len(b), len(keyMethodPrefix))
	if !bytes.Equal(b[:n], keyMethodPrefix[:n]) {
		return fmt.Errorf("%w: not a message of key method 2", ErrMalformed)
	}
	return nil
}

// cutString takes a string off b: a length that counts the NUL at its end, or
// zero and nothing for no string.
func cutString(b []byte, name string, limit int) (s, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, ErrIncomplete
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n > limit+1 {
		return nil, nil, fmt.Errorf("%w: %s of %d octets, at most %d", ErrMalformed, name, n, limit)
	}
	if len(b) < n {
		return nil, nil, ErrIncomplete
	}
	if n == 0 {
		return nil, b, nil
	}
	s = b[:n-1]
	if b[n-1] != 0 || bytes.IndexByte(s, 0) >= 0 {
		return nil, nil, fmt.Errorf("%w: %s has no NUL at its end, or another one", ErrMalformed, name)
	}
	return s, b[n:], nil
}

func appendString(b, s []byte) []byte {
	if len(s) == 0 {
		return append(b, 0, 0)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)+1))
	b = append(b, s...)
	return append(b, 0)
}
