package sslvpn

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// One-time codes by time (TOTP, RFC 6238), as authenticator apps make them:
// HMAC-SHA-1, steps of 30 s, six digits.
const (
	codeStep   = 30 * time.Second
	codeDigits = 6
	// codeDrift is how many steps the clock of a person's device may be off, to
	// either side (RFC 6238, 5.2).
	codeDrift = 1
	// maxUsedCodes is how many users' codes are remembered before those are
	// dropped that nothing would match any more.
	maxUsedCodes = 4096
)

// minCodeSecret is the shortest secret of one-time codes, in octets (RFC 4226,
// 4, R6).
const minCodeSecret = 16

func stepOf(t time.Time) int64 { return t.Unix() / int64(codeStep/time.Second) }

// oneTimeCode returns the code of a time step (RFC 4226, 5.3).
func oneTimeCode(secret []byte, step int64) []byte {
	m := hmac.New(sha1.New, secret)
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(step)))
	sum := m.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	number := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	return fmt.Appendf(nil, "%0*d", codeDigits, number%1e6)
}

// codeVerdict is what is found of a one-time code.
type codeVerdict uint8

const (
	codeWrong codeVerdict = iota
	codeRight
	codeUsed // right, and was shown before
)

// usedCodes sees to it that each code counts once. A restart forgets what was
// used, so codes that could have been shown before it are taken for used.
type usedCodes struct {
	start int64 // the time step in which the endpoint was started

	mu   sync.Mutex
	last map[string]int64 // the newest step of a code, by user id
}

func newUsedCodes(now time.Time) *usedCodes {
	return &usedCodes{start: stepOf(now), last: map[string]int64{}}
}

// take judges the code of a user, and uses it up when it is right. Every step
// is compared, so that the time it takes tells nothing.
func (u *usedCodes) take(now time.Time, user string, secret, code []byte) codeVerdict {
	current, found := stepOf(now), int64(-1)
	for step := current - codeDrift; step <= current+codeDrift; step++ {
		if equal(oneTimeCode(secret, step), code) {
			found = step
		}
	}
	if found < 0 {
		return codeWrong
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if last, before := u.last[user]; before && found <= last || found <= u.start+codeDrift {
		return codeUsed
	}
	if len(u.last) >= maxUsedCodes {
		for id, step := range u.last {
			if step < current-codeDrift {
				delete(u.last, id)
			}
		}
	}
	u.last[user] = found
	return codeRight
}
