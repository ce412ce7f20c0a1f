// Command vpnbench compares vpngw with other VPN gateways, side by side on one
// machine and in one run, and prints ratios. See docs/performance.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vpnbench:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "vpnbench",
		Short:         "compare vpngw with other VPN gateways on this machine",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newESPCommand(), newESPNodeCommand(), newAPICommand(), newP2CCommand(), newP2CNodeCommand(), newSessionsCommand(), newIKECommand(), newIKENodeCommand(), newFloodCommand())
	return root
}
