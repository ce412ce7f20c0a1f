package sslvpn

import (
	"maps"
	"sync/atomic"
)

// loginFailure says why a login was turned down, in a word for metrics.
type loginFailure string

const (
	failedName        loginFailure = "malformed_login" // no user name or password that could be looked up
	failedUser        loginFailure = "unknown_user"    // there is none of that name
	failedPassword    loginFailure = "wrong_password"
	failedCode        loginFailure = "wrong_code"         // of the second factor, or none
	failedCodeAgain   loginFailure = "used_code"          // one that was shown before
	failedLocked      loginFailure = "locked"             // too many failures before
	failedToken       loginFailure = "auth_token"         // expired, or another user's
	failedCertificate loginFailure = "certificate"        // missing, or not accepted
	failedOther       loginFailure = "other_login"        // a renegotiation with the login of another
	failedSessions    loginFailure = "connection_limit"   // of the endpoint
	failedUserLimit   loginFailure = "user_limit"         // of the connections of one user
	failedAddress     loginFailure = "no_address"         // the pool has none
	failedParameters  loginFailure = "no_common_settings" // cipher, packet format, pull
	failedSettings    loginFailure = "no_auth_method"     // the endpoint has none
)

// loginCounts count logins. What is not atomic is guarded by endpoint.mu.
type loginCounts struct {
	succeeded atomic.Uint64
	failed    map[loginFailure]uint64
	in, out   Traffic // of the sessions that have ended
}

// loginFailed counts a login that was turned down; an empty reason is none.
func (ep *endpoint) loginFailed(why loginFailure) {
	if why == "" {
		return
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.logins.failed == nil {
		ep.logins.failed = map[loginFailure]uint64{}
	}
	ep.logins.failed[why]++
}

// countLogins adds the counts to a status. It looks at all sessions at one
// time, so that the sum of their traffic never falls.
func (ep *endpoint) countLogins(status *EndpointStatus) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	l := &ep.logins
	status.Logins, status.Inbound, status.Outbound = l.succeeded.Load(), l.in, l.out
	for _, c := range ep.sessions {
		in, out := c.traffic()
		status.Inbound.add(in)
		status.Outbound.add(out)
	}
	status.LoginFailures = make(map[string]uint64, len(l.failed))
	for why, n := range maps.All(l.failed) {
		status.LoginFailures[string(why)] = n
	}
}

func (t *Traffic) add(more Traffic) {
	t.Packets += more.Packets
	t.Octets += more.Octets
}
