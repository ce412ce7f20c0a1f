package main

import (
	"net/netip"
	"strings"
	"testing"
)

func TestIKEMedians(t *testing.T) {
	results := ikeMedians([]ikeResult{
		{Responder: "a", Group: "g", CPU: 3, Memory: 30},
		{Responder: "b", Group: "g", CPU: 9},
		{Responder: "a", Group: "g", CPU: 1, Memory: 10},
		{Responder: "a", Group: "g", CPU: 2, Memory: 20},
	})
	if len(results) != 2 || results[0].Memory != 20 || results[1].CPU != 9 {
		t.Errorf("medians are %+v", results)
	}
}

func TestIKEOptions(t *testing.T) {
	good := ikeOptions{tunnels: 1, rounds: 1, seconds: 1, groups: []string{"modp2048"}, responders: ikeEnds, initiators: ikeEnds}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for flag, change := range map[string]func(*ikeOptions){
		"--tunnels":    func(o *ikeOptions) { o.tunnels = 0 },
		"--rounds":     func(o *ikeOptions) { o.rounds = 0 },
		"--flood":      func(o *ikeOptions) { o.flood = -1 },
		"--seconds":    func(o *ikeOptions) { o.seconds = 0 },
		"--groups":     func(o *ikeOptions) { o.groups = []string{"modp1"} },
		"--responders": func(o *ikeOptions) { o.responders = []string{"?"} },
	} {
		o := good
		change(&o)
		if err := o.check(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestIKEAddresses(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for i := range maxIKETunnels {
		outer, inner := ikeOuter(i), ikeInner(i)
		if !ikeOuters.Contains(outer) || !ikeInners.Contains(inner) || seen[outer] || seen[inner] {
			t.Fatalf("tunnel %d has the addresses %s and %s", i, outer, inner)
		}
		seen[outer], seen[inner] = true, true
	}
}

func TestForge(t *testing.T) {
	c := floodConfig{ikeNodeConfig: ikeNodeConfig{Responder: netip.MustParseAddr("198.51.100.2"), Group: ikeGroups["curve25519"], PSK: "x"}}
	message, err := c.firstMessage()
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.datagram(message), c.datagram(message)
	forge(a)
	forge(b)
	from := func(d []byte) netip.Addr { return netip.AddrFrom4([4]byte(d[12:16])) }
	if !floodSources.Contains(from(a)) || from(a) == from(b) || string(a[headersSize:]) == string(b[headersSize:]) {
		t.Error("two forged messages are alike, or from elsewhere")
	}
}
