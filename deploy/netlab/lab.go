package netlab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dirPrefix = "vpngw-lab-"
	ownerFile = "owner"
	// namespaceDir is where iproute2 keeps what names a namespace.
	namespaceDir = "/run/netns"
)

// Lab is one set of namespaces and of the processes in them.
type Lab struct {
	// Dir holds the configurations, sockets and logs. It is removed by Close.
	Dir string

	id string

	mu         sync.Mutex
	namespaces []*Namespace
	processes  []*Process
}

// Open removes what dead labs left behind and makes an empty lab.
func Open(ctx context.Context) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	if err := Sweep(ctx); err != nil {
		return nil, err
	}
	var random [3]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	dir := filepath.Join(os.TempDir(), dirPrefix+id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	pid := os.Getpid()
	owner := fmt.Sprintf("%d %s\n", pid, startTime(pid))
	if err := os.WriteFile(filepath.Join(dir, ownerFile), []byte(owner), 0o600); err != nil {
		return nil, fmt.Errorf("record the lab's owner: %w", err)
	}
	return &Lab{Dir: dir, id: id}, nil
}

// Sweep removes the labs whose owner no longer runs: their processes, their
// namespaces and their directories.
func Sweep(ctx context.Context) error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		owner, _ := os.ReadFile(filepath.Join(dir, ownerFile))
		if len(owner) == 0 {
			// Within Open, or within another's removal; else Open was killed.
			if info, err := os.Stat(dir); err != nil || time.Since(info.ModTime()) < time.Minute {
				continue
			}
		}
		pid, start, _ := strings.Cut(strings.TrimSpace(string(owner)), " ")
		if n, err := strconv.Atoi(pid); err == nil && start != "" && startTime(n) == start {
			continue
		}
		errs = append(errs, remove(ctx, strings.TrimPrefix(filepath.Base(dir), dirPrefix), dir))
	}
	return errors.Join(errs...)
}

// Close kills the lab's processes and removes its namespaces and its directory.
// What has to end well is stopped before. It may be called again.
func (l *Lab) Close() error {
	l.mu.Lock()
	processes, namespaces := l.processes, l.namespaces
	l.processes, l.namespaces = nil, nil
	l.mu.Unlock()

	var errs []error
	for _, p := range processes {
		errs = append(errs, p.Kill())
	}
	// The caller's context may be over already; cleaning is still due. The kernel
	// takes its time over the devices of a process that had many.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, n := range namespaces {
		n.close()
	}
	return errors.Join(append(errs, remove(ctx, l.id, l.Dir))...)
}

// remove ends every process in the namespaces of the lab called id and deletes
// the namespaces, and at last dir, whose presence says that work is left.
func remove(ctx context.Context, id, dir string) error {
	list, err := run(ctx, "", "ip", "netns", "list")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) == 0 || !strings.HasPrefix(fields[0], namespacePrefix(id)) {
			continue
		}
		errs = append(errs, removeNamespace(ctx, fields[0]))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func removeNamespace(ctx context.Context, name string) error {
	pids, err := run(ctx, "", "ip", "netns", "pids", name)
	if err != nil {
		return unlessRemoved(name, err)
	}
	for _, field := range strings.Fields(pids) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid <= 1 || pid == os.Getpid() {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d of namespace %s: %w", pid, name, err)
		}
	}
	if _, err = run(ctx, "", "ip", "netns", "del", name); err != nil {
		return unlessRemoved(name, err)
	}
	return nil
}

// unlessRemoved drops an error about a namespace that is gone: another process
// sweeps at the same time.
func unlessRemoved(name string, err error) error {
	if _, e := os.Stat(filepath.Join(namespaceDir, name)); errors.Is(e, os.ErrNotExist) {
		return nil
	}
	return err
}

// startTime returns the time a process was started, in ticks since boot. With
// the pid it names a process beyond the reuse of pids. It is empty for a
// process that does not exist or has ended.
func startTime(pid int) string {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return ""
	}
	// The command, in parentheses, may hold blanks and parentheses itself.
	i := strings.LastIndexByte(string(stat), ')')
	if i < 0 {
		return ""
	}
	fields := strings.Fields(string(stat[i+1:])) // from field 3, the state
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}
