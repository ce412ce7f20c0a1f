package control

import (
	"strings"
	"time"
)

// Kind is a kind of object. Its value is part of store keys.
type Kind string

// Kinds of objects.
const (
	KindGateway         Kind = "gateway"
	KindCustomerGateway Kind = "customer-gateway"
	KindConnection      Kind = "connection"
	KindMonitor         Kind = "connection-monitor"
)

// Meta is what every specification has.
type Meta struct {
	ID      string `json:"id"` // UUID
	Project string `json:"project"`
	Name    string `json:"name"`
	Tags    []Tag  `json:"tags,omitempty"`

	// CreatedAt is unique at the millisecond among the objects that it is listed
	// with, those of its kind and project or server: it is the marker of pages.
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	// Generation counts the specifications the object has had, from 1 on.
	Generation int64 `json:"generation"`
	// DeletionRequested marks an object that is to go: the reconciler takes it
	// down and then finalises it.
	DeletionRequested bool `json:"deletion_requested,omitempty"`
	// Frozen objects keep their specification, carry no traffic and refuse
	// changes.
	Frozen bool `json:"frozen,omitempty"`
}

// Tag is a label that users put on an object.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// gerund returns the word for a state in a not-ready error: CREATING for
// PENDING_CREATE, and any other state as it is.
func gerund(state string) string {
	if verb, ok := strings.CutPrefix(state, "PENDING_"); ok {
		return strings.TrimSuffix(verb, "E") + "ING"
	}
	return state
}
