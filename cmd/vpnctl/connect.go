package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/sslvpn"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// connectOptions are the flags of `vpnctl connect`.
type connectOptions struct {
	device string
	driver string
	login  string
	once   bool
	dns    bool
	ask    func() (string, error) // for the answer to the profile's challenge; nil: there is none
}

func connectCommand() *cobra.Command {
	var o connectOptions
	c := &cobra.Command{
		Use:   "connect PROFILE",
		Short: "Connect this host to a client-to-cloud VPN server",
		Long: "Connect this host to a client-to-cloud VPN server by an OpenVPN profile, as the API\n" +
			"exports it, and stay connected until interrupted. Makes a TUN device with the address\n" +
			"and routes that the server gives, also when it changes them; DNS servers are shown, and\n" +
			"with --dns installed. Needs CAP_NET_ADMIN on Linux, root on macOS, and on Windows an\n" +
			"administrator and the driver tap-windows6.",
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(drivers, o.driver) {
				return usageError{fmt.Errorf("--driver %s: must be one of %s", o.driver, strings.Join(drivers, ", "))}
			}
			profile, err := readProfile(args[0])
			if err != nil {
				return usageError{err}
			}
			options, err := profile.Options()
			if err != nil {
				return usageError{fmt.Errorf("%s: %w", args[0], err)}
			}
			options.Logger = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
			if profile.Login {
				if options.UserName, options.Password, err = readLogin(o.login, profile.LoginFile); err != nil {
					return usageError{err}
				}
			}
			if profile.Challenge != "" {
				o.ask = func() (string, error) { return askCode(c.InOrStdin(), c.ErrOrStderr(), profile.Challenge) }
			}
			return o.run(c.Context(), profile, options)
		},
	}
	c.Flags().StringVar(&o.device, "device", defaultDevice, "`name` of the TUN device; empty: what the system chooses")
	c.Flags().StringVar(&o.driver, "driver", driverAuto, "of the TUN device: "+strings.Join(drivers, ", "))
	c.Flags().BoolVar(&o.dns, "dns", false, "install the DNS servers that the server gives")
	c.Flags().StringVar(&o.login, "login", "", "`file` with the user name and the password, in two lines")
	c.Flags().BoolVar(&o.once, "once", false, "end with the first connection instead of connecting again")
	return c
}

// readProfile reads a profile; files that it names are beside it.
func readProfile(file string) (*sslvpn.Profile, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p, err := sslvpn.ParseProfile(string(text), func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		return os.ReadFile(name)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

// readLogin reads user name and password from the first file that is named.
func readLogin(flag, profile string) (user, password string, err error) {
	file := flag
	if file == "" {
		file = profile
	}
	if file == "" {
		return "", "", errors.New("the server wants a login: name a file with --login")
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	defer clear(content)
	lines := bufio.NewScanner(bytes.NewReader(content))
	for _, s := range []*string{&user, &password} {
		if !lines.Scan() || lines.Text() == "" {
			return "", "", fmt.Errorf("%s: needs a user name and a password, in two lines", file)
		}
		*s = lines.Text()
	}
	return user, password, nil
}

// askCode asks a person, or whatever is at standard input, for one line.
func askCode(in io.Reader, out io.Writer, question string) (string, error) {
	if _, err := fmt.Fprintf(out, "%s: ", question); err != nil {
		return "", err
	}
	var line []byte
	for c := make([]byte, 1); len(line) < maxCode; {
		// Octet by octet: what is behind the line is for the next question.
		if _, err := in.Read(c); err != nil {
			return "", fmt.Errorf("%s: no answer: %w", question, err)
		}
		if c[0] == '\n' {
			return strings.TrimSpace(string(line)), nil
		}
		line = append(line, c[0])
	}
	return "", fmt.Errorf("%s: the answer has more than %d octets", question, maxCode)
}

// maxCode is the longest answer to a challenge, in octets.
const maxCode = 128

// Pauses before a host connects again.
const reconnectFirst, reconnectMost = time.Second, time.Minute

// run connects again and again, to one server after the other, until the context
// ends or a server refuses the login.
func (o *connectOptions) run(ctx context.Context, profile *sslvpn.Profile, options sslvpn.ConnectOptions) error {
	pause := reconnectFirst
	for i := 0; ; i++ {
		begun := time.Now()
		var err error
		if o.ask != nil && options.AuthToken == "" {
			if options.Answer, err = o.ask(); err != nil {
				return err
			}
		}
		err = o.connect(ctx, profile.Servers[i%len(profile.Servers)], &options)
		if ctx.Err() != nil {
			return nil
		}
		var refused *sslvpn.RefusedError
		if o.once || errors.As(err, &refused) && refused.Final() {
			return err
		}
		if refused != nil && refused.LoginFailed() {
			options.AuthToken = "" // the password again, and the answer
		}
		if time.Since(begun) > reconnectMost {
			pause = reconnectFirst
		}
		options.Logger.Warn("not connected", "error", err, "again_in", pause.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, reconnectMost)
	}
}

// connect is one connection from beginning to end. It leaves the token for the
// next one in the options.
func (o *connectOptions) connect(ctx context.Context, server sslvpn.ProfileServer, options *sslvpn.ConnectOptions) error {
	address, err := resolve(ctx, server.Host)
	if err != nil {
		return err
	}
	options.Remote, options.UDP = netip.AddrPortFrom(address, server.Port), server.UDP
	changes := make(chan wire.Push, 1)
	options.OnChange = func(p wire.Push) {
		select { // the latest counts
		case <-changes:
		default:
		}
		changes <- p
	}
	c, err := sslvpn.Connect(ctx, *options)
	if err != nil {
		return err
	}
	defer func() { options.AuthToken = c.AuthToken() }()
	host, err := o.openHost(c.Settings(), options.Remote.Addr())
	if err != nil {
		return errors.Join(err, c.Close())
	}
	p := c.Settings()
	addresses := p.Local.String()
	if p.Local6.IsValid() {
		addresses += " " + p.Local6.String()
	}
	options.Logger.Info("connected", "server", options.Remote.String(), "device", host.dev.Name(), "addresses", addresses,
		"routes", fmt.Sprint(p.Routes), "dns", fmt.Sprint(p.DNS), "domain", p.Domain)
	done := make(chan struct{})
	var following sync.WaitGroup
	following.Go(func() {
		for {
			select {
			case <-done:
				return
			case p := <-changes:
				err := host.apply(p)
				options.Logger.Info("settings changed", "routes", fmt.Sprint(p.Routes), "dns", fmt.Sprint(p.DNS), "domain", p.Domain, "error", err)
			}
		}
	})
	err = c.Run(ctx, host.dev)
	close(done)
	following.Wait()
	return errors.Join(err, host.close())
}

// resolve returns an address of a host, of IPv4 where there is one.
func resolve(ctx context.Context, host string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a, nil
	}
	for _, network := range []string{"ip4", "ip6"} {
		if list, err := net.DefaultResolver.LookupNetIP(ctx, network, host); err == nil && len(list) > 0 {
			return list[0].Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("host %s: has no address", host)
}
