package etcd_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/control/store/etcd"
)

// patience bounds the waits for what takes a moment when all is well.
const patience = time.Minute

// server is one etcd process. It can be killed and started again.
type server struct {
	endpoint string
	args     []string
	process  *exec.Cmd
	output   *log
}

// log is what a process wrote, for the report of a failure.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startServers starts a cluster of several members on free ports of loopback,
// with scheme http or https towards clients, and ends it with the test.
func startServers(t testing.TB, n int, scheme string, args ...string) []*server {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Fatalf("%v: install the Debian package etcd-server", err)
	}
	addrs := freeAddresses(t, 2*n)
	var members []string
	for i := range n {
		members = append(members, fmt.Sprintf("member-%d=http://%s", i, addrs[n+i]))
	}
	var servers []*server
	for i := range n {
		client, peer := scheme+"://"+addrs[i], "http://"+addrs[n+i]
		s := &server{
			endpoint: client,
			args: append([]string{
				"--name", fmt.Sprintf("member-%d", i), "--data-dir", t.TempDir(),
				"--listen-client-urls", client, "--advertise-client-urls", client,
				"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
				"--initial-cluster", strings.Join(members, ","),
				"--logger", "zap", "--log-level", "error",
			}, args...),
		}
		s.start(t)
		t.Cleanup(func() {
			s.kill(t)
			if t.Failed() && s.output.String() != "" {
				t.Logf("%s wrote:\n%s", s.endpoint, s.output)
			}
		})
		servers = append(servers, s)
	}
	for _, s := range servers {
		s.waitListening(t)
	}
	return servers
}

// nextPort counts up from a random port. All are below those that Linux gives
// to outgoing connections: a member that is killed finds its port free again.
var nextPort atomic.Uint32

func init() { nextPort.Store(16384 + rand.Uint32N(8192)) }

// freeAddresses returns addresses that nobody listens on, all different.
func freeAddresses(t testing.TB, n int) []string {
	t.Helper()
	var addrs []string
	for tries := 0; len(addrs) < n; tries++ {
		addr := fmt.Sprintf("127.0.0.1:%d", nextPort.Add(1))
		l, err := net.Listen("tcp", addr)
		switch {
		case err == nil:
			l.Close()
			addrs = append(addrs, addr)
		case tries > 1000:
			t.Fatal(err)
		}
	}
	return addrs
}

func (s *server) start(t testing.TB) {
	t.Helper()
	s.output = &log{}
	s.process = exec.Command("etcd", s.args...)
	s.process.Stdout, s.process.Stderr = s.output, s.output
	// A test that is killed takes its servers along.
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
}

// kill ends the process in the middle of its work.
func (s *server) kill(t testing.TB) {
	t.Helper()
	if s.process == nil {
		return
	}
	if err := s.process.Process.Kill(); err != nil {
		t.Errorf("kill %s: %v", s.endpoint, err)
	}
	var exit *exec.ExitError
	if err := s.process.Wait(); err != nil && !errors.As(err, &exit) {
		t.Errorf("wait for %s: %v", s.endpoint, err)
	}
	s.process = nil
}

func (s *server) waitListening(t testing.TB) {
	t.Helper()
	_, addr, _ := strings.Cut(s.endpoint, "://")
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %v\n%s", s.endpoint, err, s.output)
		}
	}
}

// open opens a store and closes it with the test. Its requests may take their
// time unless the test says otherwise.
func open(t testing.TB, o etcd.Options) *etcd.Cluster {
	t.Helper()
	o.Timeout = cmp.Or(o.Timeout, patience)
	s, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// administer runs a step at the cluster itself, without the store.
func administer(t testing.TB, endpoint string, step func(context.Context, *clientv3.Client) error) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := step(ctx, client); err != nil {
		t.Fatal(err)
	}
}

func compact(t testing.TB, endpoint string, rev int64) {
	t.Helper()
	administer(t, endpoint, func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Compact(ctx, rev)
		return err
	})
}

func put(t testing.TB, s store.Store, key, value string) int64 {
	t.Helper()
	rev, err := s.Txn(t.Context(), nil, []store.Op{store.Put(key, []byte(value))})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// waitWatchers waits until the cluster has n feeds to watches.
func waitWatchers(t testing.TB, endpoint string, n int) {
	t.Helper()
	want := fmt.Sprintf("\netcd_debugging_mvcc_watcher_total %d\n", n)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get(endpoint + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(page, []byte(want)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster has not%sin\n%s", want, page)
		}
	}
}
