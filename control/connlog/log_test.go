package connlog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/control"
)

func record(user string) Record {
	return Record{
		Time: time.Date(2026, 11, 23, 10, 0, 0, 123456789, time.FixedZone("", 3600)), Event: Disconnected, Gateway: "g", Server: "s", Connection: "c",
		User: user, ClientIP: netip.MustParseAddr("198.51.100.7"), VirtualIP: netip.MustParseAddr("172.16.0.5"),
		VirtualIPv6: netip.MustParseAddr("fd00:8::5"), ClientKey: "00ff", Reason: "it left",
		InboundPackets: 1, OutboundPackets: 2, InboundBytes: 3, OutboundBytes: 4,
	}
}

const recordLine = `{"time":"2026-11-23T09:00:00.123Z","event":"disconnected","p2c_vgw_id":"g","vpn_server_id":"s","connection_id":"c","client_user_name":"ann",` +
	`"client_ip":"198.51.100.7","client_virtual_ip":"172.16.0.5","client_virtual_ip_v6":"fd00:8::5","client_key_id":"00ff","reason":"it left","inbound_packets":1,"outbound_packets":2,"inbound_bytes":3,"outbound_bytes":4}`

func TestLine(t *testing.T) {
	r := record("ann")
	if got := string(r.line()); got != recordLine {
		t.Errorf("got %s, want %s", got, recordLine)
	}
	failed := Record{Event: AuthenticationFailed, User: "a\nb\x00" + strings.Repeat("é", maxText)}
	line := string(failed.line())
	if strings.ContainsAny(line, "\n\x00") || len(line) > 2*maxText+200 || strings.Contains(line, "virtual") {
		t.Errorf("line is %s", line)
	}
	var back Record
	if err := json.Unmarshal([]byte(line), &back); err != nil || !strings.HasPrefix(back.User, "a\nb\x00é") {
		t.Errorf("read back %q, %v", back.User, err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

var one = control.LogConfig{GroupID: "group", StreamID: "one"}

func streamTo(s control.LogSink) control.LogStream {
	return control.LogStream{GroupID: one.GroupID, StreamID: one.StreamID, Sink: s}
}

// logTo writes records to a sink and waits until all have been taken.
func logTo(t *testing.T, s control.LogSink, users ...string) {
	t.Helper()
	l := New(quiet(), "node 1")
	l.Apply([]control.LogStream{streamTo(s)})
	for _, user := range users {
		if !l.Write(one, record(user)) {
			t.Fatalf("record of %s was not queued", user)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func usersOf(t *testing.T, lines string) []string {
	t.Helper()
	var users []string
	for line := range strings.Lines(lines) {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		users = append(users, r.User)
	}
	return users
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	logTo(t, control.LogSink{File: path}, "ann", "ben")
	logTo(t, control.LogSink{File: path}, "cat")
	if got := usersOf(t, read(t, path)); !slices.Equal(got, []string{"ann", "ben", "cat"}) {
		t.Errorf("the file has %v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("everybody can read the file: %v, %v", info.Mode(), err)
	}
}

// A file that was renamed is left for a new one when the configuration is
// loaded again.
func TestFileIsRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	streams := []control.LogStream{streamTo(control.LogSink{File: path})}
	l := New(quiet(), "")
	l.Apply(streams)
	l.Write(one, record("before"))
	eventually(t, func() bool { return l.Snapshot()[0].Written == 1 })
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Apply(streams)
	l.Write(one, record("after"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := usersOf(t, read(t, path+".1")); !slices.Equal(got, []string{"before"}) {
		t.Errorf("the old file has %v", got)
	}
	if got := usersOf(t, read(t, path)); !slices.Equal(got, []string{"after"}) {
		t.Errorf("the new file has %v", got)
	}
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for range 3000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it never happened")
}

func TestSyslog(t *testing.T) {
	message := regexp.MustCompile(`^<134>1 2026-11-23T09:00:00\.123Z node_1 vpngw \d+ disconnected - (\{.*\})$`)
	wantUsers := func(t *testing.T, messages []string) {
		t.Helper()
		var lines string
		for _, m := range messages {
			parts := message.FindStringSubmatch(m)
			if parts == nil {
				t.Fatalf("message is %q", m)
			}
			lines += parts[1] + "\n"
		}
		if got := usersOf(t, lines); !slices.Equal(got, []string{"ann", "ben"}) {
			t.Errorf("got records of %v", got)
		}
	}
	datagrams := func(t *testing.T, conn net.PacketConn) (messages []string) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 64<<10)
		for range 2 {
			n, _, err := conn.ReadFrom(buffer)
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, string(buffer[:n]))
		}
		return messages
	}
	t.Run("udp", func(t *testing.T) {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		logTo(t, control.LogSink{Syslog: &control.SyslogSink{Address: "udp:" + conn.LocalAddr().String(), Facility: 16}}, "ann", "ben")
		wantUsers(t, datagrams(t, conn))
	})
	t.Run("unix", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		conn, err := net.ListenPacket("unixgram", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		logTo(t, control.LogSink{Syslog: &control.SyslogSink{Address: "unix:" + path, Facility: 16}}, "ann", "ben")
		wantUsers(t, datagrams(t, conn))
	})
	t.Run("tcp", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		received := make(chan []string, 1)
		go func() {
			var messages []string
			defer func() { received <- messages }()
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			for {
				count, err := r.ReadString(' ')
				if err != nil {
					return
				}
				n, err := strconv.Atoi(strings.TrimSpace(count))
				if err != nil {
					return
				}
				text := make([]byte, n)
				if _, err := io.ReadFull(r, text); err != nil {
					return
				}
				messages = append(messages, string(text))
			}
		}()
		logTo(t, control.LogSink{Syslog: &control.SyslogSink{Address: "tcp:" + listener.Addr().String(), Facility: 16}}, "ann", "ben")
		wantUsers(t, <-received)
	})
	s := &syslogSink{config: control.SyslogSink{Facility: 3}}
	failed := Record{Event: AuthenticationFailed}
	if m := s.message(&failed); !strings.HasPrefix(m, "<28>1 ") || !strings.Contains(m, " - vpngw ") {
		t.Errorf("a failed login is %s", m)
	}
}

func TestHTTP(t *testing.T) {
	var status atomic.Int64
	var bodies atomic.Pointer[string]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-ndjson" || r.Header.Get("Authorization") != "Bearer x" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		text := string(body)
		bodies.Store(&text)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(status.Load()))
	}))
	defer server.Close()
	s := newHTTPSink(&control.HTTPSink{URL: server.URL, Authorization: control.NewSecret("Bearer x")})
	defer s.close()
	batch := []Record{record("ann"), record("ben")}
	for _, test := range []struct {
		status  int
		taken   int
		refused bool
	}{
		{200, 2, false},
		{204, 2, false},
		{500, 0, false},
		{503, 0, false},
		{429, 0, false},
		{408, 0, false},
		{307, 0, true},
		{400, 0, true},
		{401, 0, true},
		{404, 0, true},
	} {
		status.Store(int64(test.status))
		taken, err := s.deliver(t.Context(), batch)
		if taken != test.taken || errors.Is(err, errRefused) != test.refused || (err == nil) != (taken == 2) {
			t.Errorf("%d: %d were taken, %v", test.status, taken, err)
		}
		if got := usersOf(t, *bodies.Load()); !slices.Equal(got, []string{"ann", "ben"}) {
			t.Errorf("%d: the server got %v", test.status, got)
		}
	}
	server.Close()
	if taken, err := s.deliver(t.Context(), batch); taken != 0 || err == nil || errors.Is(err, errRefused) {
		t.Errorf("without a server %d were taken, %v", taken, err)
	}
}

// script is a sink that does what a test says.
type script struct {
	answers []func(batch []Record) (int, error) // then everything is taken
	got     []string
	at      []time.Time
	closed  int
}

func (s *script) deliver(_ context.Context, batch []Record) (int, error) {
	s.at = append(s.at, time.Now())
	taken, err := len(batch), error(nil)
	if len(s.answers) > 0 {
		taken, err = s.answers[0](batch)
		s.answers = s.answers[1:]
	}
	for _, r := range batch[:taken] {
		s.got = append(s.got, r.User)
	}
	return taken, err
}

func (s *script) close() { s.closed++ }

// withScript runs a Log with one stream that ends in a script.
func withScript(t *testing.T, s *script, run func(l *Log)) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		l := New(quiet(), "")
		l.mu.Lock()
		l.start(one, streamTo(control.LogSink{File: "/x"}), s)
		l.mu.Unlock()
		run(l)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestFailedDeliveryIsRepeated(t *testing.T) {
	fail := func(taken int) func([]Record) (int, error) {
		return func([]Record) (int, error) { return taken, errors.New("out of order") }
	}
	s := &script{answers: []func([]Record) (int, error){fail(0), fail(0), fail(0)}}
	withScript(t, s, func(l *Log) {
		start := time.Now()
		l.Write(one, record("ann"))
		synctest.Wait()
		if status := l.Snapshot()[0]; status.Failure != "out of order" || status.Written != 0 || status.Stream != one {
			t.Errorf("status %+v", status)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if status := l.Snapshot()[0]; status.Failure != "" || status.Written != 1 || status.Dropped != 0 {
			t.Errorf("status %+v", status)
		}
		var after []string
		for _, at := range s.at {
			after = append(after, at.Sub(start).String())
		}
		if got := strings.Join(after, " "); got != "0s 1s 3s 7s" {
			t.Errorf("tried after %s", got)
		}
	})
}

// What was taken of a batch is not given again.
func TestRestOfABatchIsRepeated(t *testing.T) {
	s := &script{answers: []func([]Record) (int, error){
		func([]Record) (int, error) { return 0, errors.New("wait for more") },
		func([]Record) (int, error) { return 1, errors.New("full") },
	}}
	withScript(t, s, func(l *Log) {
		for _, user := range []string{"ann", "ben", "cat"} {
			l.Write(one, record(user))
		}
		time.Sleep(time.Minute)
	})
	if !slices.Equal(s.got, []string{"ann", "ben", "cat"}) {
		t.Errorf("taken were %v", s.got)
	}
}

func TestRefusedBatchIsDropped(t *testing.T) {
	s := &script{answers: []func([]Record) (int, error){
		func([]Record) (int, error) { return 0, fmt.Errorf("%w: no", errRefused) },
	}}
	withScript(t, s, func(l *Log) {
		l.Write(one, record("ann"))
		synctest.Wait()
		l.Write(one, record("ben"))
		synctest.Wait()
		if status := l.Snapshot()[0]; status.Dropped != 1 || status.Written != 1 || status.Failure != "" {
			t.Errorf("status %+v", status)
		}
	})
}

func TestFullQueueDrops(t *testing.T) {
	down := func([]Record) (int, error) { return 0, errors.New("down") }
	s := &script{answers: slices.Repeat([]func([]Record) (int, error){down}, 100)}
	withScript(t, s, func(l *Log) {
		l.Write(one, record("first"))
		synctest.Wait() // it is in the hands of the sink
		for range queueLength {
			if !l.Write(one, record("x")) {
				t.Fatal("there was no room in an empty queue")
			}
		}
		if l.Write(one, record("y")) {
			t.Error("a full queue took one more")
		}
		if d := l.Snapshot()[0].Dropped; d != 1 {
			t.Errorf("%d were dropped", d)
		}
	})
}

func TestStreamsComeAndGo(t *testing.T) {
	dir := t.TempDir()
	a := control.LogStream{GroupID: "g", StreamID: "a", Sink: control.LogSink{File: filepath.Join(dir, "a")}}
	b := control.LogStream{GroupID: "g", StreamID: "b", Sink: control.LogSink{File: filepath.Join(dir, "b")}}
	l := New(quiet(), "")
	idA, idB := control.LogConfig{GroupID: "g", StreamID: "a"}, control.LogConfig{GroupID: "g", StreamID: "b"}
	if l.Write(idA, record("nobody")) {
		t.Error("a stream that is not there took a record")
	}
	l.Apply([]control.LogStream{a, b})
	l.Write(idA, record("ann"))
	moved := b
	moved.Sink.File = filepath.Join(dir, "c")
	l.Write(idB, record("ben"))
	l.Apply([]control.LogStream{moved})
	if l.Write(idA, record("late")) {
		t.Error("a stream that was taken away took a record")
	}
	l.Write(idB, record("cat"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l.Write(idB, record("dan")) {
		t.Error("a closed log took a record")
	}
	l.Apply([]control.LogStream{a})
	if len(l.Snapshot()) != 0 {
		t.Error("a closed log has streams")
	}
	for file, want := range map[string]string{"a": "ann", "b": "ben", "c": "cat"} {
		if got := usersOf(t, read(t, filepath.Join(dir, file))); !slices.Equal(got, []string{want}) {
			t.Errorf("%s has %v", file, got)
		}
	}
}
