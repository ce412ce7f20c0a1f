package sslvpn

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Cookies: on UDP a server answers a client's reset without keeping anything of
// it. The session id of the answer is a MAC over where the reset came from, and
// a client that echoes it has shown that it is there.
const (
	cookieSlot  = 30 * time.Second
	cookieSlots = 3 // the current one and those before it that count
)

// cookieKey makes and checks cookies.
type cookieKey [sha256.Size]byte

func newCookieKey() *cookieKey {
	k := new(cookieKey)
	_, _ = rand.Read(k[:])
	return k
}

// bake returns the session id that answers a reset.
func (k *cookieKey) bake(now time.Time, local, remote netip.AddrPort, client wire.SessionID) wire.SessionID {
	return k.cookie(now.Unix()/int64(cookieSlot/time.Second), local, remote, client)
}

// check reports whether a session id is a cookie of a short while ago.
func (k *cookieKey) check(now time.Time, cookie wire.SessionID, local, remote netip.AddrPort, client wire.SessionID) bool {
	slot := now.Unix() / int64(cookieSlot/time.Second)
	ok := false
	for back := range int64(cookieSlots) {
		want := k.cookie(slot-back, local, remote, client)
		if equal(cookie[:], want[:]) {
			ok = true
		}
	}
	return ok
}

func (k *cookieKey) cookie(slot int64, local, remote netip.AddrPort, client wire.SessionID) wire.SessionID {
	mac := hmac.New(sha256.New, k[:])
	for _, a := range []netip.AddrPort{local, remote} {
		ip := a.Addr().As16()
		mac.Write(ip[:])
		mac.Write(binary.BigEndian.AppendUint16(nil, a.Port()))
	}
	mac.Write(client[:])
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(slot)))
	var id wire.SessionID
	copy(id[:], mac.Sum(nil))
	if id == (wire.SessionID{}) {
		id[0] = 1
	}
	return id
}
