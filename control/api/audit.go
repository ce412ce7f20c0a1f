package api

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/control/audit"
)

// Refused calls that are written down of one caller, and of all unknown ones
// together: enough to show what goes on, too few to push the records of changes
// out of the files.
const (
	refusedRate  = 1 // per second
	refusedBurst = 100
)

// auditor writes down what callers change, and whom the API refuses.
type auditor struct {
	log *audit.Log // nil: nothing is written down

	refused    *limiters
	suppressed atomic.Int64
}

func newAuditor(log *audit.Log) *auditor {
	return &auditor{log: log, refused: newLimiters(refusedRate, refusedBurst)}
}

// write writes a call down that changed something, was to change something, or
// was refused for who sent it. Of other calls that read there is no record.
func (a *auditor) write(c *call, r *http.Request, status int, now time.Time) {
	if a.log == nil || c.operation == nil {
		return
	}
	op := c.operation
	forbidden := status == http.StatusUnauthorized || status == http.StatusForbidden
	if !op.audited && !forbidden {
		return
	}
	record := audit.Record{
		Time: now.UTC(), RequestID: c.requestID, Operation: op.id, Action: op.permission,
		Project: r.PathValue("project_id"), Caller: c.caller.Name, Role: c.caller.Role,
		Remote: c.remote, Path: r.URL.Path, Status: status, Error: c.errorCode,
	}
	if c.caller.Name == "" {
		record.Caller, record.Claimed = c.claimed, c.claimed != ""
	}
	if status >= http.StatusBadRequest && !a.refused.allow(c.caller.Name, now) {
		a.suppressed.Add(1)
		return
	}
	record.Suppressed = a.suppressed.Swap(0)
	if c.changes != nil {
		record.Changes = c.changes.All()
	}
	a.log.Write(record)
}
