package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Namespace is one network namespace of a lab.
type Namespace struct {
	// Name is what `ip netns exec` takes.
	Name string

	lab *Lab
	fd  int
}

func namespacePrefix(lab string) string { return "vpngw-" + lab + "-" }

// Namespace makes a namespace with its loopback interface up. Role is a short
// word, unique in the lab.
func (l *Lab) Namespace(ctx context.Context, role string) (*Namespace, error) {
	n := &Namespace{Name: namespacePrefix(l.id) + role, lab: l}
	if _, err := run(ctx, "", "ip", "netns", "add", n.Name); err != nil {
		return nil, err
	}
	fd, err := unix.Open(filepath.Join(namespaceDir, n.Name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", n.Name, err)
	}
	n.fd = fd
	l.mu.Lock()
	l.namespaces = append(l.namespaces, n)
	l.mu.Unlock()
	// IPv6 is off so that neighbour discovery does not blur captures and
	// before-after comparisons.
	err = n.Sysctl(ctx, "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1",
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
	if err != nil {
		return nil, err
	}
	return n, n.IP(ctx, "link set lo up")
}

func (n *Namespace) close() { _ = unix.Close(n.fd) }

// Sysctl sets kernel parameters, each written as key=value.
func (n *Namespace) Sysctl(ctx context.Context, settings ...string) error {
	_, err := n.Run(ctx, append([]string{"sysctl", "-q", "-w"}, settings...)...)
	return err
}

// IP runs the lines as one `ip -batch`; the first that fails ends it.
func (n *Namespace) IP(ctx context.Context, lines ...string) error {
	_, err := run(ctx, strings.Join(lines, "\n")+"\n", "ip", "-n", n.Name, "-batch", "-")
	return err
}

// Link makes a veth pair between n and peer, both ends up, and waits until the
// kernel says that they have their carrier.
func (n *Namespace) Link(ctx context.Context, name string, peer *Namespace, peerName string, mtu int) error {
	err := n.IP(ctx, fmt.Sprintf("link add name %s mtu %d type veth peer name %s mtu %d netns %s", name, mtu, peerName, mtu, peer.Name),
		"link set "+name+" up")
	if err != nil {
		return err
	}
	if err := peer.IP(ctx, "link set "+peerName+" up"); err != nil {
		return err
	}
	return errors.Join(n.waitCarrier(ctx, name), peer.waitCarrier(ctx, peerName))
}

// waitCarrier waits until an interface is up and shows it: the kernel sets the
// operational state from a work queue.
func (n *Namespace) waitCarrier(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := Poll(ctx, 10*time.Millisecond, func() (bool, error) {
		out, err := run(ctx, "", "ip", "-n", n.Name, "-o", "link", "show", name)
		return strings.Contains(out, " state UP "), err
	})
	if err != nil {
		return fmt.Errorf("carrier of %s in %s: %w", name, n.Name, err)
	}
	return nil
}

// Run runs a command in the namespace to its end and returns what it printed
// on standard output.
func (n *Namespace) Run(ctx context.Context, args ...string) (string, error) {
	return run(ctx, "", append([]string{"ip", "netns", "exec", n.Name}, args...)...)
}

// Input is Run with a standard input.
func (n *Namespace) Input(ctx context.Context, input string, args ...string) (string, error) {
	return run(ctx, input, append([]string{"ip", "netns", "exec", n.Name}, args...)...)
}

// DialContext connects from inside the namespace. The address is a literal: a
// name would be resolved outside.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Inside(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Inside calls do on a thread that is in the namespace: the sockets it opens
// belong there for good.
func (n *Namespace) Inside(do func() error) error {
	done := make(chan error, 1)
	// A goroutine of its own, so that a thread which cannot be brought back
	// ends with it.
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(home) //nolint:errcheck // read only
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", n.Name, err)
			return
		}
		err = do()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// run runs a command to its end. The error carries what it wrote to standard
// error.
func run(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	// Ctrl-C at the terminal is for the owner, which then ends its children.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.Env = environment()
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String())
		if said == "" {
			said = strings.TrimSpace(stdout.String())
		}
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("%s is not installed: %w", args[0], err)
		}
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, said)
	}
	return stdout.String(), nil
}

// environment is ours with the system's program directories, which a user's
// path may lack, and with plain messages for the parsers.
func environment(extra ...string) []string {
	return append(append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C"), extra...)
}
