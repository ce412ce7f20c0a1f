package sdktest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5/model"
)

const clientToken = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1caaaa"

// TestClientToCloud takes a client-to-cloud gateway and its server from their
// creation to their deletion.
func TestClientToCloud(t *testing.T) {
	client := newClient(t, accessKey, secretKey)
	gateway := createP2CGateway(t, client)
	p2cGatewayDetails(t, client, gateway)
	logConfig(t, client, gateway)
	server := createServer(t, client, gateway)
	exportProfile(t, client, server)
	clientCAs(t, client, server)
	updateServer(t, client, server)
	clientConnections(t, client, gateway, server)
	p2cTags(t, client, gateway)
	deleteP2CGateway(t, client, gateway)
}

// p2cGatewayIsActive waits until a gateway is.
func p2cGatewayIsActive(t *testing.T, client *vpn.VpnClient, id string) {
	t.Helper()
	poll(t, "client-to-cloud gateway", func() string {
		return *ok(client.ShowP2cVgw(&model.ShowP2cVgwRequest{P2cVgwId: id}))(t).P2cVpnGateway.Status
	}, "ACTIVE")
}

func createP2CGateway(t *testing.T, client *vpn.VpnClient) (id string) {
	t.Helper()
	request := &model.CreateP2cVgwRequest{XClientToken: p(clientToken), Body: &model.CreateP2cVgwRequestBody{
		P2cVpnGateway: &model.CreateP2cVgwRequestBodyContent{
			Name: p("p2c-gateway"), VpcId: vpcID, ConnectSubnet: subnetID, Eip: &model.CreateP2cRequestEip{Id: p(eip3ID)},
			Flavor: p(model.GetCreateP2cVgwRequestBodyContentFlavorEnum().PROFESSIONAL1), AvailabilityZoneIds: &[]string{"az1", "az2"},
			MaxConnectionNumber: p(int32(20)), Tags: &[]model.VpnResourceTag{{Key: "site", Value: "berlin"}},
		},
	}}
	created := ok(client.CreateP2cVgw(request))(t)
	if created.HttpStatusCode != http.StatusCreated {
		t.Errorf("create answers %d", created.HttpStatusCode)
	}
	id = *created.P2cVpnGateway.Id
	// Within one second the repeated request has the signature of the first one,
	// which is taken once.
	poll(t, "repeated create", func() string {
		again, err := client.CreateP2cVgw(request)
		if err != nil {
			refused(t, err, http.StatusUnauthorized, "VPN.0003", "Authentication failed: the signature was used before: sign every request anew")
			return "PENDING_ANOTHER_SECOND"
		}
		return *again.P2cVpnGateway.Id
	}, id)
	p2cGatewayIsActive(t, client, id)
	return id
}

func p2cGatewayDetails(t *testing.T, client *vpn.VpnClient, id string) {
	t.Helper()
	updated := ok(client.UpdateP2cVgw(&model.UpdateP2cVgwRequest{P2cVgwId: id, Body: &model.UpdateP2cVgwRequestBody{
		P2cVpnGateway: &model.UpdateP2cVgwRequestBodyContent{Name: p("renamed")},
	}}))(t)
	equal(t, "id", updated.P2cVpnGateway.Id, id)
	shown := ok(client.ShowP2cVgw(&model.ShowP2cVgwRequest{P2cVgwId: id}))(t).P2cVpnGateway
	equal(t, "name", shown.Name, "renamed")
	equal(t, "status", shown.Status, "ACTIVE")
	equal(t, "flavor", shown.Flavor, "Professional1")
	equal(t, "max_connection_number", shown.MaxConnectionNumber, 20)
	equal(t, "current_connection_number", shown.CurrentConnectionNumber, 0)
	equal(t, "admin_state_up", shown.AdminStateUp, true)
	equal(t, "frozen_effect", shown.FrozenEffect, 0)
	equal(t, "eip.ip_address", shown.Eip.IpAddress, eip3)
	equalList(t, "availability_zone_ids", shown.AvailabilityZoneIds, "az1", "az2")
	if shown.CreatedAt == nil || shown.AppliedAt == nil || shown.Version == nil || *shown.Version == "" {
		t.Errorf("shown is %v", shown)
	}
	list := ok(client.ListP2cVgws(&model.ListP2cVgwsRequest{Limit: p(int32(10))}))(t)
	equal(t, "total_count", list.TotalCount, 1)
	equal(t, "current_count", list.PageInfo.CurrentCount, 1)
	if list.PageInfo.NextMarker != nil {
		t.Errorf("next_marker of the last page is %q", *list.PageInfo.NextMarker)
	}
	equal(t, "id", (*list.P2cVpnGateways)[0].Id, id)

	zones := ok(client.ListP2cVgwAvailabilityZones(&model.ListP2cVgwAvailabilityZonesRequest{}))(t)
	equalList(t, "availability_zones", zones.AvailabilityZones, "az1", "az2")
	_, err := client.UpgradeP2cVpnGateway(&model.UpgradeP2cVpnGatewayRequest{P2cVgwId: id, Body: &model.UpgradeRequestBody{
		Action: model.GetUpgradeRequestBodyActionEnum().START,
	}})
	refused(t, err, http.StatusBadRequest, "VPN.0001", "invalid request: action: no newer version than that of this gateway is installed")
	jobs := ok(client.ListP2cVpnGatewayJobs(&model.ListP2cVpnGatewayJobsRequest{ResourceId: &id}))(t)
	if len(*jobs.Jobs) != 0 {
		t.Errorf("jobs are %v", *jobs.Jobs)
	}
	_, err = client.DeleteP2cVpnGatewayJob(&model.DeleteP2cVpnGatewayJobRequest{JobId: vpcID})
	refused(t, err, http.StatusNotFound, "VPN.0004", "resource not found")
}

func logConfig(t *testing.T, client *vpn.VpnClient, gateway string) {
	t.Helper()
	show := func() *model.ConnectionsLogConfig {
		return ok(client.ShowVpnConnectionsLogConfig(&model.ShowVpnConnectionsLogConfigRequest{P2cVgwId: gateway}))(t).LogConfig
	}
	if c := show(); c == nil || c.LogGroupId != nil {
		t.Errorf("log config is %v", c)
	}
	set := ok(client.UpdateVpnConnectionsLogConfig(&model.UpdateVpnConnectionsLogConfigRequest{P2cVgwId: gateway, Body: &model.UpdateVpnLogConfigRequestBody{
		LogConfig: &model.UpdateVpnLogConfigRequestBodyContent{LogGroupId: logGroupID, LogStreamId: logStreamID},
	}}))(t)
	equal(t, "log_stream_id", set.LogConfig.LogStreamId, logStreamID)
	equal(t, "log_group_id", show().LogGroupId, logGroupID)
	deleted := ok(client.DeleteVpnConnectionsLogConfig(&model.DeleteVpnConnectionsLogConfigRequest{P2cVgwId: gateway}))(t)
	if deleted.HttpStatusCode != http.StatusNoContent || show().LogGroupId != nil {
		t.Errorf("delete answers %d", deleted.HttpStatusCode)
	}
}

func createServer(t *testing.T, client *vpn.VpnClient, gateway string) (id string) {
	t.Helper()
	created := ok(client.CreateVpnServer(&model.CreateVpnServerRequest{P2cVgwId: gateway, Body: &model.CreateServerRequestBody{
		VpnServer: &model.CreateServerRequest{
			ClientCidr: "172.28.0.1/24", LocalSubnets: []string{"10.10.0.0/24"}, DnsServers: &[]string{"10.10.0.53"},
			TunnelProtocol:    p(model.GetCreateServerRequestTunnelProtocolEnum().SSL),
			ClientAuthType:    p(model.GetCreateServerRequestClientAuthTypeEnum().LOCAL_PASSWORD),
			ServerCertificate: &model.CreateServerRequestServerCertificate{Source: p(model.GetCreateServerRequestServerCertificateSourceEnum().SERVICE_SIGN)},
			SslOptions: &model.CreateServerRequestSslOptions{
				Protocol: p(model.GetCreateServerRequestSslOptionsProtocolEnum().TCP), Port: p(model.GetCreateServerRequestSslOptionsPortEnum().E_443),
				EncryptionAlgorithm: p(model.GetCreateServerRequestSslOptionsEncryptionAlgorithmEnum().AES_128_GCM), IsCompressed: p(false),
			},
		},
	}}))(t)
	if created.HttpStatusCode != http.StatusCreated {
		t.Errorf("create answers %d", created.HttpStatusCode)
	}
	id = *created.VpnServer.Id
	serverIsActive(t, client, id)
	list := ok(client.ListVpnServersByVgw(&model.ListVpnServersByVgwRequest{P2cVgwId: gateway}))(t)
	equal(t, "total_count", list.TotalCount, 1)
	server := (*list.VpnServers)[0]
	equal(t, "client_cidr", server.ClientCidr, "172.28.0.0/24")
	equal(t, "client_auth_type", server.ClientAuthType, "LOCAL_PASSWORD")
	equal(t, "tunnel_protocol", server.TunnelProtocol, "SSL")
	equal(t, "ssl_options.authentication_algorithm", server.SslOptions.AuthenticationAlgorithm, "SHA256")
	equalList(t, "local_subnets", server.LocalSubnets, "10.10.0.0/24")
	equalList(t, "dns_servers", server.DnsServers, "10.10.0.53")
	if c := server.ServerCertificate; *c.Source != "SERVICE_SIGN" || c.Issuer == nil || c.ExpirationTime == nil {
		t.Errorf("server_certificate is %v", c)
	}
	return id
}

// serverIsActive waits until a server is, as the list of all tells.
func serverIsActive(t *testing.T, client *vpn.VpnClient, id string) {
	t.Helper()
	poll(t, "server", func() string {
		for _, s := range *ok(client.ListVpnServersByProject(&model.ListVpnServersByProjectRequest{}))(t).VpnServers {
			if *s.Id == id {
				return *s.Status
			}
		}
		return "not there"
	}, "ACTIVE")
}

func exportProfile(t *testing.T, client *vpn.VpnClient, server string) {
	t.Helper()
	plain := ok(client.ExportClientConfig(&model.ExportClientConfigRequest{VpnServerId: server}))(t).ClientConfig
	phone := ok(client.ExportClientConfig(&model.ExportClientConfigRequest{VpnServerId: server, Body: &model.ExportClientConfigRequestBody{
		OsType: p(model.GetExportClientConfigRequestBodyOsTypeEnum().I_OS),
	}}))(t).ClientConfig
	equal(t, "profile", phone, *plain)
	if !strings.HasPrefix(*plain, "client\ndev tun\nproto tcp\nremote "+eip3+" 443\n") || !strings.Contains(*plain, "\nauth-user-pass\n<ca>\n-----BEGIN CERTIFICATE-----\n") {
		t.Errorf("profile is %s", *plain)
	}
}

func clientCAs(t *testing.T, client *vpn.VpnClient, server string) {
	t.Helper()
	root, _ := serverCertificate(t)
	body := &model.ImportClientCaCertificateRequestBody{ClientCaCertificate: &model.ImportClientCaCertificateRequestBodyClientCaCertificate{
		Name: p("clients"), Content: root,
	}}
	checked := ok(client.CheckClientCaCertificate(&model.CheckClientCaCertificateRequest{Body: body}))(t)
	equal(t, "issuer", checked.Issuer, "O=acme,CN=root")
	equal(t, "serial_number", checked.SerialNumber, "1")
	equal(t, "signature_algorithm", checked.SignatureAlgorithm, "SHA256WITHECDSA")
	imported := ok(client.ImportClientCa(&model.ImportClientCaRequest{VpnServerId: server, Body: body}))(t)
	if imported.HttpStatusCode != http.StatusCreated {
		t.Errorf("import answers %d", imported.HttpStatusCode)
	}
	id := *imported.ClientCaCertificate.Id
	serverIsActive(t, client, server)
	ok(client.UpdateClientCa(&model.UpdateClientCaRequest{VpnServerId: server, ClientCaCertificateId: id, Body: &model.UpdateClientCaCertificateRequestBody{
		ClientCaCertificate: &model.UpdateClientCaCertificateRequestBodyClientCaCertificate{Name: p("renamed")},
	}}))(t)
	shown := ok(client.ShowClientCa(&model.ShowClientCaRequest{VpnServerId: server, ClientCaCertificateId: id}))(t).ClientCaCertificate
	equal(t, "name", shown.Name, "renamed")
	equal(t, "subject", shown.Subject, "O=acme,CN=root")
	serverIsActive(t, client, server)
	deleted := ok(client.DeleteClientCa(&model.DeleteClientCaRequest{VpnServerId: server, ClientCaCertificateId: id}))(t)
	if deleted.HttpStatusCode != http.StatusNoContent {
		t.Errorf("delete answers %d", deleted.HttpStatusCode)
	}
	serverIsActive(t, client, server)
	_, err := client.ShowClientCa(&model.ShowClientCaRequest{VpnServerId: server, ClientCaCertificateId: id})
	refused(t, err, http.StatusNotFound, "VPN.1115", "Client CA certificate "+id+" does not exist.")
}

func updateServer(t *testing.T, client *vpn.VpnClient, server string) {
	t.Helper()
	update := func(u *model.UpdateServerRequest) error {
		_, err := client.UpdateVpnServer(&model.UpdateVpnServerRequest{VpnServerId: server, Body: &model.UpdateServerRequestBody{VpnServer: u}})
		return err
	}
	if err := update(&model.UpdateServerRequest{
		LocalSubnets: &[]string{"10.10.0.0/24"}, DnsServers: &[]string{},
		ServerCertificate: &model.UpdateServerRequestServerCertificate{Id: certificateID},
		SslOptions:        &model.UpdateServerRequestSslOptions{Port: p(model.GetUpdateServerRequestSslOptionsPortEnum().E_1194)},
	}); err != nil {
		t.Fatal(err)
	}
	serverIsActive(t, client, server)
	shown := (*ok(client.ListVpnServersByProject(&model.ListVpnServersByProjectRequest{}))(t).VpnServers)[0]
	equal(t, "server_certificate.id", shown.ServerCertificate.Id, certificateID)
	equal(t, "server_certificate.subject", shown.ServerCertificate.Subject, "O=acme,CN=vpn")
	equal(t, "ssl_options.port", shown.SslOptions.Port, 1194)
	equalList(t, "dns_servers", shown.DnsServers)
	refused(t, update(&model.UpdateServerRequest{ClientCidr: p("10.10.0.0/24")}), http.StatusBadRequest, "VPN.1119",
		"The client CIDR block conflicts with the local CIDR block 10.10.0.0/24.")
}

// clientConnections has a stock OpenVPN client connect, and ends its connection.
func clientConnections(t *testing.T, client *vpn.VpnClient, gateway, server string) {
	t.Helper()
	list := func() *model.ListP2cVgwConnectionsResponse {
		return ok(client.ListP2cVgwConnections(&model.ListP2cVgwConnectionsRequest{P2cVgwId: gateway, Limit: p(int32(10)), Offset: p(int32(0))}))(t)
	}
	equal(t, "total_count", list().TotalCount, 0)
	_, err := client.DeleteP2cVgwConnection(&model.DeleteP2cVgwConnectionRequest{P2cVgwId: gateway, ConnectionId: vpcID})
	refused(t, err, http.StatusNotFound, "VPN.0563", "The connection does not exists.")

	const user, password = "traveller", "Password-of-1"
	ok(client.CreateVpnUser(&model.CreateVpnUserRequest{VpnServerId: server, Body: &model.CreateVpnUserRequestBody{
		User: &model.CreateVpnUserRequestBodyContent{Name: user, Password: password},
	}}))(t)
	nextSecond()
	profile := *ok(client.ExportClientConfig(&model.ExportClientConfigRequest{VpnServerId: server}))(t).ClientConfig
	openVPN := startOpenVPN(t, profile, user, password)
	poll(t, "client", func() string {
		if *list().TotalCount == 0 {
			return "PENDING_LOGIN"
		}
		return "connected"
	}, "connected")
	connected := (*list().Connections)[0]
	equal(t, "client_user_name", connected.ClientUserName, user)
	equal(t, "current_connection_number", ok(client.ShowP2cVgw(&model.ShowP2cVgwRequest{P2cVgwId: gateway}))(t).P2cVpnGateway.CurrentConnectionNumber, 1)
	ended := ok(client.DeleteP2cVgwConnection(&model.DeleteP2cVgwConnectionRequest{P2cVgwId: gateway, ConnectionId: *connected.ConnectionId}))(t)
	if ended.HttpStatusCode != http.StatusOK {
		t.Errorf("disconnect answers %d", ended.HttpStatusCode)
	}
	select {
	case <-openVPN:
	case <-time.After(time.Minute):
		t.Error("the client does not know that it was disconnected")
	}
	poll(t, "client", func() string {
		if *list().TotalCount > 0 {
			return "PENDING_LOGOUT"
		}
		return "gone"
	}, "gone")
}

// startOpenVPN starts a client that sets nothing on this host, and ends when its
// connection does. The channel is closed then.
func startOpenVPN(t *testing.T, profile, user, password string) <-chan struct{} {
	t.Helper()
	dir := t.TempDir()
	file, login, log := filepath.Join(dir, "client.ovpn"), filepath.Join(dir, "login"), filepath.Join(dir, "log")
	for path, text := range map[string]string{file: profile, login: user + "\n" + password + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client := exec.Command("openvpn", "--config", file, "--auth-user-pass", login, "--log", log,
		"--dev", "null", "--ifconfig-noexec", "--route-noexec", "--remap-usr1", "SIGTERM")
	client.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = client.Wait()
	}()
	t.Cleanup(func() {
		_ = client.Process.Kill()
		<-ended
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("log of the client:\n%s", text)
		}
	})
	return ended
}

// p2cTags finds a gateway by its tag, with and without a body.
func p2cTags(t *testing.T, client *vpn.VpnClient, gateway string) {
	t.Helper()
	found := ok(client.ListResourcesByTags(&model.ListResourcesByTagsRequest{
		ContentType: contentType, ResourceType: model.GetListResourcesByTagsRequestResourceTypeEnum().P2C_VPN_GATEWAYS,
		Body: &model.QueryResourcesRequestBody{Tags: &[]model.Tag{{Key: "site", Values: []string{"berlin"}}}},
	}))(t)
	if l := *found.Resources; len(l) != 1 || *l[0].ResourceId != gateway {
		t.Errorf("found %v", found)
	}
	count := ok(client.CountResourcesByTags(&model.CountResourcesByTagsRequest{
		ContentType: contentType, ResourceType: model.GetCountResourcesByTagsRequestResourceTypeEnum().P2C_VPN_GATEWAYS,
	}))(t)
	equal(t, "total_count", count.TotalCount, 1)
}

func deleteP2CGateway(t *testing.T, client *vpn.VpnClient, gateway string) {
	t.Helper()
	deleted := ok(client.DeleteP2cVgw(&model.DeleteP2cVgwRequest{P2cVgwId: gateway}))(t)
	if deleted.HttpStatusCode != http.StatusNoContent {
		t.Errorf("delete answers %d", deleted.HttpStatusCode)
	}
	show := func() error {
		_, err := client.ShowP2cVgw(&model.ShowP2cVgwRequest{P2cVgwId: gateway})
		return err
	}
	poll(t, "client-to-cloud gateway", func() string {
		if show() == nil {
			return "PENDING_DELETE"
		}
		return "gone"
	}, "gone")
	refused(t, show(), http.StatusNotFound, "VPN.0509", "The gateway does not exist.")
	servers := ok(client.ListVpnServersByProject(&model.ListVpnServersByProjectRequest{}))(t)
	equal(t, "total_count", servers.TotalCount, 0)
}

// serverCertificate returns what stands in the inventory: the certificate of
// the root, and that of the server.
func serverCertificate(t *testing.T) (root, leaf string) {
	t.Helper()
	text, err := os.ReadFile(certificateFile)
	if err != nil {
		t.Fatal(err)
	}
	first, rest := pem.Decode(text)
	second, _ := pem.Decode(rest)
	return string(pem.EncodeToMemory(second)), string(pem.EncodeToMemory(first))
}

// certificateFile holds the server certificate of the inventory and its root.
var certificateFile string

// writeCertificate makes the server certificate of the inventory.
func writeCertificate(dir string) (keyFile string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{"acme"}, CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
		}
	}
	root, leaf := template(1, "root"), template(2, "vpn")
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	var text []byte
	for _, c := range []*x509.Certificate{leaf, root} {
		der, err := x509.CreateCertificate(rand.Reader, c, root, key.Public(), key)
		if err != nil {
			return "", err
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	certificateFile, keyFile = filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	if err := os.WriteFile(certificateFile, text, 0o600); err != nil {
		return "", err
	}
	return keyFile, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
