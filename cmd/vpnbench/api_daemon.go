package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/deploy/netlab"
)

const (
	maxClients  = 16
	maxGateways = 25
	// gatewayConnections is the default of limits.gateway_connections.
	gatewayConnections = 200

	apiURL     = "https://127.0.0.1:8443"
	metricsURL = "http://127.0.0.1:9090"
	benchVPC   = "11111111-1111-4111-8111-111111111111"
	subnetID   = "22222222-2222-4222-8222-222222222222"
	project    = "bench"

	// Each caller may make 50 calls a second; a client has several access keys
	// so that it is the daemon that bounds it and not its rate.
	keysOfClient = 8
)

// apiDaemon is a vpngwd in a namespace of its own.
type apiDaemon struct {
	lab       *netlab.Lab
	namespace *netlab.Namespace
	process   *netlab.Process
	dir       string
	clients   [][]*client.Client // by client, one for each access key
	http      *http.Client
}

func eipID(i int) string      { return fmt.Sprintf("33333333-3333-4333-8333-%012d", i) }
func eipAddress(i int) string { return fmt.Sprintf("203.0.113.%d", i+1) }

// startAPIDaemon starts the daemon and waits until it is ready.
func startAPIDaemon(ctx context.Context, program string) (d *apiDaemon, err error) {
	lab, err := netlab.Open(ctx)
	if err != nil {
		return nil, err
	}
	d = &apiDaemon{lab: lab, dir: lab.Dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, lab.Close())
		}
	}()
	if d.namespace, err = lab.Namespace(ctx, "api"); err != nil {
		return nil, err
	}
	// What is sent to peers ends in a namespace that forwards nothing.
	nowhere, err := lab.Namespace(ctx, "nowhere")
	if err != nil {
		return nil, err
	}
	if err := d.namespace.Link(ctx, "uplink", nowhere, "uplink", 1500); err != nil {
		return nil, err
	}
	if err := nowhere.IP(ctx, "addr add 203.0.113.254/24 dev uplink"); err != nil {
		return nil, err
	}
	var lines []string
	for i := range 2*maxGateways + maxServers {
		lines = append(lines, fmt.Sprintf("addr add %s/24 dev uplink", eipAddress(i)))
	}
	lines = append(lines, "route add default via 203.0.113.254")
	if err := d.namespace.IP(ctx, lines...); err != nil {
		return nil, err
	}
	file := filepath.Join(d.dir, "vpngwd.yaml")
	if err := os.WriteFile(file, []byte(d.configuration()), 0o600); err != nil {
		return nil, err
	}
	d.http = &http.Client{Transport: &http.Transport{DialContext: d.namespace.DialContext}}
	if d.process, err = d.namespace.Start("vpngwd", nil, program, "--config", file); err != nil {
		return nil, err
	}
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err = netlab.Poll(ready, 50*time.Millisecond, func() (bool, error) {
		select {
		case <-d.process.Done():
			return false, errors.New("it ended at once")
		default:
		}
		_, err := d.page(ready, "/readyz")
		return err == nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w\n%s", program, err, d.process.Errors())
	}
	return d, d.connect()
}

// configuration allows more customer gateways than the default.
func (d *apiDaemon) configuration() string {
	var b strings.Builder
	fmt.Fprintf(&b, `node: {name: bench, availability_zone: az1}
data_dir: %s
log: {level: warn}
metrics: {listen: %s}
limits: {customer_gateways: %d}
inventory:
  availability_zones: [az1, az2]
  vpcs: [{id: %s, cidr: 10.10.0.0/16, subnets: [{id: %s, cidr: 10.10.0.0/24}]}]
  eips:
`, filepath.Join(d.dir, "data"), strings.TrimPrefix(metricsURL, "http://"), maxGateways*gatewayConnections, benchVPC, subnetID)
	for i := range 2*maxGateways + maxServers {
		fmt.Fprintf(&b, "    - {id: %s, address: %s}\n", eipID(i), eipAddress(i))
	}
	fmt.Fprintf(&b, "api:\n  listen: %s\n  credentials:\n", strings.TrimPrefix(apiURL, "https://"))
	for c := range maxClients {
		for k := range keysOfClient {
			fmt.Fprintf(&b, "    - {access_key: %s, secret_key: %s, role: admin, project_id: %s}\n", accessKey(c, k), secretKey, project)
		}
	}
	return b.String()
}

const secretKey = "a-secret-of-the-benchmark"

func accessKey(client, key int) string { return fmt.Sprintf("BENCH%02d%02d", client, key) }

func (d *apiDaemon) connect() error {
	ca, err := os.ReadFile(filepath.Join(d.dir, "data", "api.crt"))
	if err != nil {
		return err
	}
	for c := range maxClients {
		var keys []*client.Client
		for k := range keysOfClient {
			one, err := client.New(client.Options{
				Endpoint: apiURL, ProjectID: project, AccessKey: accessKey(c, k), SecretKey: secretKey,
				CA: ca, DialContext: d.namespace.DialContext,
			})
			if err != nil {
				return err
			}
			keys = append(keys, one)
		}
		d.clients = append(d.clients, keys)
	}
	return nil
}

// page reads a page of the metrics listener.
func (d *apiDaemon) page(ctx context.Context, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, metricsURL+path, http.NoBody)
	if err != nil {
		return "", err
	}
	answer, err := d.http.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return string(text), err
}

// metric returns the value of a metric without labels.
func (d *apiDaemon) metric(ctx context.Context, name string) (float64, error) {
	text, err := d.page(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

// memory returns what the daemon occupies and the most it ever did, in octets.
func (d *apiDaemon) memory() (now, peak int64, err error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.process.PID), "status"))
	if err != nil {
		return 0, 0, err
	}
	return statusField(string(status), "VmRSS:"), statusField(string(status), "VmHWM:"), nil
}

// statusField reads a size of /proc/PID/status, which is in KiB, in octets.
func statusField(status, name string) int64 {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// complaints is what the daemon logged, the last lines of it.
func (d *apiDaemon) complaints() string {
	const shown = 4 << 10
	log := d.process.Errors()
	return log[max(0, len(log)-shown):]
}

// close removes everything. The daemon is killed: taking down a thousand
// tunnels politely is not what is measured.
func (d *apiDaemon) close() error { return d.lab.Close() }
