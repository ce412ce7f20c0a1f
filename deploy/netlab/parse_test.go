package netlab

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseSAs(t *testing.T) {
	const out = `list-sa event {gw {uniqueid=1 version=2 state=ESTABLISHED local-host=198.51.100.10 remote-host=203.0.113.10 remote-port=4500 remote-id=gateway.test initiator=yes initiator-spi=0102030405060708 responder-spi=1112131415161718 nat-remote=yes encr-alg=AES_CBC encr-keysize=128 integ-alg=HMAC_SHA2_256_128 tasks-active=[] child-sas {net-1 {name=net uniqueid=1 state=REKEYED spi-in=00000a01 spi-out=00000b01 local-ts=[10.1.0.0/24 10.2.0.0/24] remote-ts=[10.3.0.0/24]} net-2 {name=net state=INSTALLED encap=yes spi-in=00000a02 bytes-in=84 local-ts=[10.1.0.0/24] remote-ts=[10.3.0.0/24]}}}}
list-sa event {gw {state=CONNECTING child-sas {}}}
list-sas reply {}
`
	sas, err := parseSAs(out)
	if err != nil {
		t.Fatal(err)
	}
	want := []SwanIKE{
		{
			Name: "gw", State: "ESTABLISHED", InitiatorSPI: "0102030405060708", ResponderSPI: "1112131415161718",
			Initiator: true, RemoteHost: netip.MustParseAddr("203.0.113.10"), RemotePort: 4500, RemoteID: "gateway.test",
			Encryption: "AES_CBC", EncryptionBits: "128", Integrity: "HMAC_SHA2_256_128", NATRemote: true,
			Children: []SwanChildSA{
				{Name: "net", State: "REKEYED", SPIIn: "00000a01", SPIOut: "00000b01", Local: []string{"10.1.0.0/24", "10.2.0.0/24"}, Remote: []string{"10.3.0.0/24"}},
				{Name: "net", State: "INSTALLED", SPIIn: "00000a02", Encap: true, BytesIn: 84, Local: []string{"10.1.0.0/24"}, Remote: []string{"10.3.0.0/24"}},
			},
		},
		{Name: "gw", State: "CONNECTING"},
	}
	if !reflect.DeepEqual(sas, want) {
		t.Errorf("have %+v\nwant %+v", sas, want)
	}
	for _, broken := range []string{"x", "{", "{a", "{a=", "{a=b", "{a=[b c", "{a {b=c}", "{} x"} {
		if _, err := parseSAs("list-sa event " + broken); err == nil {
			t.Errorf("no error for %q", broken)
		}
	}
}

func TestParsePing(t *testing.T) {
	const out = `PING 10.10.0.10 (10.10.0.10) 56(84) bytes of data.
64 bytes from 10.10.0.10: icmp_seq=2 ttl=62 time=1.23 ms
64 bytes from 10.10.0.10: icmp_seq=4 ttl=62 time=0.9 ms
64 bytes from 10.10.0.10: icmp_seq=4 ttl=62 time=0.9 ms (DUP!)
From 10.10.0.1 icmp_seq=5 Destination Host Unreachable

--- 10.10.0.10 ping statistics ---
6 packets transmitted, 2 received, +1 duplicates, 66.6667% packet loss, time 1001ms
`
	report, err := parsePing(out, 1)
	if err != nil {
		t.Fatal(err)
	}
	if want := (PingReport{Sent: 5, Lost: []int{1, 3, 5}, Longest: 1230 * time.Microsecond}); !reflect.DeepEqual(report, want) {
		t.Errorf("have %v, want %v", report, want)
	}
	if report, err = parsePing(out, 2); err != nil || !reflect.DeepEqual(report, PingReport{Sent: 4, Lost: []int{1, 3}, Longest: 1230 * time.Microsecond}) {
		t.Errorf("with two that may be under way: %v, %v", report, err)
	}
	if _, err := parsePing("PING 10.10.0.10", 1); err == nil {
		t.Error("no error for a ping without a summary")
	}
}

func TestParseIPerf(t *testing.T) {
	tcp, err := parseIPerf(`{"end":{"sum_sent":{"bits_per_second":2e9,"retransmits":7},"sum_received":{"bits_per_second":1.5e9}}}`, false)
	if want := (IPerfReport{BitsPerSecond: 1.5e9, Retransmits: 7}); err != nil || tcp != want {
		t.Errorf("TCP: have %v, %v, want %v", tcp, err, want)
	}
	udp, err := parseIPerf(`{"end":{"sum":{"bits_per_second":1e6,"packets":100,"lost_packets":25}}}`, true)
	if want := (IPerfReport{BitsPerSecond: 0.75e6, Packets: 100, Lost: 25}); err != nil || udp != want {
		t.Errorf("UDP: have %v, %v, want %v", udp, err, want)
	}
	for _, out := range []string{"", "x", `{"error":"unable to connect to server"}`} {
		if _, err := parseIPerf(out, false); err == nil {
			t.Errorf("no error for %q", out)
		}
	}
}

func TestHostStateDiff(t *testing.T) {
	before := HostState{"ip link": "1: lo\n2: wan\n", "ip rule": "0: from all lookup local\n"}
	after := HostState{"ip link": "1: lo\n3: tun\n", "ip rule": "0: from all lookup local\n0: from all lookup local\n"}
	if diff := before.Diff(before); diff != "" {
		t.Errorf("equal states differ: %s", diff)
	}
	diff := before.Diff(after)
	for _, want := range []string{"- 2: wan", "+ 3: tun", "+ 0: from all lookup local"} {
		if !strings.Contains(diff, want) {
			t.Errorf("the difference %q lacks %q", diff, want)
		}
	}
}

func TestSwanConfig(t *testing.T) {
	have := SwanConfig(SwanConnection{
		Name: "gw", Local: netip.MustParseAddr("198.51.100.10"), Remote: netip.MustParseAddr("203.0.113.10"),
		LocalID: "site.test", PSK: "pre-shared key", Proposal: "aes128-sha256-modp3072", ESPProposal: "aes128-sha256",
		Children:  []SwanChild{{Name: "net", Local: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("10.2.0.0/24")}}},
		RekeyTime: 90 * time.Second, Initiate: true,
	})
	for _, want := range []string{
		"local_addrs = 198.51.100.10", "proposals = aes128-sha256-modp3072", "esp_proposals = aes128-sha256",
		`id = "site.test"`, `id-local = "site.test"`, `id-remote = "203.0.113.10"`, `secret = "pre-shared key"`,
		"local_ts = 10.1.0.0/24, 10.2.0.0/24", "rekey_time = 90s", "start_action = start",
	} {
		if !strings.Contains(have, want) {
			t.Errorf("the configuration lacks %q:\n%s", want, have)
		}
	}
	if strings.Count(have, "{") != strings.Count(have, "}") {
		t.Errorf("braces do not match:\n%s", have)
	}
}

func TestParseOverruns(t *testing.T) {
	const devices = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 6548030981 1704972    0    1    0     0          0         0 6548030981 1704972    0    2    0     0       0          0
   wan:       0       0    9    4    9     9          9         9        0       0    9    8    9     9       9          9
`
	const sockets = `Tcp: RtoAlgorithm RtoMin
Tcp: 1 200
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 44118 0 910 112545 16 32 0 0 0
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
UdpLite: 0 0 0 0 64 0 0 0 0
`
	if n, err := ParseOverruns(devices, sockets); err != nil || n != 63 {
		t.Errorf("have %d, %v, want 63", n, err)
	}
	for _, bad := range []string{"lo: 1 2 3", "lo: 1 2 3 x 5 6 7 8 9 10 11 12"} {
		if _, err := ParseOverruns(bad, ""); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
