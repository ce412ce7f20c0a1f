package control

import (
	"net/netip"
	"strings"
	"testing"
)

func TestInventoryValidate(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*Inventory)
		want string // of the error; empty: none
	}{
		{"good", func(*Inventory) {}, ""},
		{"empty", func(inv *Inventory) { *inv = Inventory{} }, ""},
		{"zone twice", func(inv *Inventory) { inv.AvailabilityZones[1] = "az1" }, "inventory.availability_zones[1]"},
		{"zone without name", func(inv *Inventory) { inv.AvailabilityZones[0] = "" }, "inventory.availability_zones[0]"},
		{"VPC without id", func(inv *Inventory) { inv.VPCs[0].ID = "" }, "inventory.vpcs[0].id"},
		{"id too long", func(inv *Inventory) { inv.EIPs[0].ID = strings.Repeat("a", 65) }, "inventory.eips[0].id"},
		{"one id twice", func(inv *Inventory) { inv.EIPs[1].ID = inv.VPCs[0].ID }, "inventory.eips[1].id"},
		{"VPC with host bits", func(inv *Inventory) { inv.VPCs[0].CIDR = netip.MustParsePrefix("10.10.0.1/16") }, "inventory.vpcs[0].cidr"},
		{"VPC without network", func(inv *Inventory) { inv.VPCs[0].CIDR = netip.Prefix{} }, "inventory.vpcs[0].cidr"},
		{"subnet with host bits", func(inv *Inventory) { inv.VPCs[0].Subnets[0].CIDR = netip.MustParsePrefix("10.10.0.1/24") }, "inventory.vpcs[0].subnets[0].cidr"},
		{"subnet of another network", func(inv *Inventory) { inv.VPCs[0].Subnets[0].CIDR = netip.MustParsePrefix("10.11.0.0/24") }, "is not in 10.10.0.0/16"},
		{"EIP of IPv6", func(inv *Inventory) { inv.EIPs[0].Address = netip.MustParseAddr("2001:db8::1") }, ""},
		{"EIP of a link", func(inv *Inventory) { inv.EIPs[0].Address = netip.MustParseAddr("fe80::1") }, "inventory.eips[0].address"},
		{"EIP with a zone", func(inv *Inventory) { inv.EIPs[0].Address = netip.MustParseAddr("2001:db8::1%eth0") }, "inventory.eips[0].address"},
		{"EIP of IPv6 that floats", func(inv *Inventory) {
			inv.EIPs[0].Address, inv.EIPs[0].Floating, inv.EIPs[0].Interface = netip.MustParseAddr("2001:db8::1"), true, "eth0"
		}, "inventory.eips[0].floating"},
		{"EIP without address", func(inv *Inventory) { inv.EIPs[0].Address = netip.Addr{} }, "inventory.eips[0].address"},
		{"two EIPs of one address", func(inv *Inventory) { inv.EIPs[1].Address = inv.EIPs[0].Address }, "inventory.eips[1]"},
		{"two EIPs of one private address", func(inv *Inventory) {
			inv.EIPs[0].PrivateAddress = netip.MustParseAddr("10.0.0.1")
			inv.EIPs[1].PrivateAddress = inv.EIPs[0].PrivateAddress
		}, "inventory.eips[1]"},
		{"private address of IPv6", func(inv *Inventory) { inv.EIPs[0].PrivateAddress = netip.MustParseAddr("fd00::1") }, "private_address"},
		{"type", func(inv *Inventory) { inv.EIPs[0].Type = "bgp" }, "inventory.eips[0].type"},
		{"charge mode", func(inv *Inventory) { inv.EIPs[0].ChargeMode = "free" }, "inventory.eips[0].charge_mode"},
		{"bandwidth below", func(inv *Inventory) { inv.EIPs[0].BandwidthMbps = -1 }, "1 to 1000"},
		{"lowest bandwidth", func(inv *Inventory) { inv.EIPs[0].BandwidthMbps = 1 }, ""},
		{"highest bandwidth", func(inv *Inventory) { inv.EIPs[0].BandwidthMbps = 1000 }, ""},
		{"bandwidth above", func(inv *Inventory) { inv.EIPs[0].BandwidthMbps = 1001 }, "1 to 1000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inv := inventory(t)
			test.edit(inv)
			err := inv.Validate()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestInventoryReportsAllDefects(t *testing.T) {
	inv := inventory(t)
	inv.EIPs[0].Type, inv.EIPs[1].Type = "a", "b"
	err := inv.Validate()
	if err == nil || !strings.Contains(err.Error(), "eips[0].type") || !strings.Contains(err.Error(), "eips[1].type") {
		t.Errorf("got %v", err)
	}
}

func TestInventoryDefaults(t *testing.T) {
	inv := &Inventory{EIPs: []EIP{{ID: "a", Address: netip.MustParseAddr("203.0.113.1")}}}
	if err := inv.Validate(); err != nil {
		t.Fatal(err)
	}
	e := inv.EIPs[0]
	if e.Type != "5_bgp" || e.ChargeMode != "bandwidth" || e.BandwidthMbps != 300 || !isUUID36(e.BandwidthID) || e.BandwidthName == "" {
		t.Errorf("defaults %+v", e)
	}
}

func TestLocalAddress(t *testing.T) {
	inv := inventory(t)
	inv.EIPs[1].PrivateAddress = netip.MustParseAddr("10.0.0.2")
	public := &Gateway{NetworkType: NetworkPublic, EIPs: [2]EIPBinding{{ID: eip1}, {ID: eip2}}}
	private := &Gateway{NetworkType: NetworkPrivate, AccessPrivateIPs: [2]netip.Addr{netip.MustParseAddr("10.10.0.1"), netip.MustParseAddr("10.10.0.2")}}
	gone := &Gateway{NetworkType: NetworkPublic, EIPs: [2]EIPBinding{{ID: nobody}}}
	for _, test := range []struct {
		gateway *Gateway
		slot    Slot
		want    string
	}{
		{public, Slot1, "203.0.113.1"},
		{public, Slot2, "10.0.0.2"}, // behind a NAT
		{private, Slot2, "10.10.0.2"},
		{gone, Slot1, ""},
	} {
		a, err := inv.LocalAddress(test.gateway, test.slot)
		if (test.want == "") != (err != nil) || err == nil && a.String() != test.want {
			t.Errorf("slot %d: %s, %v; want %s", test.slot, a, err, test.want)
		}
	}
}

func TestLogStreamsOfTheInventory(t *testing.T) {
	secret := writeFile(t, "Bearer x\n")
	for what, test := range map[string]struct {
		stream LogStream
		want   string
	}{
		"file":          {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{File: "/var/log/clients.log"}}, ""},
		"no group":      {LogStream{StreamID: "s", Sink: LogSink{File: "/x"}}, "group_id"},
		"long id":       {LogStream{GroupID: "g", StreamID: strings.Repeat("s", 65), Sink: LogSink{File: "/x"}}, "group_id"},
		"no sink":       {LogStream{GroupID: "g", StreamID: "s"}, "sink: one of"},
		"two sinks":     {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{File: "/x", HTTP: &HTTPSink{URL: "http://127.0.0.1"}}}, "sink: one of"},
		"relative file": {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{File: "x"}}, "sink.file: an absolute path"},
		"local syslog":  {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{Syslog: &SyslogSink{Address: "unix:/dev/log"}}}, ""},
		"udp syslog":    {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{Syslog: &SyslogSink{Address: "udp:[::1]:514", Facility: 23}}}, ""},
		"tcp syslog":    {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{Syslog: &SyslogSink{Address: "tcp:127.0.0.1:601"}}}, ""},
		"no port":       {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{Syslog: &SyslogSink{Address: "udp:127.0.0.1"}}}, "sink.syslog.address"},
		"no network":    {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{Syslog: &SyslogSink{Address: "127.0.0.1:514"}}}, "sink.syslog.address"},
		"facility 24":   {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{Syslog: &SyslogSink{Address: "unix:/dev/log", Facility: 24}}}, "sink.syslog.facility"},
		"http":          {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{HTTP: &HTTPSink{URL: "https://logs.example/in", AuthorizationFile: secret}}}, ""},
		"ftp":           {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{HTTP: &HTTPSink{URL: "ftp://logs.example"}}}, "sink.http.url"},
		"user in URL":   {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{HTTP: &HTTPSink{URL: "http://a:b@logs.example"}}}, "sink.http.url"},
		"two secrets": {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{HTTP: &HTTPSink{
			URL: "http://logs.example", Authorization: NewSecret("x"), AuthorizationFile: secret,
		}}}, "given twice"},
		"secret missing": {LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{HTTP: &HTTPSink{URL: "http://logs.example", AuthorizationFile: "/nowhere"}}}, "authorization_file"},
	} {
		t.Run(what, func(t *testing.T) {
			inv := &Inventory{LogStreams: []LogStream{test.stream}}
			err := inv.Validate()
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				l, ok := inv.LogStream(LogConfig{GroupID: "g", StreamID: "s"})
				if !ok || l.Sink.Syslog != nil && l.Sink.Syslog.Facility == 0 || l.Sink.HTTP != nil && l.Sink.HTTP.Authorization.Reveal() != "Bearer x" {
					t.Errorf("the stream is %+v", l)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "inventory.log_streams[0].") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	twice := LogStream{GroupID: "g", StreamID: "s", Sink: LogSink{File: "/x"}}
	if err := (&Inventory{LogStreams: []LogStream{twice, twice}}).Validate(); err == nil || !strings.Contains(err.Error(), "stands there twice") {
		t.Errorf("got %v", err)
	}
}
