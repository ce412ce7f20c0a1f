package sslvpn

import (
	"net/netip"
	"sync"
	"time"
)

// Limits of failed logins. Beyond the free ones each further failure doubles
// the wait, and a wait without failures forgives.
const (
	freeByUser, freeByAddress = 5, 20 // many users may share an address
	firstWait                 = 2 * time.Second
	maxWaitByUser             = time.Minute // others must not lock a user out for long
	maxWaitByAddress          = 10 * time.Minute
	forgiveAfter              = 15 * time.Minute
	maxThrottled              = 16384 // entries of each table
	// homeFor is how long a user's login makes its address one from where the
	// failures of others elsewhere do not keep the user out.
	homeFor = 30 * 24 * time.Hour
)

// throttle slows guessing of passwords down, by user and by address. Names
// count whether they exist or not, so that it tells nothing about them. A user
// who has logged in from an address before has failures there of its own:
// whoever guesses from elsewhere cannot lock the user out. The zero value is
// ready for use.
type throttle struct {
	mu     sync.Mutex
	byUser failures[string]
	byAddr failures[netip.Addr]
	byHome failures[home]
	homes  map[home]time.Time // of the last login
}

// home is an address that a user has logged in from.
type home struct {
	user string
	from netip.Addr // by prefix64
}

func (t *throttle) isHome(now time.Time, h home) bool {
	last, ok := t.homes[h]
	return ok && now.Sub(last) < homeFor
}

// failures are the failed logins of one kind of culprit.
type failures[K comparable] map[K]*failure

type failure struct {
	count int
	last  time.Time
	until time.Time // no login before
}

// prefix64 returns who answers for an address: of IPv6, one holder has a /64.
func prefix64(a netip.Addr) netip.Addr {
	if a = a.Unmap(); a.Is4() {
		return a
	}
	p, _ := a.WithZone("").Prefix(64)
	return p.Addr()
}

// wait returns how long a login has to wait; 0 is not at all.
func (t *throttle) wait(now time.Time, user string, from netip.Addr) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := home{user, prefix64(from)}
	byUser := t.byUser.wait(now, user)
	if t.isHome(now, h) {
		byUser = t.byHome.wait(now, h)
	}
	return max(byUser, t.byAddr.wait(now, h.from), 0)
}

// failed counts a failed login.
func (t *throttle) failed(now time.Time, user string, from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := home{user, prefix64(from)}
	if t.isHome(now, h) {
		t.byHome.add(now, h, freeByUser, maxWaitByUser)
	} else {
		t.byUser.add(now, user, freeByUser, maxWaitByUser)
	}
	t.byAddr.add(now, h.from, freeByAddress, maxWaitByAddress)
}

// succeeded forgets the failures of a user: at home those there, else the
// others. Those of the address stay: who has one account must not guess at
// others for free.
func (t *throttle) succeeded(now time.Time, user string, from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := home{user, prefix64(from)}
	if t.isHome(now, h) {
		delete(t.byHome, h)
	} else {
		delete(t.byUser, user)
	}
	if t.homes == nil {
		t.homes = map[home]time.Time{}
	}
	if _, known := t.homes[h]; !known && len(t.homes) >= maxThrottled {
		for other := range t.homes {
			delete(t.homes, other)
			break
		}
	}
	t.homes[h] = now
}

func (f failures[K]) wait(now time.Time, key K) time.Duration {
	if e := f[key]; e != nil {
		return e.until.Sub(now)
	}
	return 0
}

func (f *failures[K]) add(now time.Time, key K, free int, limit time.Duration) {
	if *f == nil {
		*f = failures[K]{}
	}
	e := (*f)[key]
	if e == nil || now.Sub(e.last) >= forgiveAfter {
		if e == nil && len(*f) >= maxThrottled {
			f.makeRoom()
		}
		e = &failure{}
		(*f)[key] = e
	}
	e.count++
	e.last = now
	if over := e.count - free; over > 0 {
		wait := firstWait << min(over-1, 16)
		e.until = now.Add(min(wait, limit))
	}
}

// makeRoom drops any entry: each has cost a password check, so nobody fills the
// table to have one entry of it forgotten.
func (f failures[K]) makeRoom() {
	for key := range f {
		delete(f, key)
		return
	}
}
