package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// DescriptorStore keeps descriptors of a process for the one after it, as systemd does
// for a service with FileDescriptorStoreMax: they come by sd_pid_notify_with_fds(3)
// and go by sd_listen_fds(3).
type DescriptorStore struct {
	path string
	conn *net.UnixConn
	done chan struct{}

	mu    sync.Mutex
	kept  map[string][]*os.File // guarded by mu; by FDNAME
	fault error                 // guarded by mu
}

// openDescriptorStore listens on a socket.
func openDescriptorStore(path string) (*DescriptorStore, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("descriptor store: %w", err)
	}
	s := &DescriptorStore{path: path, conn: conn, done: make(chan struct{}), kept: map[string][]*os.File{}}
	go s.serve()
	return s, nil
}

func (s *DescriptorStore) serve() {
	defer close(s.done)
	message, rights := make([]byte, 4096), make([]byte, 4096)
	for {
		n, m, _, _, err := s.conn.ReadMsgUnix(message, rights)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			err = s.take(string(message[:n]), rights[:m])
		}
		if err != nil {
			s.mu.Lock()
			s.fault = errors.Join(s.fault, err)
			s.mu.Unlock()
		}
	}
}

// take does what a message asks for.
func (s *DescriptorStore) take(state string, rights []byte) error {
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return fmt.Errorf("descriptor store: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fmt.Errorf("descriptor store: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "kept"))
		}
	}
	fields := map[string]string{}
	for line := range strings.Lines(state) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[key] = value
	}
	name := fields["FDNAME"]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case fields["FDSTORE"] == "1" && len(files) == 1 && name != "" && !strings.Contains(name, ":"):
		s.kept[name] = append(s.kept[name], files...)
		return nil
	case fields["FDSTOREREMOVE"] == "1" && len(files) == 0:
		for _, f := range s.kept[name] {
			f.Close()
		}
		delete(s.kept, name)
		return nil
	}
	for _, f := range files {
		f.Close()
	}
	return fmt.Errorf("descriptor store: message %q with %d descriptors", state, len(files))
}

// Kept returns the names of what is kept, each as often as there are descriptors, and
// what was wrong with messages.
func (s *DescriptorStore) Kept() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, _ := s.list()
	return names, s.fault
}

// list returns what is kept with its names. The caller holds mu.
func (s *DescriptorStore) list() (names []string, files []*os.File) {
	for name, kept := range s.kept {
		for _, f := range kept {
			names, files = append(names, name), append(files, f)
		}
	}
	return names, files
}

// pass returns how a program is started that gets what is kept: with the arguments
// after those of its own start, the environment and the descriptors.
func (s *DescriptorStore) pass(args []string) (wrapped, env []string, files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, files := s.list()
	env = []string{
		"NOTIFY_SOCKET=" + s.path,
		"LISTEN_FDS=" + strconv.Itoa(len(files)), "LISTEN_FDNAMES=" + strings.Join(names, ":"),
	}
	// Only the process itself knows its number, and the protocol wants that.
	return slices.Concat([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, args), env, files
}

// Close closes what is kept.
func (s *DescriptorStore) Close() error {
	err := s.conn.Close()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	_, files := s.list()
	for _, f := range files {
		f.Close()
	}
	clear(s.kept)
	return errors.Join(err, s.fault)
}
