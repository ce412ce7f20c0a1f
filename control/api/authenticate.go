package api

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/control"
)

const (
	headerToken   = "X-Auth-Token"
	headerProject = "X-Project-Id"
)

// authenticate returns who sent a request, or the refusal of it. An access key
// that does not exist is refused in the same words as a wrong secret. The body
// is read only when the headers name a caller.
func (s *Server) authenticate(r *http.Request, readBody func() ([]byte, error)) (control.Principal, error) {
	var caller control.Principal
	now := s.now()
	switch {
	case isSigned(r.Header):
		sig, err := parseSignature(r.Header, now)
		if err != nil {
			return caller, control.Unauthenticated("%v", err)
		}
		credential, ok := s.access.Credential(sig.accessKey, projectOf(r))
		if !ok {
			return caller, errWrongSignature
		}
		callOf(r.Context()).claimed = credential.AccessKey
		body, err := readBody()
		if err != nil {
			return caller, err
		}
		ok, err = sig.matches(r, body, credential.SecretKey.Reveal())
		if err != nil {
			return caller, control.Unauthenticated("%v", err)
		}
		if !ok {
			return caller, errWrongSignature
		}
		caller = credential.Principal()
		if !s.callers.allow(caller.Name, now) {
			return caller, control.Busy()
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return caller, s.replay.use(sig.mac, now)
		}
		return caller, nil
	case r.Header.Get(headerToken) != "":
		caller, err := s.access.VerifyToken(r.Context(), r.Header.Get(headerToken))
		if err == nil && !s.callers.allow(caller.Name, now) {
			return caller, control.Busy()
		}
		return caller, err
	}
	return caller, control.Unauthenticated("the request has neither a signature nor a token")
}

// projectOf returns the project that a request is about or, where its path
// names none, means to act in.
func projectOf(r *http.Request) string {
	if project := r.PathValue("project_id"); project != "" {
		return project
	}
	return r.Header.Get(headerProject)
}

var errWrongSignature = control.Unauthenticated("the access key or the signature is wrong")

// authorise refuses a caller who lacks the permission of an operation, or asks
// for a project other than its own.
func (s *Server) authorise(r *http.Request, caller control.Principal, op *operation) error {
	if header := r.Header.Get(headerProject); header != "" && header != caller.Project {
		return control.Forbidden("header %s is not the project of the caller", headerProject)
	}
	if op.permission == "" {
		return nil
	}
	return s.access.Authorise(caller, r.PathValue("project_id"), op.permission)
}

// limiters bounds how often each of a set of names may do something. When
// there are too many names, as guessers may invent them, new ones are refused
// until others have been idle.
type limiters struct {
	rate  rate.Limit // per second
	burst int

	mu     sync.Mutex
	byName map[string]*rate.Limiter
}

// maxLimiters is how many names have a limiter of their own.
const maxLimiters = 10_000

func newLimiters(perSecond rate.Limit, burst int) *limiters {
	return &limiters{rate: perSecond, burst: burst, byName: map[string]*rate.Limiter{}}
}

func (l *limiters) allow(name string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.byName[name]
	if limiter == nil {
		if len(l.byName) >= maxLimiters {
			l.dropIdle(now)
		}
		if len(l.byName) >= maxLimiters {
			return false
		}
		limiter = rate.NewLimiter(l.rate, l.burst)
		l.byName[name] = limiter
	}
	return limiter.AllowN(now, 1)
}

// dropIdle forgets the limiters that are as good as new.
func (l *limiters) dropIdle(now time.Time) {
	for name, limiter := range l.byName {
		if limiter.TokensAt(now) >= float64(l.burst) {
			delete(l.byName, name)
		}
	}
}

// maxReplayed is how many signatures are remembered in one period.
const maxReplayed = 1 << 18

// replayGuard remembers the signatures of requests that change something for
// as long as they could be sent again. Two generations, of which the older is
// dropped when the younger has lasted for a whole window, keep each of them
// for at least that long.
type replayGuard struct {
	mu             sync.Mutex
	started        time.Time
	younger, older map[[sha256.Size]byte]struct{}
}

// use accepts a signature the first time.
func (g *replayGuard) use(mac [sha256.Size]byte, now time.Time) error {
	const window = 2 * signatureSkew // a date from the future is valid for that long
	g.mu.Lock()
	defer g.mu.Unlock()
	if age := now.Sub(g.started); g.younger == nil || age >= window {
		g.older = g.younger
		if age >= 2*window {
			g.older = nil
		}
		g.younger, g.started = map[[sha256.Size]byte]struct{}{}, now
	}
	_, inYounger := g.younger[mac]
	_, inOlder := g.older[mac]
	switch {
	case inYounger || inOlder:
		return control.Unauthenticated("the signature was used before: sign every request anew")
	case len(g.younger) >= maxReplayed:
		return control.Busy()
	}
	g.younger[mac] = struct{}{}
	return nil
}
