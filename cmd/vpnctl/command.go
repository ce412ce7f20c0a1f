package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
)

// version is set when the program is built for a release.
var version = "dev"

// tool is what the commands share.
type tool struct {
	settings settings
	output   string
	every    time.Duration
	getenv   func(string) string
}

func newCommand(getenv func(string) string) *cobra.Command {
	t := &tool{getenv: getenv}
	root := &cobra.Command{
		Use:           "vpnctl",
		Short:         "Show and change VPN gateways, connections and client-to-cloud VPN",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          arguments(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	t.settings.flags(root.PersistentFlags())
	root.PersistentFlags().StringVarP(&t.output, "output", "o", "table", "`format` of what is shown: table, json or yaml")
	root.PersistentFlags().DurationVar(&t.every, "poll", time.Second, "pause between two looks at what is waited for")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch t.output {
		case "table", "json", "yaml":
			return nil
		}
		return usageError{fmt.Errorf("output: %q is not one of table, json, yaml", t.output)}
	}
	root.AddCommand(t.applyCommand(), t.planCommand(), t.getCommand(), t.statusCommand(), t.explainCommand(), t.historyCommand(), t.logsCommand(), t.deleteCommand(), t.resetCommand(), t.nodesCommand(), t.backupCommand(), t.restoreCommand(),
		t.profileCommand(), t.totpCommand(), t.clientsCommand(), t.disconnectCommand(), connectCommand())
	return root
}

// arguments makes a wrong number of arguments a failure of the caller's input.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{fmt.Errorf("%w; usage: %s", err, c.UseLine())}
		}
		return nil
	}
}

// patience bounds the context of a command that waits.
func patience(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, timeout)
}

func (t *tool) applyCommand() *cobra.Command {
	var file string
	var wait, prune, resend, passwords bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create and update objects until they are as a YAML file says",
		Long: "Create and update gateways, customer gateways, connections and client-to-cloud\n" +
			"gateways with their servers, users, groups and access policies until they are as a\n" +
			"YAML file says. Objects are matched by name; what does not differ is left alone.",
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted, err := t.readFile(cmd, file)
			if err != nil {
				return err
			}
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			ctx, cancel := patience(cmd.Context(), timeout)
			defer cancel()
			a := declare.Applier{Client: api, Prune: prune, ResendPSK: resend, ResendPasswords: passwords, Every: t.every, Report: func(c declare.Change) {
				fmt.Fprintln(cmd.OutOrStdout(), describe(c))
			}}
			if err := a.Apply(ctx, wanted); err != nil {
				return err
			}
			if !wait {
				return nil
			}
			return t.waitConnections(ctx, cmd.OutOrStdout(), api, wanted)
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "YAML `file`, or - for standard input")
	c.Flags().BoolVar(&wait, "wait", false, "wait until the connections of the file are ACTIVE")
	c.Flags().BoolVar(&prune, "prune", false, "delete the objects of the project that the file does not name")
	c.Flags().BoolVar(&resend, "resend-psk", false, "send the pre-shared keys of existing connections, too")
	c.Flags().BoolVar(&passwords, "resend-passwords", false, "reset the passwords of existing users that are others, too")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait in all")
	return c
}

func (t *tool) readFile(cmd *cobra.Command, name string) (*declare.File, error) {
	if name == "" {
		return nil, usageError{errors.New("filename: is missing; give -f FILE")}
	}
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		in = f
	}
	wanted, err := declare.Parse(in, t.getenv)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", name, err)}
	}
	return wanted, nil
}

// describe tells of one object in a line.
func describe(c declare.Change) string {
	line := fmt.Sprintf("%s %s %s (%s)", c.Kind.Name, c.Name, c.Action, c.ID)
	if len(c.Fields) > 0 {
		fields := make([]string, len(c.Fields))
		for i, f := range c.Fields {
			fields[i] = f.String()
		}
		line += ": " + strings.Join(fields, ", ")
	}
	return line
}

// waitConnections waits for the connections of the file. When one does not come
// up, the error has why, or else the newest reason of its log.
func (t *tool) waitConnections(ctx context.Context, out io.Writer, api *client.Client, wanted *declare.File) error {
	for _, c := range wanted.Connections {
		o, err := api.Find(ctx, client.Connections, c.Name)
		if err != nil {
			return err
		}
		id := o.ID()
		if o, err = api.WaitActive(ctx, client.Connections, id, t.every); err != nil {
			if o.StatusMessage() != "" {
				return err // which tells it
			}
			// The time may be over; the log is still worth a look.
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if reason, _ := downReason(late, api, id); reason != "" {
				err = fmt.Errorf("%w; last in its log: %s", err, reason)
			}
			return err
		}
		fmt.Fprintf(out, "connection %s is ACTIVE\n", c.Name)
	}
	return nil
}

func (t *tool) getCommand() *cobra.Command {
	var gateway string
	c := &cobra.Command{
		Use:   "get KIND [NAME|ID]",
		Short: "Show objects",
		Long:  "Show objects. The kinds are " + strings.Join(kindNames(), ", ") + ".",
		Args:  arguments(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKind(args[0], gateway); err != nil {
				return err
			}
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			kind, err := findKind(cmd.Context(), api, args[0], gateway)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				all, err := api.List(cmd.Context(), kind)
				if err != nil {
					return err
				}
				return t.show(cmd.OutOrStdout(), all, columns[kind.Name], all)
			}
			o, err := api.Find(cmd.Context(), kind, args[1])
			if err != nil {
				return err
			}
			// A list leaves out some members that the object itself has.
			if o, err = api.Get(cmd.Context(), kind, o.ID()); err != nil {
				return err
			}
			return t.show(cmd.OutOrStdout(), []client.Object{o}, columns[kind.Name], o)
		},
	}
	gatewayFlag(c, &gateway)
	return c
}

func (t *tool) logsCommand() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "logs CONNECTION",
		Short: "Show the log of a connection, the oldest line first",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			o, err := api.Find(cmd.Context(), client.Connections, args[0])
			if err != nil {
				return err
			}
			return t.logs(cmd.Context(), cmd.OutOrStdout(), api, o.ID(), follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until interrupted")
	return c
}

func (t *tool) deleteCommand() *cobra.Command {
	var file, gateway string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "delete (KIND NAME|ID | -f FILE)",
		Short: "Delete an object, or those that a YAML file names, and wait until they are gone",
		Args:  arguments(cobra.MaximumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (file == "") != (len(args) == 2) {
				return usageError{fmt.Errorf("give a kind and a name, or a file; usage: %s", cmd.UseLine())}
			}
			var wanted *declare.File
			if file != "" {
				var err error
				if wanted, err = t.readFile(cmd, file); err != nil {
					return err
				}
			} else if err := checkDeletable(args[0], gateway); err != nil {
				return err
			}
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			ctx, cancel := patience(cmd.Context(), timeout)
			defer cancel()
			if wanted != nil {
				a := declare.Applier{Client: api, Every: t.every, Report: func(c declare.Change) {
					fmt.Fprintln(cmd.OutOrStdout(), describe(c))
				}}
				return a.Delete(ctx, wanted)
			}
			kind, err := findKind(ctx, api, args[0], gateway)
			if err != nil {
				return err
			}
			o, err := api.Find(ctx, kind, args[1])
			if err != nil {
				return err
			}
			if err := api.Delete(ctx, kind, o.ID()); err != nil {
				return err
			}
			if err := api.WaitGone(ctx, kind, o.ID(), t.every); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), describe(declare.Change{Action: declare.Deleted, Kind: kind, Name: o.Name(), ID: o.ID()}))
			return nil
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "YAML `file`, or - for standard input")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait in all")
	gatewayFlag(c, &gateway)
	return c
}

func (t *tool) resetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reset CONNECTION",
		Short: "Delete the SAs of a connection and negotiate anew",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			o, err := api.Find(cmd.Context(), client.Connections, args[0])
			if err != nil {
				return err
			}
			if err := api.Reset(cmd.Context(), o.ID()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "connection %s is reset\n", o.Name())
			return nil
		},
	}
}
