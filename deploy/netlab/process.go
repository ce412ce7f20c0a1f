package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patience is how long a program may take to be ready, on a machine that
	// does much else.
	patience = time.Minute
	// stopPatience is how long a process may take to end after SIGTERM.
	stopPatience = 30 * time.Second
)

// Process is a program that runs in a namespace.
type Process struct {
	Name string
	PID  int

	stdout, stderr string // file names
	done           chan struct{}
	state          error // of the wait; valid once done is closed

	stop sync.Mutex
}

// Start starts a program in the namespace. Its standard output and error go to
// the files name.out and name.err in the lab's directory. Env adds to the
// environment, each entry written as KEY=value.
func (n *Namespace) Start(name string, env []string, args ...string) (*Process, error) {
	return n.startWith(nil, name, env, args...)
}

// startWith is Start for a program that gets files as its descriptors 3 and up.
func (n *Namespace) startWith(files []*os.File, name string, env []string, args ...string) (*Process, error) {
	p := &Process{
		Name:   name,
		stdout: filepath.Join(n.lab.Dir, name+".out"),
		stderr: filepath.Join(n.lab.Dir, name+".err"),
		done:   make(chan struct{}),
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", n.Name}, args...)...)
	cmd.Env, cmd.ExtraFiles = environment(env...), files
	// A group of its own: Ctrl-C at the terminal is for the owner alone.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	stdout, err := appendTo(p.stdout)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer stdout.Close()
	stderr, err := appendTo(p.stderr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.PID = cmd.Process.Pid // `ip netns exec` replaces itself with the program
	go func() {
		p.state = cmd.Wait()
		close(p.done)
	}()
	n.lab.mu.Lock()
	n.lab.processes = append(n.lab.processes, p)
	n.lab.mu.Unlock()
	return p, nil
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the program's end and returns its failure.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.state
	case <-ctx.Done():
		return fmt.Errorf("%s still runs: %w", p.Name, ctx.Err())
	}
}

// Signal sends a signal; a program that has ended is no error.
func (p *Process) Signal(sig unix.Signal) error {
	select {
	case <-p.done: // the pid may be another's by now
		return nil
	default:
	}
	if err := unix.Kill(p.PID, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Stop ends the program with SIGTERM, or with SIGKILL when it does not heed
// that within half a minute. It returns how the program ended.
func (p *Process) Stop() error {
	p.stop.Lock()
	defer p.stop.Unlock()
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.state
	case <-time.After(stopPatience):
	}
	return errors.Join(fmt.Errorf("%s did not end within %v of SIGTERM", p.Name, stopPatience), p.Kill())
}

// Kill ends the program with SIGKILL, as a crash would.
func (p *Process) Kill() error {
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Output returns what the program wrote to standard output so far.
func (p *Process) Output() string { return contents(p.stdout) }

// Errors returns what the program wrote to standard error so far.
func (p *Process) Errors() string { return contents(p.stderr) }

// appendTo opens a log file; a program that is started again goes on in it.
func appendTo(file string) (*os.File, error) {
	return os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

func contents(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// listens reports whether a TCP socket listens on port in the process's
// namespace, without disturbing it by a connection.
func (p *Process) listens(port int) bool {
	sockets, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "net", "tcp"))
	if err != nil {
		return false
	}
	local := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(string(sockets)) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], local) && f[3] == "0A" {
			return true
		}
	}
	return false
}

// sleeps reports whether the process waits for something to happen, or has
// ended.
func (p *Process) sleeps() bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "stat"))
	if err != nil {
		return true
	}
	// The command, in parentheses, may hold blanks and parentheses itself.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return len(fields) > 0 && (fields[0] == "S" || fields[0] == "Z")
}

// Poll calls ready until it reports true, an error, or ctx is over.
func Poll(ctx context.Context, every time.Duration, ready func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := ready()
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
