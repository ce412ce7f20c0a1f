package control

import (
	"fmt"
	"net/http"
)

// Codes that are told apart in more than one place.
const (
	codeNoGateway = "VPN.0509"
	codeNoServer  = "VPN.1116"
	codeNoGroup   = "VPN.1301"
)

// refuse returns a refusal of client-to-cloud VPN, whose operations have a code
// of their own for nearly every rule, with the status 400.
func refuse(code, message string, args ...any) *Error {
	return p2cRefusal(code, http.StatusBadRequest, message, args...)
}

// p2cRefusal is refuse with another status.
func p2cRefusal(code string, status int, message string, args ...any) *Error {
	return &Error{Code: code, Status: status, Message: fmt.Sprintf(message, args...)}
}

func noGateway() *Error {
	return p2cRefusal(codeNoGateway, http.StatusNotFound, "The gateway does not exist.")
}

func noServer() *Error {
	return p2cRefusal(codeNoServer, http.StatusNotFound, "The server does not exist.")
}

func noUser() *Error {
	return p2cRefusal("VPN.1303", http.StatusNotFound, "The user does not exist.")
}

func noUserGroup() *Error {
	return p2cRefusal(codeNoGroup, http.StatusNotFound, "The user group does not exist.")
}

// noAccessPolicy has the status 400 in print, unlike its siblings.
func noAccessPolicy() *Error {
	return refuse("VPN.1401", "The access policy does not exist.")
}

func noClientCA(id string) *Error {
	return p2cRefusal("VPN.1115", http.StatusNotFound, "Client CA certificate %s does not exist.", id)
}

// noClientConnection is misspelt in print.
func noClientConnection() *Error {
	return p2cRefusal("VPN.0563", http.StatusNotFound, "The connection does not exists.")
}

// gatewayInState returns the refusal of a change to a gateway in a state that
// does not allow it.
func gatewayInState(state P2CGatewayState) *Error {
	switch state {
	case P2CPendingCreate:
		return refuse("VPN.0506", "The gateway is being created, please try again later.")
	case P2CPendingUpdate:
		return refuse("VPN.0507", "The gateway is being updated, please try again later.")
	case P2CPendingDelete:
		return refuse("VPN.0508", "The gateway is being deleted.")
	case P2CFault:
		return p2cRefusal("VPN.0510", http.StatusInternalServerError, "The gateway status is abnormal.")
	case P2CFrozen, P2CActive, P2CUpgrading, P2CPendingUpgradeConfirm, P2CRollingBack:
	}
	return p2cRefusal("VPN.0511", http.StatusInternalServerError, "The gateway is not ready.")
}

// serverInState is gatewayInState for a server.
func serverInState(state ServerState) *Error {
	switch state {
	case ServerPendingCreate:
		return refuse("VPN.1113", "The server is being created, please try again later.")
	case ServerPendingUpdate:
		return refuse("VPN.1114", "The server is being updated, please try again later.")
	case ServerFault, ServerFrozen, ServerActive:
	}
	return p2cRefusal("VPN.1117", http.StatusInternalServerError, "The server status is abnormal.")
}
