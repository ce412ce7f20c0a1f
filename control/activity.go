package control

import "strings"

// statusMessage tells why an object is in its state and what is being done about
// it: what the reconciler said of it last, unless that was of another
// specification than the one that is wanted now.
func statusMessage(state, message string) string {
	switch state {
	case "PENDING_CREATE":
		return "waits to be applied"
	case "PENDING_UPDATE":
		return "a change waits to be applied; until then the configuration before it is in force"
	case "PENDING_DELETE":
		return "is being taken down"
	case "ERROR", "FAULT":
		if message == "" {
			return "tried again until it succeeds"
		}
		return message + "; tried again until it succeeds"
	}
	return message
}

// StatusMessage tells why the connection is in its state, what is being done about
// it, and which weak algorithms its policies name. It is empty when there is nothing to tell.
func (v *ConnectionView) StatusMessage() string {
	message := statusMessage(string(v.State), v.Status.Message)
	if weak := v.WeakAlgorithms(); len(weak) > 0 {
		return strings.TrimPrefix(message+"; weak algorithms: "+strings.Join(weak, ", "), "; ")
	}
	return message
}

// StatusMessage is that of ConnectionView for a gateway.
func (v *GatewayView) StatusMessage() string {
	return statusMessage(string(v.State), v.Status.Message)
}

// StatusMessage is that of ConnectionView for a client-to-cloud gateway.
func (v *P2CGatewayView) StatusMessage() string {
	return statusMessage(string(v.State), v.Status.Message)
}

// StatusMessage is that of ConnectionView for a server.
func (v *ServerView) StatusMessage() string {
	return statusMessage(string(v.State), v.Status.Message)
}
