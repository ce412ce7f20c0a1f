package control

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/certtest"
)

const ccmID = "scs1717051012106"

// withCertificate gives the inventory of a world a certificate.
func (w *world) withCertificate(t *testing.T, edits ...func(*x509.Certificate)) {
	t.Helper()
	root := certtest.New(t, "root")
	certificateFile, keyFile := root.Server(t, "vpn", edits...).Files(t, root)
	inv := inventory(t)
	inv.Certificates = []Certificate{{ID: ccmID, Name: "vpn", CertificateFile: certificateFile, KeyFile: keyFile}}
	if err := inv.Validate(); err != nil {
		t.Fatal(err)
	}
	w.SetInventory(inv)
}

func TestServerRules(t *testing.T) {
	local := func(n ...string) func(*ServerCreate) { return func(r *ServerCreate) { r.LocalSubnets = n } }
	pool := func(n string) func(*ServerCreate) { return func(r *ServerCreate) { r.ClientCIDR = &n } }
	certificate := func(c *ServerCertificateRequest) func(*ServerCreate) {
		return func(r *ServerCreate) { r.Certificate = c }
	}
	ssl := func(o SSLOptionsRequest) func(*ServerCreate) { return func(r *ServerCreate) { r.SSL = o } }
	dns := func(a ...string) func(*ServerCreate) { return func(r *ServerCreate) { r.DNSServers = a } }
	subnets := func(n int) []string { return many(n, func(i int) string { return fmt.Sprintf("192.168.%d.0/24", i) }) }
	ca := ClientCARequest{Content: new(certtest.New(t, "ca").PEM())}
	for what, test := range map[string]struct {
		edit        func(*ServerCreate)
		code, words string
	}{
		"smallest":             {func(*ServerCreate) {}, "", ""},
		"protocol":             {func(r *ServerCreate) { r.TunnelProtocol = new("SSL") }, "", ""},
		"another protocol":     {func(r *ServerCreate) { r.TunnelProtocol = new("IPsec") }, "VPN.0001", "tunnel_protocol"},
		"pool missing":         {func(r *ServerCreate) { r.ClientCIDR = nil }, "VPN.0001", "client_cidr: is required"},
		"pool malformed":       {pool("172.16.0.0"), "VPN.1103", "CIDR block 172.16.0.0 is invalid."},
		"pool of IPv6":         {pool("2001:db8::/64"), "VPN.1103", ""},
		"pool of /15":          {pool("172.16.0.0/15"), "VPN.1107", "must in the range of 16 to 26."},
		"pool of /16":          {pool("172.16.0.0/16"), "", ""},
		"pool of /26":          {pool("172.16.0.64/26"), "", ""},
		"pool of /27":          {pool("172.16.0.0/27"), "VPN.1107", ""},
		"pool in 0/8":          {pool("0.1.0.0/24"), "VPN.1104", "CIDR block 0.1.0.0/24 is unavailable."},
		"pool in 127/8":        {pool("127.1.0.0/24"), "VPN.1104", ""},
		"pool in 224/4":        {pool("239.1.0.0/24"), "VPN.1104", ""},
		"pool in 240/4":        {pool("250.1.0.0/24"), "VPN.1104", ""},
		"pool in link local":   {pool("169.254.1.0/24"), "VPN.1104", ""},
		"pool over everything": {pool("0.0.0.0/0"), "VPN.1104", ""},
		"pool in local":        {local("172.16.0.0/16"), "VPN.1119", "conflicts with the local CIDR block 172.16.0.0/16."},
		"local in pool":        {local("172.16.0.128/25"), "VPN.1119", ""},
		"pool in the VPC":      {pool("10.10.8.0/24"), "VPN.1109", "conflicts with the VPC route 10.10.0.0/16."},
		"pool with an EIP":     {pool("203.0.113.0/24"), CodeInvalid, "client_cidr: 203.0.113.0/24 has the address 203.0.113.1 of EIP "},
		"pool in a subnet":     {pool("10.10.0.0/24"), "VPN.1109", "conflicts with the VPC route 10.10.0.0/24."},
		"pool in another VPC":  {pool("10.20.0.0/24"), "", ""},
		"local missing":        {local(), "VPN.1118", "The local CIDR block cannot be empty."},
		"local empty":          {local([]string{}...), "VPN.1118", ""},
		"20 local":             {local(subnets(20)...), "", ""},
		"21 local":             {local(subnets(21)...), "VPN.1105", "exceeds the upper limit."},
		"local malformed":      {local("192.168.0.0/24", "x"), "VPN.1103", "CIDR block x is invalid."},
		"local twice":          {local("192.168.0.0/24", "192.168.0.7/24"), "VPN.1106", "Duplicate local subnet: 192.168.0.0/24."},
		"local in 0/8":         {local("0.0.0.0/8"), "VPN.1104", ""},
		"local in 127/8":       {local("127.0.0.0/24"), "VPN.1104", ""},
		"local in 224/4":       {local("224.0.0.0/24"), "VPN.1104", ""},
		"local in 240/4":       {local("255.0.0.0/24"), "VPN.1104", ""},
		"local everything":     {local("0.0.0.0/0"), "VPN.1104", "CIDR block 0.0.0.0/0 is unavailable."},
		"local of link local":  {local("169.254.0.0/16"), "", ""},
		"certificate missing":  {certificate(nil), "VPN.1100", "The server certificate cannot be empty."},
		"certificate of none":  {certificate(&ServerCertificateRequest{}), "VPN.1100", ""},
		"CCM without id":       {certificate(&ServerCertificateRequest{Source: new("CCM"), ID: new("")}), "VPN.1100", ""},
		"CCM":                  {certificate(&ServerCertificateRequest{Source: new("CCM"), ID: new(ccmID)}), "", ""},
		"CCM by id alone":      {certificate(&ServerCertificateRequest{ID: new(ccmID)}), "", ""},
		"CCM unknown":          {certificate(&ServerCertificateRequest{ID: new("scs2")}), "VPN.1112", "Server certificate scs2 is not found."},
		"signed with an id":    {certificate(&ServerCertificateRequest{Source: new("SERVICE_SIGN"), ID: new(ccmID)}), "VPN.0001", "server_certificate.id"},
		"another source":       {certificate(&ServerCertificateRequest{Source: new("ACME")}), "VPN.0001", "server_certificate.source"},
		"certificates":         {func(r *ServerCreate) { r.AuthType, r.ClientCAs = new("CERT"), []ClientCARequest{ca} }, "", ""},
		"certificates, no CA":  {func(r *ServerCreate) { r.AuthType = new("CERT") }, "VPN.1101", "At least one client CA certificate is required."},
		"passwords":            {func(r *ServerCreate) { r.AuthType = new("LOCAL_PASSWORD") }, "", ""},
		"passwords and a CA":   {func(r *ServerCreate) { r.ClientCAs = []ClientCARequest{ca} }, "", ""},
		"a CA twice":           {func(r *ServerCreate) { r.ClientCAs = []ClientCARequest{ca, ca} }, "VPN.0077", ""},
		"a CA without content": {func(r *ServerCreate) { r.ClientCAs = []ClientCARequest{ca, {}} }, "VPN.0001", "client_ca_certificates[1].content: is required"},
		"IAM":                  {func(r *ServerCreate) { r.AuthType = new("IAM") }, "VPN.0001", "client_auth_type"},
		"TCP":                  {ssl(SSLOptionsRequest{Protocol: new("TCP")}), "", ""},
		"UDP":                  {ssl(SSLOptionsRequest{Protocol: new("UDP")}), "VPN.0001", "ssl_options.protocol"},
		"port 1194":            {ssl(SSLOptionsRequest{Port: new(1194)}), "", ""},
		"port 444":             {ssl(SSLOptionsRequest{Port: new(444)}), "VPN.0001", "ssl_options.port: must be one of 443 1194"},
		"AES-256":              {ssl(SSLOptionsRequest{Cipher: new("AES-256-GCM")}), "", ""},
		"AES-192":              {ssl(SSLOptionsRequest{Cipher: new("AES-192-GCM")}), "VPN.0001", "ssl_options.encryption_algorithm"},
		"two DNS servers":      {dns("10.10.0.53", "10.10.0.54"), "", ""},
		"three DNS servers":    {dns("10.10.0.53", "10.10.0.54", "10.10.0.55"), "VPN.0001", "dns_servers: must be at most 2"},
		"a DNS name":           {dns("dns.example"), "VPN.0001", "dns_servers[0]"},
		"a DNS group":          {dns("224.0.0.251"), "VPN.0001", "dns_servers[0]"},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.withCertificate(t)
			req := serverRequest()
			test.edit(&req)
			_, err := w.CreateServer(t.Context(), project, w.p2cGateway(t), req)
			wantCode(t, err, test.code, test.words)
		})
	}
}

func TestServerDefaults(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	if v.ClientCIDR.String() != "172.16.0.0/24" || v.AuthType != ClientAuthPassword || v.Protocol != "TCP" || v.Port != 443 ||
		v.Cipher != "AES-128-GCM" || v.AuthenticationAlgorithm() != "SHA256" || v.Compressed || v.Certificate.Source != CertificateServiceSign {
		t.Errorf("defaults are %+v", v)
	}
	s := w.snapshot()
	if len(s.UserGroups) != 1 || len(s.AccessPolicies) != 1 {
		t.Fatalf("a server starts with %d groups and %d policies", len(s.UserGroups), len(s.AccessPolicies))
	}
	g, p := s.UserGroups[0], s.AccessPolicies[0]
	if g.Name != "default" || g.Type != TypeDefault || g.ServerID != v.ID || g.Description != "Default user group" {
		t.Errorf("default group %+v", g)
	}
	if p.Type != TypeDefault || p.GroupID != g.ID || p.ServerID != v.ID || !slices.Equal(p.Destinations, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}) {
		t.Errorf("default policy %+v", p)
	}
}

func TestClientCIDRHoldsConnections(t *testing.T) {
	for _, test := range []struct {
		clients int
		pool    string
		code    string
	}{
		{15, "172.16.0.0/26", ""},
		{16, "172.16.0.0/26", "VPN.1108"},
		{63, "172.16.0.0/24", ""},
		{64, "172.16.0.0/24", "VPN.1108"},
		{500, "172.16.0.0/21", ""},
		{500, "172.16.0.0/22", "VPN.1108"},
	} {
		w := newWorld(t)
		g := w.p2cGateway(t, func(r *P2CGatewayCreate) { r.MaxConnections = &test.clients })
		req := serverRequest()
		req.ClientCIDR = &test.pool
		_, err := w.CreateServer(t.Context(), project, g, req)
		wantCode(t, err, test.code, "")
	}
}

// The pool is no network of the peers of site-to-cloud gateways, nor of another
// server, anywhere.
func TestClientCIDRIsNoRoute(t *testing.T) {
	w := newWorld(t)
	site := w.gateway(func(r *GatewayCreate) {
		r.EIP1, r.EIP2 = &EIPRequest{ID: new(eip2)}, &EIPRequest{ID: new(eip3)}
	})
	w.connection(site.ID, w.peer("198.51.100.7").ID, func(r *ConnectionCreate) { r.VgwIP, r.PeerSubnets = new(eip2), []string{"172.16.0.128/25"} })
	w.connection(site.ID, w.peer("198.51.100.8").ID, func(r *ConnectionCreate) {
		r.VgwIP, r.Style, r.PeerSubnets = new(eip2), new("policy"), []string{"192.168.10.0/24"}
		r.PolicyRules = []PolicyRuleRequest{{Source: "10.10.0.0/24", Destination: []string{"192.168.10.0/24", "172.18.0.0/16"}}}
	})
	g := w.p2cGateway(t)
	req := serverRequest()
	_, err := w.CreateServer(t.Context(), project, g, req)
	wantCode(t, err, "VPN.1109", "172.16.0.128/25")
	req.ClientCIDR = new("172.18.5.0/24")
	_, err = w.CreateServer(t.Context(), project, g, req)
	wantCode(t, err, "VPN.1109", "172.18.0.0/16")
	req.ClientCIDR = new("172.17.0.0/24")
	_, err = w.CreateServer(t.Context(), project, g, req)
	wantCode(t, err, "", "")
	other := w.p2cGateway(t, func(r *P2CGatewayCreate) {
		r.VPCID, r.ConnectSubnet, r.EIP.ID = new(otherVPC), new(otherNet), new(eip4)
	})
	req.ClientCIDR = new("172.17.0.0/16")
	_, err = w.CreateServer(t.Context(), project, other, req)
	wantCode(t, err, "VPN.1109", "172.17.0.0/24")
	req.ClientCIDR = new("172.16.0.0/24") // the peers of another VPC
	_, err = w.CreateServer(t.Context(), project, other, req)
	wantCode(t, err, "VPN.1109", "172.16.0.128/25")
	_, err = w.CreateServer(t.Context(), project, g, req)
	wantCode(t, err, "VPN.1102", "The number of servers exceeds the upper limit.")
}

// A connection, whosever it is, takes no traffic from the clients of a server.
func TestPeersAreNotClients(t *testing.T) {
	w := newWorld(t)
	w.server(t, func(r *ServerCreate) { r.ClientCIDR = new("172.16.0.0/24") })
	const stranger = "project-2"
	site := gatewayRequest()
	site.EIP1, site.EIP2 = &EIPRequest{ID: new(eip2)}, &EIPRequest{ID: new(eip3)}
	created, err := w.CreateGateway(t.Context(), stranger, site)
	if err != nil {
		t.Fatal(err)
	}
	w.settleGateway(stranger, created.ID, false)
	peer, err := w.CreateCustomerGateway(t.Context(), stranger, CustomerGatewayCreate{IDValue: new("198.51.100.7")})
	if err != nil {
		t.Fatal(err)
	}
	connect := func(edit func(*ConnectionCreate)) (ConnectionView, error) {
		req := connectionRequest(created.ID, peer.ID)
		req.VgwIP = new(eip2)
		edit(&req)
		return w.CreateConnection(t.Context(), stranger, req)
	}
	_, err = connect(func(r *ConnectionCreate) { r.PeerSubnets = []string{"192.168.10.0/24", "172.16.0.0/12"} })
	wantInvalid(t, err, "peer_subnets[1]", "172.16.0.0/12 overlaps 172.16.0.0/24, the client_cidr of a client-to-cloud server")
	_, err = connect(func(r *ConnectionCreate) {
		r.Style, r.PeerSubnets = new("policy"), []string{"192.168.10.0/24"}
		r.PolicyRules = []PolicyRuleRequest{{Source: "10.10.0.0/24", Destination: []string{"192.168.10.0/24", "172.16.0.64/26"}}}
	})
	wantInvalid(t, err, "policy_rules[0].destination[1]", "172.16.0.64/26 overlaps")
	v, err := connect(func(*ConnectionCreate) {})
	if err != nil {
		t.Fatal(err)
	}
	status := ConnectionStatus{Observed: v.Generation, Applied: true, State: ConnectionDown}
	if err := w.objects.SetConnectionStatus(t.Context(), stranger, v.ID, status); err != nil {
		t.Fatal(err)
	}
	_, err = w.UpdateConnection(t.Context(), stranger, v.ID, ConnectionUpdate{PeerSubnets: []string{"172.16.0.0/25"}})
	wantInvalid(t, err, "peer_subnets[0]", "overlaps")
}

func TestCertificateOfTheInventoryInForce(t *testing.T) {
	use := func(w *world) error {
		req := serverRequest()
		req.Certificate = &ServerCertificateRequest{ID: new(ccmID)}
		_, err := w.CreateServer(t.Context(), project, w.p2cGateway(t), req)
		return err
	}
	for what, test := range map[string]struct {
		from, to time.Duration
		code     string
	}{
		"in force": {-time.Hour, time.Hour, ""},
		"ended":    {-time.Hour, -time.Minute, "VPN.1110"},
		"not yet":  {time.Minute, time.Hour, "VPN.1110"},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.withCertificate(t, func(x *x509.Certificate) { x.NotBefore, x.NotAfter = w.clock.Add(test.from), w.clock.Add(test.to) })
			wantCode(t, use(w), test.code, "")
		})
	}
}

func TestServerChanges(t *testing.T) {
	w := newWorld(t)
	w.withCertificate(t)
	v := w.server(t, func(r *ServerCreate) { r.DNSServers, r.SSL.Cipher = []string{"10.10.0.53"}, new("AES-256-GCM") })
	update := func(u ServerUpdate) (VPNServer, error) {
		w.settleServer(t, v.ID, ServerStatus{})
		err := w.UpdateServer(t.Context(), project, v.ID, u)
		return w.storedServer(t, v.ID), err
	}
	// What is repeated is no change, even where a rule would no longer allow it.
	w.limits.P2CGateways = 1
	got, err := update(ServerUpdate{
		ClientCIDR: new("172.16.0.9/24"), LocalSubnets: []string{"192.168.0.0/24"}, AuthType: new("LOCAL_PASSWORD"), CertificateID: new(""),
		SSL: SSLOptionsRequest{Port: new(443), Cipher: new("AES-256-GCM"), Compressed: new(true)}, DNSServers: []string{"10.10.0.53"},
	})
	if err != nil || got.Generation != 1 {
		t.Fatalf("a change of nothing: generation %d, %v", got.Generation, err)
	}
	got, err = update(ServerUpdate{DNSServers: []string{}, SSL: SSLOptionsRequest{Port: new(1194)}})
	if err != nil || len(got.DNSServers) != 0 || got.Port != 1194 || got.Cipher != "AES-256-GCM" || got.Generation != 2 || got.Compressed {
		t.Errorf("got %+v, %v", got, err)
	}
	got, err = update(ServerUpdate{CertificateID: new(ccmID)})
	if err != nil || got.Certificate.Source != CertificateCCM || got.Certificate.Name != "vpn" || got.Certificate.Chain != "" {
		t.Errorf("got %+v, %v", got.Certificate, err)
	}
	for _, test := range []struct {
		update      ServerUpdate
		code, words string
	}{
		{ServerUpdate{ClientCIDR: new("10.10.0.0/24")}, "VPN.1109", ""},
		{ServerUpdate{ClientCIDR: new("192.168.0.0/24")}, "VPN.1119", ""},
		{ServerUpdate{ClientCIDR: new("x")}, "VPN.1103", ""},
		{ServerUpdate{LocalSubnets: []string{}}, "VPN.1118", ""},
		{ServerUpdate{LocalSubnets: []string{"172.16.0.0/12"}}, "VPN.1119", ""},
		{ServerUpdate{CertificateID: new("scs2")}, "VPN.1112", ""},
		{ServerUpdate{CertificateID: new("")}, "VPN.1100", ""},
		{ServerUpdate{CertificateID: new(strings.Repeat("x", 65))}, "VPN.0001", "server_certificate.id"},
		{ServerUpdate{AuthType: new("FEDERATED")}, "VPN.0001", "client_auth_type"},
		{ServerUpdate{SSL: SSLOptionsRequest{Port: new(80)}}, "VPN.0001", "ssl_options.port"},
		{ServerUpdate{DNSServers: []string{"1.1.1.1", "1.1.1.2", "1.1.1.3"}}, "VPN.0001", "dns_servers"},
	} {
		if _, err := update(test.update); err == nil || w.storedServer(t, v.ID).Generation != 3 {
			t.Errorf("%+v was taken", test.update)
		} else {
			wantCode(t, err, test.code, test.words)
		}
	}
	wantCode(t, w.UpdateServer(t.Context(), project, nobody, ServerUpdate{}), "VPN.1116", "The server does not exist.")

	// A certificate that left the inventory no longer shows, but for its name.
	w.SetInventory(inventory(t))
	list, err := w.ListServers(t.Context(), project, Page{})
	if c := list.Items[0].Shown; err != nil || c.ID != "" || c.Name != "vpn" || c.SerialNumber != "" {
		t.Errorf("shown is %+v, %v", c, err)
	}
	_, err = w.ClientProfile(t.Context(), project, v.ID)
	wantCode(t, err, "VPN.1112", ccmID)
}

// below stores a user, group or policy of a server.
func (w *world) below(t *testing.T, put func(*transaction) error) {
	t.Helper()
	if err := w.objects.change(t.Context(), put); err != nil {
		t.Fatal(err)
	}
}

func TestPoolStaysWithStaticIPs(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	user := VPNUser{Meta: Meta{ID: "u", Project: project, Name: "ann"}, ServerID: v.ID}
	w.below(t, func(tx *transaction) error { return tx.putUser(user) })
	wantCode(t, w.UpdateServer(t.Context(), project, v.ID, ServerUpdate{ClientCIDR: new("172.17.0.0/24")}), "", "")
	w.settleServer(t, v.ID, ServerStatus{})
	user.StaticIP = netip.MustParseAddr("172.17.0.5")
	w.below(t, func(tx *transaction) error { return tx.putUser(user) })
	wantCode(t, w.UpdateServer(t.Context(), project, v.ID, ServerUpdate{ClientCIDR: new("172.17.0.0/23")}), "VPN.0001",
		"client_cidr: cannot change while users have static addresses: ann")
	wantCode(t, w.UpdateServer(t.Context(), project, v.ID, ServerUpdate{LocalSubnets: []string{"192.168.9.0/24"}}), "", "")
}

func TestAuthTypeIsChanged(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	set := func(authType, code string) {
		t.Helper()
		w.settleServer(t, v.ID, ServerStatus{})
		wantCode(t, w.UpdateServer(t.Context(), project, v.ID, ServerUpdate{AuthType: &authType}), code, "")
	}
	meta := Meta{ID: "x", Project: project}
	w.below(t, func(tx *transaction) error { return tx.putUser(VPNUser{Meta: meta, ServerID: v.ID}) })
	set("CERT", "VPN.1122")
	set("LOCAL_PASSWORD", "")
	w.below(t, func(tx *transaction) error { tx.deleteUser(meta); return nil })
	w.below(t, func(tx *transaction) error {
		return tx.putUserGroup(UserGroup{Meta: meta, ServerID: v.ID, Type: TypeCustom})
	})
	set("CERT", "VPN.1123")
	w.below(t, func(tx *transaction) error { tx.deleteUserGroup(meta); return nil })
	w.below(t, func(tx *transaction) error {
		return tx.putAccessPolicy(AccessPolicy{Meta: meta, ServerID: v.ID, Type: TypeCustom})
	})
	set("CERT", "VPN.1124")
	w.below(t, func(tx *transaction) error { tx.deleteAccessPolicy(meta); return nil })
	set("CERT", "") // without any CA
	w.settleServer(t, v.ID, ServerStatus{})
	id, err := w.ImportClientCA(t.Context(), project, v.ID, ClientCARequest{Content: new(certtest.New(t, "ca").PEM())})
	if err != nil {
		t.Fatal(err)
	}
	set("LOCAL_PASSWORD", "VPN.1125")
	set("CERT", "")
	wantCode(t, w.DeleteClientCA(t.Context(), project, v.ID, id), "", "") // the last one
	set("CERT", "")
	set("LOCAL_PASSWORD", "")
}

// A server in FAULT is mended by changes of itself, and of a gateway that is
// worked on or frozen the server stays as it is.
func TestServerChangesByState(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	change := ServerUpdate{SSL: SSLOptionsRequest{Port: new(1194)}}
	w.settleServer(t, v.ID, ServerStatus{Fault: true})
	w.settleP2CGateway(t, v.GatewayID, true)
	wantCode(t, w.UpdateServer(t.Context(), project, v.ID, change), "", "")
	_, err := w.ImportClientCA(t.Context(), project, v.ID, ClientCARequest{Content: new(certtest.New(t, "ca").PEM())})
	wantCode(t, err, "VPN.0510", "")
	for state, code := range map[P2CGatewayState]string{P2CPendingUpdate: "VPN.0507", P2CPendingDelete: "VPN.0508", P2CFrozen: "VPN.0511"} {
		w := newWorld(t)
		v := w.server(t)
		w.inState(t, v.GatewayID, state)
		wantCode(t, w.UpdateServer(t.Context(), project, v.ID, change), code, "")
	}
}

func TestClientProfile(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	chain, err := parseCertificates(v.Certificate.Chain)
	if err != nil {
		t.Fatal(err)
	}
	ca := encodeCertificates(chain[1])
	const tail = "reneg-sec 0\n# Add a comment character (#) in front of disable-dco when OpenVPN 2.5 or earlier is used.\ndisable-dco\n"
	want := "client\ndev tun\nproto tcp\nremote 203.0.113.1 443\nresolv-retry infinite\nnobind\npersist-key\npersist-tun\nremote-cert-tls server\n" +
		"data-ciphers AES-128-GCM\nauth SHA256\nverb 3\nauth-user-pass\n<ca>\n" + ca + "</ca>\n\n\n" + tail
	if got, err := w.ClientProfile(t.Context(), project, v.ID); err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	change := ServerUpdate{AuthType: new("CERT"), SSL: SSLOptionsRequest{Port: new(1194), Cipher: new("AES-256-GCM")}}
	wantCode(t, w.UpdateServer(t.Context(), project, v.ID, change), "", "")
	want = strings.NewReplacer("auth-user-pass\n", "", "443", "1194", "AES-128-GCM", "AES-256-GCM", "SHA256", "SHA384").Replace(want)
	want = want[:strings.Index(want, "<ca>\n")+5] + ca + want[strings.Index(want, "</ca>"):] // whatever its text is
	if got, err := w.ClientProfile(t.Context(), project, v.ID); err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	inv := inventory(t)
	inv.EIPs = inv.EIPs[1:]
	w.SetInventory(inv)
	_, err = w.ClientProfile(t.Context(), project, v.ID)
	wantCode(t, err, "VPN.1121", "")
	_, err = w.ClientProfile(t.Context(), project, nobody)
	wantCode(t, err, "VPN.1116", "")
}

func TestServerPages(t *testing.T) {
	w := newWorld(t)
	var want []string
	for i, eip := range []string{eip1, eip2, eip3} {
		g := w.p2cGateway(t, func(r *P2CGatewayCreate) { r.EIP.ID = &eip })
		req := serverRequest()
		req.ClientCIDR = new(fmt.Sprintf("172.16.%d.0/24", i))
		m, err := w.CreateServer(t.Context(), project, g, req)
		if err != nil {
			t.Fatal(err)
		}
		want = append([]string{m.ID}, want...)
	}
	page := Page{Limit: new(2)}
	var got []string
	for range 5 {
		l, err := w.ListServers(t.Context(), project, page)
		if err != nil || l.Total != 3 {
			t.Fatalf("total %d, %v", l.Total, err)
		}
		for _, v := range l.Items {
			got = append(got, v.ID)
		}
		if page.Marker = l.NextMarker; page.Marker == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
