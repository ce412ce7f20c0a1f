package sslvpn

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"
)

// An auth-token takes the place of a user's password in renegotiations and
// after a short loss of the connection, so that neither the person nor the
// password hash is asked again:
//
//	"SESS_ID_AT_" base64(id(12) | first login(8) | issued(8) | HMAC-SHA256(32))
//
// The MAC covers the user, the endpoint and what the user proved too, so a change
// of the password or of the second factor ends the token. A token that follows
// from another one keeps the time of its first login, which ends them all as a way
// to log in: else they would replace each other for ever, and a second factor
// would be asked for once. Clients keep strings of this prefix out of their logs.
const (
	tokenPrefix   = "SESS_ID_AT_"
	tokenBody     = 12 + 8 + 8
	tokenLifetime = 24 * time.Hour
)

// tokenKey makes and checks auth-tokens.
type tokenKey [sha256.Size]byte

// issue returns a token for a user who has logged in first at a time.
func (k *tokenKey) issue(now, first time.Time, endpoint string, u *User) string {
	body := make([]byte, 12, tokenBody+sha256.Size)
	_, _ = rand.Read(body)
	body = binary.BigEndian.AppendUint64(body, uint64(first.Unix()))
	body = binary.BigEndian.AppendUint64(body, uint64(now.Unix()))
	return tokenPrefix + base64.StdEncoding.EncodeToString(k.mac(endpoint, u, body))
}

// check reports whether a token was issued to this user for this endpoint, with
// the password and the second factor of now, not longer ago than tokenLifetime,
// and when the user has logged in first.
func (k *tokenKey) check(now time.Time, token, endpoint string, u *User) (first time.Time, valid bool) {
	text, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok || len(text) != base64.StdEncoding.EncodedLen(tokenBody+sha256.Size) {
		return first, false
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != tokenBody+sha256.Size {
		return first, false
	}
	if !equal(b, k.mac(endpoint, u, b[:tokenBody])) {
		return first, false
	}
	age := now.Unix() - int64(binary.BigEndian.Uint64(b[20:]))
	return time.Unix(int64(binary.BigEndian.Uint64(b[12:])), 0), age >= 0 && age < int64(tokenLifetime/time.Second)
}

// mac returns a token's body with its MAC behind.
func (k *tokenKey) mac(endpoint string, u *User, body []byte) []byte {
	h := hmac.New(sha256.New, k[:])
	for _, field := range []string{endpoint, u.ID, u.Name, u.proof()} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(field))))
		h.Write([]byte(field))
	}
	h.Write(body)
	return h.Sum(bytes.Clone(body))
}
