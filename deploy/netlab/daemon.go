package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// The inventory of the gateway and who may ask its API.
const (
	VPC       = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0001"
	Subnet1   = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0011"
	Subnet2   = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0012"
	EIP1      = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0021"
	EIP2      = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0022"
	EIP3      = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0023" // Topology.ForClients
	Project   = "lab"
	EIP1v6    = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0041" // IPv6.Public
	EIP2v6    = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0042"
	LogGroup  = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0031"
	LogStream = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0032"
	accessKey = "LABACCESSKEY"
	secretKey = "lab-secret-key-of-no-worth"
	backupKey = "LABBACKUPKEY" // with the same secret

	restoreKey = "LABRESTOREKEY" // likewise

	apiEndpoint = "https://127.0.0.1:8443"
	metrics     = "http://127.0.0.1:9090"
)

// Daemon is a vpngwd in the gateway's namespace, with its store.
type Daemon struct {
	// KeyDir is where the daemon writes Wireshark's tables of keys; empty
	// without DaemonOptions.KeyLog.
	KeyDir string
	// Store keeps the daemon's sockets while it is not there; nil without
	// DaemonOptions.KeepSockets. Whoever asks for it closes it at the end.
	Store *DescriptorStore

	namespace *Namespace
	name      string // of the process
	endpoint  string // of the API
	program   string
	dir       string
	rendered  string // configuration
	process   *Process
}

// DaemonOptions change the daemon's configuration.
type DaemonOptions struct {
	// KeyLog makes the daemon write its keys into KeyDir.
	KeyLog bool
	// Retransmit shortens the rhythm of unanswered requests, so that an
	// unreachable peer is given up within seconds.
	Retransmit bool
	// RawESP leaves ESP as IP protocol 50 where no NAT is; else the userspace
	// data plane asks for UDP encapsulation everywhere.
	RawESP bool
	// Kernel has the kernel's data plane serve the tunnels.
	Kernel bool
	// KeepSockets starts the daemon as a service manager does that keeps descriptors.
	KeepSockets bool
	// CustomerGateways is how many a project may have; zero means the daemon's
	// default.
	CustomerGateways int
	// ShortLives makes the daemon rekey CHILD_SAs about every five seconds and
	// IKE SAs about every ten.
	ShortLives bool
	// Lifetime and ChildLifetime bound the lives of the daemon's SAs; zero: the
	// connections' own.
	Lifetime, ChildLifetime time.Duration
	// Childless makes the daemon begin IKE SAs without a CHILD_SA.
	Childless bool
	// ShortTrust makes an authentication hold for so long; zero: for ever.
	ShortTrust time.Duration
}

// StartDaemon starts the vpngwd whose program file is given and waits until it
// is ready.
func (t *Topology) StartDaemon(ctx context.Context, program string, o DaemonOptions) (*Daemon, error) {
	return t.startDaemon(ctx, program, "vpngwd", o)
}

// StartSiteDaemon starts a vpngwd as the router of a site. What the gateway is to
// its own daemon, the router and the networks behind it are to this one; its second
// address is nowhere.
func (t *Topology) StartSiteDaemon(ctx context.Context, program string, site *Site, o DaemonOptions) (*Daemon, error) {
	seen := &Topology{
		Lab: t.Lab, Gateway: site.Router, CloudSubnets: site.Subnets, CloudAddresses: site.Addresses,
		Public: [2]netip.Addr{site.Public, site.Public.Next()}, Local: [2]netip.Addr{site.Local, site.Public.Next()},
	}
	return seen.startDaemon(ctx, program, fmt.Sprintf("vpngwd-site%d", slices.Index(t.Sites, site)), o)
}

func (t *Topology) startDaemon(ctx context.Context, program, name string, o DaemonOptions) (*Daemon, error) {
	program, err := filepath.Abs(program)
	if err != nil {
		return nil, err
	}
	d := &Daemon{namespace: t.Gateway, name: name, endpoint: apiEndpoint, program: program, dir: filepath.Join(t.Dir, name)}
	if err := os.MkdirAll(filepath.Join(d.dir, "data"), 0o700); err != nil {
		return nil, fmt.Errorf("configure vpngwd: %w", err)
	}
	if o.KeyLog {
		d.KeyDir = filepath.Join(d.dir, "keys")
	}
	if o.KeepSockets {
		if d.Store, err = openDescriptorStore(filepath.Join(d.dir, "notify")); err != nil {
			return nil, err
		}
	}
	d.rendered = d.render(t, o)
	if err := os.WriteFile(d.config(), []byte(d.rendered), 0o600); err != nil {
		return nil, fmt.Errorf("configure vpngwd: %w", err)
	}
	if err := d.Start(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

func (o *DaemonOptions) backend() string {
	if o.Kernel {
		return "kernel"
	}
	return "userspace"
}

func (d *Daemon) config() string { return filepath.Join(d.dir, "vpngwd.yaml") }

func (d *Daemon) render(t *Topology, o DaemonOptions) string {
	var b strings.Builder
	fmt.Fprintf(&b, `node: {name: lab, availability_zone: az1}
data_dir: %s
log: {level: debug, format: text}
api:
  listen: %s
  tls: auto
  credentials:
    - {access_key: %s, secret_key: %s, role: admin, project_id: %s}
    - {access_key: %[6]s, secret_key: %[4]s, role: backup, project_id: %[5]s}
    - {access_key: `+restoreKey+`, secret_key: %[4]s, role: restore, project_id: %[5]s}
metrics: {listen: %[7]s}
dataplane: {backend: %s, force_encapsulation: %v}
inventory:
  availability_zones: [az1, az2]
  vpcs:
    - id: %s
      cidr: %s
      subnets: [{id: %s, cidr: %s}, {id: %s, cidr: %s}]
  eips:
`, filepath.Join(d.dir, "data"), strings.TrimPrefix(apiEndpoint, "https://"), accessKey, secretKey, Project, backupKey,
		strings.TrimPrefix(metrics, "http://"), o.backend(), !o.RawESP, VPC, netip.PrefixFrom(t.CloudSubnets[0].Addr(), 16).Masked(), Subnet1, t.CloudSubnets[0], Subnet2, t.CloudSubnets[1])
	for i, id := range []string{EIP1, EIP2} {
		private := ""
		if t.Local[i] != t.Public[i] {
			private = fmt.Sprintf(", private_address: %s", t.Local[i])
		}
		fmt.Fprintf(&b, "    - {id: %s, address: %s%s, interface: %s, type: 5_bgp, bandwidth_mbps: 300}\n", id, t.Public[i], private, WAN)
	}
	if a := t.ForClients; a.IsValid() {
		fmt.Fprintf(&b, "    - {id: %s, address: %s, interface: %s, type: 5_bgp, bandwidth_mbps: 300}\n", EIP3, a, WAN)
	}
	if v := t.IPv6; v != nil {
		for i, id := range []string{EIP1v6, EIP2v6} {
			fmt.Fprintf(&b, "    - {id: %s, address: \"%s\", interface: %s, type: 5_bgp, bandwidth_mbps: 300}\n", id, v.Public[i], WAN)
		}
	}
	fmt.Fprintf(&b, "  log_streams: [{group_id: %s, stream_id: %s, sink: {file: %s}}]\n", LogGroup, LogStream, d.connectionLog())
	var ike []string
	if o.Retransmit {
		ike = append(ike, "retransmit: {initial: 500ms, factor: 1.5, tries: 3}")
	}
	if o.ShortLives {
		ike = append(ike, "max_lifetime: 13s", "max_child_lifetime: 7s")
	}
	if o.Lifetime > 0 {
		ike = append(ike, fmt.Sprintf("max_lifetime: %s", o.Lifetime))
	}
	if o.ChildLifetime > 0 {
		ike = append(ike, fmt.Sprintf("max_child_lifetime: %s", o.ChildLifetime))
	}
	if o.Childless {
		ike = append(ike, "childless: true")
	}
	if o.ShortTrust > 0 {
		ike = append(ike, fmt.Sprintf("authentication_lifetime: %s", o.ShortTrust))
	}
	fmt.Fprintf(&b, "ike: {%s}\n", strings.Join(ike, ", "))
	if o.CustomerGateways > 0 {
		fmt.Fprintf(&b, "limits: {customer_gateways: %d}\n", o.CustomerGateways)
	}
	if d.KeyDir != "" {
		fmt.Fprintf(&b, "debug: {key_log_dir: %s}\n", d.KeyDir)
	}
	return b.String()
}

// Start starts a daemon that was stopped or killed, from the store it left.
func (d *Daemon) Start(ctx context.Context) error {
	args := []string{d.program, "--config", d.config()}
	var env []string
	var files []*os.File
	if d.Store != nil {
		args, env, files = d.Store.pass(args)
	}
	process, err := d.namespace.startWith(files, d.name, env, args...)
	if err != nil {
		return err
	}
	d.process = process
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = Poll(ready, 50*time.Millisecond, func() (bool, error) {
		select {
		case <-process.Done():
			return false, fmt.Errorf("it ended at once: %w", process.Wait(ready))
		default:
		}
		_, err := d.get(ready, "/readyz")
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("start vpngwd: %w\n%s", err, d.Log())
	}
	return nil
}

// TakeAway has the daemon read its inventory anew, which has all EIPs but those given.
func (d *Daemon) TakeAway(eips ...string) error {
	var left strings.Builder
	for line := range strings.Lines(d.rendered) {
		if !slices.ContainsFunc(eips, func(id string) bool { return strings.Contains(line, "{id: "+id+",") }) {
			left.WriteString(line)
		}
	}
	if err := os.WriteFile(d.config(), []byte(left.String()), 0o600); err != nil {
		return fmt.Errorf("configure vpngwd: %w", err)
	}
	return d.process.Signal(unix.SIGHUP)
}

// get reads a page of the metrics listener.
func (d *Daemon) get(ctx context.Context, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, metrics+path, http.NoBody)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{DialContext: d.namespace.DialContext, DisableKeepAlives: true}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return string(page), err
}

// Metrics returns the daemon's metrics in Prometheus's text format.
func (d *Daemon) Metrics(ctx context.Context) (string, error) { return d.get(ctx, "/metrics") }

// Reload adds lines to the configuration and has the daemon read it again, which it
// does on its own time.
func (d *Daemon) Reload(lines string) error {
	text, err := os.ReadFile(d.config())
	if err == nil {
		err = os.WriteFile(d.config(), append(text, lines+"\n"...), 0o600)
	}
	if err != nil {
		return fmt.Errorf("configure vpngwd: %w", err)
	}
	return d.process.Signal(unix.SIGHUP)
}

// Pause stops the process in the middle of what it does, until Resume.
func (d *Daemon) Pause() error { return d.process.Signal(unix.SIGSTOP) }

// Resume lets a paused process go on.
func (d *Daemon) Resume() error { return d.process.Signal(unix.SIGCONT) }

// PID returns the process id of the daemon.
func (d *Daemon) PID() int { return d.process.PID }

// Running reports whether the daemon runs.
func (d *Daemon) Running() bool {
	if d.process == nil {
		return false
	}
	select {
	case <-d.process.Done():
		return false
	default:
		return true
	}
}

// Stop ends the daemon with SIGTERM and returns how it ended.
func (d *Daemon) Stop() error { return d.process.Stop() }

// Kill ends the daemon with SIGKILL.
func (d *Daemon) Kill() error { return d.process.Kill() }

// Log returns what the daemon wrote to standard error.
func (d *Daemon) Log() string {
	if d.process == nil {
		return ""
	}
	return d.process.Errors()
}

// ConnectionLog returns what the daemon wrote to the one log stream of its
// inventory; empty before the first record.
func (d *Daemon) ConnectionLog() (string, error) {
	b, err := os.ReadFile(d.connectionLog())
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return string(b), err
}

func (d *Daemon) connectionLog() string { return filepath.Join(d.dir, "connections.log") }

// CA is the file of the API's own certificate.
func (d *Daemon) CA() string { return filepath.Join(d.dir, "data", "api.crt") }

// Client returns a client of the daemon's API that dials inside the gateway's
// namespace.
func (d *Daemon) Client() (*client.Client, error) {
	ca, err := os.ReadFile(d.CA())
	if err != nil {
		return nil, fmt.Errorf("certificate of the API: %w", err)
	}
	return client.New(client.Options{
		Endpoint: d.endpoint, ProjectID: Project, AccessKey: accessKey, SecretKey: secretKey,
		CA: ca, DialContext: d.namespace.DialContext,
	})
}

// Environment are the variables that vpnctl takes, to be run in the gateway's
// namespace.
func (d *Daemon) Environment() []string {
	return []string{
		"VPNGW_ENDPOINT=" + d.endpoint, "VPNGW_PROJECT=" + Project,
		"VPNGW_ACCESS_KEY=" + accessKey, "VPNGW_SECRET_KEY=" + secretKey, "VPNGW_CA=" + d.CA(),
	}
}

// BackupEnvironment are the same of a caller who may take backups and no more.
func (d *Daemon) BackupEnvironment() []string {
	return append(d.Environment(), "VPNGW_ACCESS_KEY="+backupKey)
}

// RestoreEnvironment are the same of a caller who may restore them.
func (d *Daemon) RestoreEnvironment() []string {
	return append(d.Environment(), "VPNGW_ACCESS_KEY="+restoreKey)
}

// Restore puts a backup in the place of the store of a daemon that was stopped.
func (d *Daemon) Restore(ctx context.Context, backup string) error {
	file := filepath.Join(d.dir, "data", "vpngw.db")
	if err := os.Rename(file, file+".before"); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	out, err := d.namespace.Run(ctx, d.program, "restore", "--config", d.config(), backup)
	if err != nil {
		return fmt.Errorf("restore: %w\n%s", err, out)
	}
	return nil
}
