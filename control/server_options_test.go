package control

import (
	"bytes"
	"encoding/pem"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/certtest"
)

func TestServerOptionRules(t *testing.T) {
	ssl := func(o SSLOptionsRequest) func(*ServerCreate) { return func(r *ServerCreate) { r.SSL = o } }
	ports := func(p ...int) func(*ServerCreate) { return ssl(SSLOptionsRequest{UDPPorts: p}) }
	share := func(to string) func(*ServerCreate) { return ssl(SSLOptionsRequest{PortShare: &to}) }
	factor := func(f string) func(*ServerCreate) { return func(r *ServerCreate) { r.SecondFactor = &f } }
	ca := ClientCARequest{Content: new(certtest.New(t, "ca").PEM())}
	both := func(r *ServerCreate) {
		r.AuthType, r.ClientCAs = new("CERT_AND_LOCAL_PASSWORD"), []ClientCARequest{ca}
	}
	six := func(n NetworkOptionsRequest) func(*ServerCreate) { return func(r *ServerCreate) { r.Network = n } }
	for what, test := range map[string]struct {
		edit        func(*ServerCreate)
		code, words string
	}{
		"UDP ports":        {ports(1194, 443, 53), "", ""},
		"no UDP ports":     {ports([]int{}...), "", ""},
		"nine UDP ports":   {ports(1, 2, 3, 4, 5, 6, 7, 8, 9), CodeInvalid, "ssl_options.udp_ports: must be at most 8"},
		"a UDP port twice": {ports(1194, 1194), CodeInvalid, "1194 is there twice"},
		"UDP port 0":       {ports(0), CodeInvalid, "must be from 1 to 65535"},
		"UDP port 65536":   {ports(65536), CodeInvalid, "must be from 1 to 65535"},
		"a port of IKE":    {ports(4500), CodeInvalid, "4500 is a port of site-to-cloud VPN"},
		"IPv6": {six(NetworkOptionsRequest{
			ClientCIDRv6: new("fd00:8::1/64"), LocalSubnetsV6: []string{"2001:db8:1::/48"}, Topology: new("subnet"), DNSDomain: new("corp.example.org"),
		}), "", ""},
		"no IPv6":               {six(NetworkOptionsRequest{ClientCIDRv6: new("disable"), DNSDomain: new("")}), "", ""},
		"a short mask of IPv6":  {six(NetworkOptionsRequest{ClientCIDRv6: new("fd00:8::/48")}), CodeInvalid, "client_cidr_v6: must have a mask length of 64 to 112"},
		"link-local IPv6":       {six(NetworkOptionsRequest{ClientCIDRv6: new("fe80::/64")}), CodeInvalid, "client_cidr_v6: fe80::/64 is unavailable"},
		"IPv4 as IPv6":          {six(NetworkOptionsRequest{ClientCIDRv6: new("::ffff:10.0.0.0/112")}), CodeInvalid, "must be an IPv6 network"},
		"a subnet without IPv6": {six(NetworkOptionsRequest{LocalSubnetsV6: []string{"2001:db8:1::/48"}}), CodeInvalid, "local_subnets_v6: needs a client_cidr_v6"},
		"a subnet of clients":   {six(NetworkOptionsRequest{ClientCIDRv6: new("2001:db8:1::/64"), LocalSubnetsV6: []string{"2001:db8:1::/48"}}), CodeInvalid, "overlaps"},
		"a subnet twice":        {six(NetworkOptionsRequest{ClientCIDRv6: new("fd00:8::/64"), LocalSubnetsV6: []string{"2001:db8:1::/48", "2001:db8:1::1/48"}}), CodeInvalid, "is there twice"},
		"topology p2p":          {six(NetworkOptionsRequest{Topology: new("p2p")}), CodeInvalid, "topology: must be one of"},
		"a domain for a shell":  {six(NetworkOptionsRequest{DNSDomain: new("a;reboot")}), CodeInvalid, "dns_domain: must be labels"},
		"an empty label":        {six(NetworkOptionsRequest{DNSDomain: new("a..b")}), CodeInvalid, "dns_domain: must be labels"},
		"tls-crypt":             {ssl(SSLOptionsRequest{ControlWrap: new("tls-crypt")}), "", ""},
		"tls-crypt-v2":          {ssl(SSLOptionsRequest{ControlWrap: new("tls-crypt-v2")}), "", ""},
		"revoked keys":          {ssl(SSLOptionsRequest{ControlWrap: new("tls-crypt-v2"), RevokedClientKeys: []string{strings.Repeat("0a", 16)}}), "", ""},
		"no revoked keys":       {ssl(SSLOptionsRequest{RevokedClientKeys: []string{}}), "", ""},
		"a key of no profile":   {ssl(SSLOptionsRequest{ControlWrap: new("tls-crypt-v2"), RevokedClientKeys: []string{"0A"}}), CodeInvalid, "ssl_options.revoked_client_keys: must be ids"},
		"a key twice":           {ssl(SSLOptionsRequest{ControlWrap: new("tls-crypt-v2"), RevokedClientKeys: []string{strings.Repeat("0a", 16), strings.Repeat("0a", 16)}}), CodeInvalid, "is there twice"},
		"too many keys":         {ssl(SSLOptionsRequest{ControlWrap: new("tls-crypt-v2"), RevokedClientKeys: make([]string, 257)}), CodeInvalid, "must be at most 256"},
		"a key without wrap":    {ssl(SSLOptionsRequest{ControlWrap: new("tls-crypt"), RevokedClientKeys: []string{strings.Repeat("0a", 16)}}), CodeInvalid, "needs the control_channel_wrap tls-crypt-v2"},
		"no wrap":               {ssl(SSLOptionsRequest{ControlWrap: new("disable")}), "", ""},
		"tls-auth":              {ssl(SSLOptionsRequest{ControlWrap: new("tls-auth")}), CodeInvalid, "ssl_options.control_channel_wrap: must be one of"},
		"share in the VPC":      {share("10.10.3.4:8443"), "", ""},
		"share with nobody":     {share("disable"), "", ""},
		"share elsewhere":       {share("192.168.0.1:443"), CodeInvalid, "must be an address in the VPC"},
		"share with this host":  {share("127.0.0.1:443"), CodeInvalid, "must be an address in the VPC"},
		"share without a port":  {share("10.10.3.4"), CodeInvalid, "must be an IPv4 address and a port"},
		"share with port 0":     {share("10.10.3.4:0"), CodeInvalid, "must be an IPv4 address and a port"},
		"share with IPv6":       {share("[2001:db8::1]:443"), CodeInvalid, "must be an IPv4 address and a port"},
		"totp":                  {factor("totp"), "", ""},
		"no factor":             {factor("disable"), "", ""},
		"sms":                   {factor("sms"), CodeInvalid, "second_factor: must be one of"},
		"both":                  {both, "", ""},
		"both and totp":         {func(r *ServerCreate) { both(r); r.SecondFactor = new("totp") }, "", ""},
		"both without a CA":     {func(r *ServerCreate) { both(r); r.ClientCAs = nil }, "VPN.1101", ""},
		"totp with certificate": {func(r *ServerCreate) { both(r); r.AuthType, r.SecondFactor = new("CERT"), new("totp") }, CodeInvalid, "second_factor: goes with"},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			req := serverRequest()
			test.edit(&req)
			_, err := w.CreateServer(t.Context(), project, w.p2cGateway(t), req)
			wantCode(t, err, test.code, test.words)
		})
	}
}

// The options of a server change, and its key with the wrap of its control
// channel alone.
func TestServerOptionsChange(t *testing.T) {
	w := newWorld(t)
	v := w.server(t, func(r *ServerCreate) {
		r.SSL = SSLOptionsRequest{UDPPorts: []int{1194}, ControlWrap: new("tls-crypt"), PortShare: new("10.10.3.4:443")}
		r.SecondFactor = new("totp")
	})
	key := func() []byte {
		t.Helper()
		s, err := w.read(t.Context()).serverWithKeys(project, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		return []byte(s.ControlKey.Reveal())
	}
	update := func(u ServerUpdate) VPNServer {
		t.Helper()
		w.settleServer(t, v.ID, ServerStatus{})
		if err := w.UpdateServer(t.Context(), project, v.ID, u); err != nil {
			t.Fatal(err)
		}
		return w.storedServer(t, v.ID)
	}
	first := key()
	if len(first) != 256 || v.PortShare.String() != "10.10.3.4:443" || v.SecondFactor != FactorTOTP || len(v.UDPPorts) != 1 {
		t.Errorf("a key of %d octets, %+v", len(first), v)
	}
	update(ServerUpdate{SSL: SSLOptionsRequest{Port: new(1194), ControlWrap: new("tls-crypt")}})
	if !bytes.Equal(key(), first) {
		t.Error("the key has changed with the port")
	}
	update(ServerUpdate{SSL: SSLOptionsRequest{ControlWrap: new("tls-crypt-v2")}})
	if second := key(); len(second) != 128 || bytes.Contains(first, second) {
		t.Errorf("another wrap has a key of %d octets", len(second))
	}
	revoked := []string{strings.Repeat("0a", 16)}
	if got := update(ServerUpdate{SSL: SSLOptionsRequest{RevokedClientKeys: revoked}}); !slices.Equal(got.RevokedClientKeys, revoked) {
		t.Errorf("revoked are %v", got.RevokedClientKeys)
	}
	if got := update(ServerUpdate{SSL: SSLOptionsRequest{Port: new(443)}}); !slices.Equal(got.RevokedClientKeys, revoked) {
		t.Errorf("with another port revoked are %v", got.RevokedClientKeys)
	}
	got := update(ServerUpdate{
		SSL: SSLOptionsRequest{UDPPorts: []int{}, ControlWrap: new("disable"), PortShare: new("disable")}, SecondFactor: new("disable"),
	})
	if len(key()) != 0 || len(got.UDPPorts) != 0 || got.PortShare.IsValid() || got.SecondFactor != FactorNone || len(got.RevokedClientKeys) != 0 {
		t.Errorf("left: %+v", got)
	}
	s, err := get(t.Context(), w.objects.p2c.servers, project, v.ID)
	if err != nil || s.SealedControlKey != nil {
		t.Errorf("a sealed key is left, %v", err)
	}
}

// The first key of a wrap cannot be left out, and no key is in the store in
// clear.
func TestControlKeyIsSealed(t *testing.T) {
	w := newWorld(t)
	v := w.server(t, func(r *ServerCreate) { r.SSL.ControlWrap = new("tls-crypt") })
	s, err := w.read(t.Context()).serverWithKeys(project, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	entries, _, err := w.objects.store.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if bytes.Contains(e.Value, []byte(s.ControlKey.Reveal())[:16]) {
			t.Errorf("%s holds the key", e.Key)
		}
	}
	err = w.objects.change(t.Context(), func(tx *transaction) error {
		v.ControlWrap = WrapTLSCryptV2
		return tx.putServer(v)
	})
	if err == nil {
		t.Error("another wrap was stored without its key")
	}
	w.settleServer(t, v.ID, ServerStatus{})
	if _, err := w.objects.RenewServerCertificate(t.Context(), project, v.ID, netip.MustParseAddr("203.0.113.1"), w.clock.Add(390*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	after, err := w.read(t.Context()).serverWithKeys(project, v.ID)
	if err != nil || !after.ControlKey.Equal(s.ControlKey) {
		t.Errorf("a renewed certificate has changed the key, %v", err)
	}
}

// The profile says all that a client needs for the options of its server.
func TestClientProfileOptions(t *testing.T) {
	w := newWorld(t)
	v := w.server(t, func(r *ServerCreate) {
		r.AuthType, r.ClientCAs = new("CERT_AND_LOCAL_PASSWORD"), []ClientCARequest{{Content: new(certtest.New(t, "ca").PEM())}}
		r.SSL, r.SecondFactor = SSLOptionsRequest{UDPPorts: []int{1194, 53}, ControlWrap: new("tls-crypt")}, new("totp")
	})
	export := func() string {
		t.Helper()
		p, err := w.ClientProfile(t.Context(), project, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := export()
	for _, want := range []string{
		"proto tcp\nremote 203.0.113.1 1194 udp\nremote 203.0.113.1 53 udp\nremote 203.0.113.1 443\nserver-poll-timeout 10\n",
		"\nauth-user-pass\nstatic-challenge \"One-time code\" 1\n<ca>\n",
		"\ndisable-dco\n<tls-crypt>\n-----BEGIN OpenVPN Static key V1-----\n",
		"\n-----END OpenVPN Static key V1-----\n</tls-crypt>\n",
	} {
		if !strings.Contains(p, want) {
			t.Errorf("the profile lacks %q:\n%s", want, p)
		}
	}
	if export() != p {
		t.Error("a shared key differs from profile to profile")
	}

	w.settleServer(t, v.ID, ServerStatus{})
	if err := w.UpdateServer(t.Context(), project, v.ID, ServerUpdate{SSL: SSLOptionsRequest{ControlWrap: new("tls-crypt-v2")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ClientProfile(t.Context(), project, v.ID); err == nil {
		t.Error("keys are wrapped by nobody")
	}
	var serverKey []byte
	w.wrapKey = func(server, client []byte, made time.Time) ([]byte, string, error) {
		serverKey = bytes.Clone(server)
		if len(client) != 256 || !made.Equal(w.now()) {
			return nil, "", errors.New("called in a wrong way")
		}
		return append([]byte("wrapped "), client[:4]...), "0123", nil
	}
	keyOf := func(p string) []byte {
		t.Helper()
		_, rest, _ := strings.Cut(p, "\n# client key 0123\n<tls-crypt-v2>\n")
		block, after := pem.Decode([]byte(rest))
		if block == nil || block.Type != "OpenVPN tls-crypt-v2 client key" || string(after) != "</tls-crypt-v2>\n" {
			t.Fatalf("no key in %s", p)
		}
		return block.Bytes
	}
	first, second := keyOf(export()), keyOf(export())
	if bytes.Equal(first, second) || string(first[256:264]) != "wrapped " || !bytes.Equal(first[:4], first[264:]) {
		t.Errorf("keys %x and %x", first, second)
	}
	stored, err := w.read(t.Context()).serverWithKeys(project, v.ID)
	if err != nil || string(serverKey) != stored.ControlKey.Reveal() {
		t.Errorf("wrapped with another key, %v", err)
	}
}
