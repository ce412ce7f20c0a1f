package wire

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestCutMessage(t *testing.T) {
	b := AppendMessage(AppendMessage(nil, PushRequest), "EXIT\r\n")
	b = append(b, "INFO"...)
	var got []string
	for {
		m, rest, ok, err := CutMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		got, b = append(got, m), rest
	}
	if !reflect.DeepEqual(got, []string{PushRequest, Exit}) || string(b) != "INFO" {
		t.Errorf("got %q, left %q", got, b)
	}
	if _, rest, _, err := CutMessage([]byte("EX\x1bIT\x00EXIT\x00")); !errors.Is(err, ErrMalformed) || string(rest) != "EXIT\x00" {
		t.Errorf("an escape sequence: %v, left %q", err, rest)
	}
	if _, _, _, err := CutMessage([]byte(strings.Repeat("a", 2*MaxMessage))); !errors.Is(err, ErrMalformed) {
		t.Errorf("a message without an end: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{RefuseLogin(""), "AUTH_FAILED"},
		{RefuseLogin("wrong\x00name"), "AUTH_FAILED,wrong?name"},
		{RefuseForNow(30, "all addresses are in use"), "AUTH_FAILED,TEMP[backoff 30,advance no]:all addresses are in use"},
		{RefuseToken("expired"), "AUTH_FAILED,SESSION:expired"},
		{RestartClient("bye"), "RESTART,[P]:bye"},
		{HaltClient("the user was deleted"), "HALT,the user was deleted"},
		{RefuseLogin(strings.Repeat("x", 500)), "AUTH_FAILED," + strings.Repeat("x", 200)},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestPassword(t *testing.T) {
	for _, tt := range []struct{ field, password, answer string }{
		{"plain", "plain", ""},
		{"SCRV1:cGFzcw==:MTIzNDU2", "pass", "123456"},
	} {
		p, a, err := Password([]byte(tt.field))
		if err != nil || string(p) != tt.password || string(a) != tt.answer {
			t.Errorf("%s: %q, %q, %v", tt.field, p, a, err)
		}
	}
	for _, field := range []string{"SCRV1:", "SCRV1:!:MTIz", "SCRV1:cGFzcw==:!"} {
		if _, _, err := Password([]byte(field)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestPeerInfo(t *testing.T) {
	p := ParsePeerInfo("IV_VER=2.6.14\nIV_PLAT=linux\nIV_PROTO=990\nIV_CIPHERS=AES-128-GCM:aes-256-gcm\nIV_MTU=1600\nIV_COMP_STUBv2=1\nIV_GUI_VER=\x1b[31m\nnonsense\n=\n")
	want := PeerInfo{Version: "2.6.14", Platform: "linux", Proto: 990, Ciphers: []string{"AES-128-GCM", "AES-256-GCM"}, MTU: 1600, StubV2: true}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got %+v", p)
	}
	if !p.Proto.Has(ProtoDataV2 | ProtoRequestPush | ProtoTLSExporter | ProtoExitNotify) {
		t.Error("promises of 2.6 are missing")
	}
	if p.Proto.Has(ProtoNoPull) || p.Proto.Has(ProtoPushUpdate) {
		t.Error("promises that 2.6 does not make")
	}
}

func TestUpdatesDNS(t *testing.T) {
	for _, tt := range []struct {
		info string
		want bool
	}{
		{"IV_VER=2.6.14\nIV_PLAT=win\nIV_PROTO=990\n", false}, // takes no PUSH_UPDATE at all
		{"IV_VER=2.7.8\nIV_PLAT=linux\nIV_PROTO=8094\n", false},
		{"IV_VER=2.7.8\nIV_PLAT=mac\nIV_PROTO=8094\n", false},
		{"IV_VER=2.7.8\nIV_PLAT=win\nIV_PROTO=8094\n", true},
		{"IV_VER=3.12\nIV_PLAT=linux\nIV_PROTO=8094\n", true},
		{"IV_VER=vpngw\nIV_PLAT=linux\nIV_PROTO=8094\n", true},
	} {
		if p := ParsePeerInfo(tt.info); p.UpdatesDNS() != tt.want {
			t.Errorf("%q: %t", tt.info, !tt.want)
		}
	}
}

func TestSupports(t *testing.T) {
	tests := []struct {
		name           string
		info           PeerInfo
		options        string
		cipher         string
		want, negotiat bool
	}{
		{"listed", PeerInfo{Ciphers: []string{"AES-128-GCM"}}, "", "AES-128-GCM", true, true},
		{"not listed", PeerInfo{Ciphers: []string{"AES-256-GCM"}, NCP: 2}, "", "AES-128-GCM", false, true},
		{"2.4", PeerInfo{NCP: 2}, "V4,cipher BF-CBC", "AES-256-GCM", true, true},
		{"2.4, another cipher", PeerInfo{NCP: 2}, "", "CHACHA20-POLY1305", false, true},
		{"no negotiation", PeerInfo{}, "V4,cipher AES-256-GCM,tls-client", "AES-256-GCM", true, false},
		{"no negotiation, BF", PeerInfo{}, "V4,cipher BF-CBC,tls-client", "AES-256-GCM", false, false},
	}
	for _, tt := range tests {
		if got := tt.info.Supports(tt.cipher, tt.options); got != tt.want {
			t.Errorf("%s: supports %t", tt.name, got)
		}
		if got := tt.info.Negotiates(); got != tt.negotiat {
			t.Errorf("%s: negotiates %t", tt.name, got)
		}
	}
}

func TestServerOptions(t *testing.T) {
	client := "V4,dev-type tun,link-mtu 1556,tun-mtu 1500,proto TCPv4_CLIENT,comp-lzo,auth SHA256,keysize 128,key-method 2,tls-client"
	if got, want := ServerOptions(client), "V4,dev-type tun,link-mtu 1556,tun-mtu 1500,proto TCPv4_SERVER,auth SHA256,keysize 128,key-method 2,tls-server"; got != want {
		t.Errorf("got %s", got)
	}
	if !FramesCompression(client) || FramesCompression("V4,comp-lzoX,tls-client") {
		t.Error("comp-lzo was not found, or where it is not")
	}
	for _, odd := range []string{strings.Repeat("x", 512), "V4,\n"} {
		if got := ServerOptions(odd); !strings.HasSuffix(got, "tls-server") || len(got) > 100 {
			t.Errorf("%q answered by %q", odd, got)
		}
	}
}

func samplePush(routes int) Push {
	p := Push{
		DNS:   []netip.Addr{netip.MustParseAddr("192.168.0.53")},
		Local: netip.MustParseAddr("10.8.0.5"), Peer: netip.MustParseAddr("10.8.0.6"),
		Ping: 10, PingRestart: 60, PeerID: 7, Cipher: "AES-128-GCM",
		Flags: []string{FlagExitNotify, FlagTLSExporter}, TunMTU: 1500, ExitNotify: true,
		Compress: "stub-v2", AuthToken: "SESS_ID_AT_x", Domain: "example.org",
	}
	for i := range routes {
		p.Routes = append(p.Routes, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24))
	}
	return p
}

func TestPush(t *testing.T) {
	p := samplePush(1)
	got := p.Messages()
	want := []string{"PUSH_REPLY,route 192.168.0.0 255.255.255.0,dhcp-option DNS 192.168.0.53,dhcp-option DOMAIN example.org," +
		"topology net30,ping 10,ping-restart 60,ifconfig 10.8.0.5 10.8.0.6,peer-id 7,cipher AES-128-GCM," +
		"protocol-flags cc-exit tls-ekm,tun-mtu 1500,explicit-exit-notify 1,compress stub-v2,auth-token SESS_ID_AT_x"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestPushContinues(t *testing.T) {
	for _, routes := range []int{0, 1, 20, 200} {
		p := samplePush(routes)
		messages := p.Messages()
		var got Push
		for i, m := range messages {
			if len(m) > MaxMessage-1 {
				t.Errorf("%d routes: message of %d octets", routes, len(m))
			}
			more, err := got.Add(m)
			if err != nil || more != (i < len(messages)-1) {
				t.Errorf("%d routes, message %d: more %t, %v", routes, i, more, err)
			}
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("%d routes: got %+v\nwant %+v", routes, got, p)
		}
	}
}

func TestPushRejects(t *testing.T) {
	for _, m := range []string{
		"PUSH", "PUSH_REPLY,route", "PUSH_REPLY,route 1.2.3.4 255.0.255.0", "PUSH_REPLY,route ::1", "PUSH_REPLY,ifconfig 1.2.3.4",
		"PUSH_REPLY,peer-id 16777216", "PUSH_REPLY,ping -1", "PUSH_REPLY,dhcp-option DNS x",
	} {
		var p Push
		if _, err := p.Add(m); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", m, err)
		}
	}
}
