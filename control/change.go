package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vpngw/vpngw/control/store"
)

// What a call did to an object.
const (
	ObjectCreated = "created"
	ObjectUpdated = "updated" // also when its deletion was asked for
	ObjectDeleted = "deleted"
)

// ObjectChange is what one call did to the specification of one object.
type ObjectChange struct {
	Kind   Kind          `json:"kind"`
	ID     string        `json:"id"`
	Action string        `json:"action"`
	Fields []FieldChange `json:"fields,omitempty"`
}

// FieldChange is one member of a specification before and after. A member of
// an object within it is named by its path, as in ikepolicy.dh_group; a list
// is one member. Of a secret there is a placeholder.
type FieldChange struct {
	Field  string          `json:"field"`
	Before json.RawMessage `json:"before,omitempty"` // absent when there was none
	After  json.RawMessage `json:"after,omitempty"`
}

// maxFieldValue is how long a value of a FieldChange is at most, in octets.
const maxFieldValue = 1024

// Changes gathers the changes made under a context.
type Changes struct {
	mu       sync.Mutex
	all      []ObjectChange
	revision int64
}

// All returns what was gathered, in the order made.
func (c *Changes) All() []ObjectChange {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// Revision returns the revision of the store that has all that was changed or,
// where something was found to be as it was asked for, that which it was found
// in; zero: nothing was looked at.
func (c *Changes) Revision() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revision
}

type changesKey struct{}

// GatherChanges returns a context under which calls to a Service note what
// they changed.
func GatherChanges(ctx context.Context) (context.Context, *Changes) {
	c := &Changes{}
	return context.WithValue(ctx, changesKey{}, c), c
}

// describe returns the changes that operations will make, unless nobody
// gathers them. What it reads is what the operations replace: the transaction
// checks that.
func (o *Objects) describe(ctx context.Context, ops []store.Op) ([]ObjectChange, error) {
	if ctx.Value(changesKey{}) == nil {
		return nil, nil
	}
	var changes []ObjectChange
	for _, op := range ops {
		kind, _, id, ok := splitSpecKey(op.Key())
		if !ok || !strings.HasPrefix(op.Key(), prefixSpec) {
			continue
		}
		c := ObjectChange{Kind: kind, ID: id, Action: ObjectUpdated}
		before, err := o.store.Get(ctx, op.Key())
		switch {
		case errors.Is(err, store.ErrNotFound):
			c.Action = ObjectCreated
		case err != nil:
			return nil, err
		case op.IsDelete():
			c.Action = ObjectDeleted
		}
		if c.Fields, err = compareFields(before.Value, op.Value()); err != nil {
			return nil, fmt.Errorf("compare %q: %w", op.Key(), err)
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// note hands changes that were made to who gathers them, and the revision that
// has them.
func note(ctx context.Context, revision int64, changes ...ObjectChange) {
	if c, ok := ctx.Value(changesKey{}).(*Changes); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = append(c.all, changes...)
		c.revision = max(c.revision, revision)
	}
}

// compareFields returns the members in which two objects in JSON differ, in
// the order of their names. Either may be absent.
func compareFields(before, after []byte) ([]FieldChange, error) {
	was, is := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := errors.Join(flatten("", before, was), flatten("", after, is)); err != nil {
		return nil, err
	}
	var changes []FieldChange
	for field, value := range is {
		if old, there := was[field]; !there || !bytes.Equal(old, value) {
			changes = append(changes, shown(field, old, value))
		}
	}
	for field, old := range was {
		if _, there := is[field]; !there {
			changes = append(changes, shown(field, old, nil))
		}
	}
	slices.SortFunc(changes, func(a, b FieldChange) int { return strings.Compare(a.Field, b.Field) })
	return changes, nil
}

// flatten gathers the members of an object by their paths.
func flatten(path string, text []byte, into map[string]json.RawMessage) error {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return nil
	}
	if text[0] != '{' {
		into[path] = text
		return nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return err
	}
	for name, value := range members {
		if path != "" {
			name = path + "." + name
		}
		if err := flatten(name, value, into); err != nil {
			return err
		}
	}
	return nil
}

// sealedPrefix begins the names of members that hold sealed secrets.
const sealedPrefix = "sealed_"

// shown returns a change as it may be shown to auditors.
func shown(field string, before, after json.RawMessage) FieldChange {
	if isSecretField(field) {
		placeholder := func(value json.RawMessage) json.RawMessage {
			if value == nil {
				return nil
			}
			return json.RawMessage(`"` + hidden + `"`)
		}
		at := strings.LastIndexByte(field, '.') + 1
		return FieldChange{
			Field:  field[:at] + strings.TrimPrefix(field[at:], sealedPrefix),
			Before: placeholder(before), After: placeholder(after),
		}
	}
	return FieldChange{Field: field, Before: bounded(before), After: bounded(after)}
}

// isSecretField tells by its name whether a member holds a secret, sealed,
// hashed or, by mistake, as it is.
func isSecretField(field string) bool {
	name := strings.ToLower(field[strings.LastIndexByte(field, '.')+1:])
	return strings.HasPrefix(name, sealedPrefix) || name == "ppk" || slices.ContainsFunc([]string{"psk", "password", "secret", "private_key", "token"},
		func(word string) bool { return strings.Contains(name, word) })
}

func bounded(value json.RawMessage) json.RawMessage {
	if len(value) <= maxFieldValue {
		return value
	}
	return fmt.Appendf(nil, `"[%d octets]"`, len(value))
}
