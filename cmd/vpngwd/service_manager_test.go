package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The messages are those of sd_notify(3).
func TestServiceManagerProtocol(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	environment := func(name string) string { return map[string]string{"NOTIFY_SOCKET": path}[name] }
	m, err := openServiceManager(environment)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	receive := func(wantFields string, wantRights int) {
		t.Helper()
		buf, rights := make([]byte, 512), make([]byte, 512)
		n, r, _, _, err := listener.ReadMsgUnix(buf, rights)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(string(buf[:n])), " "); got != wantFields {
			t.Errorf("message %q, want %q", got, wantFields)
		}
		messages, err := unix.ParseSocketControlMessage(rights[:r])
		if err != nil || len(messages) != wantRights {
			t.Fatalf("%d control messages, %v", len(messages), err)
		}
		for _, message := range messages {
			fds, err := unix.ParseUnixRights(&message)
			if err != nil || len(fds) != 1 {
				t.Fatalf("descriptors %v, %v", fds, err)
			}
			unix.Close(fds[0])
		}
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := m.Keep("a-name", int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	receive("FDSTORE=1 FDPOLL=0 FDNAME=a-name", 1)
	if err := m.Drop("a-name"); err != nil {
		t.Fatal(err)
	}
	receive("FDSTOREREMOVE=1 FDNAME=a-name", 0)
}

// Without a service manager there is none, and descriptors for another process are
// not taken.
func TestNoServiceManager(t *testing.T) {
	if m, err := openServiceManager(noEnv); m != nil || err != nil {
		t.Errorf("got %v, %v", m, err)
	}
	if _, err := openServiceManager(func(string) string { return filepath.Join(t.TempDir(), "none") }); err == nil {
		t.Error("a socket that is not there is taken")
	}
	for _, pid := range []string{"", "1"} {
		environment := map[string]string{"LISTEN_FDS": "1", "LISTEN_PID": pid}
		if files := inheritedFiles(func(name string) string { return environment[name] }); files != nil {
			t.Errorf("LISTEN_PID=%q: took %v", pid, files)
		}
	}
}
