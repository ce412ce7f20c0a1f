package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/history"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

const project = "project-1"

// Ids and addresses of the inventory.
const (
	vpcID, subnetID = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	eip1, eip2      = "33333333-3333-4333-8333-333333333331", "33333333-3333-4333-8333-333333333332"
	eip3, eip4      = "33333333-3333-4333-8333-333333333333", "33333333-3333-4333-8333-333333333334"
	address1        = "203.0.113.1"
	address2        = "203.0.113.2"
	behindNAT       = "10.10.0.4" // what the node has for eip4
)

func inventory(t *testing.T) *control.Inventory {
	t.Helper()
	inv := &control.Inventory{
		AvailabilityZones: []string{"az1", "az2"},
		VPCs: []control.VPC{{
			ID: vpcID, CIDR: netip.MustParsePrefix("10.10.0.0/16"),
			Subnets: []control.Subnet{{ID: subnetID, CIDR: netip.MustParsePrefix("10.10.0.0/24")}},
		}},
		EIPs: []control.EIP{
			{ID: eip1, Address: netip.MustParseAddr(address1)},
			{ID: eip2, Address: netip.MustParseAddr(address2)},
			{ID: eip3, Address: netip.MustParseAddr("203.0.113.3")},
			{ID: eip4, Address: netip.MustParseAddr("203.0.113.4"), PrivateAddress: netip.MustParseAddr(behindNAT)},
		},
	}
	inv.LogStreams = []control.LogStream{{GroupID: "group", StreamID: "stream", Sink: control.LogSink{File: filepath.Join(t.TempDir(), "log")}}}
	if err := inv.Validate(); err != nil {
		t.Fatal(err)
	}
	return inv
}

// engines are all four engines, as they would be if everything worked, save
// for what a test breaks.
type engines struct {
	mu          sync.Mutex
	calls       []string // in order, those that changed something
	connections map[string]sa.Connection
	status      map[string]ike.ConnectionStatus
	events      chan sa.Event
	resets      []string
	devices     []ipsec.Interface
	addresses   []netip.Addr
	bandwidths  []ipsec.Bandwidth
	routes      route.State
	broken      map[string]error // by name of a call
	host        map[netip.Addr]bool
	networks    []route.HostNetwork
	prober      *prober
	plane       func(ipsec.Proposal, netip.Addr, bool) (ipsec.Plane, string, error) // nil: there is one
}

// prober remembers its targets; a test gives the verdicts.
type prober struct {
	mu      sync.Mutex
	targets []nqa.Target
	status  map[string]nqa.Status
	changed chan struct{}
}

func (p *prober) Apply(targets []nqa.Target) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = slices.Clone(targets)
	keep := make(map[string]nqa.Status)
	for _, t := range targets {
		keep[t.ID] = nqa.Status{Target: t, Verdict: p.status[t.ID].Verdict}
	}
	p.status = keep
	return nil
}

func (p *prober) Snapshot() []nqa.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.status))
}

func (p *prober) Changed() <-chan struct{} { return p.changed }

// say gives a target a verdict.
func (p *prober) say(id string, verdict nqa.Verdict) {
	p.mu.Lock()
	status := p.status[id]
	status.Verdict = verdict
	p.status[id] = status
	p.mu.Unlock()
	p.changed <- struct{}{}
}

// probed returns the targets that there are.
func (p *prober) probed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := []string{}
	for _, t := range p.targets {
		list = append(list, fmt.Sprintf("%s %s to %s by %s", strings.Split(t.ID, "/")[0], t.Source, t.Destination, t.Device))
	}
	return list
}

func (e *engines) called(name string, changed bool) error {
	if changed {
		e.calls = append(e.calls, name)
	}
	return e.broken[name]
}

// fail makes a call fail, or with nil, work again.
func (e *engines) fail(call string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken[call] = err
}

func (e *engines) Apply(list []sa.Connection) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	want := make(map[string]sa.Connection)
	for _, c := range list {
		want[c.Name] = c
	}
	changed := len(want) != len(e.connections)
	for name, c := range want {
		old, there := e.connections[name]
		changed = changed || !there || !reflect.DeepEqual(old, c)
	}
	e.connections = want
	for name := range e.status {
		if _, there := want[name]; !there {
			delete(e.status, name)
		}
	}
	return e.called("ike", changed)
}

func (e *engines) Snapshot() []ike.ConnectionStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []ike.ConnectionStatus
	for name := range e.connections {
		status := e.status[name]
		status.Name = name
		list = append(list, status)
	}
	return list
}

func (e *engines) Events() <-chan sa.Event { return e.events }

func (e *engines) Reset(connection string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resets = append(e.resets, connection)
	delete(e.status, connection)
	return e.broken["reset"]
}

func (e *engines) SetInterfaces(list []ipsec.Interface) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	changed := !slices.Equal(e.devices, list)
	e.devices = slices.Clone(list)
	return e.called("devices", changed)
}

func (e *engines) SetBandwidths(list []ipsec.Bandwidth) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	changed := !reflect.DeepEqual(e.bandwidths, list)
	e.bandwidths = list
	return e.called("bandwidths", changed)
}

func (e *engines) SetAddresses(list []netip.Addr) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	changed := !slices.Equal(e.addresses, list)
	e.addresses = slices.Clone(list)
	return e.called("sockets", changed)
}

func (e *engines) Set(s route.State) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	changed := !reflect.DeepEqual(e.routes, s)
	e.routes = s
	return e.called("routes", changed)
}

func (e *engines) HostNetworks() ([]route.HostNetwork, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.networks), e.broken["networks"]
}

func (e *engines) hostAddresses() (map[netip.Addr]bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.host), e.broken["host"]
}

// up makes a connection's SAs stand, with all of its children or those named.
func (e *engines) EffectOf(next sa.Connection) (sa.Effect, bool, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, known := e.connections[next.Name]
	for i := range min(len(next.Children), len(c.Children)) {
		next.Children[i].ReqID, next.Children[i].IfID = c.Children[i].ReqID, c.Children[i].IfID
	}
	return c.EffectOf(&next), len(e.status[next.Name].IKE) > 0, known
}

func (e *engines) up(id string, children ...string) {
	e.mu.Lock()
	c := e.connections[id]
	if len(children) == 0 {
		for _, child := range c.Children {
			children = append(children, child.Name)
		}
	}
	status := ike.ConnectionStatus{IKE: []sa.IKEStatus{{State: sa.Established}}}
	for _, name := range children {
		status.Children = append(status.Children, ike.ChildStatus{ChildStatus: sa.ChildStatus{Name: name, State: sa.Established}})
	}
	e.status[id] = status
	e.mu.Unlock()
	event := sa.Event{
		Connection: id, Local: netip.AddrPortFrom(c.Local, 4500), Remote: netip.AddrPortFrom(c.Remote, 4500),
		Proposal: c.Proposals[0],
	}
	event.Kind = sa.IKEUp
	e.events <- event
	for _, child := range c.Children {
		if slices.Contains(children, child.Name) {
			event.Kind, event.Child, event.Proposal = sa.ChildUp, child.Name, child.Proposals[0]
			e.events <- event
		}
	}
}

// down takes a connection's SAs down.
func (e *engines) down(id string, event sa.Event) {
	e.mu.Lock()
	delete(e.status, id)
	c := e.connections[id]
	e.mu.Unlock()
	event.Connection, event.Local, event.Remote = id, netip.AddrPortFrom(c.Local, 500), netip.AddrPortFrom(c.Remote, 500)
	e.events <- event
}

// changes returns the calls since the last time that changed something.
func (e *engines) changes() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	calls := e.calls
	e.calls = nil
	return calls
}

// world is a control plane with a running Reconciler, inside a synctest bubble.
type world struct {
	happened *history.Log
	*testing.T
	ctx     context.Context
	stop    func() // stops the Reconciler and waits for it
	path    string
	db      *store.Bolt
	faults  *faultyStore // before db
	objects *control.Objects
	service *control.Service
	engines *engines
	clients *clientEngine
	r       *Reconciler
	share   *share // nil: the node is alone
	version string // of the daemon
}

// inWorld runs a test in a bubble, with a world that is running.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, ctx: context.Background(), path: dir}
		w.start()
		defer func() { w.stop() }()
		test(w)
	})
}

// open opens the store.
func (w *world) open() {
	w.Helper()
	var err error
	if w.db, err = store.OpenBolt(filepath.Join(w.path, "store.db")); err != nil {
		w.Fatal(err)
	}
	key, err := control.LoadSealingKey(filepath.Join(w.path, "key"))
	if err != nil {
		w.Fatal(err)
	}
	w.faults = &faultyStore{Store: w.db}
	w.objects = control.NewObjects(w.faults, key)
	o := control.ServiceOptions{Objects: w.objects, Inventory: inventory(w.T), Version: w.version}
	if w.share != nil {
		o.Fleet = w.share
	}
	w.service, err = control.NewService(o)
	if err != nil {
		w.Fatal(err)
	}
}

// start runs a Reconciler with fresh engines, as a start of the daemon does.
// The engines are changed before it runs.
func (w *world) start(change ...func(*engines)) {
	w.Helper()
	w.open()
	w.engines = &engines{
		status: make(map[string]ike.ConnectionStatus), events: make(chan sa.Event, 100), broken: make(map[string]error),
		host: map[netip.Addr]bool{
			netip.MustParseAddr(address1): true, netip.MustParseAddr(address2): true, netip.MustParseAddr(behindNAT): true,
		},
		prober: &prober{changed: make(chan struct{}, 1)},
	}
	for _, c := range change {
		c(w.engines)
	}
	w.clients = newClientEngine()
	var division Fleet
	if w.share != nil {
		division = w.share
	}
	happened, err := history.Open(w.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		w.Fatal(err)
	}
	w.happened = happened
	w.r = New(Options{
		History: happened,
		Objects: w.objects, KeyExchange: w.engines, Devices: w.engines, Plane: w.engines.plane, Policer: w.engines, Router: w.engines, Sockets: w.engines,
		Prober: w.engines.prober, Clients: w.clients, ClientLog: w.clients,
		Inventory: inventory(w.T), HostAddresses: w.engines.hostAddresses, Farewell: func() {
			if err := w.engines.Apply(nil); err != nil {
				w.Error(err)
			}
		},
		Fleet: division, Version: w.version, ForceEncap: true, PID: 42, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- w.r.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("Run: %v", err)
		}
		if err := w.db.Close(); err != nil {
			w.Error(err)
		}
		w.stop = func() {}
	}
	w.settle()
}

// settle lets everything happen that does not wait for a retry.
func (w *world) settle() {
	time.Sleep(900 * time.Millisecond)
	synctest.Wait()
}

func ptr[T any](v T) *T { return &v }

func (w *world) gateway(change ...func(*control.GatewayCreate)) string {
	w.Helper()
	req := control.GatewayCreate{
		VPCID: ptr(vpcID), ConnectSubnet: ptr(subnetID), LocalSubnets: []string{"10.10.0.0/24", "10.10.1.0/24"},
		EIP1: &control.EIPRequest{ID: ptr(eip1)}, EIP2: &control.EIPRequest{ID: ptr(eip2)},
	}
	for _, c := range change {
		c(&req)
	}
	g, err := w.service.CreateGateway(w.ctx, project, req)
	if err != nil {
		w.Fatal(err)
	}
	w.settle()
	return g.ID
}

func (w *world) customer(idValue string) string {
	w.Helper()
	kind := "fqdn"
	if _, err := netip.ParseAddr(idValue); err == nil {
		kind = "ip"
	}
	c, err := w.service.CreateCustomerGateway(w.ctx, project, control.CustomerGatewayCreate{IDType: &kind, IDValue: &idValue})
	if err != nil {
		w.Fatal(err)
	}
	return c.ID
}

func (w *world) connection(gateway, vgwIP, customer string, change ...func(*control.ConnectionCreate)) string {
	w.Helper()
	req := control.ConnectionCreate{
		Name: ptr("to-site"), VgwID: &gateway, VgwIP: &vgwIP, CgwID: &customer,
		PeerSubnets: []string{"192.168.0.0/24"}, PSK: ptr(control.NewSecret("Pre-shared-key-of-20")),
	}
	for _, c := range change {
		c(&req)
	}
	c, err := w.service.CreateConnection(w.ctx, project, req)
	if err != nil {
		w.Fatal(err)
	}
	w.settle()
	return c.ID
}

// policy makes a connection one of style policy.
func policy(rules ...control.PolicyRuleRequest) func(*control.ConnectionCreate) {
	return func(c *control.ConnectionCreate) { c.Style, c.PolicyRules = ptr("policy"), rules }
}

func (w *world) show(id string) control.ConnectionView {
	w.Helper()
	view, err := w.service.ShowConnection(w.ctx, project, id)
	if err != nil {
		w.Fatal(err)
	}
	return view
}

// wantState checks the state of a connection and that its message holds words.
func (w *world) wantState(id string, state control.ConnectionState, words ...string) {
	w.Helper()
	view := w.show(id)
	if view.State != state {
		w.Errorf("state is %s (%s), want %s", view.State, view.Status.Message, state)
	}
	for _, word := range words {
		if !containsWord(view.Status.Message, word) {
			w.Errorf("message %q lacks %q", view.Status.Message, word)
		}
	}
}

func (w *world) wantGateway(id string, state control.GatewayState, words ...string) {
	w.Helper()
	view, err := w.service.ShowGateway(w.ctx, project, id)
	if err != nil {
		w.Fatal(err)
	}
	if view.State != state {
		w.Errorf("gateway is %s (%s), want %s", view.State, view.Status.Message, state)
	}
	for _, word := range words {
		if !containsWord(view.Status.Message, word) {
			w.Errorf("message %q lacks %q", view.Status.Message, word)
		}
	}
}

func containsWord(text, word string) bool { return mentions(errors.New(text), word) }

func (w *world) wantChanges(calls ...string) {
	w.Helper()
	if got := w.engines.changes(); !slices.Equal(got, calls) {
		w.Errorf("engines were changed by %q, want %q", got, calls)
	}
}

func (w *world) log(id string) []control.LogLine {
	w.Helper()
	lines, err := w.service.ConnectionLog(w.ctx, project, id)
	if err != nil {
		w.Fatal(err)
	}
	return lines
}
