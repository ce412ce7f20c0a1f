package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// ClientToken marks a request that its sender may send again: the first one is
// performed, and later ones get its result.
type ClientToken struct {
	Caller string            // whose token it is
	Text   string            // chosen by the caller, unique among its requests of one project
	Digest [sha256.Size]byte // of all that makes one request another
}

type clientTokenKey struct{}

// WithClientToken marks the request that a context belongs to.
func WithClientToken(ctx context.Context, t ClientToken) context.Context {
	return context.WithValue(ctx, clientTokenKey{}, t)
}

const (
	prefixClientTokens   = "client-token"
	clientTokenLifetime  = 24 * time.Hour
	clientTokenSweep     = time.Hour
	maxProjectTokens     = 10_000
	clientTokenSweepSize = store.MaxTxnSize
)

// storedResult is what the first request with a token did.
type storedResult struct {
	Digest  []byte          `json:"digest"`
	Result  json.RawMessage `json:"result"` // without secrets
	Expires time.Time       `json:"expires"`
}

// clientTokens counts the results that are kept, so that there is a bound.
type clientTokens struct {
	mu     sync.Mutex
	swept  time.Time
	number map[string]int // by project
}

// once is Objects.change for a request that creates something. If the request
// is marked by a ClientToken, the result, into which decide has written what
// the caller is shown, is stored in the same transaction as the object, and a
// repeated request is given that result again and changes nothing. The same
// token with another request is refused.
func once[T any](ctx context.Context, s *Service, project string, result *T, decide func(*transaction) error) error {
	token, marked := ctx.Value(clientTokenKey{}).(ClientToken)
	if !marked {
		return s.objects.change(ctx, decide)
	}
	if err := s.sweepClientTokens(ctx); err != nil {
		return err
	}
	stored := false
	err := s.objects.change(ctx, func(tx *transaction) error {
		stored = false
		if done, err := recall(ctx, s, project, result); done || err != nil {
			return err
		}
		if s.clientTokens.of(project) >= maxProjectTokens {
			return Busy()
		}
		err := decide(tx)
		if err != nil {
			return err
		}
		r := storedResult{Digest: token.Digest[:], Expires: s.now().UTC().Add(clientTokenLifetime)}
		if r.Result, err = json.Marshal(result); err != nil {
			return fmt.Errorf("encode the result: %w", err)
		}
		put, err := s.objects.results.Put(token.key(project), r)
		tx.ops = append(tx.ops, put)
		stored = err == nil
		return err
	})
	if err == nil && stored {
		s.clientTokens.add(project)
	}
	return err
}

// recall gives a request that is marked by the ClientToken of an earlier one
// the result of that, and says so. With another request that is refused.
func recall[T any](ctx context.Context, s *Service, project string, result *T) (done bool, err error) {
	token, marked := ctx.Value(clientTokenKey{}).(ClientToken)
	if !marked {
		return false, nil
	}
	before, err := s.objects.results.Get(ctx, token.key(project))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !s.now().Before(before.Value.Expires):
		return false, nil
	case string(before.Value.Digest) != string(token.Digest[:]):
		return false, Repeated()
	}
	note(ctx, before.Modified)
	*result = *new(T) // an attempt that was overtaken may have left something
	return true, json.Unmarshal(before.Value.Result, result)
}

// key returns where the result of a request with the token is kept.
func (t ClientToken) key(project string) string {
	name := sha256.Sum256([]byte(t.Caller + "\x00" + t.Text))
	return project + "/" + hex.EncodeToString(name[:])
}

func (c *clientTokens) of(project string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.number[project]
}

func (c *clientTokens) add(project string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.number[project]++
}

// sweepClientTokens removes the results that have expired, now and then, and
// counts the others.
func (s *Service) sweepClientTokens(ctx context.Context) error {
	c, now := &s.clientTokens, s.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.number != nil && now.Sub(c.swept) < clientTokenSweep {
		return nil
	}
	rows, _, err := s.objects.results.List(ctx, "")
	if err != nil {
		return err
	}
	number := map[string]int{}
	var expired []store.Op
	for _, row := range rows {
		if now.Before(row.Value.Expires) {
			project, _, _ := strings.Cut(row.Key, "/")
			number[project]++
			continue
		}
		expired = append(expired, s.objects.results.Delete(row.Key))
	}
	for len(expired) > 0 {
		n := min(len(expired), clientTokenSweepSize)
		if _, err := s.objects.store.Txn(ctx, nil, expired[:n]); err != nil {
			return err
		}
		expired = expired[n:]
	}
	c.number, c.swept = number, now
	return nil
}
