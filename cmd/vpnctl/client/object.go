package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Kind is one kind of objects of the API, with where and how they are kept.
type Kind struct {
	Name   string // in the singular, as a person writes it
	Plural string

	path   string // of the collection
	items  string // what the paths of single objects begin with, when it is not path
	one    string // the member that holds one object
	many   string // the member that holds a list
	paged  bool
	listed bool // an object is shown in the list only
}

// The kinds of objects.
var (
	Gateways = Kind{
		Name: "gateway", Plural: "gateways",
		path: "vpn-gateways", one: "vpn_gateway", many: "vpn_gateways",
	}
	CustomerGateways = Kind{
		Name: "customer-gateway", Plural: "customer-gateways",
		path: "customer-gateways", one: "customer_gateway", many: "customer_gateways", paged: true,
	}
	Connections = Kind{
		Name: "connection", Plural: "connections",
		path: "vpn-connection", one: "vpn_connection", many: "vpn_connections", paged: true,
	}
)

// Kinds are all kinds, those that others refer to first.
var Kinds = []Kind{Gateways, CustomerGateways, Connections}

// Object is one object as the API answers it.
type Object map[string]any

// ID returns the object's id. Members that an object lacks are empty.
func (o Object) ID() string { return o.Text("id") }

// Name returns the object's name.
func (o Object) Name() string { return o.Text("name") }

// Status returns the object's status, such as "ACTIVE".
func (o Object) Status() string { return o.Text("status") }

// StatusMessage says why the status is what it is, where the API tells.
func (o Object) StatusMessage() string { return o.Text("status_message") }

// Text returns a member as text; lists are joined by commas.
func (o Object) Text(member string) string { return text(o[member]) }

func text(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return fmt.Sprintf("%.0f", v)
	case []any:
		list := make([]string, len(v))
		for i, e := range v {
			list[i] = text(e)
		}
		return strings.Join(list, ",")
	default:
		return fmt.Sprint(v)
	}
}

// List returns all objects of a kind.
func (c *Client) List(ctx context.Context, kind Kind) ([]Object, error) {
	all := []Object{} // not nil: that would be null in JSON
	query := url.Values{}
	for {
		var answer map[string]any
		if err := c.do(ctx, http.MethodGet, kind.path, query, nil, &answer); err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Plural, err)
		}
		page, _ := answer[kind.many].([]any)
		for _, entry := range page {
			if o, ok := entry.(map[string]any); ok {
				all = append(all, o)
			}
		}
		info, _ := answer["page_info"].(map[string]any)
		next, _ := info["next_marker"].(string)
		// The last page may have a marker, too: what follows it is empty. A
		// marker that does not move would loop for ever.
		if !kind.paged || len(page) == 0 || next == "" || next == query.Get("marker") {
			return all, nil
		}
		query.Set("marker", next)
	}
}

// Get returns one object by its id.
func (c *Client) Get(ctx context.Context, kind Kind, id string) (Object, error) {
	if kind.listed {
		return c.Find(ctx, kind, id)
	}
	o, err := c.one(ctx, http.MethodGet, kind, id, nil)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind.Name, id, err)
	}
	return o, nil
}

// Find returns the one object with that id or that name.
func (c *Client) Find(ctx context.Context, kind Kind, nameOrID string) (Object, error) {
	all, err := c.List(ctx, kind)
	if err != nil {
		return nil, err
	}
	return Pick(all, kind, nameOrID)
}

// Pick returns the one object with that id or that name from a list.
func Pick(all []Object, kind Kind, nameOrID string) (Object, error) {
	if i := slices.IndexFunc(all, func(o Object) bool { return o.ID() == nameOrID }); i >= 0 {
		return all[i], nil
	}
	var found []Object
	var ids []string
	for _, o := range all {
		if o.Name() == nameOrID {
			found, ids = append(found, o), append(ids, o.ID())
		}
	}
	switch len(found) {
	case 0:
		return nil, &Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no %s with the name or id %q", kind.Name, nameOrID)}
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%s %q: the name is not unique: use one of the ids %s", kind.Name, nameOrID, strings.Join(ids, ", "))
}

// Create makes an object and returns what the API made of it.
func (c *Client) Create(ctx context.Context, kind Kind, fields Object) (Object, error) {
	o, err := c.one(ctx, http.MethodPost, kind, "", fields)
	if err != nil {
		return nil, fmt.Errorf("create %s %s: %w", kind.Name, fields.Name(), err)
	}
	return o, nil
}

// Update changes the given fields of an object. Of some kinds the API does not
// answer what it made of it.
func (c *Client) Update(ctx context.Context, kind Kind, id string, fields Object) (Object, error) {
	o, err := c.one(ctx, http.MethodPut, kind, id, fields)
	if err != nil {
		return nil, fmt.Errorf("update %s %s: %w", kind.Name, id, err)
	}
	return o, nil
}

// Delete begins to delete an object; it is gone when Get no longer finds it.
func (c *Client) Delete(ctx context.Context, kind Kind, id string) error {
	if err := c.do(ctx, http.MethodDelete, kind.at(id), nil, nil, nil); err != nil {
		return fmt.Errorf("delete %s %s: %w", kind.Name, id, err)
	}
	return nil
}

// at returns the path of one object.
func (k Kind) at(id string) string {
	path := k.path
	if k.items != "" {
		path = k.items
	}
	return path + "/" + url.PathEscape(id)
}

func (c *Client) one(ctx context.Context, method string, kind Kind, id string, fields Object) (Object, error) {
	path := kind.path
	if id != "" {
		path = kind.at(id)
	}
	var in any
	if fields != nil {
		in = map[string]any{kind.one: fields}
	}
	var answer map[string]any
	if err := c.do(ctx, method, path, nil, in, &answer); err != nil {
		return nil, err
	}
	o, ok := answer[kind.one].(map[string]any)
	if !ok && method == http.MethodPut {
		return Object{"id": id}, nil
	}
	if !ok {
		return nil, fmt.Errorf("the API's answer has no %s", kind.one)
	}
	return o, nil
}

// LogLine is one line of a connection's log.
type LogLine struct {
	Time int64  `json:"time"` // seconds since 1970
	Text string `json:"raw_message"`
}

// Log returns the log of a connection, the newest line first.
func (c *Client) Log(ctx context.Context, connection string) ([]LogLine, error) {
	var answer struct {
		Logs []LogLine `json:"logs"`
	}
	if err := c.do(ctx, http.MethodGet, Connections.path+"/"+url.PathEscape(connection)+"/log", nil, nil, &answer); err != nil {
		return nil, fmt.Errorf("log of connection %s: %w", connection, err)
	}
	return answer.Logs, nil
}

// Plan tells what changes would do to the tunnel of a connection. They are the
// bodies of updates: vpn_connection, vpn_gateway and customer_gateway, as far as
// there are any.
func (c *Client) Plan(ctx context.Context, connection string, changes map[string]any) (Object, error) {
	var answer map[string]any
	if err := c.do(ctx, http.MethodPost, Connections.path+"/"+url.PathEscape(connection)+"/plan", nil, changes, &answer); err != nil {
		return nil, fmt.Errorf("plan connection %s: %w", connection, err)
	}
	plan, _ := answer["plan"].(map[string]any)
	return plan, nil
}

// Reset deletes all SAs of a connection and negotiates anew.
func (c *Client) Reset(ctx context.Context, connection string) error {
	if err := c.do(ctx, http.MethodPost, Connections.path+"/"+url.PathEscape(connection)+"/reset", nil, nil, nil); err != nil {
		return fmt.Errorf("reset connection %s: %w", connection, err)
	}
	return nil
}
