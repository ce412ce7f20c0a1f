// Command vpnctl is the command line of the VPN REST API. It shows and changes
// gateways, customer gateways and connections, brings a project to what a YAML
// file says, and tells why a connection is down.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// Exit codes. They are part of the interface: scripts rely on them.
const (
	exitOK       = 0
	exitFailure  = 1 // of plan: there is something to change; else: the API refused, cannot be reached, or an object failed
	exitUsage    = 2 // wrong arguments, settings or file; of plan any failure but those below
	exitNotFound = 3
	exitDenied   = 4 // wrong credentials or not permitted
	exitTimeout  = 5 // --wait ended before the object was ready
)

// usageError is a failure of the caller's input.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newCommand(os.Getenv).ExecuteContext(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, errDiffers) {
		fmt.Fprintln(os.Stderr, "vpnctl:", err)
	}
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	var usage usageError
	var plan planError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, client.ErrTimeout):
		return exitTimeout
	case client.IsNotFound(err):
		return exitNotFound
	case client.IsDenied(err):
		return exitDenied
	case errors.As(err, &plan):
		return exitUsage // 1 says that there is something to change
	default:
		return exitFailure
	}
}
