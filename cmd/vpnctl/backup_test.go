package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

func TestBackup(t *testing.T) {
	key, err := control.LoadSealingKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := control.NewObjects(store.NewMemory(), key).Backup(t.Context(), &backup, time.Now()); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/vpngw/v1/backup" || r.Header.Get("Authorization") == "" {
			t.Errorf("was asked %s %s", r.Method, r.URL)
		}
		w.WriteHeader(status)
		_, _ = w.Write(answer)
	}))
	t.Cleanup(server.Close)
	env := map[string]string{
		"HOME": t.TempDir(), "VPNGW_ENDPOINT": server.URL, "VPNGW_PROJECT": "p", "VPNGW_ACCESS_KEY": "AK", "VPNGW_SECRET_KEY": "S3cr3t",
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "saved")

	answer = backup.Bytes()
	out, code, err := vpnctl(t.Context(), env, "", "backup", path)
	if code != exitOK || !strings.Contains(out, path+" holds 0 entries") {
		t.Fatalf("exit code %d (%v), output %q", code, err, out)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	answer = backup.Bytes()[:backup.Len()-10]
	if _, code, err = vpnctl(t.Context(), env, "", "backup", path); code != exitFailure {
		t.Errorf("a backup that is cut off: exit code %d (%v)", code, err)
	}
	answer, status = []byte(`{"error_code":"VPN.0003","error_msg":"Authentication failed: role admin does not allow vpngw:store:backup"}`), http.StatusForbidden
	if _, code, err = vpnctl(t.Context(), env, "", "backup", path); code != exitDenied || !strings.Contains(err.Error(), "does not allow") {
		t.Errorf("refused: exit code %d (%v)", code, err)
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, backup.Bytes()) {
		t.Errorf("the good backup was replaced (%v)", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("files were left behind: %v (%v)", files, err)
	}
}

func TestRestore(t *testing.T) {
	dir := t.TempDir()
	key, err := control.LoadSealingKey(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := control.NewObjects(store.NewMemory(), key).Backup(t.Context(), &backup, time.Now()); err != nil {
		t.Fatal(err)
	}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Backup []byte `json:"backup"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Method != http.MethodPost || r.URL.Path != "/vpngw/v1/restore" {
			t.Errorf("was asked %s %s (%v)", r.Method, r.URL, err)
		}
		plain, err := gzip.NewReader(bytes.NewReader(body.Backup))
		if err != nil {
			t.Error(err)
			return
		}
		if text, err := io.ReadAll(plain); err != nil || !bytes.Equal(text, backup.Bytes()) {
			t.Errorf("was given %q (%v)", text, err)
		}
		asked++
		_, _ = w.Write([]byte(`{"taken_at":"2026-11-23T10:00:00.000Z","entries":17,"request_id":"r"}`))
	}))
	t.Cleanup(server.Close)
	env := map[string]string{
		"HOME": dir, "VPNGW_ENDPOINT": server.URL, "VPNGW_PROJECT": "p", "VPNGW_ACCESS_KEY": "AK", "VPNGW_SECRET_KEY": "S3cr3t",
	}
	path := filepath.Join(dir, "saved")
	for _, test := range []struct {
		text string
		code int
	}{{backup.String(), exitOK}, {backup.String()[:backup.Len()-10], exitFailure}} {
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code, err := vpnctl(t.Context(), env, "", "restore", path)
		if code != test.code || code == exitOK && !strings.Contains(out, "restored 17 entries of ") {
			t.Errorf("exit code %d (%v), output %q, want %d", code, err, out, test.code)
		}
	}
	if asked != 1 {
		t.Errorf("the daemon was asked %d times: a backup that is cut off is none of its business", asked)
	}
}
