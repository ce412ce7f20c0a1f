package api

import (
	"sync"
	"time"

	"github.com/vpngw/vpngw/control"
)

// Failed logins that make the next one wait: the first few are free, then the
// wait doubles with each.
const (
	freeFailures   = 5
	firstWait      = time.Second
	maxAddressWait = 15 * time.Minute
	// A user's wait is short at most: whoever guesses at the password must not
	// be able to keep the user out.
	maxUserWait    = 30 * time.Second
	forgetFailures = time.Hour // after the latest one
)

// backoff makes those who failed wait, ever longer, before they may try again.
// When there are too many names, as guessers may invent them, new ones are
// refused until others are forgotten.
type backoff struct {
	longest time.Duration

	mu     sync.Mutex
	byName map[string]failures
}

type failures struct {
	count  int
	latest time.Time
}

func newBackoff(longest time.Duration) *backoff {
	return &backoff{longest: longest, byName: map[string]failures{}}
}

// wait returns how long a name must not try again.
func (b *backoff) wait(name string, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, known := b.byName[name]
	if !known && len(b.byName) >= maxLimiters {
		b.forget(now)
		if len(b.byName) >= maxLimiters {
			return firstWait
		}
	}
	return f.latest.Add(b.pause(f.count)).Sub(now)
}

// pause is the wait after so many failures.
func (b *backoff) pause(count int) time.Duration {
	pause := time.Duration(0)
	if count > freeFailures {
		pause = firstWait << min(count-freeFailures-1, 20)
	}
	return min(pause, b.longest)
}

// fail notes a failure of a name.
func (b *backoff) fail(name string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.byName[name]
	if now.Sub(f.latest) >= forgetFailures {
		f.count = 0
	}
	b.byName[name] = failures{count: f.count + 1, latest: now}
}

// succeed forgets the failures of a name.
func (b *backoff) succeed(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.byName, name)
}

// forget drops the names whose latest failure is long ago.
func (b *backoff) forget(now time.Time) {
	for name, f := range b.byName {
		if now.Sub(f.latest) >= forgetFailures {
			delete(b.byName, name)
		}
	}
}

// loginGuard bounds the guesses at passwords, by who makes them and by whom
// they are about.
type loginGuard struct {
	rate            *limiters
	byAddress, user *backoff
}

func newLoginGuard() loginGuard {
	return loginGuard{
		rate:      newLimiters(loginRate, loginBurst),
		byAddress: newBackoff(maxAddressWait), user: newBackoff(maxUserWait),
	}
}

// admit refuses a login that comes too soon.
func (g *loginGuard) admit(address, user string, now time.Time) error {
	if g.byAddress.wait(address, now) > 0 || g.user.wait(user, now) > 0 {
		return control.Busy()
	}
	if !g.rate.allow("from "+address, now) || !g.rate.allow("as "+user, now) {
		return control.Busy()
	}
	return nil
}

// failed notes a wrong login.
func (g *loginGuard) failed(address, user string, now time.Time) {
	g.byAddress.fail(address, now)
	g.user.fail(user, now)
}

// succeeded forgets the failures of a user. Those of the address stay: one
// known password is no licence to guess at others.
func (g *loginGuard) succeeded(user string) { g.user.succeed(user) }
