//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// The programs under test; VPNGW_BIN names another directory than bin.
var (
	vpngwd = filepath.Join(cmp.Or(os.Getenv("VPNGW_BIN"), "../../bin"), "vpngwd")
	vpnctl = filepath.Join(cmp.Or(os.Getenv("VPNGW_BIN"), "../../bin"), "vpnctl")
)

const (
	psk      = "E2e-psk-of-32-octets-0123456789!"
	otherPSK = "E2e-psk-that-differs-0123456789!"

	// patience is how long a tunnel may take to come up.
	patience = time.Minute
)

// world is one topology with a daemon and a strongSwan at each site that was
// given one.
type world struct {
	*netlab.Topology
	t      *testing.T
	ctx    context.Context
	daemon *netlab.Daemon
	api    *client.Client
	peers  map[int]*netlab.StrongSwan // by site
	before netlab.HostState           // of the gateway, ahead of the daemon's start
	clear  *netlab.Capture            // inner traffic that left the gateway
	// scrape: the daemon answers a few requests for its metrics at a time, and refuses others.
	scrape sync.Mutex
}

// newWorld builds a topology and starts the daemon in it. The scenario has to
// end within the limit.
func newWorld(t *testing.T, limit time.Duration, config netlab.Config, options netlab.DaemonOptions) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	topology, err := netlab.NewTopology(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := topology.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{Topology: topology, t: t, ctx: ctx, peers: map[int]*netlab.StrongSwan{}}
	t.Cleanup(w.end)
	w.before = must(topology.Gateway.HostState(ctx))(t)
	inner := "src net 10.10.0.0/16 or src net 169.254.0.0/16 or src net 172.30.0.0/24"
	if topology.IPv6 != nil {
		inner += " or src net 2001:db8:10::/48 or src net 2001:db8:20::/48"
	}
	w.clear = must(topology.Gateway.Capture(ctx, "clear", netlab.WAN, inner))(t)
	w.daemon = must(topology.StartDaemon(ctx, vpngwd, options))(t)
	w.api = must(w.daemon.Client())(t)
	return w
}

// must returns a function that ends the test when the error is one.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// check ends the test at an error.
func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// end stops the daemon, which has to heed that, and writes both sides' logs into
// the output of a failed test, with -v of any test. What the daemon itself calls
// an error fails the test.
func (w *world) end() {
	if w.daemon != nil && w.daemon.Running() {
		if figures, err := w.daemon.Metrics(context.WithoutCancel(w.ctx)); err == nil && w.t.Failed() {
			w.t.Logf("vpngwd's metrics:\n%s", figures)
		}
		if err := w.daemon.Stop(); err != nil {
			w.t.Errorf("stop vpngwd: %v", err)
		}
	}
	if w.daemon != nil && w.daemon.Store != nil {
		if err := w.daemon.Store.Close(); err != nil {
			w.t.Error(err)
		}
	}
	if w.daemon != nil {
		for line := range strings.Lines(w.daemon.Log()) {
			if hasAny(line, "level=ERROR", "DATA RACE", "panic") {
				w.t.Errorf("vpngwd: %s", line)
			}
		}
	}
	if !w.t.Failed() && !testing.Verbose() {
		return
	}
	if w.daemon != nil {
		w.t.Logf("vpngwd:\n%s", w.daemon.Log())
	}
	for i, peer := range w.peers {
		w.t.Logf("strongSwan of site %d:\n%s", i, peer.Log())
	}
}

// expectNothingInClear ends the watch over the gateway's way to the internet.
func (w *world) expectNothingInClear() {
	w.t.Helper()
	w.check(w.clear.Finish(w.ctx))
	rows, err := w.clear.Fields(w.ctx, "", "ip or ipv6", "frame.time_relative", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "_ws.col.Info")
	w.check(err)
	if len(rows) > 0 {
		w.t.Errorf("%d inner packets left the gateway in the clear, the first: %v", len(rows), rows[0])
	}
}

// peer starts strongSwan as the router of a site.
func (w *world) peer(site int, settings map[string]string, connections ...netlab.SwanConnection) *netlab.StrongSwan {
	w.t.Helper()
	return w.peerBy(w.Sites[site].Router.StartStrongSwan, site, settings, connections...)
}

// newerPeer is peer with strongSwan 6.
func (w *world) newerPeer(site int, settings map[string]string, connections ...netlab.SwanConnection) *netlab.StrongSwan {
	w.t.Helper()
	return w.peerBy(w.Sites[site].Router.StartNewerStrongSwan, site, settings, connections...)
}

// startSwan starts one of the strongSwans.
type startSwan = func(ctx context.Context, name, config string, settings map[string]string) (*netlab.StrongSwan, error)

func (w *world) peerBy(start startSwan, site int, settings map[string]string, connections ...netlab.SwanConnection) *netlab.StrongSwan {
	w.t.Helper()
	name := fmt.Sprintf("strongswan%d", site)
	peer, err := start(w.ctx, name, netlab.SwanConfig(connections...), settings)
	if peer != nil {
		w.peers[site] = peer
	}
	w.check(err)
	return peer
}

// swan is the usual configuration of a site's strongSwan: one child between the
// first subnets, which matches connection.
func (w *world) swan(site int, edit ...func(*netlab.SwanConnection)) netlab.SwanConnection {
	s := w.Sites[site]
	c := netlab.SwanConnection{
		Name: "cloud", Local: s.Local, Remote: w.Public[0], PSK: psk,
		LocalID: s.Public.String(), RemoteID: w.Public[0].String(),
		Proposal: "aes128gcm16-prfsha256-ecp256", ESPProposal: "aes128gcm16-ecp256",
		Children: []netlab.SwanChild{{Name: "net", Local: s.Subnets[:1], Remote: w.CloudSubnets[:1]}},
	}
	for _, e := range edit {
		e(&c)
	}
	return c
}

func connectionName(site int) string { return fmt.Sprintf("site-%d", site+1) }

// connection is the usual connection to a site: policy style with one rule.
func (w *world) connection(site int, edit ...func(*declare.Connection)) declare.Connection {
	s := w.Sites[site]
	c := declare.Connection{
		Name: connectionName(site), Gateway: "cloud", CustomerGateway: connectionName(site),
		VGWIP: netlab.EIP1, Style: "policy", PSK: psk,
		PeerSubnets: []string{s.Subnets[0].String(), s.Subnets[1].String()},
		PolicyRules: []declare.PolicyRule{{Source: w.CloudSubnets[0].String(), Destination: []string{s.Subnets[0].String()}}},
		IKEPolicy:   &declare.IKEPolicy{EncryptionAlgorithm: "aes-128-gcm-16", DHGroup: "group19"},
		IPsecPolicy: &declare.IPsecPolicy{EncryptionAlgorithm: "aes-128-gcm-16", PFS: "group19"},
	}
	for _, e := range edit {
		e(&c)
	}
	return c
}

// respondOnly makes a customer gateway one whose address is not known, so that
// only the peer can begin. Its identity stays the address unless fqdn is given.
func respondOnly(c *declare.CustomerGateway) { c.IDType, c.IDValue = "fqdn", c.Name+".test" }

// file is a gateway with connections and the customer gateway of each.
func (w *world) file(connections []declare.Connection, edit ...func(*declare.CustomerGateway)) *declare.File {
	f := &declare.File{
		Gateways: []declare.Gateway{{
			Name: "cloud", VPCID: netlab.VPC, ConnectSubnet: netlab.Subnet1,
			LocalSubnets: []string{w.CloudSubnets[0].String(), w.CloudSubnets[1].String()},
			EIP1:         &declare.EIP{ID: netlab.EIP1}, EIP2: &declare.EIP{ID: netlab.EIP2},
		}},
		Connections: connections,
	}
	for _, c := range connections {
		for site, s := range w.Sites {
			if c.CustomerGateway == connectionName(site) {
				f.CustomerGateways = append(f.CustomerGateways, declare.CustomerGateway{Name: c.CustomerGateway, IDValue: s.Public.String()})
			}
		}
	}
	for i := range f.CustomerGateways {
		for _, e := range edit {
			e(&f.CustomerGateways[i])
		}
	}
	return f
}

// apply brings the gateway to the file through the API.
func (w *world) apply(f *declare.File) {
	w.t.Helper()
	a := declare.Applier{Client: w.api, Every: 50 * time.Millisecond, Report: func(c declare.Change) {
		w.t.Logf("%s %s %s %v", c.Action, c.Kind.Name, c.Name, c.Fields)
	}}
	w.check(a.Apply(w.ctx, f))
}

// id returns the id of a connection.
func (w *world) id(name string) string {
	w.t.Helper()
	o, err := w.api.Find(w.ctx, client.Connections, name)
	w.check(err)
	return o.ID()
}

// waitStatus waits for a connection's status.
func (w *world) waitStatus(name, want string, limit time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	id, have := w.id(name), ""
	err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		o, err := w.api.Get(ctx, client.Connections, id)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		have = o.Status()
		return have == want, err
	})
	if err != nil {
		w.t.Fatalf("connection %s is %s, want %s within %v: %v\n%s", name, have, want, limit, err, w.log(name))
	}
}

// log returns the lines of a connection's log, the newest first.
func (w *world) log(name string) string {
	w.t.Helper()
	lines, err := w.api.Log(w.ctx, w.id(name))
	w.check(err)
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// waitLog waits for a line of a connection's log that has all the words.
func (w *world) waitLog(name string, limit time.Duration, words ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	var found, all string
	err := netlab.Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		all = w.log(name)
		for line := range strings.Lines(all) {
			if hasAll(line, words...) {
				found = strings.TrimSpace(line)
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		w.t.Errorf("the log of connection %s has no line with %q:\n%s", name, words, all)
	}
	return found
}

func hasAll(text string, words ...string) bool {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

// reach waits until target answers from a namespace.
func (w *world) reach(from *netlab.Namespace, source, target netip.Addr) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	w.check(from.WaitPing(ctx, source, target))
}

// ping begins a stream of five echo requests a second from the cloud host to a
// site's first address, once the first is answered.
func (w *world) ping(site int) *netlab.Ping {
	w.t.Helper()
	target := w.Sites[site].Addresses[0]
	w.reach(w.CloudHost, w.CloudAddresses[0], target)
	p, err := w.CloudHost.StartPing(fmt.Sprintf("ping%d", site), w.CloudAddresses[0], target, 200*time.Millisecond)
	w.check(err)
	return p
}

// overruns returns how many packets of any kind full queues have dropped.
func (w *world) overruns() (sum int) {
	w.t.Helper()
	namespaces := []*netlab.Namespace{w.Internet, w.Gateway, w.CloudHost}
	for _, s := range w.Sites {
		namespaces = append(namespaces, s.Router, s.Host)
	}
	for _, n := range namespaces {
		dropped, err := n.Overruns(w.ctx)
		w.check(err)
		sum += dropped
	}
	return sum
}

// figure returns one of the daemon's metrics, named with its labels.
func (w *world) figure(name string) string {
	w.t.Helper()
	w.scrape.Lock()
	page, err := w.daemon.Metrics(w.ctx)
	w.scrape.Unlock()
	w.check(err)
	for line := range strings.Lines(page) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// expectOneSA waits until both sides have one IKE SA with the given number of
// installed children and nothing else, and returns it as the peer has it.
func (w *world) expectOneSA(site, children int, limit time.Duration) netlab.SwanIKE {
	w.t.Helper()
	return w.expectOneSAOf(w.id(connectionName(site)), site, children, limit)
}

// expectOneSAOf is expectOneSA for a connection of whatever name.
func (w *world) expectOneSAOf(id string, site, children int, limit time.Duration) netlab.SwanIKE {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	connection := fmt.Sprintf("{connection=%q}", id)
	var sas []netlab.SwanIKE
	var ours [2]string
	err := netlab.Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		ours = [2]string{w.figure("vpngw_connection_ike_sas" + connection), w.figure("vpngw_connection_child_sas" + connection)}
		var err error
		if sas, err = w.peers[site].SAs(w.ctx); err != nil {
			return false, err
		}
		if len(sas) != 1 || sas[0].State != "ESTABLISHED" || len(sas[0].Children) != children {
			return false, nil
		}
		for _, c := range sas[0].Children {
			if c.State != "INSTALLED" {
				return false, nil
			}
		}
		return ours == [2]string{"1", fmt.Sprint(children)}, nil
	})
	if err != nil {
		w.t.Fatalf("site %d: want one IKE SA with %d children, we have %v, the peer %+v: %v", site, children, ours, sas, err)
	}
	return sas[0]
}
