package ike

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// cookieLifetime is how long one secret makes cookies. A cookie is accepted
// while its secret is the current or the previous one.
const cookieLifetime = 2 * time.Minute

// cookieLen is the length of a cookie: a secret's version and a MAC.
const cookieLen = 4 + sha256.Size

// cookieJar makes and checks the cookies of IKE_SA_INIT without keeping any
// (RFC 7296, section 2.6):
//
//	Cookie = VersionOfSecret | HMAC-SHA256(Secret, VersionOfSecret | IPi | SPIi | Ni)
//
// The zero value is ready for use.
type cookieJar struct {
	mu      sync.Mutex
	version uint32 // of secrets[0]; zero: there is none yet
	since   time.Time
	secrets [2][sha256.Size]byte // current, previous
}

// rotate replaces secrets that are too old.
func (j *cookieJar) rotate(now time.Time) {
	age := now.Sub(j.since)
	if j.version != 0 && age < cookieLifetime {
		return
	}
	j.secrets[1] = j.secrets[0]
	if j.version == 0 || age >= 2*cookieLifetime {
		mustRead(j.secrets[1][:])
	}
	mustRead(j.secrets[0][:])
	j.version++
	j.since = now
}

// mustRead fills b with randomness. crypto/rand.Read never fails.
func mustRead(b []byte) { _, _ = rand.Read(b) }

// bake returns the cookie for an initiator.
func (j *cookieJar) bake(now time.Time, from netip.Addr, spi uint64, nonce []byte) []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rotate(now)
	return j.cookie(j.version, 0, from, spi, nonce)
}

// check reports whether a cookie is one that bake has returned for the same
// initiator a short time ago.
func (j *cookieJar) check(now time.Time, cookie []byte, from netip.Addr, spi uint64, nonce []byte) bool {
	if len(cookie) != cookieLen {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rotate(now)
	version := binary.BigEndian.Uint32(cookie)
	age := j.version - version
	if age > 1 {
		return false
	}
	return hmac.Equal(cookie, j.cookie(version, age, from, spi, nonce))
}

func (j *cookieJar) cookie(version, secret uint32, from netip.Addr, spi uint64, nonce []byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, cookieLen), version)
	mac := hmac.New(sha256.New, j.secrets[secret][:])
	mac.Write(b)
	ip := from.As16()
	mac.Write(ip[:])
	mac.Write(binary.BigEndian.AppendUint64(nil, spi))
	mac.Write(nonce)
	return mac.Sum(b)
}
