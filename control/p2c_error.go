package control

import (
	"fmt"
	"net/http"
)

// Codes that are told apart in more than one place.
const (
	codeNoGateway = "VPN.0509"
	codeNoGroup   = "VPN.1301"
)

// p2cRefusal returns a refusal of client-to-cloud VPN: its operations have a
// code of their own for nearly every rule.
func p2cRefusal(code string, status int, message string, args ...any) *Error {
	return &Error{Code: code, Status: status, Message: fmt.Sprintf(message, args...)}
}

func noGateway() *Error {
	return p2cRefusal(codeNoGateway, http.StatusNotFound, "The gateway does not exist.")
}

func noServer() *Error {
	return p2cRefusal("VPN.1116", http.StatusNotFound, "The server does not exist.")
}

func noUser() *Error {
	return p2cRefusal("VPN.1303", http.StatusNotFound, "The user does not exist.")
}

func noUserGroup() *Error {
	return p2cRefusal(codeNoGroup, http.StatusNotFound, "The user group does not exist.")
}

// noAccessPolicy has the status 400 in print, unlike its siblings.
func noAccessPolicy() *Error {
	return p2cRefusal("VPN.1401", http.StatusBadRequest, "The access policy does not exist.")
}
