package sdktest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth/basic"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/config"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/httphandler"
	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
)

const (
	apiAddress     = "127.0.0.1:8443"
	metricsAddress = "127.0.0.1:9090"
	accessKey      = "SDKTESTKEY"
	secretKey      = "sdk-test-secret-of-no-worth"
	projectID      = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"

	vpcID    = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0001"
	subnetID = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0011"
	eip1ID   = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0021"
	eip2ID   = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0022"
	eip3ID   = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0023"
	eip1     = "203.0.113.10"
	eip2     = "203.0.113.11"
	eip3     = "203.0.113.12"

	certificateID = "scs1717051012106"
	logGroupID    = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0031"
	logStreamID   = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0032"
)

const configuration = `
node: {name: sdktest, availability_zone: az1}
data_dir: %q
api:
  listen: ` + apiAddress + `
  tls: auto
  credentials:
    - {access_key: ` + accessKey + `, secret_key: ` + secretKey + `, role: admin, project_id: ` + projectID + `}
metrics: {listen: ` + metricsAddress + `}
dataplane: {backend: userspace}
inventory:
  availability_zones: [az1, az2]
  vpcs:
    - {id: ` + vpcID + `, cidr: 10.10.0.0/16, subnets: [{id: ` + subnetID + `, cidr: 10.10.0.0/24}]}
  eips:
    - {id: ` + eip1ID + `, address: ` + eip1 + `, interface: lo}
    - {id: ` + eip2ID + `, address: ` + eip2 + `, interface: lo}
    - {id: ` + eip3ID + `, address: ` + eip3 + `, interface: lo}
  certificates:
    - {id: ` + certificateID + `, name: vpn, certificate_file: %q, key_file: %q}
  log_streams:
    - {group_id: ` + logGroupID + `, stream_id: ` + logStreamID + `, sink: {file: %q}}
`

// inNamespace marks the process that runs in the network namespace.
const inNamespace = "VPNGW_SDKTEST_IN_NAMESPACE"

func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) == "" {
		os.Exit(enterNamespace())
	}
	code, err := withDaemon(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sdktest:", err)
		code = 1
	}
	os.Exit(code)
}

// enterNamespace runs this program again in a network namespace of its own, so
// that the daemon may have its addresses, devices and ports.
func enterNamespace() int {
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Env = append(os.Environ(), inNamespace+"=1")
	self.Stdin, self.Stdout, self.Stderr = os.Stdin, os.Stdout, os.Stderr
	self.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		self.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		self.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		self.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err := self.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "sdktest: network namespace:", err)
		return 1
	}
	return 0
}

// dataDir is where the daemon keeps its store and certificate.
var dataDir string

// The versions that the daemon is built as: a gateway is upgraded from the first
// one to the second.
const (
	firstVersion  = "1.0.0"
	secondVersion = "1.1.0"
)

// daemon is the one that the tests talk to.
type daemon struct {
	dir     string
	process *exec.Cmd
	exited  chan error
	output  *os.File
}

// served is what is running.
var served daemon

// withDaemon builds the daemon, runs it in the namespace and calls run once it
// is ready.
func withDaemon(run func() int) (code int, err error) {
	dir, err := os.MkdirTemp("", "vpngw-sdktest-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	commands := [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "address", "add", eip1 + "/32", "dev", "lo"},
		{"ip", "address", "add", eip2 + "/32", "dev", "lo"},
		{"ip", "address", "add", eip3 + "/32", "dev", "lo"},
	}
	for _, version := range []string{firstVersion, secondVersion} {
		commands = append(commands, []string{
			"go", "build", "-C", "../..", "-ldflags", "-X main.version=" + version, "-o", filepath.Join(dir, version), "./cmd/vpngwd",
		})
	}
	for _, command := range commands {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("%v: %w: %s", command, err, out)
		}
	}
	dataDir = filepath.Join(dir, "data")
	if err := os.Mkdir(dataDir, 0o700); err != nil {
		return 1, err
	}
	keyFile, err := writeCertificate(dir)
	if err != nil {
		return 1, err
	}
	text := fmt.Appendf(nil, configuration, dataDir, certificateFile, keyFile, filepath.Join(dir, "clients.log"))
	if err := os.WriteFile(filepath.Join(dir, "vpngw.yaml"), text, 0o600); err != nil {
		return 1, err
	}
	served = daemon{dir: dir}
	if served.output, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return 1, err
	}
	defer served.output.Close()
	defer func() {
		if code != 0 || err != nil {
			log, _ := os.ReadFile(served.output.Name())
			fmt.Fprintf(os.Stderr, "--- log of the daemon:\n%s\n", log)
		}
	}()
	if err := served.start(firstVersion); err != nil {
		return 1, err
	}
	// Of a part of the tests it is not asked to run every operation.
	if code = run(); code == 0 && flag.Lookup("test.run").Value.String() == "" {
		err = uncovered()
	}
	if err != nil {
		_ = served.process.Process.Kill()
		return 1, err
	}
	if err := served.stop(); err != nil {
		return 1, err
	}
	return code, nil
}

// start runs the daemon of a version and waits until it is ready.
func (d *daemon) start(version string) error {
	d.process = exec.Command(filepath.Join(d.dir, version), "--config", filepath.Join(d.dir, "vpngw.yaml"))
	d.process.Stdout, d.process.Stderr = d.output, d.output
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.process.Start(); err != nil {
		return err
	}
	process, exited := d.process, make(chan error, 1)
	d.exited = exited
	go func() { exited <- process.Wait() }()
	if err := ready(exited); err != nil {
		_ = process.Process.Kill()
		return err
	}
	return nil
}

// stop ends the daemon as a service manager does.
func (d *daemon) stop() error {
	if err := d.process.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop daemon: %w", err)
	}
	select {
	case err := <-d.exited:
		if err != nil {
			return fmt.Errorf("daemon ended badly: %w", err)
		}
		return nil
	case <-time.After(30 * time.Second):
		_ = d.process.Process.Kill()
		return errors.New("daemon does not stop")
	}
}

// ready waits until the daemon says that it serves.
func ready(exited <-chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		answer, err := http.Get("http://" + metricsAddress + "/readyz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("readyz answers %s", answer.Status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("daemon is not ready: %w", err)
		case err := <-exited:
			return errors.Join(errors.New("daemon ended before it was ready"), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// newClient returns a client of the SDK that trusts the daemon's certificate.
func newClient(t *testing.T, accessKey, secretKey string) *vpn.VpnClient {
	t.Helper()
	certificate, err := os.ReadFile(filepath.Join(dataDir, "api.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	credentials, err := basic.NewCredentialsBuilder().WithAk(accessKey).WithSk(secretKey).WithProjectId(projectID).SafeBuild()
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	client, err := vpn.VpnClientBuilder().
		WithEndpoint("https://" + apiAddress).
		WithCredential(credentials).
		WithHttpConfig(config.DefaultHttpConfig().WithHttpTransport(transport).WithRetries(0).
			WithHttpHandler(httphandler.NewHttpHandler().AddMonitorHandler(note))).
		SafeBuild()
	if err != nil {
		t.Fatal(err)
	}
	return vpn.NewVpnClient(client)
}
