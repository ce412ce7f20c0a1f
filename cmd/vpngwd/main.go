// Command vpngwd is the VPN gateway daemon: the REST API, its store, the
// reconciler and the engines behind them.
//
//	vpngwd --config FILE          run in the foreground
//	vpngwd check --config FILE    say what is wrong with a configuration file
//	vpngwd doctor [--config FILE] say what this host lacks, and the line to add
//	vpngwd restore --config FILE BACKUP
//	                              make the store from a backup (vpnctl backup takes one)
//	vpngwd hash-password          read a password and print its hash for the configuration
//	vpngwd version                print the version
//
// Exit codes: 0 when all is well, 1 when the daemon failed or the doctor found
// that it would, 2 when the arguments or the configuration are wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// version is set by the build.
var version = "dev"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `usage:
  vpngwd --config FILE             run the gateway in the foreground
  vpngwd check --config FILE       check a configuration file
  vpngwd doctor [--config FILE]    check this host
  vpngwd restore --config FILE BACKUP
                                   make the store from a backup
  vpngwd hash-password             read a password and print its hash
  vpngwd version                   print the version
`

func main() {
	os.Exit(command(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// command runs one command line and returns the exit code.
func command(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	verb := "run"
	if len(args) > 0 && len(args[0]) > 0 && args[0][0] != '-' {
		verb, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("vpngwd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	path := flags.String("config", "", "configuration file")
	showVersion := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	if *showVersion {
		verb = "version"
	}
	operands := 0
	if verb == "restore" {
		operands = 1
	}
	if flags.NArg() != operands || (*path == "" && (verb == "run" || verb == "check" || verb == "restore")) {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}

	// A SIGHUP must not end the daemon, not even while it starts; it is heeded
	// afterwards.
	hangup := make(chan os.Signal, 1)
	if verb == "run" {
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
	}
	var c *config
	if *path != "" {
		var err error
		if c, err = loadConfig(*path, os.Getenv); err != nil {
			fmt.Fprintln(stderr, "vpngwd:", err)
			return exitUsage
		}
	}
	switch verb {
	case "run":
		return runDaemon(c, *path, hangup, stderr)
	case "check":
		if warning := c.openSecrets(*path); warning != "" {
			fmt.Fprintln(stderr, "vpngwd: warning:", warning)
		}
		fmt.Fprintln(stdout, *path+": ok")
		return exitOK
	case "doctor":
		if !report(stdout, thisHost().examine(c)) {
			return exitFailed
		}
		return exitOK
	case "restore":
		return restore(context.Background(), c, flags.Arg(0), stdout, stderr)
	case "hash-password":
		return hashPassword(stdin, stdout, stderr)
	case "version":
		fmt.Fprintln(stdout, "vpngwd", version)
		return exitOK
	}
	fmt.Fprint(stderr, usage)
	return exitUsage
}

// runDaemon runs until SIGTERM or SIGINT; a second one ends it at once.
func runDaemon(c *config, path string, hangup <-chan os.Signal, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	// No algorithm is used that does not give its known answer.
	err := errors.Join(sa.SelfTest(), esp.SelfTest())
	var d *daemon
	if err == nil {
		d, err = newDaemon(ctx, c, path, stderr)
	}
	if err == nil {
		err = d.run(ctx, hangup)
	}
	if err != nil {
		fmt.Fprintln(stderr, "vpngwd:", err)
		return exitFailed
	}
	return exitOK
}
