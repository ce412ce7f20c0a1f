package control

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Cost of the hashes that are made here: 19 MiB and two passes take about 20 ms
// of one core.
const (
	hashMemory  = 19 << 10 // KiB
	hashPasses  = 2
	hashLanes   = 1
	hashSalt    = 16 // octets
	hashSize    = 32 // octets
	maxPassword = 1024
)

// Bounds of the hashes that are accepted: what is cheaper can be guessed, what
// is dearer stops the daemon at every login.
const (
	minHashMemory, maxHashMemory = 8 << 10, 256 << 10 // KiB
	maxHashPasses                = 10
	maxHashLanes                 = 8
	minHashSalt, maxHashSalt     = 8, 64  // octets
	minHashSize, maxHashSize     = 16, 64 // octets
)

// PasswordHash is an argon2id hash (RFC 9106) of a password with what is
// needed to compare a password with it. The zero value matches none.
type PasswordHash struct {
	memory, passes uint32
	lanes          uint8
	salt, sum      string // strings, so that it can be compared and copied
}

// HashPassword hashes a password with a salt from random, which is
// crypto/rand.Reader when nil.
func HashPassword(password Secret, random io.Reader) (PasswordHash, error) {
	if random == nil {
		random = rand.Reader
	}
	if n := len(password.Reveal()); n < 1 || n > maxPassword {
		return PasswordHash{}, fmt.Errorf("password must have 1 to %d octets", maxPassword)
	}
	salt := make([]byte, hashSalt)
	if _, err := io.ReadFull(random, salt); err != nil {
		return PasswordHash{}, fmt.Errorf("random salt: %w", err)
	}
	return hashWithSalt(password, salt), nil
}

func hashWithSalt(password Secret, salt []byte) PasswordHash {
	h := PasswordHash{memory: hashMemory, passes: hashPasses, lanes: hashLanes, salt: string(salt)}
	h.sum = string(h.derive(password, hashSize))
	return h
}

func (h PasswordHash) derive(password Secret, size int) []byte {
	return argon2.IDKey([]byte(password.Reveal()), []byte(h.salt), h.passes, h.memory, h.lanes, uint32(size))
}

// IsZero tells whether there is no hash.
func (h PasswordHash) IsZero() bool { return h.sum == "" }

// Matches tells whether the hash is of this password. It takes as long as
// making the hash did.
func (h PasswordHash) Matches(password Secret) bool {
	if h.IsZero() || len(password.Reveal()) > maxPassword {
		return false
	}
	return subtle.ConstantTimeCompare(h.derive(password, len(h.sum)), []byte(h.sum)) == 1
}

var hashEncoding = base64.RawStdEncoding.Strict()

// Encode returns the hash in the form that ParsePasswordHash reads.
func (h PasswordHash) Encode() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.passes, h.lanes,
		hashEncoding.EncodeToString([]byte(h.salt)), hashEncoding.EncodeToString([]byte(h.sum)))
}

// String returns a placeholder: a hash can be used to guess the password.
func (h PasswordHash) String() string { return hidden }

// Format writes a placeholder for every verb.
func (h PasswordHash) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// ParsePasswordHash reads a hash of the form
// $argon2id$v=19$m=19456,t=2,p=1$salt$hash, where m is the memory in KiB, t the
// passes, p the lanes, and salt and hash are in base64 without padding. The
// error does not hold the text.
func ParsePasswordHash(text string) (PasswordHash, error) {
	malformed := errors.New("password hash must be of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash")
	parts := strings.Split(text, "$")
	if len(text) > 512 || len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return PasswordHash{}, malformed
	}
	var h PasswordHash
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.passes, &h.lanes); err != nil ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", h.memory, h.passes, h.lanes) {
		return PasswordHash{}, malformed
	}
	salt, err := hashEncoding.DecodeString(parts[4])
	if err != nil {
		return PasswordHash{}, malformed
	}
	sum, err := hashEncoding.DecodeString(parts[5])
	if err != nil {
		return PasswordHash{}, malformed
	}
	switch {
	case h.memory < minHashMemory || h.memory > maxHashMemory:
		return PasswordHash{}, fmt.Errorf("password hash: m must be from %d to %d", minHashMemory, maxHashMemory)
	case h.passes < 1 || h.passes > maxHashPasses:
		return PasswordHash{}, fmt.Errorf("password hash: t must be from 1 to %d", maxHashPasses)
	case h.lanes < 1 || h.lanes > maxHashLanes:
		return PasswordHash{}, fmt.Errorf("password hash: p must be from 1 to %d", maxHashLanes)
	case len(salt) < minHashSalt || len(salt) > maxHashSalt:
		return PasswordHash{}, fmt.Errorf("password hash: salt must have %d to %d octets", minHashSalt, maxHashSalt)
	case len(sum) < minHashSize || len(sum) > maxHashSize:
		return PasswordHash{}, fmt.Errorf("password hash: hash must have %d to %d octets", minHashSize, maxHashSize)
	}
	h.salt, h.sum = string(salt), string(sum)
	if h.Encode() != text {
		return PasswordHash{}, malformed // the decoder passes over line ends
	}
	return h, nil
}
