package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"

	"github.com/vpngw/vpngw/control"
)

// operation is one operation of the document.
type operation struct {
	id         string
	permission string // empty: none is needed
	maxBody    int64  // octets
	public     bool   // needs no authentication
	audited    bool   // is written down also when it was not refused
	// repeatable says that a request may be marked by a client token.
	repeatable bool
	// inForce says that the answer waits for the engines.
	inForce bool
	route   *routers.Route
}

// typeParameter is the parameter of paths whose values are part of the
// pattern. As a wildcard it would clash with the paths of the objects.
const typeParameter = "resource_type"

// patterns returns the pattern of a route, once for each value of the type
// parameter if it has it.
func (o *operation) patterns() map[string]string {
	pattern := o.route.Method + " " + o.route.Path
	wildcard := "{" + typeParameter + "}"
	if !strings.Contains(pattern, wildcard) {
		return map[string]string{pattern: ""}
	}
	patterns := map[string]string{}
	for _, v := range o.route.PathItem.Parameters.GetByInAndName(openapi3.ParameterInPath, typeParameter).Schema.Value.Enum {
		if value, ok := v.(string); ok {
			patterns[strings.ReplaceAll(pattern, wildcard, value)] = value
		}
	}
	return patterns
}

// loadOperations returns the operations of the document by their pattern, as
// in GET /v5/{project_id}/vpn-gateways. They are not to be changed.
var loadOperations = sync.OnceValues(readDocument)

func readDocument() (map[string]*operation, error) {
	doc, err := openapi3.NewLoader().LoadFromData(Document)
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	operations := map[string]*operation{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			permission, _ := op.Extensions["x-permission"].(string)
			longest, ok := op.Extensions["x-max-body"].(float64)
			if !ok {
				longest = maxBody
			}
			audited, said := op.Extensions["x-audited"].(bool)
			inForce, _ := op.Extensions["x-in-force"].(bool)
			o := &operation{
				id: op.OperationID, permission: permission,
				maxBody:    int64(longest),
				public:     op.Security != nil && len(*op.Security) == 0,
				audited:    audited || !said && method != http.MethodGet,
				repeatable: op.Parameters.GetByInAndName(openapi3.ParameterInHeader, headerClientToken) != nil,
				inForce:    inForce,
				route:      &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: op},
			}
			if permission == "" && strings.Contains(path, "{project_id}") {
				return nil, fmt.Errorf("%s has no x-permission", op.OperationID)
			}
			operations[method+" "+path] = o
		}
	}
	return operations, nil
}

// Actions returns the actions that the operations of the document need, each
// once and in order.
func Actions() ([]string, error) {
	operations, err := loadOperations()
	if err != nil {
		return nil, err
	}
	var actions []string
	for _, op := range operations {
		if op.permission != "" {
			actions = append(actions, op.permission)
		}
	}
	slices.Sort(actions)
	return slices.Compact(actions), nil
}

// router gives each generated route its guard. It is the mux that the
// generated code registers with.
type router struct {
	routes
	server     *Server
	operations map[string]*operation
	missing    []string // patterns that the document lacks
}

func (s *Server) newRouter() (http.Handler, error) {
	operations, err := loadOperations()
	if err != nil {
		return nil, err
	}
	rt := &router{server: s, operations: operations}
	strict := NewStrictHandlerWithOptions(&handlers{server: s}, []StrictMiddlewareFunc{s.inForce}, StrictHTTPServerOptions{
		RequestErrorHandlerFunc:  decodeFailed,
		ResponseErrorHandlerFunc: s.failed,
	})
	HandlerWithOptions(strict, StdHTTPServerOptions{BaseRouter: rt, ErrorHandlerFunc: bindFailed})
	if len(rt.missing) > 0 {
		return nil, fmt.Errorf("routes that it does not have: %q", rt.missing)
	}
	rt.routes.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(Document) // a client that has gone needs no answer
	})
	rt.routes.HandleFunc("GET /docs", serveReference)
	rt.routes.HandleFunc("/", rt.unknown)
	return rt, nil
}

// HandleFunc registers a route of the generated code.
func (rt *router) HandleFunc(pattern string, next func(http.ResponseWriter, *http.Request)) {
	op := rt.operations[pattern]
	if op == nil {
		rt.missing = append(rt.missing, pattern)
		return
	}
	for pattern, value := range op.patterns() {
		rt.routes.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if value != "" {
				r.SetPathValue(typeParameter, value)
			}
			c := callOf(r.Context())
			defer func() { rt.server.bodies.give(c.sender, c.octets) }()
			ctx, err := rt.server.guard(w, r, op)
			if err != nil {
				writeError(w, r, err)
				return
			}
			leave, err := rt.server.enter(op, callOf(ctx).caller.Name)
			if err == nil && rt.server.service.Restoring() {
				leave()
				err = control.Busy()
			}
			if err != nil {
				writeError(w, r, err)
				return
			}
			defer leave()
			next(w, r.WithContext(ctx))
		})
	}
}

// guard lets a request through to its handler if the caller may send it and it
// fits the document. The body of a request that passed is in memory. The context
// is the handler's.
func (s *Server) guard(w http.ResponseWriter, r *http.Request, op *operation) (context.Context, error) {
	c := callOf(r.Context())
	c.operation = op
	var body []byte
	read := false
	limit := op.maxBody
	if op.public {
		limit = maxPublicBody
	}
	readBody := func() ([]byte, error) {
		if read {
			return body, nil
		}
		var err error
		c.sender = cmp.Or(c.claimed, c.caller.Name) + " at " + neighbourhood(r.RemoteAddr)
		counted := &countedBody{Reader: http.MaxBytesReader(w, r.Body, limit), bodies: s.bodies, call: c}
		if body, err = io.ReadAll(counted); err != nil {
			var tooLarge *http.MaxBytesError
			var busy *control.Error
			switch {
			case errors.As(err, &tooLarge):
				return nil, control.Invalid("body", "must have at most %d octets", limit)
			case errors.As(err, &busy):
				return nil, err
			}
			return nil, control.Invalid("body", "cannot be read")
		}
		read = true
		return body, nil
	}
	if !op.public {
		caller, err := s.authenticate(r, readBody)
		c.caller = caller
		if err != nil {
			return nil, err
		}
		if err := s.authorise(r, caller, op); err != nil {
			return nil, err
		}
	}
	body, err := readBody()
	if err != nil {
		return nil, err
	}
	c.body = body
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := validate(r, body, op); err != nil {
		return nil, err
	}
	ctx, changes := control.GatherChanges(r.Context())
	c.changes = changes
	if token := r.Header.Get(headerClientToken); op.repeatable && token != "" {
		ctx = control.WithClientToken(ctx, control.ClientToken{
			Caller: c.caller.Name, Text: token, Digest: requestDigest(r, op, body),
		})
	}
	return ctx, nil
}

// headerClientToken marks a request that the caller may repeat.
const headerClientToken = "X-Client-Token"

// requestDigest is the same for requests that ask for the same.
func requestDigest(r *http.Request, op *operation, body []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(op.id+"\n"+r.URL.Path+"\n"), body...))
}

// inForce keeps the answer of an operation that says so back until the engines
// of this node have what it changed: a client whose user was created can log in,
// one whose user was deleted cannot. An engine that takes its time does not make
// what is stored fail: then the answer goes out all the same.
func (s *Server) inForce(next StrictHandlerFunc, _ string) StrictHandlerFunc {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request, request any) (any, error) {
		answer, err := next(ctx, w, r, request)
		c := callOf(ctx)
		if err != nil || !c.operation.inForce {
			return answer, err
		}
		patience, cancel := context.WithTimeout(ctx, applyTimeout)
		defer cancel()
		if late := s.service.WaitApplied(patience, c.changes.Revision()); late != nil && ctx.Err() == nil {
			s.log.Warn("answered before the engines had the change", "request_id", c.requestID,
				"operation", c.operation.id, "waited", applyTimeout)
		}
		return answer, nil
	}
}

// unknown answers what no route matches: the method is wrong, or the path.
func (rt *router) unknown(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if pattern := rt.Pattern(probe); pattern != "/" && pattern != "" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 || slices.Contains(allowed, r.Method) {
		writeError(w, r, control.NotFound())
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	writeError(w, r, wrongMethod(r.Method))
}

// bindFailed answers a parameter that the generated code cannot read. The
// document was checked before, so few get here.
func bindFailed(w http.ResponseWriter, r *http.Request, err error) {
	name := "parameter"
	var format *InvalidParamFormatError
	if errors.As(err, &format) {
		name = "parameter " + format.ParamName
	}
	writeError(w, r, control.Invalid(name, "cannot be read"))
}

// decodeFailed answers a body that fits the document and not the Go types,
// such as a whole number that is written as 1e1.
func decodeFailed(w http.ResponseWriter, r *http.Request, err error) {
	field := "body"
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		field = memberPath(strings.Split(wrongType.Field, "."))
	}
	writeError(w, r, control.Invalid(field, "cannot be read"))
}
