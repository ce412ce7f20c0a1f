//go:build e2e

package interop

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// patience is how long one step of one cell may take while the machine does
// much else.
const patience = time.Minute

// matrix is one run of cells.
type matrix struct {
	*world
	routers []*router
	peers   []peer // of the routers
	ids     map[int]string
	failed  map[int]string // by number of the cell, the first defect
	// rawESP tells that ESP is in UDP only where there is a NAT.
	rawESP bool
}

// The peer is strongSwan with ESP in userspace: the system's, and strongSwan 6, whose
// package has no IKEv1.
func TestStrongSwanUserspace(t *testing.T) {
	swanUserspaceTest(t, swanUserspace, cells(), &strongSwan{}, &strongSwan{newer: true})
}

// What the API does not have: ChaCha20-Poly1305, Curve25519, post-quantum pre-shared
// keys and, with strongSwan 6, ML-KEM as additional key exchange.
func TestStrongSwanAdditions(t *testing.T) {
	swanUserspaceTest(t, swanAdditions, additions.cells(withoutMLKEM...), &strongSwan{})
	swanUserspaceTest(t, newerAdditions, additions.cells(), &strongSwan{newer: true})
}

// swanUserspaceTest runs what each of the peers has of the array against it. A peer's
// one device takes one cell for any traffic: each route-based cell has a router of its
// own.
func swanUserspaceTest(t *testing.T, s section, array []cell, kinds ...*strongSwan) {
	t.Helper()
	var results []result
	for _, kind := range kinds {
		name := "system"
		if kind.newer {
			name = "newer"
		}
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			w := newWorld(ctx, t, netlab.DaemonOptions{CustomerGateways: len(array)})
			m := &matrix{world: w}
			own := array
			if kind.newer {
				own = slices.DeleteFunc(slices.Clone(array), func(c cell) bool { return !allows(c, newerLimits) })
			}
			w.translate(own)
			var shared []cell
			for _, c := range own {
				if c.Style == "policy" {
					shared = append(shared, c)
					continue
				}
				m.add(w.connect(fmt.Sprintf("router%d", c.Number), []cell{c}), &strongSwan{newer: kind.newer})
			}
			m.add(w.connect("router", shared), &strongSwan{newer: kind.newer})
			m.run(own)
			results = append(results, m.report(s, own, m.version(0)))
			if len(results) == len(kinds) {
				m.write(s, array, results...)
			}
		})
	}
}

// one runs the array against one peer on one router.
func one(ctx context.Context, t *testing.T, s section, array []cell, p peer) {
	w := newWorld(ctx, t, netlab.DaemonOptions{CustomerGateways: len(array), RawESP: true})
	m := &matrix{world: w, rawESP: true}
	w.translate(array)
	m.add(w.connect("router", array), p)
	m.run(array)
	m.write(s, array, m.report(s, array, m.version(0)+", Linux "+kernelVersion(t)))
}

// add starts a peer on a router.
func (m *matrix) add(r *router, p peer) {
	m.t.Helper()
	m.routers, m.peers = append(m.routers, r), append(m.peers, p)
	m.check(p.start(m.ctx, r))
}

// fail notes the first defect of a cell.
func (m *matrix) fail(c cell, format string, args ...any) {
	if _, known := m.failed[c.Number]; !known {
		m.failed[c.Number] = fmt.Sprintf(format, args...)
	}
}

// run brings all cells up and looks at each.
func (m *matrix) run(array []cell) {
	m.t.Helper()
	m.failed, m.ids = map[int]string{}, map[int]string{}
	begun := time.Now()
	step := func(name string) {
		m.t.Logf("%s: %v", name, time.Since(begun).Round(time.Millisecond))
		begun = time.Now()
	}
	m.declare(array)
	step("declared")
	m.initiate()
	step("begun by the peers")
	m.waitUp(array)
	step("up")
	m.checkInitiators()
	m.rekey()
	step("rekeyed by the peers")
	before := m.figures()
	for number, err := range m.exchange(m.routers, func(c cell) bool { return m.failed[c.Number] != "" }) {
		m.fail(cell{Number: number}, "%v", err)
	}
	step("traffic")
	m.compare(before)
	step("compared")
	m.end(array)
	step("ended")
	m.expectNothingInClear()
}

// each calls do for every cell with its peer, some at a time.
func (m *matrix) each(do func(p peer, c cell) error) {
	type outcome struct {
		c   cell
		err error
	}
	var all []outcome
	var mu sync.Mutex
	var wait sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, r := range m.routers {
		for _, c := range r.cells {
			slots <- struct{}{}
			wait.Go(func() {
				defer func() { <-slots }()
				err := do(m.peers[i], c)
				mu.Lock()
				all = append(all, outcome{c, err})
				mu.Unlock()
			})
		}
	}
	wait.Wait()
	for _, o := range all {
		if o.err != nil {
			m.fail(o.c, "%v", o.err)
		}
	}
}

// declare makes the gateway and the connections of all cells through the API.
func (m *matrix) declare(array []cell) {
	m.t.Helper()
	file := &declare.File{Gateways: []declare.Gateway{{
		Name: "cloud", VPCID: netlab.VPC, ConnectSubnet: netlab.Subnet1,
		LocalSubnets: []string{cloudSubnets[0].String(), cloudSubnets[1].String()},
		EIP1:         &declare.EIP{ID: netlab.EIP1}, EIP2: &declare.EIP{ID: netlab.EIP2},
	}}}
	for _, c := range array {
		customer, connection := c.declaration()
		file.CustomerGateways = append(file.CustomerGateways, customer)
		file.Connections = append(file.Connections, connection)
	}
	a := declare.Applier{Client: m.api, Every: 20 * time.Millisecond, Report: func(c declare.Change) {
		if number, ok := strings.CutPrefix(c.Name, "cell-"); ok && c.Kind.Name == client.Connections.Name {
			n, _ := strconv.Atoi(number)
			m.ids[n] = c.ID
		}
	}}
	m.check(a.Apply(m.ctx, file))
}

// declaration is the cell in the words of the API.
func (c cell) declaration() (declare.CustomerGateway, declare.Connection) {
	customer := declare.CustomerGateway{Name: c.name(), IDType: "ip", IDValue: c.public().String()}
	if c.roaming() {
		customer.IDType, customer.IDValue = "fqdn", c.name()+".customer.test"
	}
	ike := &declare.IKEPolicy{
		IKEVersion: "v2", EncryptionAlgorithm: c.Cipher, AuthenticationAlgorithm: c.Hash,
		PeerIDType: "ip", PeerID: c.id(),
	}
	if c.named() {
		ike.PeerIDType = "fqdn"
	}
	ike.DHGroup, ike.AdditionalKeyExchange = inAPI(c.Group)
	if c.v1() {
		ike.IKEVersion, ike.Phase1NegotiationMode = "v1", strings.TrimPrefix(c.Mode, "v1 ")
	}
	ipsec := &declare.IPsecPolicy{EncryptionAlgorithm: c.ESPCipher, AuthenticationAlgorithm: "sha2-256"}
	ipsec.PFS, ipsec.AdditionalKeyExchange = inAPI(c.PFS)
	if c.ESPHash != noHash {
		ipsec.AuthenticationAlgorithm = c.ESPHash
	}
	connection := declare.Connection{
		Name: c.name(), Gateway: "cloud", CustomerGateway: c.name(), VGWIP: netlab.EIP1, PSK: c.psk(),
		PeerSubnets: []string{c.subnet().String()}, IKEPolicy: ike, IPsecPolicy: ipsec,
		// Without them the API takes any that are free, which another cell may want.
		TunnelLocalAddress: fmt.Sprintf("169.254.%d.1/30", c.Number),
		TunnelPeerAddress:  fmt.Sprintf("169.254.%d.2/30", c.Number),
	}
	if c.hasPPK() {
		required := c.PPK == "required"
		connection.PPK, ike.PPKID, ike.PPKRequired = c.ppk(), c.name(), &required
	}
	if c.gateway() == gatewayNATed {
		connection.VGWIP = netlab.EIP2
	}
	if c.Style == "policy" {
		connection.Style = "policy"
		connection.PolicyRules = []declare.PolicyRule{{Source: cloudSubnets[0].String(), Destination: []string{c.subnet().String()}}}
		return customer, connection
	}
	connection.Style = "static"
	return customer, connection
}

// inAPI is a choice of key exchanges in the words of the API.
func inAPI(choice string) (group, additional string) {
	group, mlkem := keyExchange(choice)
	if mlkem {
		additional = "mlkem768"
	}
	return group, additional
}

// initiate begins the cells that are the peers' to begin.
func (m *matrix) initiate() {
	m.each(func(p peer, c cell) error {
		if c.Initiator != byPeer {
			return nil
		}
		if err := p.initiate(m.ctx, c); err != nil {
			return fmt.Errorf("the peer cannot begin: %w", err)
		}
		return nil
	})
}

// figure names one of the daemon's metrics of a connection.
func (m *matrix) figure(name string, c cell, labels string) string {
	return fmt.Sprintf("vpngw_connection_%s{connection=%q%s}", name, m.ids[c.Number], labels)
}

// figures returns the daemon's metrics by name and labels.
func (m *matrix) figures() map[string]string {
	m.t.Helper()
	page, err := m.daemon.Metrics(m.ctx)
	m.check(err)
	figures := map[string]string{}
	for line := range strings.Lines(page) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok {
			figures[name+"}"] = value
		}
	}
	return figures
}

// waitUp waits until each cell has one IKE SA and one CHILD_SA.
func (m *matrix) waitUp(array []cell) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	var down []cell
	_ = netlab.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		figures := m.figures()
		down = slices.DeleteFunc(slices.Clone(array), func(c cell) bool {
			return figures[m.figure("ike_sas", c, "")] == "1" && figures[m.figure("child_sas", c, "")] == "1"
		})
		return len(down) == 0, nil
	})
	for _, c := range down {
		lines, err := m.api.Log(m.ctx, m.ids[c.Number])
		m.check(err)
		var text []string
		for _, l := range lines[:min(3, len(lines))] {
			text = append(text, l.Text)
		}
		m.fail(c, "not up: %s", strings.Join(text, "\n    "))
	}
}

// checkInitiators looks at who began by the peers, which who rekeys an IKE SA has
// done from then on.
func (m *matrix) checkInitiators() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	for i, r := range m.routers {
		var views map[string]view
		var others []cell
		_ = netlab.Poll(ctx, 200*time.Millisecond, func() (_ bool, err error) {
			views, err = m.peers[i].tunnels(m.ctx)
			m.check(err)
			others = slices.DeleteFunc(slices.Clone(r.cells), func(c cell) bool {
				return views[c.name()].initiator == c.Initiator || m.failed[c.Number] != ""
			})
			return len(others) == 0, nil
		})
		for _, c := range others {
			m.fail(c, "who began is %q by the peer, want %q", views[c.name()].initiator, c.Initiator)
		}
	}
}

// rekey renews the IKE SAs of the additions, and the CHILD_SAs of IKEv2, since the
// first comes without the key exchange that PFS asks for (RFC 7296, section 1.2).
func (m *matrix) rekey() {
	m.t.Helper()
	m.renew("IKE SA", func(c cell) bool { return c.PPK != "" }, func(v view) string { return v.ike },
		func(p peer, c cell) error { return p.(*strongSwan).daemon.RekeyIKE(m.ctx, c.name()) })
	m.renew("CHILD_SA", func(c cell) bool { return !c.v1() }, func(v view) string { return v.child },
		func(p peer, c cell) error { return p.rekeyChild(m.ctx, c) })
}

// renew has the peers rekey an SA of the cells that want it, and waits until the new
// ones have taken their place at the peers.
func (m *matrix) renew(kind string, wanted func(c cell) bool, sa func(v view) string, begin func(p peer, c cell) error) {
	m.t.Helper()
	before := map[string]view{}
	for _, p := range m.peers {
		views, err := p.tunnels(m.ctx)
		m.check(err)
		maps.Copy(before, views)
	}
	due := func(c cell) bool { return wanted(c) && m.failed[c.Number] == "" }
	m.each(func(p peer, c cell) error {
		if !due(c) {
			return nil
		}
		if err := begin(p, c); err != nil {
			return fmt.Errorf("the peer cannot rekey the %s: %w", kind, err)
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	for i, r := range m.routers {
		var left []cell
		_ = netlab.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
			views, err := m.peers[i].tunnels(m.ctx)
			m.check(err)
			left = slices.DeleteFunc(slices.Clone(r.cells), func(c cell) bool {
				v := views[c.name()]
				return !due(c) || v.ikeSAs == 1 && v.childSAs == 1 && sa(v) != sa(before[c.name()])
			})
			return len(left) == 0, nil
		})
		for _, c := range left {
			m.fail(c, "the peer has not rekeyed the %s", kind)
		}
	}
}

// compare looks at what the peers say of each cell, and at both ends' counters
// since before.
func (m *matrix) compare(before map[string]string) {
	m.t.Helper()
	after := m.figures()
	for i, r := range m.routers {
		views, err := m.peers[i].tunnels(m.ctx)
		m.check(err)
		for _, c := range r.cells {
			v, ok := views[c.name()]
			if !ok || v.ikeSAs != 1 || v.childSAs != 1 {
				m.fail(c, "the peer has %d IKE SAs and %d CHILD_SAs, want one each", v.ikeSAs, v.childSAs)
				continue
			}
			if defect := v.differs(c); defect != "" {
				m.fail(c, "%s", defect)
			}
			if want := c.nat() || !m.rawESP; v.encapsulated != want {
				m.fail(c, "ESP is in UDP by the peer: %v, want %v", v.encapsulated, want)
			}
			for _, direction := range []string{"in", "out"} {
				label := fmt.Sprintf(",direction=%q", direction)
				packets, octets := m.figure("packets_total", c, label), m.figure("bytes_total", c, label)
				have := fmt.Sprintf("%d packets, %d octets", difference(before[packets], after[packets]), difference(before[octets], after[octets]))
				if want := fmt.Sprintf("%d packets, %d octets", exchangedPackets, exchangedOctets()); have != want {
					m.fail(c, "the gateway counts %s %s, want %s", have, direction, want)
				}
			}
		}
	}
}

// difference is that of two counters as Prometheus writes them.
func difference(before, after string) int {
	b, _ := strconv.ParseFloat(before, 64)
	a, _ := strconv.ParseFloat(after, 64)
	return int(a - b)
}

// differs says what of a cell the peer sees otherwise.
func (v view) differs(c cell) string {
	for _, x := range []struct{ what, have, want string }{
		{"the IKE SA's cipher", v.cipher, c.Cipher},
		{"the IKE SA's hash", v.hash, c.Hash},
		{"the IKE SA's group", v.group, c.Group},
		{"the CHILD_SA's cipher", v.espCipher, c.ESPCipher},
		{"the CHILD_SA's hash", v.espHash, c.ESPHash},
		{"the group of PFS", v.pfs, c.PFS},
		{"a post-quantum pre-shared key", strconv.FormatBool(v.ppk), strconv.FormatBool(c.hasPPK())},
	} {
		if x.have != x.want {
			return fmt.Sprintf("%s is %q by the peer, want %q", x.what, x.have, x.want)
		}
	}
	for _, x := range []counters{v.in, v.out} {
		if x.packets != uint64(exchangedPackets) && x.packets != notCounted || x.octets != uint64(exchangedOctets()) {
			return fmt.Sprintf("the peer counts %d packets and %d octets, want %d and %d", x.packets, x.octets, exchangedPackets, exchangedOctets())
		}
	}
	return ""
}

// end deletes the connections through the API; the peers have to see that.
func (m *matrix) end(array []cell) {
	m.t.Helper()
	for _, c := range array {
		m.check(m.api.Delete(m.ctx, client.Connections, m.ids[c.Number]))
	}
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	for i, r := range m.routers {
		var left map[string]view
		err := netlab.Poll(ctx, 200*time.Millisecond, func() (_ bool, err error) {
			left, err = m.peers[i].tunnels(m.ctx)
			return len(left) == 0, err
		})
		if err == nil {
			continue
		}
		for _, c := range r.cells {
			if _, there := left[c.name()]; there {
				m.fail(c, "the peer does not see the end")
			}
		}
	}
}

// report fails the test for each cell that has a defect.
func (m *matrix) report(s section, array []cell, versions string) result {
	m.t.Helper()
	for _, c := range array {
		if defect, failed := m.failed[c.Number]; failed {
			m.t.Errorf("%d: %s: %s", c.Number, c, defect)
		}
	}
	m.t.Logf("%s: %s: %d of %d cells pass", s.name, versions, len(array)-len(m.failed), len(array))
	if len(m.failed) > 0 {
		for _, p := range m.peers {
			m.t.Logf("peer:\n%s", p.log())
		}
	}
	return result{versions, array, m.failed}
}

// write writes the page's section, with -update.
func (m *matrix) write(s section, array []cell, results ...result) {
	m.t.Helper()
	if *update {
		m.check(s.write(s.table(array, results...)))
	}
}

// version is that of a router's peer.
func (m *matrix) version(router int) string {
	m.t.Helper()
	version, err := m.peers[router].version(m.ctx)
	m.check(err)
	return version
}
