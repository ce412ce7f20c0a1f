package control

import (
	"errors"
	"fmt"
	"net/http"
)

// Codes of the API's errors.
const (
	CodeInvalid   = "VPN.0001" // 400: a rule is broken
	CodeInternal  = "VPN.0002" // 500
	CodeForbidden = "VPN.0003" // 403: not permitted, or not ready
	CodeNotFound  = "VPN.0004" // 404
	CodeBusy      = "VPN.0030" // 400: too much at once
	CodeRepeated  = "VPN.0031" // 400: clashes with an operation under way
)

// statusNotReady is the only published HTTP status of the code of NotReady.
const statusNotReady = http.StatusForbidden

// Error is a refusal that the caller of the API is shown as it stands. Any
// other error is internal: it is logged and answered without its text.
type Error struct {
	Code    string
	Status  int // of the HTTP answer
	Message string

	field, rule string // of Invalid
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Invalid returns the refusal of a request that breaks a rule: field is its
// JSON path, rule what was wanted of it.
func Invalid(field, rule string, args ...any) *Error {
	text := fmt.Sprintf(rule, args...)
	e := invalidRequest(field + ": " + text)
	e.field, e.rule = field, text
	return e
}

// within makes the member that an error is about one of another member, and
// leaves any error alone that is about none.
func within(member string, err error) error {
	var e *Error
	if !errors.As(err, &e) || e.field == "" {
		return err
	}
	return Invalid(member+"."+e.field, "%s", e.rule)
}

func invalidRequest(message string) *Error {
	return &Error{Code: CodeInvalid, Status: http.StatusBadRequest, Message: "invalid request: " + message}
}

// NotFound returns the refusal of an id that the project does not have.
func NotFound() *Error {
	return &Error{Code: CodeNotFound, Status: http.StatusNotFound, Message: "resource not found"}
}

// Busy returns the refusal of a change that others kept overtaking.
func Busy() *Error {
	return &Error{Code: CodeBusy, Status: http.StatusBadRequest, Message: "The system is busy, please try later."}
}

// Repeated returns the refusal of a client token that was used for another
// request.
func Repeated() *Error {
	return &Error{Code: CodeRepeated, Status: http.StatusBadRequest, Message: "Repeated operation."}
}

// Forbidden returns the refusal of a caller who lacks the permission.
func Forbidden(why string, args ...any) *Error {
	return &Error{Code: CodeForbidden, Status: http.StatusForbidden, Message: "Authentication failed: " + fmt.Sprintf(why, args...)}
}

// Unauthenticated returns the refusal of a caller who did not prove who they
// are.
func Unauthenticated(why string, args ...any) *Error {
	return &Error{Code: CodeForbidden, Status: http.StatusUnauthorized, Message: "Authentication failed: " + fmt.Sprintf(why, args...)}
}

// NotReady returns the refusal of a change to an object that is being worked
// on. Kind is GATEWAY or CONNECTION, state as CREATING, UPDATING, FAULT.
func NotReady(kind, id, state string) *Error {
	return &Error{
		Code: CodeForbidden, Status: statusNotReady,
		Message: fmt.Sprintf("resource (type=%s, ID=%s) is not ready, currently %s", kind, id, state),
	}
}

// servedElsewhere returns the refusal of figures that another node has.
func servedElsewhere(id, node string) *Error {
	return &Error{
		Code: CodeInternal, Status: http.StatusInternalServerError,
		Message: fmt.Sprintf("server error: %s serves %s, and cannot be asked", node, id),
	}
}
