package reconcile

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

func templateSubject(version control.IKEVersion) subject {
	s := aSubject()
	s.gateway.Flavor = control.FlavorProfessional1NonFixedIP
	s.gateway.LocalSubnets = prefixes("10.10.0.0/24", "10.10.1.0/24")
	s.gateway.Template = &control.PolicyTemplate{
		IKE:   control.TemplateIKE{Authentication: control.SHA2384, Encryption: control.AES256, Group: control.Group20, LifetimeSeconds: 7200},
		IPsec: control.TemplateIPsec{Authentication: control.SHA2256, Encryption: control.AES128GCM16, PFS: control.PFSDisable, LifetimeSeconds: 600},
	}
	s.customer = &control.CustomerGateway{Meta: control.Meta{ID: "cgw"}, IDType: control.IDTypeFQDN, IDValue: "branch"}
	s.connection.Style = control.StylePolicyTemplate
	s.connection.IKE.Version = version
	s.connection.IKE.PeerIDType, s.connection.IKE.PeerID = control.IDTypeFQDN, "branch"
	s.connection.PeerSubnets = prefixes("192.168.0.0/16", "172.16.0.0/12")
	return s
}

// The algorithms and lifetimes are the template's, the identity and the key the
// connection's, and the peer chooses within the subnets.
func TestTranslateTemplate(t *testing.T) {
	for _, version := range []control.IKEVersion{control.IKEv1, control.IKEv2} {
		s := templateSubject(version)
		tn, err := newTranslator(true, LifetimeLimits{}).translate(s)
		if err != nil {
			t.Fatal(err)
		}
		c := tn.connection
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
		if c.Remote.IsValid() || c.Initiate || c.RemoteID != sa.FQDNIdentity("branch") || c.Lifetime != 2*time.Hour || c.Claimant != "cgw" {
			t.Errorf("connection is %+v", c)
		}
		if got := c.Proposals[0].String(); got != "IKE: AES-CBC-256, HMAC-SHA2-384-192, PRF-HMAC-SHA2-384, ECP-384 (group 20)" {
			t.Errorf("IKE proposal is %s", got)
		}
		if len(c.Children) != 1 || !c.Children[0].Template || ipsec.SelectorList(c.Children[0].Local) != "10.10.0.0/24, 10.10.1.0/24" ||
			ipsec.SelectorList(c.Children[0].Remote) != "192.168.0.0/16, 172.16.0.0/12" || c.Children[0].Lifetime.Hard != 10*time.Minute {
			t.Errorf("children are %+v", c.Children)
		}
		if got := c.Children[0].Proposals[0].String(); got != "ESP: AES-GCM-16-128, no ESN" {
			t.Errorf("ESP proposal is %s", got)
		}
		if tn.address.IsValid() || len(tn.flows) != 4 || s.connection.IKE.Encryption != control.AES128 {
			t.Errorf("tunnel is %+v", tn)
		}
	}
	s := templateSubject(control.IKEv2)
	s.gateway.Template = nil
	if _, err := newTranslator(true, LifetimeLimits{}).translate(s); err == nil {
		t.Error("a gateway without a template")
	}
}

// Routes lead to a peer for what it has agreed on, and for nothing else; what the
// template is for is dropped at any time.
func TestTemplateRoutes(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.gateway(func(r *control.GatewayCreate) { r.Flavor = ptr("Professional1-NonFixedIP") })
		template := func(name string) func(*control.ConnectionCreate) {
			return func(c *control.ConnectionCreate) {
				c.Name, c.Style, c.PeerSubnets = ptr(name), ptr("policy-template"), []string{"192.168.0.0/16"}
			}
		}
		a := w.connection(g, eip1, w.customer("a.example"), template("a"))
		b := w.connection(g, eip1, w.customer("b.example"), template("b"))
		unicast := func() (list []string) {
			w.engines.mu.Lock()
			defer w.engines.mu.Unlock()
			for _, r := range w.engines.routes.Routes {
				if r.Type == route.Unicast {
					list = append(list, r.Dst.String())
				}
			}
			slices.Sort(list)
			return list
		}
		if got := unicast(); len(got) != 0 {
			t.Errorf("without peers there are routes to %v", got)
		}
		w.engines.agree(a, "10.10.0.0/24", "192.168.1.0/24")
		w.engines.agree(b, "10.10.0.0/24", "192.168.2.0-192.168.2.191")
		w.settle()
		if got := unicast(); !slices.Equal(got, []string{"192.168.1.0/24", "192.168.2.0/25", "192.168.2.128/26"}) {
			t.Errorf("routes to %v", got)
		}
		w.wantState(a, control.ConnectionActive)
		if got := w.show(b).Status.Routes; len(got) != 2 {
			t.Errorf("the status tells of %v", got)
		}
		w.engines.down(a, sa.Event{Kind: sa.IKEDown, Reason: sa.ReasonPeerRequest})
		w.settle()
		if got := unicast(); slices.Contains(got, "192.168.1.0/24") {
			t.Errorf("a peer that is gone has routes: %v", got)
		}
		blackholes := 0
		w.engines.mu.Lock()
		for _, r := range w.engines.routes.Routes {
			if r.Type == route.Blackhole && r.Dst.String() == "192.168.0.0/16" {
				blackholes++
			}
		}
		w.engines.mu.Unlock()
		if blackholes != 2 { // one for each local subnet
			t.Errorf("%d blackholes", blackholes)
		}
	})
}

// agree makes a peer's CHILD_SA of a template stand.
func (e *engines) agree(id, local, remote string) {
	selector := func(text string) ipsec.TrafficSelector {
		if first, last, ok := strings.Cut(text, "-"); ok {
			ts := ipsec.SelectorFromPrefix(netip.MustParsePrefix(first + "/32"))
			ts.End = netip.MustParseAddr(last)
			return ts
		}
		return ipsec.SelectorFromPrefix(netip.MustParsePrefix(text))
	}
	child := sa.ChildStatus{
		Name: local + " to " + remote, State: sa.Established,
		Local: []ipsec.TrafficSelector{selector(local)}, Remote: []ipsec.TrafficSelector{selector(remote)},
	}
	e.mu.Lock()
	e.status[id] = ike.ConnectionStatus{IKE: []sa.IKEStatus{{State: sa.Established}}, Children: []ike.ChildStatus{{ChildStatus: child}}}
	e.mu.Unlock()
	e.events <- sa.Event{Kind: sa.ChildUp, Connection: id, Child: child.Name}
}

// What overlaps the traffic of a connection of another peer, which is configured, is
// not routed to the peer of a template, and the key exchange is told of it.
func TestTemplateLeavesWhatIsConfigured(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.gateway(func(r *control.GatewayCreate) { r.Flavor = ptr("Professional1-NonFixedIP") })
		a := w.connection(g, eip1, w.customer("a.example"), func(c *control.ConnectionCreate) {
			c.Name, c.Style, c.PeerSubnets = ptr("a"), ptr("policy-template"), []string{"192.168.0.0/16"}
		})
		other := w.gateway(func(r *control.GatewayCreate) {
			r.Name, r.EIP1, r.EIP2 = ptr("other"), &control.EIPRequest{ID: ptr(eip3)}, &control.EIPRequest{ID: ptr(eip4)}
		})
		static := w.connection(other, eip4, w.customer("198.51.100.7"), func(c *control.ConnectionCreate) {
			c.Name, c.Style, c.PolicyRules = ptr("static"), ptr("policy"), []control.PolicyRuleRequest{{Source: "10.10.0.0/24", Destination: []string{"192.168.9.0/24"}}}
		})
		w.settle()
		r := w.engines.applied(static).Reservation
		if len(r.Flows) != 1 || r.Flows[0].String() != "local 10.10.0.0/24, remote 192.168.9.0/24" || r.Claimant == "" {
			t.Fatalf("it reserves %+v", r)
		}
		if r := w.engines.applied(a).Reservation; len(r.Flows) != 0 {
			t.Errorf("a template reserves %+v", r)
		}
		for _, flow := range [][2]string{
			{"10.10.0.0/24", "192.168.9.128/25"}, {"10.10.0.7/32", "192.168.0.0/16"}, {"10.10.0.0/24", "192.168.9.0/24"}, {"10.10.0.0/25", "192.168.8.0/23"},
		} {
			w.engines.agree(a, flow[0], flow[1])
			w.settle()
			w.engines.mu.Lock()
			for _, route := range w.engines.routes.Routes {
				for _, hop := range route.NextHops {
					if tn := w.r.tunnels[a]; hop.Link == tn.device.Name {
						t.Errorf("%v: %s is routed to the peer of the template", flow, route.Dst)
					}
				}
			}
			w.engines.mu.Unlock()
		}
	})
}
