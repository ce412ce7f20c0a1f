package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestP2CRatiosAndTable(t *testing.T) {
	results := []p2cResult{
		{Pair: "vpngw/vpngw", Transport: "tcp", Direction: "down", Clients: 1, GbitPerSecond: 5, ServerCPU: 1.25, ClientCPU: 1, ServerCores: 0.78, ClientCores: 0.625, MachineCores: 1.9, RoundTrip: 2.5},
		{Pair: "vpngw/vpngw", Transport: "udp", Direction: "down", Clients: 1, GbitPerSecond: 4, ServerCPU: 1.5, ClientCPU: 1},
		{Pair: "openvpn/openvpn", Transport: "tcp", Direction: "down", Clients: 1, GbitPerSecond: 0.25, ServerCPU: 25, ClientCPU: 13},
	}
	addP2CRatios(results)
	lines := strings.Split(p2cTable(results), "\n")
	for i, want := range []string{
		"vpngw/vpngw tcp down 1 5.00 1.25 1.00 0.78 0.62 1.90 2.5 20.00 1/20.0",
		"vpngw/vpngw udp down 1 4.00 1.50 1.00 0.00 0.00 0.00 0.0",
		"openvpn/openvpn tcp down 1 0.25 25.00 13.00 0.00 0.00 0.00 0.0 1.00 1/1.0",
	} {
		if got := strings.Join(strings.Fields(lines[2+i]), " "); got != want {
			t.Errorf("line %q, want %q", got, want)
		}
	}
}

func TestP2CMedians(t *testing.T) {
	var results []p2cResult
	for _, g := range []float64{3, 1, 2} {
		results = append(results,
			p2cResult{Pair: "vpngw/vpngw", Transport: "tcp", GbitPerSecond: g, ServerCPU: 10 * g},
			p2cResult{Pair: "vpngw/vpngw", Transport: "udp", GbitPerSecond: 5 * g})
	}
	got := p2cMedians(results)
	if len(got) != 2 || got[0].GbitPerSecond != 2 || got[0].ServerCPU != 20 || got[1].GbitPerSecond != 10 {
		t.Errorf("got %+v", got)
	}
}

func TestP2CWrongFlags(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"p2c --pairs vpngw", "--pairs vpngw: must be of vpngw/vpngw"},
		{"p2c --transports icmp", "--transports icmp: must be of tcp, udp"},
		{"p2c --directions sideways", "--directions sideways: must be of down, up"},
		{"p2c --seconds 0", "--seconds 0: must be at least 1"},
		{"p2c --rounds 0", "--rounds 0: must be at least 1"},
		{"p2c --clients 65", "--clients 65: must be 1 to 64"},
		{"p2c-sessions --sessions 0", "--sessions 0: must be 1 to 30000"},
		{"p2c-sessions --parallel 0", "--parallel 0: must be at least 1"},
		{"p2c-sessions --servers strongswan", "--servers strongswan: must be of vpngw, openvpn"},
		{"p2c-sessions --transport sctp", "--transport sctp: must be of tcp, udp"},
		{"p2c-node server", "accepts 2 arg"},
		{"p2c-node server /does/not/exist", "no such file"},
		{"p2c-node host p2c_test.go", "invalid character"},
	} {
		cmd := newCommand()
		cmd.SetArgs(strings.Fields(tt.args))
		cmd.SetOut(new(bytes.Buffer))
		cmd.SetErr(new(bytes.Buffer))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
}

func TestCertificates(t *testing.T) {
	ca, err := newCA()
	if err != nil {
		t.Fatal(err)
	}
	n := p2cNode{CA: ca.pem}
	if n.Certificate, n.Key, err = ca.issue("server", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := n.certificate(); err != nil {
		t.Error(err)
	}
	if _, err := n.roots(); err != nil {
		t.Error(err)
	}
	if _, err := (&p2cNode{CA: []byte("no certificate")}).roots(); err == nil {
		t.Error("a CA that is none: no error")
	}
}

func TestRoundTrip(t *testing.T) {
	if ms, err := parseRoundTrip("5 packets transmitted\nrtt min/avg/max/mdev = 0.045/0.060/0.083/0.012 ms\n"); err != nil || ms != 0.060 {
		t.Errorf("%v, %v", ms, err)
	}
	if _, err := parseRoundTrip("5 packets transmitted, 0 received\n"); err == nil {
		t.Error("no answer: no error")
	}
}

func TestResidentMemory(t *testing.T) {
	if n, err := parseResident("Name:\tx\nVmPeak:\t  99999 kB\nVmRSS:\t    1234 kB\nThreads:\t3\n"); err != nil || n != 1234<<10 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := parseResident("Name:\tx\n"); err == nil {
		t.Error("no VmRSS: no error")
	}
}

func TestSessionsTable(t *testing.T) {
	lines := strings.Split(sessionsTable([]sessionsResult{{Server: ours, Transport: "tcp", Sessions: 1000, Seconds: 2.5, ServerCPU: 1.25, ServerMemory: 40500}}), "\n")
	if got := strings.Join(strings.Fields(lines[1]), " "); got != "vpngw tcp 1000 2.50 400 1.25 40.5" {
		t.Errorf("line %q", got)
	}
}
