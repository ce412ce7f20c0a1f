package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// serviceManager is systemd, or what speaks its protocols: it keeps descriptors for the
// process that it starts after this one (sd_pid_notify_with_fds(3),
// sd_listen_fds(3)), however this one ends.
type serviceManager struct{ conn *net.UnixConn }

// firstInherited is the first descriptor that a service manager passes.
const firstInherited = 3

// openServiceManager returns the service manager that the environment names, or nil.
func openServiceManager(getenv func(string) string) (*serviceManager, error) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	return &serviceManager{conn}, nil
}

// Keep has the service manager keep a duplicate of a descriptor under a name. It is
// not closed for what becomes of its peer.
func (m *serviceManager) Keep(name string, fd int) error {
	return m.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, unix.UnixRights(fd))
}

// Drop has it close the descriptors of a name.
func (m *serviceManager) Drop(name string) error {
	return m.tell("FDSTOREREMOVE=1\nFDNAME="+name, nil)
}

func (m *serviceManager) tell(state string, rights []byte) error {
	conn, err := m.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	// WriteMsgUnix refuses sockets that are connected.
	var sent error
	err = conn.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), []byte(state), rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN) && !errors.Is(sent, unix.EINTR)
	})
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	return nil
}

// Close implements io.Closer. What is kept stays.
func (m *serviceManager) Close() error { return m.conn.Close() }

// inheritedFiles returns the descriptors that a service manager has passed to this
// process, and no other of the same environment. It must be called once.
func inheritedFiles(getenv func(string) string) []*os.File {
	count, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	var files []*os.File
	for i := range count {
		unix.CloseOnExec(firstInherited + i)
		name := "inherited"
		if i < len(names) {
			name = names[i]
		}
		files = append(files, os.NewFile(uintptr(firstInherited+i), name))
	}
	return files
}
