package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

func TestSnapshotAndWatch(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	before, err := w.objects.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(before.Gateways) != 1 || before.Gateways[0].ID != g.ID || before.GatewayStatus[g.ID].Observed != 1 {
		t.Errorf("snapshot %+v", before)
	}
	changes, err := w.objects.Watch(t.Context(), before.Revision)
	if err != nil {
		t.Fatal(err)
	}
	peer := w.peer("198.51.100.7")
	c := w.connection(g.ID, peer.ID) // writes a status too, which is no change of a specification
	if err := w.DeleteConnection(t.Context(), project, c.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.FinalizeConnection(t.Context(), project, c.ID); err != nil {
		t.Fatal(err)
	}
	want := []Change{
		{Kind: KindCustomerGateway, Project: project, ID: peer.ID},
		{Kind: KindConnection, Project: project, ID: c.ID},
		{Kind: KindConnection, Project: project, ID: c.ID},
		{Kind: KindConnection, Project: project, ID: c.ID, Deleted: true},
	}
	var got []Change
	for len(got) < len(want) {
		select {
		case batch := <-changes:
			got = append(got, batch...)
		case <-time.After(20 * time.Second):
			t.Fatalf("watched %+v, want %+v", got, want)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("watched %+v, want %+v", got, want)
	}
	after, err := w.objects.Snapshot(t.Context())
	if err != nil || len(after.Connections) != 0 || len(after.ConnectionStatus) != 0 {
		t.Errorf("the connection left %+v and %+v, %v", after.Connections, after.ConnectionStatus, err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := w.objects.Watch(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.peer("198.51.100.7") // nobody takes it
	cancel()
	for deadline := time.After(20 * time.Second); ; {
		select {
		case _, ok := <-changes:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the watch goes on")
		}
	}
}

// One object that cannot be read does not hide the others, and can be deleted.
func TestUnreadableObjects(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	good := w.connection(g.ID, w.peer("198.51.100.7").ID)
	bad := w.connection(g.ID, w.peer("198.51.100.8").ID)
	err := w.objects.change(t.Context(), func(tx *transaction) error {
		s, err := get(tx.ctx, w.objects.connections, project, bad.ID)
		if err != nil {
			return err
		}
		s.SealedPSK[0] ^= 1
		return put(tx, w.objects.connections, s.Meta, s)
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.objects.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Connections) != 2 || s.Unreadable[bad.ID] == nil || len(s.Unreadable) != 1 {
		t.Errorf("read %d connections, unreadable %v", len(s.Connections), s.Unreadable)
	}
	for _, c := range s.Connections {
		if c.PSK.IsZero() == (c.ID == good.ID) {
			t.Errorf("connection %s: the PSK is there: %t", c.ID, !c.PSK.IsZero())
		}
	}
	_, err = w.UpdateConnection(t.Context(), project, bad.ID, ConnectionUpdate{Name: new("n")})
	var refusal *Error
	if err == nil || errors.As(err, &refusal) {
		t.Errorf("update: %v, want an internal error", err)
	}
	if _, err = w.UpdateConnection(t.Context(), project, bad.ID, ConnectionUpdate{PSK: new(NewSecret("Another-Horse-8"))}); err != nil {
		t.Errorf("update with a new PSK: %v", err)
	}
	if s, err := w.objects.Snapshot(t.Context()); err != nil || len(s.Unreadable) != 0 {
		t.Errorf("with a new PSK: %v, %v", s.Unreadable, err)
	}
	w.settleConnection(bad.ID, ConnectionDown)
	if err := w.DeleteConnection(t.Context(), project, bad.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := w.objects.FinalizeConnection(t.Context(), project, bad.ID); err != nil {
		t.Errorf("finalise: %v", err)
	}
}

func TestStatusOfGoneObjects(t *testing.T) {
	w := newWorld(t)
	for _, err := range []error{
		w.objects.SetGatewayStatus(t.Context(), project, nobody, GatewayStatus{}),
		w.objects.SetConnectionStatus(t.Context(), project, nobody, ConnectionStatus{}),
		w.objects.SetLog(t.Context(), project, nobody, nil),
	} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	}
	if w.revision() != 0 {
		t.Error("something was left behind")
	}
	if err := w.objects.FinalizeConnection(t.Context(), project, nobody); err != nil {
		t.Errorf("finalising what is gone: %v", err)
	}
}

// What the reconciler reports of many connections is written for each that is
// there, whoever changes their specifications meanwhile.
func TestManyReports(t *testing.T) {
	w := newWorld(t)
	g, peer := w.gateway(), w.peer("198.51.100.7")
	var reports []Report[ConnectionStatus]
	var logs []Report[[]LogLine]
	for i := range 2*manyReports + 1 {
		id := nobody
		if i%3 > 0 {
			if i%3 == 1 {
				peer = w.peer(fmt.Sprintf("198.51.100.%d", 10+i))
			}
			c := w.connection(g.ID, peer.ID, func(r *ConnectionCreate) {
				r.VgwIP, r.PeerSubnets = new([]string{eip1, eip2}[i%3-1]), []string{fmt.Sprintf("172.16.%d.0/24", i)}
			})
			id = c.ID
		}
		reports = append(reports, Report[ConnectionStatus]{project, id, ConnectionStatus{Message: fmt.Sprint("message ", i)}})
		logs = append(logs, Report[[]LogLine]{project, id, []LogLine{{Message: strings.Repeat("long ", 100) + fmt.Sprint(i)}}})
	}
	before := w.revision()
	errs := w.objects.SetConnectionStatuses(t.Context(), reports)
	if n := w.revision() - before; n > 3 {
		t.Errorf("%d transactions for %d reports", n, len(reports))
	}
	for i, r := range reports {
		if r.ID == nobody {
			if !errors.Is(errs[i], store.ErrNotFound) {
				t.Errorf("report %d of what is gone: %v", i, errs[i])
			}
			continue
		}
		if errs[i] != nil {
			t.Errorf("report %d: %v", i, errs[i])
		}
		view, err := w.ShowConnection(t.Context(), project, r.ID)
		if err != nil || view.Status.Message != r.Value.Message {
			t.Errorf("report %d: message is %q, %v", i, view.Status.Message, err)
		}
	}
	for i, err := range w.objects.SetLogs(t.Context(), logs) {
		if logs[i].ID == nobody {
			continue
		}
		lines, getErr := w.ConnectionLog(t.Context(), project, logs[i].ID)
		if err != nil || getErr != nil || len(lines) != 1 || lines[0].Message != logs[i].Value[0].Message {
			t.Errorf("log %d is %v: %v, %v", i, lines, err, getErr)
		}
	}
	for i, err := range w.objects.SetConnectionStatuses(t.Context(), []Report[ConnectionStatus]{{"", "x", ConnectionStatus{}}, {project, "a/b", ConnectionStatus{}}}) {
		if err == nil {
			t.Errorf("report %d of an impossible id was written", i)
		}
	}
}

func TestFinalizeWantsARequest(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	c := w.connection(g.ID, w.peer("198.51.100.7").ID)
	if err := w.objects.FinalizeConnection(t.Context(), project, c.ID); err == nil {
		t.Error("finalised a connection whose deletion nobody asked for")
	}
	w.alterGateway(g.ID, func(g *Gateway) { g.DeletionRequested = true })
	if err := w.objects.FinalizeGateway(t.Context(), project, g.ID); err == nil || !strings.Contains(err.Error(), "has connections") {
		t.Errorf("finalised a gateway with connections: %v", err)
	}
}

func TestConnectionLog(t *testing.T) {
	w := newWorld(t)
	c := w.connection(w.gateway().ID, w.peer("198.51.100.7").ID)
	if lines, err := w.ConnectionLog(t.Context(), project, c.ID); err != nil || len(lines) != 0 {
		t.Errorf("a new log has %d lines, %v", len(lines), err)
	}
	lines := many(MaxLogLines+1, func(i int) LogLine {
		return LogLine{Time: w.clock.Add(time.Duration(i) * time.Second), Message: fmt.Sprint("line ", i)}
	})
	lines[MaxLogLines].Message = strings.Repeat("é", maxLogMessage)
	if err := w.objects.SetLog(t.Context(), project, c.ID, lines); err != nil {
		t.Fatal(err)
	}
	got, err := w.ConnectionLog(t.Context(), project, c.ID)
	if err != nil || len(got) != MaxLogLines {
		t.Fatalf("%d lines, %v; want %d", len(got), err, MaxLogLines)
	}
	if got[1].Message != fmt.Sprint("line ", MaxLogLines-1) || got[MaxLogLines-1].Message != "line 1" || !got[1].Time.Equal(lines[MaxLogLines-1].Time) {
		t.Errorf("newest %v, oldest %v", got[1], got[MaxLogLines-1])
	}
	if want := strings.Repeat("é", maxLogMessage/2); got[0].Message != want {
		t.Errorf("a long message was cut to %d octets, want %d", len(got[0].Message), len(want))
	}
	_, err = w.ConnectionLog(t.Context(), project, nobody)
	wantRefusal(t, err, CodeNotFound)
	_, err = w.ConnectionLog(t.Context(), "another-project", c.ID)
	wantRefusal(t, err, CodeNotFound)
}

// Ids come from paths and bodies: none may reach into another project.
func TestProjectsAreApart(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	peer := w.peer("198.51.100.7")
	for _, test := range []struct{ project, id string }{
		{"another-project", g.ID},
		{"", project + "/" + g.ID},
		{project[:8], project[8:] + "/" + g.ID},
		{"x/../" + project, g.ID},
		{project, "../" + project + "/" + g.ID},
		{project, ""},
		{project, strings.Repeat("a", 1000)},
	} {
		_, err := w.ShowGateway(t.Context(), test.project, test.id)
		wantRefusal(t, err, CodeNotFound)
		wantRefusal(t, w.DeleteGateway(t.Context(), test.project, test.id), CodeNotFound)
	}
	wantRefusal(t, w.DeleteCustomerGateway(t.Context(), "another-project", peer.ID), CodeNotFound)
	for _, bad := range []string{"", "a/b", "a b", "..", strings.Repeat("a", 65)} {
		_, err := w.ListGateways(t.Context(), bad, GatewayFilter{})
		wantInvalid(t, err, "project_id", "")
		_, err = w.CreateCustomerGateway(t.Context(), bad, CustomerGatewayCreate{IDValue: new("198.51.100.7")})
		wantInvalid(t, err, "project_id", "")
	}
	if all, err := w.ListGateways(t.Context(), project[:8], GatewayFilter{}); err != nil || len(all) != 0 {
		t.Errorf("a project whose id begins alike sees %d gateways, %v", len(all), err)
	}
}

func TestListGateways(t *testing.T) {
	w := newWorld(t)
	first := w.gateway()
	second := w.gateway(func(r *GatewayCreate) {
		r.EIP1.ID, r.EIP2.ID, r.EnterpriseProjectID = new(eip3), new(eip4), new(nobody)
	})
	for _, test := range []struct {
		filter GatewayFilter
		want   []string
	}{
		{GatewayFilter{}, []string{second.ID, first.ID}},
		{GatewayFilter{ID: first.ID}, []string{first.ID}},
		{GatewayFilter{EnterpriseProjectIDs: []string{nobody}}, []string{second.ID}},
		{GatewayFilter{EnterpriseProjectIDs: []string{"0", nobody}}, []string{second.ID, first.ID}},
		{GatewayFilter{ID: nobody}, nil},
	} {
		views, err := w.ListGateways(t.Context(), project, test.filter)
		var got []string
		for _, v := range views {
			got = append(got, v.ID)
		}
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v, %v; want %v", test.filter, got, err, test.want)
		}
	}
}

// Two daemons on one store decide at the same time: rules that span objects
// must hold for what both have written.
func TestConcurrentWriters(t *testing.T) {
	w := newWorld(t)
	// Each service has objects of its own: what they share is the store alone.
	second, err := NewService(ServiceOptions{Objects: NewObjects(w.store, w.key), Inventory: inventory(t), Random: rand.NewChaCha8([32]byte{2})})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		s := []*Service{w.Service, second}[i%2]
		group.Go(func() {
			_, results[i] = s.CreateGateway(t.Context(), project, gatewayRequest())
		})
	}
	group.Wait()
	made := 0
	for _, err := range results {
		if err == nil {
			made++
		} else {
			wantInvalid(t, err, "eip1.id", "is bound already")
		}
	}
	if made != 1 {
		t.Errorf("%d gateways have the same EIP", made)
	}
}

func TestNewServiceWantsItsParts(t *testing.T) {
	if _, err := NewService(ServiceOptions{}); err == nil {
		t.Error("made a service of nothing")
	}
	s, err := NewService(ServiceOptions{Objects: NewObjects(nil, nil), Inventory: &Inventory{}})
	if err != nil || s.random == nil || s.now().IsZero() {
		t.Errorf("defaults are missing: %v", err)
	}
}
