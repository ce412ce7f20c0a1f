package main

import (
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control"
)

func TestCommand(t *testing.T) {
	good := writeConfig(t, wholeConfig)
	bad := writeConfig(t, "data: x\n")
	for _, tc := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{nil, exitUsage, "", "usage:"},
		{[]string{"--help"}, exitUsage, "", "usage:"},
		{[]string{"--conf", good}, exitUsage, "", "not defined"},
		{[]string{"check"}, exitUsage, "", "usage:"},
		{[]string{"mend", "--config", good}, exitUsage, "", "usage:"},
		{[]string{"check", "--config", good, "more"}, exitUsage, "", "usage:"},
		{[]string{"check", "--config", good}, exitOK, ": ok", ""},
		{[]string{"check", "--config", bad}, exitUsage, "", `[1:1] unknown field "data"`},
		{[]string{"--config", bad}, exitUsage, "", "unknown field"},
		{[]string{"--config", good + ".missing"}, exitUsage, "", "no such file"},
		{[]string{"restore", "--config", good}, exitUsage, "", "usage:"},
		{[]string{"restore", "backup"}, exitUsage, "", "usage:"},
		{[]string{"version"}, exitOK, "vpngwd dev", ""},
		{[]string{"--version"}, exitOK, "vpngwd dev", ""},
	} {
		var stdout, stderr strings.Builder
		code := command(tc.args, strings.NewReader(""), &stdout, &stderr)
		if code != tc.code || !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
			t.Errorf("vpngwd %q: exit code %d, output %q, errors %q", tc.args, code, &stdout, &stderr)
		}
	}
}

func TestHashPassword(t *testing.T) {
	for _, tc := range []struct{ stdin, password string }{
		{"a password\n", "a password"},
		{"a password", "a password"},
		{"a password\r\nmore", "a password"},
		{" spaces stay \n", " spaces stay "},
	} {
		var stdout, stderr strings.Builder
		if code := command([]string{"hash-password"}, strings.NewReader(tc.stdin), &stdout, &stderr); code != exitOK {
			t.Fatalf("%q: exit code %d: %s", tc.stdin, code, &stderr)
		}
		hash, err := control.ParsePasswordHash(strings.TrimSuffix(stdout.String(), "\n"))
		if err != nil || !hash.Matches(control.NewSecret(tc.password)) {
			t.Errorf("%q: the hash is not that of %q (%v)", tc.stdin, tc.password, err)
		}
	}
	var stdout, stderr strings.Builder
	if code := command([]string{"hash-password"}, strings.NewReader("\n"), &stdout, &stderr); code != exitUsage || stdout.Len() > 0 {
		t.Errorf("an empty password: exit code %d, output %q", code, &stdout)
	}
}
