package main

import (
	"net/netip"
	"strings"
	"testing"
)

func TestDrainConfig(t *testing.T) {
	c, err := loadConfig(writeConfig(t, wholeConfig+`
drain:
  active: true
  redirect:
    - {from: 203.0.113.10, to: 203.0.113.20}
    - {to: gw2.example.org}
`), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if c.Drain.Wait != defaultDrainWait || !c.Drain.Active {
		t.Errorf("decoded %+v", c.Drain)
	}
	c.Inventory.EIPs[0].PrivateAddress = netip.MustParseAddr("10.10.0.6")
	to := c.Drain.redirection(&c.Inventory)
	for local, want := range map[string]string{"10.10.0.6": "203.0.113.20", "192.0.2.7": "gw2.example.org"} {
		if got, ok := to(netip.MustParseAddr(local)); !ok || got.String() != want {
			t.Errorf("%s goes to %s, %t", local, got, ok)
		}
	}
	c.Drain.Redirect = c.Drain.Redirect[:1]
	to = c.Drain.redirection(&c.Inventory)
	for _, local := range []string{"192.0.2.7", "203.0.113.20"} {
		if got, ok := to(netip.MustParseAddr(local)); ok {
			t.Errorf("%s goes to %s", local, got)
		}
	}
	if c.Drain.Redirect[0].To = "10.10.0.6"; true {
		if got, ok := c.Drain.redirection(&c.Inventory)(netip.MustParseAddr("10.10.0.6")); ok {
			t.Errorf("an address goes to itself: %s", got)
		}
	}
}

func TestDrainConfigIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		"drain: {active: true}":                                       "drain.active",
		"drain: {wait: 1h}":                                           "drain.wait",
		"drain: {wait: -1s}":                                          "drain.wait",
		"drain: {redirect: [{to: ''}]}":                               "drain.redirect[0].to",
		"drain: {redirect: [{to: 0.0.0.0}]}":                          "drain.redirect[0].to",
		"drain: {redirect: [{to: 'no name'}]}":                        "drain.redirect[0].to",
		"drain: {redirect: [{from: 203.0.113.10, to: 203.0.113.10}]}": "drain.redirect[0].to",
		"drain: {redirect: [{from: 203.0.113.10, to: a.b}, {from: 203.0.113.10, to: b.c}]}": "drain.redirect[1].from",
		"drain: {redirect: [{from: here, to: a.b}]}":                                        "from",
	} {
		if _, err := loadConfig(writeConfig(t, wholeConfig+text+"\n"), noEnv); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRedirectTargets(t *testing.T) {
	with := func(targets string) string {
		return strings.Replace(wholeConfig, "childless: true", "childless: true, redirect_targets: ["+targets+"]", 1)
	}
	c, err := loadConfig(writeConfig(t, with("198.51.100.0/24")), noEnv)
	if err != nil || len(c.IKE.RedirectTargets) != 1 || c.IKE.RedirectTargets[0].String() != "198.51.100.0/24" {
		t.Errorf("decoded %v, %v", c, err)
	}
	if _, err := loadConfig(writeConfig(t, with("0.0.0.0/0")), noEnv); err == nil || !strings.Contains(err.Error(), "ike.redirect_targets[0]") {
		t.Errorf("any gateway is permitted: %v", err)
	}
}
