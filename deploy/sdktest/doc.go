// Package sdktest runs the official Go SDK of the cloud, unmodified, against
// the daemon: a client that somebody else wrote from the API's reference. It is
// a module of its own so that the daemon does not depend on the SDK.
package sdktest
