package main

import (
	"strings"
	"testing"
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
		{[]string{"version"}, exitOK, "vpngwd dev", ""},
		{[]string{"--version"}, exitOK, "vpngwd dev", ""},
	} {
		var stdout, stderr strings.Builder
		code := command(tc.args, &stdout, &stderr)
		if code != tc.code || !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
			t.Errorf("vpngwd %q: exit code %d, output %q, errors %q", tc.args, code, &stdout, &stderr)
		}
	}
}
