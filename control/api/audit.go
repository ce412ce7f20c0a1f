package api

import (
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/control/audit"
)

// Refused calls of nobody in particular that are written down: enough to show
// what goes on, too few to push the records of changes out of the files.
const (
	strangerRate  = 1 // per second
	strangerBurst = 100
)

// auditor writes down what callers change, and whom the API refuses.
type auditor struct {
	log *audit.Log // nil: nothing is written down

	mu         sync.Mutex
	strangers  *rate.Limiter
	suppressed int64
}

func newAuditor(log *audit.Log) *auditor {
	return &auditor{log: log, strangers: rate.NewLimiter(strangerRate, strangerBurst)}
}

// write writes a call down that changed something, was to change something, or
// was refused for who sent it. Of other calls that read there is no record.
func (a *auditor) write(c *call, r *http.Request, status int, now time.Time) {
	if a.log == nil || c.operation == nil {
		return
	}
	op := c.operation
	reads := op.route.Method == http.MethodGet && !op.sensitive
	refused := status == http.StatusUnauthorized || status == http.StatusForbidden
	if reads && !refused {
		return
	}
	record := audit.Record{
		Time: now.UTC(), RequestID: c.requestID, Operation: op.id, Action: op.permission,
		Project: r.PathValue("project_id"), Caller: c.caller.Name, Role: c.caller.Role,
		Remote: c.remote, Path: r.URL.Path, Status: status, Error: c.errorCode,
	}
	if c.caller.Name == "" {
		record.Caller, record.Claimed = c.claimed, c.claimed != ""
		if !a.admit(&record, now) {
			return
		}
	}
	if c.changes != nil {
		record.Changes = c.changes.All()
	}
	a.log.Write(record)
}

// admit bounds the records of calls without a caller.
func (a *auditor) admit(r *audit.Record, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.strangers.AllowN(now, 1) {
		a.suppressed++
		return false
	}
	r.Suppressed, a.suppressed = a.suppressed, 0
	return true
}
