// Command lab shows a tunnel between vpngw and strongSwan, and an OpenVPN client
// of vpngw, on one machine.
//
// It builds an internet out of network namespaces, starts strongSwan as the
// router of an office and vpngwd as the gateway of a cloud, programs the tunnel
// through the REST API with vpnctl, and measures what goes through. The same
// goes for a laptop with a stock OpenVPN client. Then it stays until Ctrl-C, for
// trying things out, and leaves nothing behind.
package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/deploy/netlab"
)

//go:embed tunnel.yaml
var tunnel string

//go:embed clients.yaml
var clients string

type options struct {
	once    bool
	bin     string
	seconds int
}

func main() {
	var o options
	flag.BoolVar(&o.once, "once", false, "end after the measurements instead of staying until Ctrl-C")
	flag.StringVar(&o.bin, "bin", "bin", "`directory` of vpngwd and vpnctl")
	flag.IntVar(&o.seconds, "seconds", 5, "how long iperf3 runs each way")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "lab: unknown argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, o)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case interrupted && errors.Is(err, context.Canceled):
		fmt.Println("interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// lab is what runs, as far as it was started.
type lab struct {
	options
	topology *netlab.Topology
	router   *netlab.StrongSwan
	daemon   *netlab.Daemon
	laptop   *netlab.OpenVPN
	psk      string
	password string // of the laptop's user
}

func run(ctx context.Context, o options) (err error) {
	for _, program := range []string{"vpngwd", "vpnctl"} {
		if _, err := os.Stat(filepath.Join(o.bin, program)); err != nil {
			return fmt.Errorf("%w; build it with `make build`, or give --bin", err)
		}
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	l := &lab{options: o, psk: "Lab-" + rand.Text(), password: "Lab-" + rand.Text()[:20]}
	defer func() {
		if err != nil && ctx.Err() == nil {
			l.explain()
		}
		err = errors.Join(err, l.close())
	}()
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"namespaces: office host, office router, laptop, internet, gateway, cloud host", l.build},
		{"strongSwan as the office's router", l.startRouter},
		{"vpngwd as the cloud's gateway", l.startDaemon},
	} {
		begin := time.Now()
		fmt.Printf("%s … ", step.title)
		if err := step.do(ctx); err != nil {
			fmt.Println("failed")
			return err
		}
		fmt.Printf("%.1f s\n", time.Since(begin).Seconds())
	}
	if err := l.program(ctx); err != nil {
		return err
	}
	if err := l.measure(ctx); err != nil {
		return err
	}
	if err := l.roam(ctx); err != nil {
		return err
	}
	if err := l.vpnctl(ctx, "status"); err != nil {
		return err
	}
	if l.once {
		return nil
	}
	if err := l.invite(); err != nil {
		return err
	}
	<-ctx.Done()
	fmt.Println()
	return nil
}

func (l *lab) build(ctx context.Context) (err error) {
	l.topology, err = netlab.NewTopology(ctx, netlab.Config{Sites: make([]netlab.SiteConfig, 2)})
	return err
}

func (l *lab) startRouter(ctx context.Context) (err error) {
	site := l.topology.Sites[0]
	l.router, err = site.Router.StartStrongSwan(ctx, "strongswan", netlab.SwanConfig(netlab.SwanConnection{
		Name: "cloud", Local: site.Public, Remote: l.topology.Public[0], PSK: l.psk,
		Proposal: "aes128gcm16-prfsha256-ecp256", ESPProposal: "aes128gcm16-ecp256",
		Children: []netlab.SwanChild{{Name: "lan", Local: site.Subnets[:1], Remote: l.topology.CloudSubnets[:1]}},
	}), nil)
	return err
}

func (l *lab) startDaemon(ctx context.Context) (err error) {
	l.daemon, err = l.topology.StartDaemon(ctx, filepath.Join(l.bin, "vpngwd"), netlab.DaemonOptions{})
	return err
}

// program brings the tunnel up through the API, as a user would.
func (l *lab) program(ctx context.Context) error {
	file, err := l.file("tunnel.yaml", tunnel)
	if err != nil {
		return err
	}
	return l.vpnctl(ctx, "apply", "-f", file, "--wait", "--timeout", "60s", "--poll", "200ms")
}

// file writes a file for vpnctl.
func (l *lab) file(name, text string) (string, error) {
	path := filepath.Join(l.topology.Dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// roam connects a laptop, elsewhere in the internet, with the exported profile.
func (l *lab) roam(ctx context.Context) error {
	file, err := l.file("clients.yaml", clients)
	if err != nil {
		return err
	}
	if err := l.vpnctl(ctx, "apply", "-f", file, "--poll", "200ms"); err != nil {
		return err
	}
	api, err := l.daemon.Client()
	if err != nil {
		return err
	}
	servers, err := api.List(ctx, client.Servers)
	if err != nil {
		return err
	}
	profile, err := api.ClientProfile(ctx, servers[0].ID())
	if err != nil {
		return err
	}
	laptop := l.topology.Sites[1].Router
	fmt.Printf("\nOpenVPN of the distribution on the laptop, with the exported profile … ")
	begin := time.Now()
	if l.laptop, err = laptop.StartOpenVPN("openvpn", profile, "alice", l.password); err == nil {
		err = l.laptop.WaitUp(ctx, 1)
	}
	if err != nil {
		fmt.Println("failed")
		return err
	}
	fmt.Printf("connected after %.1f s\n", time.Since(begin).Seconds())
	if err := l.ping(ctx, "laptop to cloud host", laptop, l.topology.CloudAddresses[0]); err != nil {
		return err
	}
	return l.vpnctl(ctx, "clients", "roaming")
}

// vpnctl runs vpnctl in the gateway's namespace and shows the call and what it
// prints.
func (l *lab) vpnctl(ctx context.Context, args ...string) error {
	fmt.Printf("\n$ vpnctl %s\n", strings.Join(args, " "))
	command := append([]string{"env", "OFFICE_PSK=" + l.psk, "ALICE_PASSWORD=" + l.password}, l.daemon.Environment()...)
	command = append(append(command, filepath.Join(l.bin, "vpnctl")), args...)
	out, err := l.topology.Gateway.Run(ctx, command...)
	fmt.Print(out)
	if err != nil {
		return fmt.Errorf("vpnctl %s: %w", args[0], err)
	}
	return nil
}

// measure sends traffic between the two hosts.
func (l *lab) measure(ctx context.Context) error {
	cloud, office := l.topology.CloudHost, l.topology.Sites[0].Host
	from, to := l.topology.CloudAddresses[0], l.topology.Sites[0].Addresses[0]
	if err := l.ping(ctx, "cloud host to office host", cloud, to); err != nil {
		return err
	}
	if err := l.ping(ctx, "office host to cloud host", office, from); err != nil {
		return err
	}
	for _, what := range []struct {
		title string
		netlab.IPerf
	}{
		{"TCP, cloud to office", netlab.IPerf{}},
		{"TCP, office to cloud", netlab.IPerf{Reverse: true}},
		{"UDP at 100 Mbit/s   ", netlab.IPerf{UDP: true, Rate: "100M", Length: 1300}},
	} {
		what.Duration = time.Duration(l.seconds) * time.Second
		fmt.Printf("iperf3, %s … ", what.title)
		report, err := netlab.RunIPerf(ctx, cloud, office, to, what.IPerf)
		if err != nil {
			fmt.Println("failed")
			return err
		}
		fmt.Println(report)
	}
	return nil
}

func (l *lab) ping(ctx context.Context, title string, from *netlab.Namespace, to netip.Addr) error {
	fmt.Printf("\nping, %s:\n", title)
	out, err := from.Run(ctx, "ping", "-n", "-c", "4", "-i", "0.2", "-W", "2", to.String())
	fmt.Print(out)
	if err != nil {
		return fmt.Errorf("ping, %s: %w", title, err)
	}
	return nil
}

// invite writes a file of shell functions for the lab and prints what to try.
func (l *lab) invite() error {
	site := l.topology.Sites[0]
	var b strings.Builder
	b.WriteString("# For a shell: . this file\n")
	variables := []string{"OFFICE_PSK=" + l.psk, "ALICE_PASSWORD=" + l.password, "LAB=" + l.topology.Dir, fmt.Sprintf("VPNGWD=%d", l.daemon.PID())}
	for _, v := range append(l.daemon.Environment(), variables...) {
		fmt.Fprintf(&b, "export %s\n", v)
	}
	functions := []struct{ name, command string }{
		{"vpnctl", "ip netns exec " + l.topology.Gateway.Name + " " + filepath.Join(l.bin, "vpnctl")},
		{"office_swanctl", "env " + strings.Join(l.router.Environment(), " ") + " swanctl"},
		{"on_office_host", "ip netns exec " + site.Host.Name},
		{"on_office_router", "ip netns exec " + site.Router.Name},
		{"on_laptop", "ip netns exec " + l.topology.Sites[1].Router.Name},
		{"on_internet", "ip netns exec " + l.topology.Internet.Name},
		{"on_gateway", "ip netns exec " + l.topology.Gateway.Name},
		{"on_cloud_host", "ip netns exec " + l.topology.CloudHost.Name},
	}
	for _, f := range functions {
		fmt.Fprintf(&b, "%s() { %s \"$@\"; }\n", f.name, f.command)
	}
	file := filepath.Join(l.topology.Dir, "env")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return err
	}
	fmt.Printf(`
The tunnel stays up until Ctrl-C. In another shell, as root:

  . %[1]s

  vpnctl status                                  the connection and its SAs
  vpnctl logs -f office                          what happens to it
  vpnctl get connections -o yaml                 all of its parameters
  vpnctl reset office                            negotiate anew
  vpnctl apply -f %[2]s/tunnel.yaml  edit the file, then bring it to that
  on_cloud_host ping %[3]s               through the tunnel
  on_office_host iperf3 -s                       and on_cloud_host iperf3 -c %[3]s
  on_internet tcpdump -ni any udp port 4500      what the internet sees
  vpnctl clients roaming                         who is connected, with counters
  vpnctl profile roaming                         what an OpenVPN client needs besides a password
  on_laptop ping %[5]s                      what the policy allows; 10.10.1.10 it does not
  office_swanctl --list-sas                      what strongSwan sees
  office_swanctl --rekey --child lan
  office_swanctl --terminate --ike cloud         it comes back by itself
  kill -9 $VPNGWD                                a crash: nothing goes on in the clear
  on_gateway %[4]s/vpngwd --config $LAB/vpngwd/vpngwd.yaml   from the store again

Logs: %[2]s/vpngwd.err, %[2]s/strongswan/log and %[2]s/openvpn.out
`, file, l.topology.Dir, site.Addresses[0], l.bin, l.topology.CloudAddresses[0])
	return nil
}

// explain shows the ends of both logs.
func (l *lab) explain() {
	show := func(title, log string) {
		lines := strings.Split(strings.TrimSpace(log), "\n")
		const shown = 40
		fmt.Fprintf(os.Stderr, "\n%s:\n%s\n", title, strings.Join(lines[max(0, len(lines)-shown):], "\n"))
	}
	if l.daemon != nil {
		show("the end of vpngwd's log", l.daemon.Log())
	}
	if l.router != nil {
		show("the end of strongSwan's log", l.router.Log())
	}
	if l.laptop != nil {
		show("the end of OpenVPN's log", l.laptop.Log())
	}
	fmt.Fprintln(os.Stderr)
}

// close stops the daemon first, so that strongSwan gets its DELETE.
func (l *lab) close() error {
	if l.topology == nil {
		return nil
	}
	var stopped error
	if l.daemon != nil && l.daemon.Running() { // one may try what a crash does
		stopped = l.daemon.Stop()
	}
	return errors.Join(stopped, l.topology.Close())
}
