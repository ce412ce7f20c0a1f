//go:build e2e

package e2e

import (
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/emmansun/gmsm/smx509"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// validGMNow is validNow for certificates of the profile GM/T 0022.
func validGMNow(c *smx509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(30*24*time.Hour)
}

// gmWorld is one end of a tunnel between two gateways of flavor GM.
type gmWorld struct {
	*world
	ca          *certtest.GM // of this end's own certificates
	gateway     string
	certificate string
}

// certificates are a new pair of this end, as the API takes it.
func (w *gmWorld) certificates(name string) client.Object {
	signing := w.ca.Sign(w.t, name+" sign", certtest.GMSigning, validGMNow)
	encryption := w.ca.Sign(w.t, name+" enc", certtest.GMEncryption, validGMNow)
	return client.Object{"certificate": client.Object{
		"certificate": signing.PEM(), "private_key": signing.KeyPEM(w.t), "certificate_chain": w.ca.PEM(),
		"enc_certificate": encryption.PEM(), "enc_private_key": encryption.KeyPEM(w.t),
	}}
}

// build makes the gateway and its certificate.
func (w *gmWorld) build(name string, local netip.Prefix) {
	w.t.Helper()
	gateway := must(w.api.Create(w.ctx, client.Gateways, client.Object{
		"name": name, "flavor": "GM", "vpc_id": netlab.VPC, "connect_subnet": netlab.Subnet1, "local_subnets": []string{local.String()},
		"eip1": client.Object{"id": netlab.EIP1}, "eip2": client.Object{"id": netlab.EIP2},
	}))(w.t)
	w.gateway = gateway.ID()
	must(w.api.WaitActive(w.ctx, client.Gateways, w.gateway, 50*time.Millisecond))(w.t)
	var made struct {
		Certificate struct {
			ID string `json:"id"`
		} `json:"certificate"`
	}
	w.check(w.api.Call(w.ctx, http.MethodPost, "vpn-gateways/"+w.gateway+"/certificate", w.certificates(name), &made))
	w.certificate = made.Certificate.ID
	w.waitBound()
}

// connect makes the other end with its authority, and the connection.
func (w *gmWorld) connect(name string, local, remote netip.Prefix, address netip.Addr, authority *certtest.GM) (customerGateway string) {
	w.t.Helper()
	peer := must(w.api.Create(w.ctx, client.CustomerGateways, client.Object{
		"name": name, "id_value": address.String(), "ca_certificate": client.Object{"content": authority.PEM()},
	}))(w.t)
	must(w.api.Create(w.ctx, client.Connections, client.Object{
		"name": name, "vgw_id": w.gateway, "vgw_ip": netlab.EIP1, "cgw_id": peer.ID(), "style": "POLICY",
		"peer_subnets": []string{remote.String()},
		"policy_rules": []client.Object{{"source": local.String(), "destination": []string{remote.String()}}},
	}))(w.t)
	return peer.ID()
}

// gmSite is a gateway of flavor GM at a site of w's, with an authority of its own.
// Both ends have the connection to the other.
func (w *gmWorld) gmSite(number int, options netlab.DaemonOptions) (site *gmWorld, customerGateway string) {
	w.t.Helper()
	s, name := w.Sites[number], connectionName(number)
	site = &gmWorld{world: &world{Topology: w.Topology, t: w.t, ctx: w.ctx}, ca: certtest.NewGM(w.t, name+" root", validGMNow)}
	w.t.Cleanup(site.end)
	site.daemon = must(w.StartSiteDaemon(w.ctx, vpngwd, s, options))(w.t)
	site.api = must(site.daemon.Client())(w.t)
	site.build("site", s.Subnets[0])
	customerGateway = w.connect(name, w.CloudSubnets[0], s.Subnets[0], s.Public, site.ca)
	site.connect(name, s.Subnets[0], w.CloudSubnets[0], w.Public[0], w.ca)
	return site, customerGateway
}

// waitBound waits until the gateway's certificate is in use, and the gateway ready.
func (w *gmWorld) waitBound() {
	w.t.Helper()
	err := netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) {
		var shown struct {
			Certificate struct {
				Status string `json:"status"`
			} `json:"certificate"`
		}
		err := w.api.Call(w.ctx, http.MethodGet, "vpn-gateways/"+w.gateway+"/certificate", nil, &shown)
		return shown.Certificate.Status == "BOUND", err
	})
	w.check(err)
	must(w.api.WaitActive(w.ctx, client.Gateways, w.gateway, 50*time.Millisecond))(w.t)
}

// Two gateways of flavor GM, each with its own authority, prove themselves by SM2
// certificates and carry traffic under SM4, over rekeys and a change of certificate.
// Both are vpngwd: there is no other peer of the profile that could be had.
func TestGM(t *testing.T) {
	t.Parallel()
	options := netlab.DaemonOptions{ShortLives: true, Retransmit: true}
	here := &gmWorld{world: newWorld(t, 5*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{}}}, options)}
	site := here.Sites[0]
	here.ca = certtest.NewGM(t, "cloud root", validGMNow)
	here.build("cloud", here.CloudSubnets[0])
	there, peer := here.gmSite(0, options)
	here.waitStatus(connectionName(0), "ACTIVE", patience)
	there.waitStatus(connectionName(0), "ACTIVE", patience)
	here.reach(here.CloudHost, here.CloudAddresses[0], site.Addresses[0])
	there.reach(site.Host, site.Addresses[0], here.CloudAddresses[0])
	here.waitLog(connectionName(0), patience, "An IKE SA is established", "IKEv1", "SM4-CBC", "PRF-HMAC-SM3")
	here.waitLog(connectionName(0), patience, "An IPSec tunnel is established", "SM4-CBC", "HMAC-SM3-96")

	// Both phases are rekeyed, and traffic goes on.
	here.waitLog(connectionName(0), patience, "An IKE SA is rekeyed")
	here.waitLog(connectionName(0), patience, "An IPSec tunnel is rekeyed")
	here.reach(here.CloudHost, here.CloudAddresses[0], site.Addresses[0])

	// Another certificate of the site is shown in a new ISAKMP SA.
	here.check(there.api.Call(there.ctx, http.MethodPut, "vpn-gateways/"+there.gateway+"/certificate/"+there.certificate, there.certificates("renewed"), nil))
	there.waitBound()
	there.reach(site.Host, site.Addresses[0], here.CloudAddresses[0])

	// An authority that is not the site's: nothing passes, and both ends are told why.
	stranger := certtest.NewGM(t, "stranger", validGMNow)
	must(here.api.Update(here.ctx, client.CustomerGateways, peer, client.Object{"ca_certificate": client.Object{"content": stranger.PEM()}}))(t)
	here.waitLog(connectionName(0), patience, "IPSec tunnel negotiation fails", "Reason=[authentication fail]", "parameter: certificate authority",
		"ours: C=CN,O=acme,CN=stranger", "theirs: C=CN,O=acme,CN=site-1 root")
	here.waitStatus(connectionName(0), "DOWN", patience)
	must(here.api.Update(here.ctx, client.CustomerGateways, peer, client.Object{"ca_certificate": client.Object{"content": there.ca.PEM()}}))(t)
	here.waitStatus(connectionName(0), "ACTIVE", patience)
	here.reach(here.CloudHost, here.CloudAddresses[0], site.Addresses[0])
	here.expectNothingInClear()
}
