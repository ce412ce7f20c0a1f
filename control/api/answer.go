package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/vpngw/vpngw/control"
)

const headerRequestID = "X-Request-Id"

// call is what becomes known of a request while it is served. One line of the
// access log is made of it.
type call struct {
	requestID string
	operation *operation // nil when there is none
	remote    string
	body      []byte            // as it came
	caller    control.Principal // zero unless authenticated
	claimed   string            // the account that a refused caller named, if there is one
	sender    string            // who the body is counted for
	octets    int64             // of the body, that are counted
	changes   *control.Changes  // nil before the handler
	errorCode string
	err       error
}

func (c *call) operationID() string {
	if c.operation == nil {
		return ""
	}
	return c.operation.id
}

type callKey struct{}

// callOf returns the call of a request's context.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil {
		c = &call{}
	}
	return c
}

func newRequestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// writeError answers with an error. A *control.Error is shown as it stands, of
// any other only the log tells more than that it happened.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	c.err = err
	var refusal *control.Error
	if !errors.As(err, &refusal) {
		refusal = &control.Error{
			Code: control.CodeInternal, Status: http.StatusInternalServerError,
			Message: "server error: internal fault",
		}
	}
	c.errorCode = refusal.Code
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(refusal.Status)
	_ = json.NewEncoder(w).Encode(Error{ // a client that has gone needs no answer
		ErrorCode: refusal.Code, ErrorMsg: refusal.Message, RequestID: c.requestID,
	})
}

// wrongMethod refuses a method that the path does not have.
func wrongMethod(method string) error {
	return &control.Error{
		Code: control.CodeInvalid, Status: http.StatusMethodNotAllowed,
		Message: "invalid request: method " + method + " is not allowed here",
	}
}

// recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// logged gives every request its id, and writes a line of the access log, and
// a record of the audit log, when it is done. Headers, queries and bodies stay out of the log.
func (s *Server) logged(next http.Handler) http.Handler {
	log := s.log
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		c := &call{requestID: newRequestID(), remote: r.RemoteAddr}
		w.Header().Set(headerRequestID, c.requestID)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		rec := &recorder{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // the value that net/http panics with
					panic(p)
				}
				log.Error("request panicked", "request_id", c.requestID, "operation", c.operationID(), "panic", p)
				if rec.status == 0 {
					writeError(rec, r, errors.New("panic"))
				}
			}
			s.auditor.write(c, r, rec.status, s.now())
			level := slog.LevelInfo
			attrs := []slog.Attr{
				slog.String("request_id", c.requestID), slog.String("remote", c.remote),
				slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("operation", c.operationID()),
				slog.Int("status", rec.status), slog.Duration("took", time.Since(start)),
				slog.String("caller", c.caller.Name), slog.String("role", string(c.caller.Role)),
			}
			if c.err != nil {
				attrs = append(attrs, slog.String("error_code", c.errorCode), slog.String("error", c.err.Error()))
				if rec.status >= http.StatusInternalServerError {
					level = slog.LevelError
				}
			}
			log.LogAttrs(r.Context(), level, "request", attrs...)
		}()
		next.ServeHTTP(rec, r)
	})
}
