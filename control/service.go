package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// Service performs the calls of the API on the objects. Each call that changes
// something is one transaction; it returns when the specification is stored,
// and the reconciler makes it true later: see WaitApplied. Refusals are of type
// *Error.
//
// Every method takes the project of the caller: objects of other projects do
// not exist for it.
type Service struct {
	objects   *Objects
	inventory atomic.Pointer[Inventory]
	engines   Engines
	history   History
	fleet     Fleet // nil: this node is alone
	node      Node
	limits    Limits
	version   string
	random    io.Reader
	wrapKey   WrapClientKey
	now       func() time.Time

	clientTokens clientTokens
	hashing      *hashingPlaces
}

// ServiceOptions is what a Service needs. Objects and Inventory are required.
type ServiceOptions struct {
	Objects   *Objects
	Inventory *Inventory // validated; not to be changed afterwards
	Engines   Engines    // of this node; nil: it runs none
	History   History    // of this node; nil: it keeps none
	Fleet     Fleet      // nil: this node is alone
	Node      Node       // this one
	Limits    Limits
	Version   string           // of the daemon, which is that of its gateways
	Random    io.Reader        // default crypto/rand.Reader
	WrapKey   WrapClientKey    // nil: there are no profiles with WrapTLSCryptV2
	Now       func() time.Time // default time.Now
}

// NewService returns a Service.
func NewService(o ServiceOptions) (*Service, error) {
	if o.Objects == nil || o.Inventory == nil {
		return nil, errors.New("service: objects and inventory are required")
	}
	s := &Service{
		objects: o.Objects, engines: o.Engines, history: o.History, fleet: o.Fleet, node: o.Node, limits: o.Limits, version: o.Version,
		random: o.Random, wrapKey: o.WrapKey, now: o.Now, hashing: newHashingPlaces(),
	}
	if s.random == nil {
		s.random = rand.Reader
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.inventory.Store(o.Inventory)
	return s, nil
}

// SetInventory replaces the inventory. Objects that refer to what is no longer
// there stay as they are.
func (s *Service) SetInventory(inv *Inventory) { s.inventory.Store(inv) }

// WaitApplied waits until this node's engine of client-to-cloud VPN has been given
// the objects as of a revision, that of Changes. A node without engines has
// nothing to wait for. It fails when ctx ends first.
func (s *Service) WaitApplied(ctx context.Context, revision int64) error {
	if s.engines == nil {
		return nil
	}
	return s.engines.WaitApplied(ctx, revision)
}

// Backup performs BackupStore. Unlike the other calls it is about the objects
// of all projects.
func (s *Service) Backup(ctx context.Context, w io.Writer) error {
	return s.objects.Backup(ctx, w, s.now())
}

// Restore performs RestoreStore. Like Backup it is about the objects of all
// projects.
func (s *Service) Restore(ctx context.Context, r io.Reader) (BackupInfo, error) {
	info, err := s.objects.Restore(ctx, r)
	switch {
	case errors.Is(err, ErrRestoring):
		return info, Busy()
	case err != nil && !s.objects.Restoring() && ctx.Err() == nil && strings.HasPrefix(err.Error(), "backup: "):
		return info, Invalid("backup", "%s", strings.TrimPrefix(err.Error(), "backup: "))
	}
	return info, err
}

// Restoring tells whether a restore is under way: what is read meanwhile may be
// partly of before, and changes are refused.
func (s *Service) Restoring() bool { return s.objects.Restoring() }

// Page asks for a part of a list, newest objects first. The zero Page asks for
// as many as a page may have.
type Page struct {
	Limit  *int
	Marker string // NextMarker of the page before; empty for the first one
}

// List is a page of a list.
type List[T any] struct {
	Items      []T
	Total      int    // of the project, whatever the filter and the page
	NextMarker string // empty only when Items is
}

// paginate cuts a page out of the items, all of which match.
func paginate[T any](items []T, created func(*T) time.Time, page Page, most int) (List[T], error) {
	limit := most
	if page.Limit != nil {
		limit = *page.Limit
	}
	if limit < 0 || limit > most {
		return List[T]{}, Invalid("limit", "must be from 0 to %d", most)
	}
	if page.Marker != "" {
		marker, err := time.Parse(time.RFC3339Nano, page.Marker)
		if err != nil {
			return List[T]{}, Invalid("marker", "must be the next_marker of the page before")
		}
		items = slices.DeleteFunc(items, func(t T) bool { return !created(&t).Before(marker) })
	}
	newestFirst(items, created)
	l := List[T]{Items: items[:min(limit, len(items))]}
	if n := len(l.Items); n > 0 {
		l.NextMarker = FormatTime(created(&l.Items[n-1]))
	}
	return l, nil
}

// paginateP2C cuts a page out of a list of client-to-cloud VPN. The zero Page
// asks for all of it; the last page has no NextMarker.
func paginateP2C[T any](items []T, created func(*T) time.Time, page Page) (List[T], error) {
	if page.Limit == nil {
		if page.Marker != "" {
			return List[T]{}, Invalid("marker", "wants a limit")
		}
		newestFirst(items, created)
		return List[T]{Items: items, Total: len(items)}, nil
	}
	if *page.Limit < 1 || *page.Limit > maxP2CPage {
		return List[T]{}, Invalid("limit", "must be from 1 to %d", maxP2CPage)
	}
	total := len(items)
	one := *page.Limit + 1 // tells whether more follows
	l, err := paginate(items, created, Page{Limit: &one, Marker: page.Marker}, maxP2CPage+1)
	if err != nil {
		return l, err
	}
	l.Total, l.NextMarker = total, ""
	if len(l.Items) == one {
		l.Items = l.Items[:*page.Limit]
		l.NextMarker = FormatTime(created(&l.Items[*page.Limit-1]))
	}
	return l, nil
}

// newMeta completes the common part of a new object. Its time of creation is
// later than that of all others.
func (s *Service) newMeta(m Meta, project string, others []Meta) (Meta, error) {
	id, err := uuid.NewRandomFromReader(s.random)
	if err != nil {
		return Meta{}, fmt.Errorf("random id: %w", err)
	}
	m.ID, m.Project, m.Generation = id.String(), project, 1
	m.CreatedAt = s.now().UTC().Truncate(time.Millisecond)
	for _, o := range others {
		if !o.CreatedAt.Before(m.CreatedAt) {
			m.CreatedAt = o.CreatedAt.Add(time.Millisecond)
		}
	}
	m.UpdatedAt = m.CreatedAt
	return m, nil
}

// touch marks a specification as changed in a way that the engines follow.
func (s *Service) touch(m *Meta) {
	m.Generation++
	m.UpdatedAt = s.now().UTC().Truncate(time.Millisecond)
}

// touchQuietly marks a specification as changed in a way that no engine has to
// follow: the object is not worked on.
func (s *Service) touchQuietly(m *Meta) { m.UpdatedAt = s.now().UTC().Truncate(time.Millisecond) }

func metas[T any](objects []T, meta func(*T) Meta) []Meta {
	out := make([]Meta, len(objects))
	for i := range objects {
		out[i] = meta(&objects[i])
	}
	return out
}

func quotaExceeded(what string, limit int) *Error {
	return invalidRequest(fmt.Sprintf("quota exceeded: %s, at most %d", what, limit))
}

// validProject refuses project ids that cannot be part of a key.
func validProject(project string) error {
	if err := CheckProjectID(project); err != nil {
		return Invalid("project_id", "%v", err)
	}
	return nil
}

// CheckProjectID tells why a text cannot be the id of a project.
func CheckProjectID(id string) error {
	if len(id) < 1 || len(id) > 64 {
		return errors.New("must have 1 to 64 characters")
	}
	for _, r := range id {
		if !isASCIIAlnum(r) && r != '-' && r != '_' {
			return errors.New("may hold letters, digits, '-' and '_' only")
		}
	}
	return nil
}

// read returns a transaction for reading only.
func (s *Service) read(ctx context.Context) *transaction {
	return &transaction{ctx: ctx, objects: s.objects}
}

func matches(filter []string, v string) bool {
	return len(filter) == 0 || slices.Contains(filter, v)
}

// newestFirst sorts. Objects are large: what is moved around is where they are.
func newestFirst[T any](items []T, created func(*T) time.Time) {
	type place struct {
		created time.Time
		index   int
	}
	order := make([]place, len(items))
	for i := range items {
		order[i] = place{created(&items[i]), i}
	}
	slices.SortFunc(order, func(a, b place) int { return cmp.Or(b.created.Compare(a.created), cmp.Compare(a.index, b.index)) })
	sorted := make([]T, len(items))
	for i, p := range order {
		sorted[i] = items[p.index]
	}
	copy(items, sorted)
}
