// Package e2e holds the scenarios that run the built daemon against the stock
// strongSwan of Debian, in network namespaces:
//
//	make e2e        # or: go test -tags e2e ./deploy/e2e/
//
// They need root and bin/vpngwd and bin/vpnctl. Each scenario builds a world of
// its own (deploy/netlab), programs the gateway through the REST API, and looks
// at both ends and at the wire. Where all inner traffic has to be protected, the
// internet is watched, and a packet in the clear fails the scenario.
package e2e
